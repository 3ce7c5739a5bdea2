"""Frames into slots, and the exact way back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.codes import SourceKind
from edge_runtime.infer.preprocess import Preprocess, fit_region
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
