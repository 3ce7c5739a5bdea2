"""Masks of exactly known shape, drawn by sampling cell centres: the measured truth of the geometry tests."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.infer.preprocess import fit_region
from edge_runtime.types import Box, Geometry, Mask

GRID_HW = (192, 288)


def geometry(image_hw=(540, 800), grid_hw=GRID_HW, region=None) -> Geometry:
    return fit_region(region or Box(0, 0, image_hw[1], image_hw[0]), grid_hw, "letterbox")


def ellipse_cells(where: Geometry, center_xy, semi_mm, angle_rad, pixel_mm=(1.0, 1.0)) -> np.ndarray:
    """Cells, (h, w) bool, whose centre is inside an ellipse of an image.

    `center_xy` in image pixels, `semi_mm` = (a, b), `pixel_mm` = (row, column), the angle in millimetres'
    plane.
    """
    height, width = where.grid_hw
    y, x = np.mgrid[:height, :width]
    image = where.to_image(np.stack([x.ravel(), y.ravel()], axis=1).astype(float))
    right = (image[:, 0] - center_xy[0]) * pixel_mm[1]
    down = (image[:, 1] - center_xy[1]) * pixel_mm[0]
    along = right * math.cos(angle_rad) + down * math.sin(angle_rad)
    across = down * math.cos(angle_rad) - right * math.sin(angle_rad)
    inside = (along / semi_mm[0]) ** 2 + (across / semi_mm[1]) ** 2 <= 1
    inside = inside.reshape(where.grid_hw)
    content = where.content
    visible = np.zeros_like(inside)
    visible[content.y0 : content.y1, content.x0 : content.x1] = True
    return inside & visible


def mask_of(where: Geometry, *parts, names=("head",), discarded=0.0, confidence=0.98, presence=1.0) -> Mask:
    labels = np.zeros(where.grid_hw, np.uint8)
    for number, part in enumerate(parts, start=1):
        labels[part] = number
    return Mask(
        labels=labels,
        names=names,
        geometry=where,
        confidence=(confidence,) * len(names),
        discarded=(discarded,) * len(names),
        presence=presence,
    )


def perimeter(a: float, b: float, steps: int = 20_000) -> float:
    """Of an ellipse, by the trapezoidal rule, which converges exponentially here: none of our formulas."""
    t = (np.arange(steps) + 0.5) * (2 * math.pi / steps)
    return float(np.hypot(a * np.sin(t), b * np.cos(t)).mean() * 2 * math.pi)
