"""Masks at the image's resolution, where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.codes import SourceKind
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.measure.ellipse import outlined
from edge_runtime.pictures import full_mask, picture_name
from edge_runtime.types import Box, Frame, Mask, Origin
from tests.measure.drawn import ellipse_cells, geometry, mask_of

GRID = (192, 288)


def drawn(region: Box, center: tuple[int, int], axes: tuple[int, int]) -> Mask:
    labels = np.zeros(GRID, np.uint8)
    cv2.ellipse(labels, center, axes, 0, 0, 360, 1, -1)
    return Mask(labels, ("head",), fit_region(region, GRID, "letterbox"), (1.0,), (0.0,), 1.0)


def test_an_enlarged_mask_has_the_area_and_the_place_of_its_grid() -> None:
    mask = drawn(Box(0, 0, 800, 540), (140, 95), (90, 70))
    full, geometry = full_mask(mask, (540, 800)), mask.geometry
    assert full.sum() == pytest.approx(mask.labels.sum() * geometry.step_x * geometry.step_y, rel=0.005)
    here, there = cv2.moments(full), cv2.moments(mask.labels)
    center = geometry.to_image(np.array([[there["m10"] / there["m00"], there["m01"] / there["m00"]]]))[0]
    assert np.abs(center - (here["m10"] / here["m00"], here["m01"] / here["m00"])).max() < 0.3


def test_a_mask_never_leaves_the_region_that_was_looked_at() -> None:
    region = Box(200, 120, 600, 420)
    full = full_mask(drawn(region, (20, 95), (90, 120)), (540, 800))  # over three edges of the grid
    outside = full.copy()
    outside[region.y0 : region.y1, region.x0 : region.x1] = 0
    assert full.any()
    assert not outside.any()


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [(SourceKind.FOLDER, "a/012_HC.webp", "a_012_HC.webp"), (SourceKind.DICOM, "cine.dcm", "cine_000007")],
)
def test_pictures_of_a_frame_have_one_name(kind: SourceKind, name: str, told: str) -> None:
    frame = Frame(np.zeros((64, 64), np.uint8), 7, 0, Origin(kind, name), "7.x")
    assert picture_name(frame) == told if kind is not SourceKind.FOLDER else Path(told).stem


def test_an_ellipse_is_drawn_at_the_pictures_own_resolution() -> None:
    """Not the grid's steps enlarged: the drawn one, but for pixels whose centre lies on its edge."""
    where = geometry((540, 800))
    mask = outlined(mask_of(where, ellipse_cells(where, (390, 260), (250, 180), 0.7)))
    assert mask.outlines is not None
    exact = mask.outlines[0]
    assert exact is not None
    full = full_mask(mask, (540, 800)) == 1
    y, x = np.mgrid[:540, :800]
    right, down = x - 390, y - 260
    along, across = (right * np.cos(0.7) + down * np.sin(0.7)), (down * np.cos(0.7) - right * np.sin(0.7))
    drawn = (along / 250) ** 2 + (across / 180) ** 2 <= 1
    iou = np.count_nonzero(full & drawn) / np.count_nonzero(full | drawn)
    assert iou > 0.996
    assert not full_mask(replace(mask, outlines=(None,)), (540, 800)).any()
