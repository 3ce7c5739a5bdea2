"""A model's contract: what lies outside of it has a code and never a number, and people can read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from pydicom.config import disable_value_validation

from edge_runtime.codes import Reason, SourceKind, SpacingSource, Status
from edge_runtime.commands.contract import contract_lines
from edge_runtime.config import read_toml
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.model import LimitSpec, Manifest, OutputSpec, load_model
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Box, Frame, Origin, Spacing
from tests.e2e.command import edge_runtime
from tests.frames.dicom_files import dataset, ramp
from tests.golden.test_golden import GRID, Drawn, picture

CONTRACT = {
    "modality": ("US",),
    "body_part": ("FETUS", "ABDOMEN"),
    "view_position": ("AP", "PA"),
    "limits": LimitSpec(
        spacing_mm=(0.03, 0.5), min_size_px=(200, 300), max_aspect=3.0, min_presence=0.5, min_confidence=0.5
    ),
}
SPACING = Spacing(0.2, 0.2, SpacingSource.META_CSV)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    """Finds the same perfect head in whatever picture it is given."""
    model = load_model("fetal_head")
    model = replace(model, manifest=msgspec.structs.replace(model.manifest, **CONTRACT))
    opened = build_pipeline(model, Drawn(GRID, model, 1), plane_confirmed=True)
    yield opened
    opened.close()


def frame(
    modality: str | None = "US",
    body_part: str | None = None,
    view: str | None = None,
    region: Box | None = None,
    spacing: Spacing | None = SPACING,
) -> Frame:
    origin = Origin(SourceKind.DICOM, "still.dcm", modality, body_part=body_part, view=view)
    return Frame(picture(), 0, 0, origin, "0.still", region=region, spacing=spacing)


@pytest.mark.parametrize(
    "inside",
    [
        frame(),
        frame(None),
        frame(body_part="FETUS", view="AP"),
        frame(body_part="Fetus, third trimester", view="AP SUPINE"),
        frame(body_part="FETUS, NO PLACENTA", view="PA not lateral"),
        frame(body_part=" ", view=""),
        frame(region=Box(100, 100, 400, 300)),
        frame(spacing=None),  # pixels under their own names
    ],
)
def test_inside_the_contract_there_is_a_number(pipeline: Pipeline, inside: Frame) -> None:
    result = pipeline.step(inside)
    assert result.status is not Status.WITHHELD, result.reasons
    assert all(measurement.value is not None for measurement in result.measurements)


@pytest.mark.parametrize(
    ("outside", "reason"),
    [
        (frame("CR"), Reason.MODALITY_MISMATCH),
        (frame("\u00fc"), Reason.MODALITY_MISMATCH),
        (frame(body_part="CHEST"), Reason.BODY_PART_MISMATCH),
        (frame(body_part="NO FETUS"), Reason.BODY_PART_MISMATCH),
        (frame(body_part="Pelvis_without_abdomen"), Reason.BODY_PART_MISMATCH),
        (frame(view="NOT PA"), Reason.VIEW_MISMATCH),
        (frame(view="LATERAL"), Reason.VIEW_MISMATCH),
        (frame(view="LL"), Reason.VIEW_MISMATCH),
        (frame(view="PA LATERAL"), Reason.VIEW_MISMATCH),
        (frame(view="['PA', 'LL']"), Reason.VIEW_MISMATCH),
        (frame(view="PA MIRRORED"), Reason.VIEW_MISMATCH),
        (frame("US\\CR"), Reason.MODALITY_MISMATCH),
        (frame(region=Box(0, 0, 299, 300)), Reason.IMAGE_TOO_SMALL),
        (frame(region=Box(0, 0, 400, 199)), Reason.IMAGE_TOO_SMALL),
        (frame(region=Box(0, 0, 700, 210)), Reason.IMAGE_TOO_ELONGATED),
        (frame(spacing=Spacing(0.02, 0.02, SpacingSource.META_CSV)), Reason.SPACING_OUTSIDE_MODEL_RANGE),
        (frame(spacing=Spacing(0.6, 0.6, SpacingSource.META_CSV)), Reason.SPACING_OUTSIDE_MODEL_RANGE),
    ],
)
def test_outside_the_contract_every_value_is_withheld_with_its_code(
    pipeline: Pipeline, outside: Frame, reason: Reason
) -> None:
    result = pipeline.step(outside)
    assert result.status is Status.WITHHELD
    assert reason in result.reasons
    assert result.measurements
    for measurement in result.measurements:
        assert (measurement.value, measurement.interval) == (None, None)
        assert measurement.status is Status.WITHHELD
        assert reason in measurement.reasons


def test_a_foreign_picture_is_withheld_by_the_models_own_word(pipeline: Pipeline) -> None:
    backend = pipeline.backend
    assert isinstance(backend, Drawn)
    backend.presence = 0.25
    try:
        result = pipeline.step(frame())
    finally:
        backend.presence = Drawn.presence
    assert result.reasons[0] is Reason.FOREIGN_IMAGE
    assert all(measurement.value is None for measurement in result.measurements)


@pytest.mark.parametrize(
    ("tags", "body_part", "view"),
    [
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA"}, "CHEST", "PA"),
        ({"BodyPartExamined": "", "ViewPosition": ""}, None, None),
        ({}, None, None),
    ],
)
def test_a_files_body_part_and_projection_are_known(
    tmp_path: Path, tags: dict[str, str], body_part: str | None, view: str | None
) -> None:
    dataset(ramp(), **tags).save_as(tmp_path / "a.dcm")
    (only,) = _origins(tmp_path / "a.dcm")
    assert (only.body_part, only.view) == (body_part, view)


def test_a_lateral_projection_is_known_by_its_code_too(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399173006", "SCT", "left lateral"
    dataset(ramp(), ViewCodeSequence=[code]).save_as(tmp_path / "a.dcm")
    (only,) = _origins(tmp_path / "a.dcm")
    assert only.view == "LATERAL"


@pytest.mark.parametrize(
    ("rows", "columns", "view"),
    [
        ("L", "F", None),
        ("LF", "FA", None),  # a little oblique
        ("R", "H", None),  # upside down: the picture itself shows it
        ("A", "F", "LATERAL"),
        ("P", "F", "LATERAL"),
        ("L", "P", "AXIAL"),
        ("R", "F", "MIRRORED"),
        ("L", "H", "MIRRORED"),
        ("", "", None),
    ],
)
def test_a_picture_seen_from_the_side_or_mirrored_is_known_by_its_directions(
    tmp_path: Path, rows: str, columns: str, view: str | None
) -> None:
    dataset(ramp(), PatientOrientation=[rows, columns], ViewPosition="PA").save_as(tmp_path / "a.dcm")
    (only,) = _origins(tmp_path / "a.dcm")
    assert only.view == ("PA" if view is None else f"PA {view}")


def test_a_tag_of_one_value_that_has_two_is_read_and_not_believed(tmp_path: Path) -> None:
    tags = {
        "Modality": ["us", "OT"],
        "PixelSpacing": [0.2, 0.2],
        "PixelSpacingCalibrationType": ["GEOMETRY", "X"],
    }
    with disable_value_validation():
        dataset(ramp(), **tags).save_as(tmp_path / "a.dcm")
    with open_source(f"dicom:{tmp_path / 'a.dcm'}") as source:
        (only,) = source.frames()
    assert isinstance(only, Frame)
    assert (only.origin.modality, only.spacing, only.spacing_reason) == (
        "US\\OT",
        None,
        Reason.SPACING_MISSING,
    )


def _origins(path: Path) -> list[Origin]:
    with open_source(f"dicom:{path}") as source:
        return [frame.origin for frame in source.frames()]


# ---------------------------------------------------------------- in words, and in the manifest


def test_the_contract_in_words_names_all_that_is_enforced() -> None:
    manifest = Manifest(
        name="lungs",
        anatomy="lungs",
        modality=("CR", "DX"),
        body_part=("CHEST",),
        view_position=("AP", "PA"),
        view="frontal chest, one person",
        output=OutputSpec(labels=("lung_right", "lung_left"), presence="presence"),
        limits=LimitSpec(spacing_mm=(0.05, 1.0), min_size_px=(128, 96), max_aspect=2.0, min_presence=0.7),
    )
    told = "\n".join(contract_lines(manifest))
    for word in (
        "frontal chest, one person",
        "CR or DX",
        "CHEST",
        "AP or PA",
        "0.05 to 1 mm",
        "128 rows and 96 columns",
        "2 times",
        "lung_right, lung_left",
        "presence below 0.7",
    ):
        assert word in told
    assert "any" in "\n".join(contract_lines(Manifest(name="stranger")))


def test_models_and_inspect_tell_the_contract(tmp_path: Path) -> None:
    lines = contract_lines(load_model("fetal_head").manifest)
    told = edge_runtime("models", cwd=tmp_path).out
    assert all(line in told for line in lines)
    (model, *_) = (
        one
        for one in edge_runtime("models", "--json", cwd=tmp_path).json["models"]
        if one["name"] == "fetal_head"
    )
    assert tuple(model["contract"]) == lines
    told = edge_runtime("inspect", load_model("fetal_head").home, cwd=tmp_path).out
    assert all(f"contract {line}" in told for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        'body_part = ["chest"]',
        'view_position = ["LEFT LATERAL"]',
        "[limits]\nmin_size_px = [0, 10]",
        "[limits]\nmin_size_px = [10]",
        "[limits]\nmax_aspect = 0.5",
        "[limits]\nmin_size = [10, 10]",
    ],
)
def test_a_contract_that_cannot_be_meant_is_refused_with_its_key(tmp_path: Path, line: str) -> None:
    (tmp_path / "model.toml").write_text(f'name = "stranger"\n{line}\n')
    with pytest.raises(ConfigError, match="body_part|view_position|min_size|max_aspect"):
        read_toml(tmp_path / "model.toml", Manifest)
