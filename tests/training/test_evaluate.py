"""What chooses the limits and intervals: by the runtime's own masks, and as the runtime applies them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.codes import MeasurementName, Reason, SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.backends.openvino import OpenVinoBackend
from edge_runtime.infer.model import LimitSpec, Model, load_model
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Acquisition, Frame, Spacing
from models.training import evaluate, statistics
from models.training.acquisition import CUT, Variant, is_said, variants
from models.training.data import fold_subjects
from models.training.recipe import fold_home, read_recipe
from models.training.report import ENDPOINTS
from tests.training.drawn import SUBJECTS, tiny, write_heads

LIMITS = {
    Reason.FOREIGN_IMAGE,
    Reason.LOW_CONFIDENCE,
    Reason.SHAPE_NOT_ELLIPTIC,
    Reason.STRUCTURE_NOT_FOUND,
}
MM = Spacing(0.5, 0.5, SpacingSource.PHANTOM)


@pytest.fixture(scope="module")
def head() -> Model:
    return load_model("fetal_head")


@pytest.fixture(scope="module")
def unlimited(head: Model) -> Iterator[Pipeline]:
    pipeline = _limited(head, LimitSpec())
    yield pipeline
    pipeline.close()


def _limited(model: Model, limits: LimitSpec) -> Pipeline:
    path, _ = model.artifact("fp32")
    free = Model(model.home, msgspec.structs.replace(model.manifest, limits=limits), "")
    return build_pipeline(free, OpenVinoBackend(path, free, "fp32", 1))


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
def test_a_limit_parts_the_same_pictures_here_and_in_the_runtime(head: Model, unlimited: Pipeline) -> None:
    pictures = frames()
    seen = [evaluate.look(unlimited, frame) for frame in pictures]
    names = {"presence": "presence", "confidence": "confidence", "fit": "ellipse_iou"}
    for name in names:
        for value in sorted(getattr(one, name) for one in seen):  # each picture in turn lies on the limit
            rule = {f"min_{limit}": value if mine == name else 0.0 for mine, limit in names.items()}
            limited = _limited(head, msgspec.convert(rule, LimitSpec))
            kept = [not LIMITS & set(limited.step(frame).reasons) for frame in pictures]
            limited.close()
            assert kept == [statistics.shown(one, rule) for one in seen], rule


def test_a_picture_of_nothing_has_no_value(unlimited: Pipeline) -> None:
    seen = evaluate.look(unlimited, evaluate.frame_of(np.zeros((540, 800), np.uint8), "black"))
    assert seen.values == {}
    assert not statistics.shown(seen, statistics.UNLIMITED)


def ellipse(centre: tuple[int, int], a: int, b: int) -> np.ndarray:
    """(192, 288), True inside."""
    y, x = np.mgrid[:192, :288]
    return np.asarray(((x - centre[0]) / a) ** 2 + ((y - centre[1]) / b) ** 2 <= 1)


def test_the_true_values_of_a_drawn_head_are_its_own() -> None:
    recipe = read_recipe("fetal_head")
    labels = ellipse((140, 95), 80, 60).astype(np.uint8)
    values = evaluate.true_values(recipe, labels, MM, {})
    assert values["occipitofrontal_diameter"] == pytest.approx(80, rel=3e-3)
    assert values["biparietal_diameter"] == pytest.approx(60, rel=3e-3)
    assert values["cephalic_index"] == pytest.approx(75, rel=3e-3)
    assert values["head_circumference"] == pytest.approx(221.03, rel=3e-3)
    published = evaluate.true_values(recipe, labels, MM, {"hc_mm": "215.5"})
    assert published == {**values, "head_circumference": 215.5}


@pytest.mark.parametrize("name", ["carotid", "fetal_head", "lungs"])
def test_every_value_that_gets_an_interval_is_measured(name: str) -> None:
    recipe = read_recipe(name)
    endpoint = ENDPOINTS[recipe.anatomy]
    labels = ellipse((90, 95), 40, 70).astype(np.uint8)
    if len(recipe.labels) == 2:
        labels[ellipse((200, 95), 40, 70)] = 2
    values = evaluate.true_values(recipe, labels, None if endpoint.value.endswith("_px") else MM, {})
    assert set(endpoint.intervals) <= set(values)
    assert endpoint.value in endpoint.intervals
    assert {MeasurementName(value.removesuffix("_px")).value for value in endpoint.intervals}


def test_pictures_for_the_acquisition_check_are_turned_inverted_and_cut_by_known_amounts() -> None:
    labels = np.zeros((200, 160), np.uint8)
    labels[20:120, 20:60], labels[20:120, 80:120] = 1, 2
    pixels = np.where(labels > 0, np.uint8(90), np.uint8(10))
    pixels[0, 0] = 200  # top left
    made = {variant.what: variant.pixels for variant in variants(pixels, labels)}
    assert [int(np.argwhere(made[f"turned by {angle}"] == 200).sum()) for angle in (90, 180, 270)] == [
        199,  # top right
        199 + 159,  # bottom right
        159,  # bottom left
    ]
    assert np.array_equal(made["inverted"], 255 - pixels)
    down, across = round(99 * CUT), round(99 * CUT)
    assert made["cut at the top"].shape == (200 - 20 - down, 160)
    assert made["cut at the bottom"].shape == (119 - down, 160)
    assert made["cut at the left"].shape == (200, 160 - 20 - across)
    assert made["cut at the right"].shape == (200, 119 - across)


def test_of_each_picture_only_what_was_done_to_it_counts_as_said() -> None:
    black = np.zeros((4, 4), np.uint8)
    done = [
        Variant("as it is", black),
        Variant("turned by 90", black, turned=90),
        Variant("inverted", black, inverted=True),
        Variant("cut at the top", black, cut="top"),
    ]
    whole = Acquisition(
        both_lungs=True, missing=(), clipped_edges=(), rotation_deg=0, inverted=False, ok=True
    )
    said = [
        whole,
        msgspec.structs.replace(whole, rotation_deg=90),
        msgspec.structs.replace(whole, inverted=True),
        msgspec.structs.replace(whole, clipped_edges=("top",)),
    ]
    for number, variant in enumerate(done):
        assert [is_said(found, variant) for found in said] == [k == number for k in range(4)], variant.what


def test_intervals_of_folds_are_made_by_networks_that_had_not_seen_the_picture_and_never_of_test(
    tmp_path: Path,
) -> None:
    recipe, root, built = tiny(tmp_path), write_heads(tmp_path / "data"), tmp_path / "built"
    folds = fold_subjects(recipe, root)
    with pytest.raises(
        ConfigError, match="fold_0/model.onnx: does not exist; run python -m models.training.folds"
    ):
        list(evaluate.crossed_by(recipe, root, built))
    for number in range(len(folds)):
        fold_home(built, number).mkdir(parents=True)
        (fold_home(built, number) / "model.onnx").touch()
    asked = {
        model: {item.subject for item in items} for model, items in evaluate.crossed_by(recipe, root, built)
    }
    test = set(recipe.splits.test)
    assert asked == {
        fold_home(built, number) / "model.onnx": set(held) - test for number, held in enumerate(folds)
    }
    assert set().union(*asked.values()) == set(SUBJECTS) - test
