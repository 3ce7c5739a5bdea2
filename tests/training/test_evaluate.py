"""What chooses the limits and intervals: by the runtime's own masks, and as the runtime applies them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.codes import MeasurementName, Reason
from edge_runtime.commands.evaluate import evaluate as runtime_evaluate
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.backends.openvino import OpenVinoBackend
from edge_runtime.infer.model import LimitSpec, Model, load_model
from edge_runtime.measure.ellipse import moment_ellipse
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame
from models.training import evaluate
from models.training.data import data_root
from tests.real import needs_data

FOLDER = Path(__file__).resolve().parents[2] / "models" / "fetal_head"
LIMITS = {
    Reason.FOREIGN_IMAGE,
    Reason.LOW_CONFIDENCE,
    Reason.SHAPE_NOT_ELLIPTIC,
    Reason.STRUCTURE_NOT_FOUND,
}


@pytest.fixture(scope="module")
def unlimited() -> Iterator[Pipeline]:
    pipeline = evaluate.pipeline_of(FOLDER / "model.onnx", "openvino_fp32")
    yield pipeline
    pipeline.close()


def frames() -> list[Frame]:
    """Heads, half a head, two heads, and pictures without one."""
    heads = [render(PhantomSpec(hc_mm=hc, seed=31), 2)[0] for hc in (110.0, 220.0, 320.0)]
    half = heads[1].copy()
    half[: half.shape[0] // 2] = 0
    two = np.hstack([heads[0], heads[0]])
    empty = render(PhantomSpec(seed=31, empty=1), 0)[0]
    noise = render(PhantomSpec(pattern="noise", seed=31), 0)[0]
    return [evaluate.frame_of(pixels, "drawn", 0.2) for pixels in (*heads, half, two, empty, noise)]


@pytest.mark.slow
def test_a_limit_parts_the_same_pictures_here_and_in_the_runtime(unlimited: Pipeline) -> None:
    seen = [evaluate.look(unlimited, frame) for frame in frames()]
    manifest = load_model("fetal_head").manifest
    names = ("presence", "confidence", "ellipse_iou")
    for limit in names:
        for value in sorted(getattr(one, limit) for one in seen):  # each picture in turn lies on the limit
            rule = {f"min_{name}": value if name == limit else 0.0 for name in names}
            limits = msgspec.convert(rule, LimitSpec)
            model = Model(FOLDER, msgspec.structs.replace(manifest, limits=limits), "")
            backend = OpenVinoBackend(FOLDER / "model.onnx", model, "fp32", 1)
            limited = build_pipeline(model, backend)
            kept = [not LIMITS & set(limited.step(frame).reasons) for frame in frames()]
            limited.close()
            assert kept == [evaluate.shown(one, rule) for one in seen], rule


def test_a_picture_of_nothing_has_no_circumference(unlimited: Pipeline) -> None:
    seen = evaluate.look(unlimited, evaluate.frame_of(np.zeros((540, 800), np.uint8), "black"))
    assert np.isnan(seen.hc_mm)
    assert not evaluate.shown(seen, {"min_presence": 0.0, "min_confidence": 0.0, "min_ellipse_iou": 0.0})


def test_every_measured_value_has_a_true_one_of_the_same_name() -> None:
    y, x = np.mgrid[:192, :288]
    ellipse = moment_ellipse(((x - 140) / 80) ** 2 + ((y - 95) / 60) ** 2 <= 1, (0.3, 0.3))
    values = evaluate.values_of(ellipse)
    assert values["occipitofrontal_diameter"] == pytest.approx(48, rel=2e-3)
    assert values["biparietal_diameter"] == pytest.approx(36, rel=2e-3)
    assert values["cephalic_index"] == pytest.approx(75, rel=2e-3)
    assert {MeasurementName(name).value for name in values} == set(values)


@pytest.mark.parametrize("grows", [True, False], ids=["length", "ratio"])
def test_the_conformal_half_width_covers_nine_of_ten(grows: bool) -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(60, 340, 4000)
    error = rng.normal(0, 0.01, 4000) * (true if grows else 200)
    pairs = np.stack([true + error, true], axis=1)
    absolute, relative = evaluate.half_width_of(pairs[:1000], pairs[1000:2500], grows)
    covered = np.abs(error[2500:]) <= np.maximum(absolute, relative * pairs[2500:, 0])
    assert (relative > 0) is grows
    assert covered.mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.slow
@needs_data
def test_the_card_has_the_figures_that_the_runtime_gives() -> None:
    report = runtime_evaluate(
        "fetal_head", data_root() / "fetal_head", FOLDER / "test_subjects.txt", "openvino", "fp32"
    )
    card = (FOLDER / "CARD.md").read_text()
    assert f"| Dice | {report.dice.mean:.4f} | {report.dice.median:.4f} | {report.dice.p5:.4f} |" in card
    error = report.hc_mm
    assert error is not None
    assert f"| all | {error.mae:.2f} (" in card
    assert f"| {error.bias:+.2f} | {error.p95_abs:.2f} | {error.max_abs:.2f} |" in card
