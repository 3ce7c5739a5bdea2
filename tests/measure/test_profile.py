"""A profile applies to the model it was made for, and can only ask for more than the model does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.codes import Hint, Reason
from edge_runtime.config import toml_text
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import Manifest, load_model
from edge_runtime.measure.profile import ForModel, Gate, Grade, ProfileFile, Width, read_profile
from edge_runtime.measure.quality import GRADED, Limits, default_limits
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame

MODEL = load_model("fetal_head")
OWN = MODEL.manifest.limits
GATE = Gate(
    min_presence=OWN.min_presence, min_confidence=OWN.min_confidence, min_ellipse_iou=OWN.min_ellipse_iou
)


def profile(**over: object) -> ProfileFile:
    fields = {
        "schema_version": 1,
        "name": "probe B",
        "created": "2026-01-01T00:00:00.000Z",
        "model": ForModel(
            name="fetal_head", version="1", sha256=MODEL.sha256, precision="int8", backend="openvino"
        ),
        "frames": 100,
        "subjects": 80,
        "labelled_subjects": 40,
        "target_reject": 0.02,
        "coverage": 0.9,
        "gate": GATE,
        **over,
    }
    return ProfileFile(**fields)


def kept(tmp_path: Path, **over: object) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(toml_text(profile(**over)))
    return path


def opened(path: Path | None) -> Pipeline:
    backend = open_backend(MODEL, "onnxruntime", "fp32")
    try:
        return build_pipeline(MODEL, backend, profile=None if path is None else read_profile(path))
    except ConfigError:
        backend.close()
        raise


def a_head() -> Frame:
    (frame,) = open_source("phantom:fetal_head?hc_mm=250&seed=1&frames=1&width=400&height=270").frames()
    assert isinstance(frame, Frame)
    return frame


def test_what_was_written_is_read_back() -> None:
    made = profile(
        grades={"sharpness": Grade(limit=0.01, good=0.02)},
        half_width={"head_circumference": Width(scale=1.5), "lumen_area": Width(relative=0.03)},
    )
    assert msgspec.toml.decode(toml_text(made), type=ProfileFile) == made
    assert msgspec.toml.decode(toml_text(MODEL.manifest), type=Manifest) == MODEL.manifest


def test_its_intervals_take_the_place_of_the_models_and_the_finding_says_whose(tmp_path: Path) -> None:
    plain = opened(None)
    site = opened(kept(tmp_path, half_width={"head_circumference": Width(scale=2.0)}))
    before, after = plain.step(a_head()), site.step(a_head())
    plain.close()
    site.close()
    assert plain.profile is None
    assert site.profile is not None
    assert site.profile.name == "probe B"
    circumference, diameter = after.measurements[:2]
    own, value = before.measurements[0].interval, circumference.value or 0.0
    assert own is not None
    assert circumference.interval == pytest.approx((2 * own[0] - value, 2 * own[1] - value), abs=0.02)
    assert diameter.interval == before.measurements[1].interval


def test_a_model_without_intervals_has_them_by_its_profile_and_no_longer_says_that_it_has_none(
    tmp_path: Path,
) -> None:
    bare = replace(MODEL, manifest=msgspec.structs.replace(MODEL.manifest, interval=None))
    site = read_profile(kept(tmp_path, half_width={"head_circumference": Width(relative=0.1)}))
    seen = []
    for profile_or_none in (None, site):
        pipeline = build_pipeline(bare, open_backend(bare, "onnxruntime", "fp32"), profile=profile_or_none)
        seen.append(pipeline.step(a_head()).measurements)
        pipeline.close()
    assert Reason.INTERVAL_UNCALIBRATED in seen[0][0].reasons
    assert Reason.INTERVAL_UNCALIBRATED not in seen[1][0].reasons
    assert Reason.INTERVAL_UNCALIBRATED in seen[1][1].reasons
    value = seen[1][0].value or 0.0
    assert seen[1][0].interval == pytest.approx((0.9 * value, 1.1 * value), abs=0.006)


def test_a_width_that_ignores_the_models_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head_circumference. wants a scale"):
        opened(kept(tmp_path, half_width={"head_circumference": Width(relative=0.01)}))


def test_more_presence_is_asked_for_and_withholds(tmp_path: Path) -> None:
    strict = opened(kept(tmp_path, gate=msgspec.structs.replace(GATE, min_presence=1.0)))
    head = a_head()
    dim = replace(
        head, pixels=(head.pixels * 0.2).astype(np.uint8)
    )  # a bright one is certain to the last bit
    result = strict.step(dim)
    strict.close()
    assert Reason.FOREIGN_IMAGE in result.reasons


@pytest.mark.parametrize("name", ["min_presence", "min_confidence", "min_ellipse_iou"])
def test_a_profile_that_would_open_the_gate_is_refused(tmp_path: Path, name: str) -> None:
    lower = msgspec.structs.replace(GATE, **{name: getattr(GATE, name) - 0.01})
    with pytest.raises(ConfigError, match=f"{name} is .* a profile may only ask for more"):
        opened(kept(tmp_path, gate=lower))


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    other = ForModel(name="fetal_head", version="2", sha256="a" * 64, precision="int8", backend="openvino")
    with pytest.raises(ConfigError, match="was made for model fetal_head 2 .*calibrate"):
        opened(kept(tmp_path, model=other))


def test_a_sites_own_grades_raise_and_lift_reasons(tmp_path: Path) -> None:
    sharper = opened(kept(tmp_path, grades={"sharpness": Grade(limit=0.9, good=1.0)}))
    darker = opened(kept(tmp_path, grades={"lit_median": Grade(limit=250, good=255)}))
    results = sharper.step(a_head()), darker.step(a_head())
    sharper.close()
    darker.close()
    assert Reason.BLURRED in results[0].reasons
    assert results[0].verdict.hint is Hint.HOLD_STILL
    assert Reason.LOW_GAIN in results[1].reasons


def test_every_number_that_a_site_may_grade_has_a_default() -> None:
    assert set(default_limits(True)) == set(default_limits(False)) == set(GRADED)
    assert Limits().grades == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 3", "p.toml"),
        ("[grades.mood]\nlimit = 1\ngood = 2", "mood: unknown"),
        ("[half_width.mood]\nscale = 1", "mood: unknown"),
        ("[grades.sharpness]\nlimit = 2\ngood = 1", "want good on the higher side"),
        ("[grades.saturated]\nlimit = 0.1\ngood = 0.2", "want good on the lower side"),
        ("[half_width.head_circumference]\nrelative = 1.5", "relative"),
        ("[gate]\nmin_presence = nan", "min_presence"),
        ("[half_width.head_circumference]\nscale = inf", "scale"),
        ("[half_width.head_circumference]\nscale = 0", "scale"),
        ("[half_width.head_circumference]\nscale = 1\nrelative = 0.1", "either scale or relative"),
        ("surprise = 1", "surprise"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = kept(tmp_path)
    before = path.read_text()
    if text.startswith("[gate]"):
        path.write_text(before.partition("[gate]")[0] + text)
    else:
        path.write_text(f"{before}\n{text}\n" if text.startswith("[") else f"{text}\n{before}")
    with pytest.raises(ConfigError) as caught:
        read_profile(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path / "none.toml")
