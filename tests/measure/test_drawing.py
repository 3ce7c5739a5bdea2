"""What no probe has seen: rings, ellipses and other test patterns, and real pictures that must not be taken for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from edge_runtime.codes import Reason, SourceKind, SpacingSource, Status
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.measure.drawing import is_drawn
from edge_runtime.measure.ellipse import fits_of
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Box, Frame, Mask, Origin, Spacing
from tests.measure.drawn import mask_of
from tests.real import DATA, needs_data

GRID = (192, 288)
WHERE = fit_region(Box(0, 0, 576, 384), GRID, "letterbox")
SIZE = (540, 800)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)


def ellipse(
    size_hw: tuple[int, int], center: tuple[int, int], axes: tuple[int, int], thick: int
) -> np.ndarray:
    drawn = np.zeros(size_hw, np.uint8)
    cv2.ellipse(drawn, center, axes, 10, 0, 360, 255, thick, cv2.LINE_AA)
    return drawn.astype(np.float32) / 255


def speckle(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    parts = (cv2.GaussianBlur(rng.standard_normal(size_hw).astype(np.float32), (0, 0), 1.2) for _ in range(2))
    amplitude = np.hypot(*parts)
    return np.asarray(amplitude / amplitude.mean())


def drawn(picture: np.ndarray, mask: Mask) -> bool:
    return is_drawn("fetal_head", mask, np.clip(picture, 0, 255).astype(np.uint8), fits_of(mask))


def head() -> Mask:
    return mask_of(WHERE, ellipse(GRID, (144, 96), (70, 55), -1) > 0.5, names=("head",))


@pytest.mark.parametrize("noise", [0, 5, 20])
@pytest.mark.parametrize("thick", [-1, 3, 9])
@pytest.mark.parametrize("ground", [0, 60])
def test_a_drawn_outline_is_as_bright_all_round_and_known_by_it(ground: int, thick: int, noise: int) -> None:
    picture = ground + ellipse(GRID, (144, 96), (70, 55), thick) * (200 - ground)
    picture += np.random.default_rng(0).normal(0, noise, GRID)
    assert drawn(picture, head())


def test_flat_greys_are_drawn_whatever_their_outline() -> None:
    """Every second piece of the ring is missing, so it is not even; but nothing in the picture has noise."""
    pieces = (np.arctan2(*np.mgrid[-96:96, -144:144]) * 6).astype(int) % 2
    assert drawn(40 + pieces * ellipse(GRID, (144, 96), (70, 55), 8) * 160, head())


def test_an_outline_that_the_beam_meets_squarely_above_and_below_is_no_drawing() -> None:
    rng = np.random.default_rng(1)
    squarely = np.abs(np.sin(np.arctan2(*np.mgrid[-96:96, -144:144])))
    skull = ellipse(GRID, (144, 96), (70, 55), 5) * (30 + 190 * squarely**2)
    assert not drawn((skull + 40) * speckle(rng, GRID), head())


def test_an_outline_of_which_nothing_can_be_seen_says_nothing() -> None:
    beyond = mask_of(WHERE, np.ones(GRID, bool), names=("head",))
    assert not drawn(100 * speckle(np.random.default_rng(2), GRID), beyond)
    assert not drawn(100 * speckle(np.random.default_rng(2), GRID), mask_of(WHERE, np.zeros(GRID, bool)))


# ---------------------------------------------------------------- with the models themselves


@pytest.fixture(scope="module", params=["fetal_head", "carotid"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    model = load_model(request.param)
    opened = build_pipeline(model, open_backend(model, "openvino", "fp32"))
    yield opened
    opened.close()


def shown(pipeline: Pipeline, picture: np.ndarray) -> bool:
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    spacing = Spacing(0.15, 0.15, SpacingSource.META_CSV)
    frame = Frame(pixels, 0, 0, Origin(SourceKind.FOLDER, "drawn"), "0.drawn", spacing=spacing)
    return pipeline.step(frame).status is not Status.WITHHELD


GROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "black": lambda rng: np.zeros(SIZE, np.float32),
    "grey": lambda rng: np.full(SIZE, 60, np.float32),
    "gradient": lambda rng: X / SIZE[1] * 200,
    "bars": lambda rng: np.floor(X / SIZE[1] * 8) * 36,
    "checkerboard": lambda rng: (X // 40 + Y // 40) % 2 * 180,
    "noise": lambda rng: rng.normal(60, 25, SIZE),
    "sector": lambda rng: 60 * (np.hypot(X - 400, Y + 100) < 600) * (abs(X - 400) < 0.8 * (Y + 100)),
}


@pytest.mark.parametrize("ground", GROUNDS)
def test_no_test_pattern_gives_a_number(pipeline: Pipeline, ground: str) -> None:
    rng = np.random.default_rng(7)
    for noise, blur in ((0, 0), (3, 0), (20, 0), (8, 2)):
        for thick in (None, -1, 4, 20):
            picture = GROUNDS[ground](rng)
            if thick is not None:
                axes = (int(rng.uniform(140, 220)), int(rng.uniform(110, 170)))
                at = ellipse(SIZE, (int(rng.uniform(360, 440)), int(rng.uniform(250, 290))), axes, thick)
                picture = picture * (1 - at) + at * rng.uniform(120, 255)
            picture = picture + rng.normal(0, noise, SIZE)
            picture = cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture
            assert not shown(pipeline, picture), (noise, blur, thick)


@needs_data
def test_no_real_picture_is_taken_for_a_drawing(pipeline: Pipeline) -> None:
    name = pipeline.model.manifest.name
    for path in sorted((DATA / name / "images").iterdir())[::12]:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        result = pipeline.step(Frame(pixels, 0, 0, Origin(SourceKind.FOLDER, path.name), "0.real"))
        assert Reason.DRAWN_IMAGE not in result.reasons, path.name
