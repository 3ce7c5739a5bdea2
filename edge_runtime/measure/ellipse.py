"""The ellipse with a mask's own area moments, in physical coordinates. Knows nothing about anatomy.

Never fitted to boundary pixels: their centres lie half a pixel inside the edge, which under-reads a
circumference by pi times the spacing, 1.8 mm of a fetal head on a 256 pixel grid. Second moments have no such
bias at any grid, but they follow blobs, so `overlap` says how far the mask is an ellipse at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Box


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse on a grid; lengths are in the unit of `cell`, the centre is in grid cells."""

    center_xy: tuple[float, float]  # grid (x, y), the centre of the first cell at (0, 0)
    semi_major: float  # a
    semi_minor: float  # b <= a
    angle_rad: (
        float  # of the major axis, from along the rows (x) towards down (y), in (-pi/2, pi/2], physical
    )
    area: float  # of the mask itself, squared unit of `cell`
    cell: tuple[float, float]  # (row, column) size of a grid cell

    @property
    def circumference(self) -> float:
        return ramanujan2(self.semi_major, self.semi_minor)


def ramanujan2(a: float, b: float) -> float:
    """The circumference of an ellipse by its semi-axes (Ramanujan 1914, the second formula).

    pi (a + b) (1 + 3h / (10 + sqrt(4 - 3h))) with h = ((a - b) / (a + b))^2; a relative error below 1e-9 for
    axes within a factor of two.
    """
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def moment_ellipse(inside: NDArray[np.bool_], cell: tuple[float, float]) -> Ellipse | None:
    """The ellipse with the area moments of `inside`, (h, w), whose cells are `cell` = (row, column) large.

    Exact for the union of the True cells: each adds its own second moment, a twelfth of its side squared.
    None for an empty mask.
    """
    pixels = inside.view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    if width == 0:
        return None
    moments = cv2.moments(pixels[top : top + height, left : left + width])
    count = moments["m00"]
    row, column = cell
    xx = (moments["mu20"] / count + 1 / 12) * column * column
    yy = (moments["mu02"] / count + 1 / 12) * row * row
    xy = moments["mu11"] / count * column * row
    mean, spread = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    return Ellipse(
        center_xy=(left + moments["m10"] / count, top + moments["m01"] / count),
        semi_major=2 * math.sqrt(mean + spread),
        semi_minor=2 * math.sqrt(max(mean - spread, 0.0)),
        angle_rad=0.5 * math.atan2(2 * xy, xx - yy),
        area=count * row * column,
        cell=cell,
    )


def overlap(ellipse: Ellipse, inside: NDArray[np.bool_]) -> float:
    """Intersection over union of `ellipse` and the mask it was made from, 0 to 1.

    What of the ellipse lies outside the grid counts as not in the mask.
    """
    height, width = inside.shape
    row, column = ellipse.cell
    center_x, center_y = ellipse.center_xy
    # A row at distance y of the centre cuts the ellipse where xx X^2 + 2 xy X y + yy y^2 = 1.
    cos, sin = math.cos(ellipse.angle_rad), math.sin(ellipse.angle_rad)
    along, across = ellipse.semi_major**-2, ellipse.semi_minor**-2
    xx = along * cos * cos + across * sin * sin
    xy = (along - across) * sin * cos
    y = (np.arange(height) - center_y) * row
    square = xx - along * across * y * y  # the discriminant; xx yy - xy^2 is along times across
    half = np.sqrt(np.maximum(square, 0.0)) / xx
    middle = -xy * y / xx
    first = np.ceil(center_x + (middle - half) / column).clip(0, width)
    last = np.floor(center_x + (middle + half) / column).clip(-1, width)
    last[square < 0] = -1
    x = np.arange(width, dtype=np.int16)
    within = x >= first.astype(np.int16)[:, None]
    within &= x <= last.astype(np.int16)[:, None]
    within &= inside
    common = float(np.count_nonzero(within)) * row * column
    union = ellipse.area + math.pi * ellipse.semi_major * ellipse.semi_minor - common
    return min(1.0, common / union)


def border_contact(inside: NDArray[np.bool_], content: Box, cell: tuple[float, float]) -> float:
    """The length over which the mask lies against the edge of the picture, in the unit of `cell` = (row,
    column).
    """
    rows, columns = slice(content.y0, content.y1), slice(content.x0, content.x1)
    across = np.count_nonzero(inside[content.y0, columns]) + np.count_nonzero(inside[content.y1 - 1, columns])
    down = np.count_nonzero(inside[rows, content.x0]) + np.count_nonzero(inside[rows, content.x1 - 1])
    return float(across * cell[1] + down * cell[0])
