"""The ellipse with a mask's own area moments, in physical coordinates. Knows nothing about anatomy.

Never fitted to boundary pixels: their centres lie half a pixel inside the edge, which under-reads a
circumference by pi times the spacing, 1.8 mm of a fetal head on a 256 pixel grid. Second moments have no such
bias at any grid, but they follow blobs, so `overlap` says how far the mask is an ellipse at all.
Moments go along with any scaling of the axes: the ellipse on a grid is the one in millimetres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Box, Mask, Outline


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse on a grid; lengths are in the unit of `cell`, the centre is in grid cells."""

    center_xy: tuple[float, float]  # grid (x, y), the centre of the first cell at (0, 0)
    semi_major: float  # a
    semi_minor: float  # b <= a
    angle_rad: (
        float  # of the major axis, from x (along the rows) towards y (down), physical, in (-pi/2, pi/2]
    )
    area: float  # of the mask itself, squared unit of `cell`
    cell: tuple[float, float]  # (row, column) size of a grid cell

    @property
    def circumference(self) -> float:
        return ramanujan2(self.semi_major, self.semi_minor)

    @property
    def outline(self) -> Outline:
        """Its equation in grid cells."""
        row, column = self.cell
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        along, across = self.semi_major**-2, self.semi_minor**-2
        return Outline(
            self.center_xy,
            xx=(along * cos * cos + across * sin * sin) * column * column,
            xy=(along - across) * sin * cos * column * row,
            yy=(along * sin * sin + across * cos * cos) * row * row,
        )


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


def filled(outline: Outline, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a grid of `size_hw` whose centre lies in the ellipse, (h, w)."""
    height, width = size_hw
    center_x, center_y = outline.center_xy
    xx, xy, yy = outline.xx, outline.xy, outline.yy
    inside: NDArray[np.bool_] = np.zeros(size_hw, np.bool_)
    reach = math.sqrt(xx / (xx * yy - xy * xy))  # the rows beyond it are not cut
    top, bottom = max(0, math.ceil(center_y - reach)), min(height, math.floor(center_y + reach) + 1)
    if top >= bottom:
        return inside
    y = np.arange(top, bottom) - center_y
    half = np.sqrt(np.maximum(xx - (xx * yy - xy * xy) * y * y, 0.0)) / xx
    middle = center_x - xy * y / xx
    first = np.ceil(middle - half).clip(0, width).astype(np.int32)
    last = np.floor(middle + half).clip(-1, width).astype(np.int32)
    x = np.arange(width, dtype=np.int32)
    within = inside[top:bottom]
    np.greater_equal(x, first[:, None], out=within)
    within &= x <= last[:, None]
    return inside


def overlap(ellipse: Ellipse, inside: NDArray[np.bool_]) -> float:
    """Intersection over union of `ellipse` and the mask it was made from, 0 to 1.

    What of the ellipse lies outside the grid counts as not in the mask.
    """
    within = filled(ellipse.outline, (inside.shape[0], inside.shape[1]))
    within &= inside
    common = float(np.count_nonzero(within)) * ellipse.cell[0] * ellipse.cell[1]
    union = ellipse.area + math.pi * ellipse.semi_major * ellipse.semi_minor - common
    return min(1.0, common / union)


def own_overlap(inside: NDArray[np.bool_], cell: tuple[float, float]) -> float:
    """`overlap` of a mask with its own moment ellipse; 0 of an empty one."""
    ellipse = moment_ellipse(inside, cell)
    return 0.0 if ellipse is None else overlap(ellipse, inside)


def outlined(mask: Mask) -> Mask:
    """`mask` with each part replaced by its moment ellipse, within the picture; an empty one stays empty.

    For parts whose measurement is that of their ellipse: the mask is then what was measured.
    """
    labels, outlines, content = np.zeros_like(mask.labels), [], mask.geometry.content
    seen = (slice(content.y0, content.y1), slice(content.x0, content.x1))
    for value, name in enumerate(mask.names, start=1):
        ellipse = moment_ellipse(mask.of(name), (1.0, 1.0))
        outlines.append(None if ellipse is None else ellipse.outline)
        if ellipse is not None:
            labels[seen][filled(ellipse.outline, mask.geometry.grid_hw)[seen]] = value
    return replace(mask, labels=labels, outlines=tuple(outlines))


def border_contact(inside: NDArray[np.bool_], content: Box, cell: tuple[float, float]) -> float:
    """The length over which the mask lies against the edge of the picture, in the unit of `cell` = (row,
    column).
    """
    rows, columns = slice(content.y0, content.y1), slice(content.x0, content.x1)
    across = np.count_nonzero(inside[content.y0, columns]) + np.count_nonzero(inside[content.y1 - 1, columns])
    down = np.count_nonzero(inside[rows, content.x0]) + np.count_nonzero(inside[rows, content.x1 - 1])
    return float(across * cell[1] + down * cell[0])
