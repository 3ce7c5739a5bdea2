"""A chest X-ray through the whole pipeline: its acquisition is in the finding, and what spoils it withholds the areas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.codes import Hint, Reason, SourceKind, SpacingSource, Status
from edge_runtime.commands.words import acquisition_in_words
from edge_runtime.frames.memory import MemorySource
from edge_runtime.infer.backends.contract import Slot
from edge_runtime.infer.backends.null import NullBackend
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import LimitSpec, Manifest, Model, OutputSpec, load_model
from edge_runtime.pipeline import Pipeline, Result, build_pipeline
from edge_runtime.sync.wire import outgoing
from edge_runtime.types import Acquisition, Finding, Frame, Origin, Spacing, encode
from tests.builders import STAMP, finding
from tests.golden.test_golden import Drawn, picture
from tests.real import DATA, needs_data

GRID = (256, 256)
UPRIGHT = (0.97, 0.01, 0.01, 0.01)
MANIFEST = Manifest(
    name="chest",
    anatomy="lungs",
    modality=("CR", "DX"),
    body_part=("CHEST", "THORAX", "LUNG"),
    view_position=("AP", "PA"),
    output=OutputSpec(
        mask="mask",
        labels=("lung_right", "lung_left"),
        presence="presence",
        rotation="rotation",
        polarity="polarity",
    ),
    limits=LimitSpec(spacing_mm=(0.05, 2.0), min_presence=0.5, min_confidence=0.5),
)


class DrawnLungs(NullBackend):
    """Says what it is told: two ellipses, and words on presence, rotation and polarity."""

    right, left = (80, 120), (175, 120)
    presence, rotation, polarity = 0.99, UPRIGHT, 0.02

    def wait(self, slot: Slot, /) -> None:
        super().wait(slot)
        lungs = np.zeros((2, *GRID), np.uint8)
        for plane, centre in zip(lungs, (self.right, self.left), strict=True):
            cv2.ellipse(plane, centre, (35, 70), 0, 0, 360, 1, -1)
        outputs = slot.outputs
        outputs["mask"][0, 1:] = np.where(lungs, np.float32(0.97), np.float32(0.01))
        outputs["mask"][0, 0] = np.where(lungs.any(axis=0), np.float32(0.01), np.float32(0.97))
        outputs["presence"][:], outputs["rotation"][0], outputs["polarity"][:] = (
            self.presence,
            self.rotation,
            self.polarity,
        )


@pytest.fixture
def backend() -> DrawnLungs:
    return DrawnLungs(GRID, chest_model(), 1)


def chest_model() -> Model:
    (model,) = [load_model("fetal_head")]  # its files are never opened: nothing infers
    return replace(model, manifest=msgspec.structs.replace(MANIFEST, artifacts=model.manifest.artifacts))


@pytest.fixture
def pipeline(backend: DrawnLungs) -> Iterator[Pipeline]:
    opened = build_pipeline(chest_model(), backend)
    yield opened
    opened.close()


def frame(view: str | None = "PA") -> Frame:
    pixels = np.random.default_rng(0).integers(30, 220, (512, 512), dtype=np.uint8)
    return Frame(
        pixels,
        0,
        0,
        Origin(SourceKind.DICOM, "chest.dcm", "CR", body_part="CHEST", view=view),
        "0.chest",
        spacing=Spacing(0.7, 0.7, SpacingSource.PIXEL_SPACING_FIDUCIAL),
    )


def withheld(result: Result, reason: Reason) -> Acquisition:
    """That all values are gone for `reason`; returns the acquisition."""
    assert result.status is Status.WITHHELD
    assert result.measurements
    for measurement in result.measurements:
        assert (measurement.value, measurement.interval) == (None, None)
        assert reason in measurement.reasons
    assert reason in result.reasons
    assert result.verdict.score < 50
    assert result.acquisition is not None
    assert not result.acquisition.ok
    return result.acquisition


def test_a_whole_chest_has_its_areas_and_a_check_without_fault(pipeline: Pipeline) -> None:
    result = pipeline.step(frame())
    assert result.acquisition == Acquisition(
        both_lungs=True, missing=(), clipped_edges=(), rotation_deg=0, inverted=False, ok=True
    )
    assert result.status is Status.CAUTION, result.reasons  # no interval was calibrated
    assert all(measurement.value is not None for measurement in result.measurements)


@pytest.mark.parametrize(
    ("at", "degrees", "reason"),
    [(1, 90, Reason.ROTATED_90), (2, 180, Reason.ROTATED_180), (3, 270, Reason.ROTATED_270)],
)
def test_a_turned_xray_is_withheld_and_never_turned_back(
    pipeline: Pipeline, backend: DrawnLungs, at: int, degrees: int, reason: Reason
) -> None:
    backend.rotation = tuple(0.97 if k == at else 0.01 for k in range(4))
    result = pipeline.step(frame())
    assert withheld(result, reason).rotation_deg == degrees
    assert result.verdict.hint is Hint.ROTATE_IMAGE
    assert result.mask is not None
    assert result.mask.of("lung_right")[120, 80]  # where the model said, in the picture as it came


def test_an_inverted_xray_is_withheld(pipeline: Pipeline, backend: DrawnLungs) -> None:
    backend.polarity = 0.9
    result = pipeline.step(frame())
    assert withheld(result, Reason.INVERTED_POLARITY).inverted
    assert result.verdict.hint is Hint.CHECK_POLARITY


@pytest.mark.parametrize(
    ("side", "centre", "reason", "hint"),
    [
        ("left", (240, 120), Reason.CLIPPED_RIGHT_EDGE, Hint.INCLUDE_RIGHT_EDGE),
        ("right", (80, 50), Reason.CLIPPED_TOP_EDGE, Hint.INCLUDE_TOP_EDGE),
        ("left", (175, 210), Reason.CLIPPED_BOTTOM_EDGE, Hint.INCLUDE_BOTTOM_EDGE),
        ("right", (20, 120), Reason.CLIPPED_LEFT_EDGE, Hint.INCLUDE_LEFT_EDGE),
        ("left", (175, 900), Reason.LUNG_LEFT_MISSING, Hint.INCLUDE_BOTH_LUNGS),
        ("right", (80, 900), Reason.LUNG_RIGHT_MISSING, Hint.INCLUDE_BOTH_LUNGS),
    ],
)
def test_a_clipped_or_missing_lung_withholds_and_says_where(
    pipeline: Pipeline,
    backend: DrawnLungs,
    side: str,
    centre: tuple[int, int],
    reason: Reason,
    hint: Hint,
) -> None:
    setattr(backend, side, centre)
    result = pipeline.step(frame())
    withheld(result, reason)
    assert result.verdict.hint is hint


def test_another_projection_or_a_foreign_picture_has_no_acquisition(
    pipeline: Pipeline, backend: DrawnLungs
) -> None:
    lateral = pipeline.step(frame(view="LATERAL"))
    assert (lateral.acquisition, lateral.reasons[0]) == (None, Reason.VIEW_MISMATCH)
    backend.presence, backend.rotation = 0.1, (0.1, 0.7, 0.1, 0.1)
    foreign = pipeline.step(frame())
    assert foreign.acquisition is None
    assert Reason.FOREIGN_IMAGE in foreign.reasons
    assert not {Reason.ROTATED_90} & set(foreign.reasons)
    assert all(measurement.value is None for measurement in foreign.measurements)


def test_no_other_anatomy_has_an_acquisition() -> None:
    model = load_model("fetal_head")
    pipeline = build_pipeline(model, Drawn((192, 288), model, 1))
    (frame,) = MemorySource(picture()[None], frames=1).frames()
    assert isinstance(frame, Frame)
    assert pipeline.step(frame).acquisition is None
    pipeline.close()


def test_the_check_is_in_the_finding_and_travels_as_it_is() -> None:
    taken = Acquisition(
        both_lungs=False,
        missing=("left",),
        clipped_edges=("top", "right"),
        rotation_deg=None,
        inverted=True,
        ok=False,
    )
    sent = json.loads(outgoing("finding", encode(finding(STAMP, acquisition=taken))))
    assert sent["acquisition"] == {
        "both_lungs": False,
        "missing": ["left"],
        "clipped_edges": ["top", "right"],
        "rotation_deg": None,
        "inverted": True,
        "ok": False,
    }
    assert json.loads(encode(finding(STAMP)))["acquisition"] is None
    old = json.loads(encode(finding(STAMP)))
    del old["acquisition"]  # as version 1.0 wrote it
    assert msgspec.json.decode(json.dumps(old), type=Finding).acquisition is None


def test_the_check_in_words_names_each_fault_and_promises_nothing() -> None:
    whole = Acquisition(
        both_lungs=True, missing=(), clipped_edges=(), rotation_deg=0, inverted=False, ok=True
    )
    turned = msgspec.structs.replace(
        whole, rotation_deg=180, inverted=None, clipped_edges=("left",), ok=False
    )
    assert "upside down" in acquisition_in_words(turned)
    assert "left edge" in acquisition_in_words(turned)
    assert "polarity" in acquisition_in_words(turned)
    unsure = msgspec.structs.replace(whole, ok=False)  # withheld by the frame's own reasons
    assert "none is clipped" in acquisition_in_words(whole)
    assert "none is clipped" not in acquisition_in_words(unsure)
    for text in map(acquisition_in_words, (whole, turned, unsure)):
        assert "good" not in text
        assert "normal" not in text


def test_a_run_tells_how_the_xrays_were_taken(tmp_path: Path, backend: DrawnLungs) -> None:
    import io

    from tests.pipeline.test_stream import stream

    pipeline = build_pipeline(chest_model(), backend)
    source = MemorySource(frame().pixels[None], frames=3, modality="CR")
    out = io.BytesIO()
    running = stream(pipeline, source, tmp_path, out=out)
    running.run()
    pipeline.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["acquisition"]["ok"] for line in lines] == [True] * 3
    assert running.reporter.acquired[True] == 3


@needs_data
@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_a_real_chest_that_is_cut_off_gives_the_shipped_model_no_number(edge: str) -> None:
    """By the model's own masks, which end a little before an edge; cut by a fifth of the lungs' extent."""
    model = load_model("lungs")
    pipeline = build_pipeline(model, open_backend(model, "openvino", "fp32"))
    shown = []
    try:
        for path in sorted((DATA / "lungs" / "images").iterdir())[::5]:
            pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            truth = cv2.imread(str(DATA / "lungs" / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
            assert pixels is not None
            assert truth is not None
            x, y, wide, high = cv2.boundingRect(truth)
            kept = {
                "top": np.s_[y + high // 5 :],
                "bottom": np.s_[: y + high - high // 5],
                "left": np.s_[:, x + wide // 5 :],
                "right": np.s_[:, : x + wide - wide // 5],
            }[edge]
            part = np.ascontiguousarray(pixels[kept])
            result = pipeline.step(Frame(part, 0, 0, Origin(SourceKind.FOLDER, path.name), "0.cut"))
            if result.status is not Status.WITHHELD:
                shown.append(path.name)
    finally:
        pipeline.close()
    assert shown == []
