"""Frames into slots, and the exact way back."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.codes import SourceKind
from edge_runtime.errors import BackendError, ConfigError
from edge_runtime.infer.backends.contract import fix_shape
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import InputSpec, Manifest, Model
from edge_runtime.infer.preprocess import Preprocess, fit_region, preprocess_for
from edge_runtime.types import Box, Frame, Origin

GRID = (192, 288)
ORIGIN = Origin(SourceKind.MEMORY, "memory")


def frame(pixels: NDArray[np.uint8], region: Box | None = None) -> Frame:
    return Frame(pixels, 0, 0, ORIGIN, "0.x", region=region)


@given(
    width=st.integers(200, 1500),
    height=st.integers(200, 1500),
    x=st.floats(0.3, 0.7),
    y=st.floats(0.3, 0.7),
    fit=st.sampled_from(["letterbox", "stretch"]),
)
def test_what_is_seen_on_the_grid_is_found_again_in_the_image(
    width: int, height: int, x: float, y: float, fit: str
) -> None:
    pixels = np.zeros((height, width), np.uint8)
    cx, cy = x * width, y * height
    cv2.ellipse(pixels, ((cx, cy), (width / 4, height / 4), 0), 255, -1)
    slot = np.zeros((1, 1, *GRID), np.uint8)
    geometry = Preprocess(GRID, fit=fit).into(frame(pixels), slot)
    there, here = cv2.moments(slot[0, 0]), cv2.moments(pixels)
    grid_xy = np.array([[there["m10"] / there["m00"], there["m01"] / there["m00"]]])
    image_xy = np.array([here["m10"] / here["m00"], here["m01"] / here["m00"]])
    assert np.abs(geometry.to_image(grid_xy)[0] - image_xy).max() < 0.5
    area = there["m00"] * geometry.step_x * geometry.step_y
    assert area == pytest.approx(here["m00"], rel=0.02)


@given(
    x0=st.integers(0, 300), y0=st.integers(0, 300), width=st.integers(40, 900), height=st.integers(40, 900)
)
def test_the_corners_of_the_region_are_the_corners_of_the_content(
    x0: int, y0: int, width: int, height: int
) -> None:
    geometry = fit_region(Box(x0, y0, x0 + width, y0 + height), GRID, "letterbox")
    content = geometry.content
    edges = np.array([[content.x0 - 0.5, content.y0 - 0.5], [content.x1 - 0.5, content.y1 - 0.5]])
    np.testing.assert_allclose(
        geometry.to_image(edges), [[x0 - 0.5, y0 - 0.5], [x0 + width - 0.5, y0 + height - 0.5]], atol=1e-9
    )
    assert content.size_hw[0] == GRID[0] or content.size_hw[1] == GRID[1]


def test_only_the_region_is_looked_at_and_the_rest_of_the_slot_is_black() -> None:
    pixels = np.full((540, 800), 255, np.uint8)
    pixels[100:400, 200:500] = 100
    slot = np.full((1, 1, *GRID), 77, np.uint8)  # what the last frame left there
    geometry = Preprocess(GRID).into(frame(pixels, Box(200, 100, 500, 400)), slot)
    content = geometry.content
    inside = slot[0, 0, content.y0 : content.y1, content.x0 : content.x1]
    assert set(np.unique(inside)) == {100}
    assert slot[0, 0].sum() == inside.sum(dtype=np.int64)


def test_a_float_model_gets_grey_times_its_scale() -> None:
    pixels = np.arange(64 * 96, dtype=np.uint32).reshape(64, 96).astype(np.uint8)
    slot = np.zeros((1, 1, 64, 96), np.float32)
    Preprocess((64, 96), scale=1 / 255).into(frame(pixels), slot)
    np.testing.assert_allclose(slot[0, 0], pixels / 255, atol=1e-7)


def test_a_frame_of_the_grids_own_size_is_taken_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, GRID, dtype=np.uint8)
    slot = np.zeros((1, 1, *GRID), np.uint8)
    Preprocess(GRID).into(frame(pixels), slot)
    np.testing.assert_array_equal(slot[0, 0], pixels)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@given(
    scale=st.sampled_from([1 / 255, 1.0, 2 / 255, 0.1]),
    mean=st.lists(st.floats(-3, 3), min_size=1, max_size=3).filter(lambda values: len(values) != 2),
    std=st.floats(0.01, 50),
    seed=st.integers(0, 99),
)
def test_the_grey_comes_back_from_any_normalisation_within_one_level(
    scale: float, mean: list[float], std: float, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 96), dtype=np.uint8)
    slot = np.zeros((1, len(mean), 64, 96), np.float32)
    preprocess = Preprocess((64, 96), scale=scale, mean=tuple(mean), std=(std,) * len(mean))
    preprocess.into(frame(pixels), slot)
    back = preprocess.grey(slot)
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - pixels).max() <= 1


def test_a_colour_model_gets_the_grey_in_each_channel_normalised_by_its_own_numbers() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96), dtype=np.uint8)
    slot = np.zeros((1, 3, 64, 96), np.float32)
    Preprocess((64, 96), scale=1 / 255, **IMAGENET).into(frame(pixels), slot)
    for k in range(3):
        wanted = (pixels / 255 - IMAGENET["mean"][k]) / IMAGENET["std"][k]
        np.testing.assert_allclose(slot[0, k], wanted, atol=1e-6)
    whole = np.zeros((1, 3, 64, 96), np.uint8)
    Preprocess((64, 96)).into(frame(pixels), whole)
    np.testing.assert_array_equal(whole[0], np.stack([pixels] * 3))


def test_what_lies_beside_the_picture_is_black_and_not_zero() -> None:
    slot = np.full((1, 3, *GRID), 9, np.float32)  # what the last frame left there
    preprocess = Preprocess(GRID, scale=1 / 255, **IMAGENET)
    preprocess.into(frame(np.full((192, 288), 200, np.uint8)), slot)
    geometry = preprocess.into(frame(np.full((300, 100), 100, np.uint8)), slot)
    assert geometry.content.x0 > 0
    black = [-mean / std for mean, std in zip(IMAGENET["mean"], IMAGENET["std"], strict=True)]
    np.testing.assert_allclose(slot[0, :, 0, 0], black, rtol=1e-6)
    np.testing.assert_allclose(slot[0, :, -1, -1], black, rtol=1e-6)
    assert set(np.unique(preprocess.grey(slot))) == {0, 100}


@pytest.mark.parametrize(
    ("spec", "dtype", "said"),
    [
        (InputSpec(mean=(0.5,)), np.float32, "want 3 finite numbers"),
        (InputSpec(std=(1.0, 1.0)), np.float32, "want 3 finite numbers"),
        (InputSpec(mean=(0.0, float("nan"), 0.0)), np.float32, "finite"),
        (InputSpec(std=(1.0, 0.0, 1.0)), np.float32, "above 0"),
        (InputSpec(mean=(0.0, 0.0, 0.0)), np.uint8, "the graph's is uint8"),
    ],
)
def test_a_normalisation_that_cannot_be_meant_is_refused(spec: InputSpec, dtype: type, said: str) -> None:
    given = msgspec.structs.replace(spec, channels=3, dtype=np.dtype(dtype).name)
    model = Model(Path("mine"), Manifest(name="mine", input=given), "0" * 64)
    with pytest.raises(ConfigError, match=said):
        preprocess_for(model, open_backend(model, "null"))


@pytest.mark.parametrize(
    ("shape", "grid_hw", "channels", "fixed"),
    [
        ([1, 1, 8, 9], None, None, (1, 1, 8, 9)),
        (["n", 3, None, "w"], (8, 9), None, (1, 3, 8, 9)),
        ([-1, None, 8, 9], None, 3, (1, 3, 8, 9)),
        ([-1, None, 8, 9], None, None, (1, 1, 8, 9)),
    ],
)
def test_free_axes_become_one_picture_of_the_manifests_grid(
    shape: list[int | str | None],
    grid_hw: tuple[int, int] | None,
    channels: int | None,
    fixed: tuple[int, int, int, int],
) -> None:
    assert fix_shape(shape, grid_hw, "m", channels) == fixed


@pytest.mark.parametrize(
    ("shape", "channels", "said"),
    [
        ([1, 64, 64, 3], None, "channels last"),
        ([None, None, None, 1], None, "channels last"),
        ([1, 4, 64, 64], None, "has 4 channels"),
        ([1, 3, 64, 64], 1, "with channels 1"),
        ([2, 1, 64, 64], None, "with batch 1"),
        ([1, 1, None, 64], None, "set .input. grid_hw"),
        ([1, 64, 64], None, "want one picture"),
    ],
)
def test_an_input_that_is_no_picture_is_refused(
    shape: list[int | str | None], channels: int | None, said: str
) -> None:
    with pytest.raises(BackendError, match=said):
        fix_shape(shape, None, "m", channels)
