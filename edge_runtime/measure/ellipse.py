"""The ellipse with a mask's own area moments, in physical coordinates. Knows nothing about anatomy.

Never fitted to boundary pixels: their centres lie half a pixel inside the edge, which under-reads a
circumference by pi times the spacing, 1.8 mm of a fetal head on a 256 pixel grid. Second moments have no such
bias at any grid, but they follow blobs, so `overlap` says how far the mask is an ellipse at all.
Moments go along with any scaling of the axes: the ellipse on a grid is the one in millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Moments:
    """Area moments of a mask in grid cells: what its ellipse is made of, whatever a cell is worth."""

    count: float  # cells
    center_xy: tuple[float, float]
    xx: float  # second moments about the centre, per cell
    yy: float
    xy: float

    def ellipse(self, cell: tuple[float, float]) -> Ellipse:
        """The ellipse with these moments where a cell is `cell` = (row, column) large."""
        row, column = cell
        xx, yy, xy = self.xx * column * column, self.yy * row * row, self.xy * column * row
        mean, spread = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
        return Ellipse(
            center_xy=self.center_xy,
            semi_major=2 * math.sqrt(mean + spread),
            semi_minor=2 * math.sqrt(max(mean - spread, 0.0)),
            angle_rad=0.5 * math.atan2(2 * xy, xx - yy),
            area=self.count * row * column,
            cell=cell,
        )


def moments_of(inside: NDArray[np.bool_]) -> Moments | None:
    """The moments of `inside`, (h, w); None for an empty mask.

    Exact for the union of the True cells: each adds its own second moment, a twelfth of its side squared.
    """
    pixels = inside.view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    if width == 0:
        return None
    moments = cv2.moments(pixels[top : top + height, left : left + width])
    count = moments["m00"]
    return Moments(
        count,
        (left + moments["m10"] / count, top + moments["m01"] / count),
        xx=moments["mu20"] / count + 1 / 12,
        yy=moments["mu02"] / count + 1 / 12,
        xy=moments["mu11"] / count,
    )


def moment_ellipse(inside: NDArray[np.bool_], cell: tuple[float, float]) -> Ellipse | None:
    """The ellipse with the area moments of `inside`, (h, w), whose cells are `cell` large; None for an empty mask."""
    moments = moments_of(inside)
    return None if moments is None else moments.ellipse(cell)


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


def overlap(ellipse: Ellipse, inside: NDArray[np.bool_], within: NDArray[np.bool_] | None = None) -> float:
    """Intersection over union of `ellipse` and the mask it was made from, 0 to 1; `within` is the ellipse `filled`.

    What of the ellipse lies outside the grid counts as not in the mask.
    """
    if within is None:
        within = filled(ellipse.outline, (inside.shape[0], inside.shape[1]))
    common = float(np.count_nonzero(within & inside)) * ellipse.cell[0] * ellipse.cell[1]
    union = ellipse.area + math.pi * ellipse.semi_major * ellipse.semi_minor - common
    return min(1.0, common / union)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The moment ellipse of one part of a mask, drawn once for all who ask about it."""

    moments: Moments
    ellipse: Ellipse  # in grid cells
    outline: Outline
    within: NDArray[np.bool_]  # (h, w): the cells whose centre it holds
    overlap: float  # intersection over union with the part itself, 0 to 1


def fit_of(inside: NDArray[np.bool_]) -> Fit | None:
    """The fit of one part, (h, w); None where nothing was found."""
    moments = moments_of(inside)
    if moments is None:
        return None
    ellipse = moments.ellipse((1.0, 1.0))
    outline = ellipse.outline
    within = filled(outline, (inside.shape[0], inside.shape[1]))
    return Fit(moments, ellipse, outline, within, overlap(ellipse, inside, within))


def fits_of(mask: Mask) -> tuple[Fit | None, ...]:
    """The fit of each part of `mask`, by the order of its names."""
    return tuple(fit_of(mask.of(name)) for name in mask.names)


def own_overlap(inside: NDArray[np.bool_]) -> float:
    """`overlap` of a mask with its own moment ellipse; 0 of an empty one."""
    fit = fit_of(inside)
    return 0.0 if fit is None else fit.overlap


def outlined(mask: Mask, fits: Sequence[Fit | None] | None = None) -> Mask:
    """`mask` with each part replaced by its moment ellipse, within the picture; an empty one stays empty.

    For parts whose measurement is that of their ellipse: the mask is then what was measured. `fits` are the ellipses
    if they were made already.
    """
    fits = fits_of(mask) if fits is None else fits
    labels, content = np.zeros_like(mask.labels), mask.geometry.content
    seen = (slice(content.y0, content.y1), slice(content.x0, content.x1))
    for value, fit in enumerate(fits, start=1):
        if fit is not None:
            np.copyto(labels[seen], np.uint8(value), where=fit.within[seen])
    return replace(mask, labels=labels, outlines=tuple(None if fit is None else fit.outline for fit in fits))


def border_contact(inside: NDArray[np.bool_], content: Box, cell: tuple[float, float]) -> float:
    """The length over which the mask lies against the edge of the picture, in the unit of `cell` = (row,
    column).
    """
    rows, columns = slice(content.y0, content.y1), slice(content.x0, content.x1)
    across = np.count_nonzero(inside[content.y0, columns]) + np.count_nonzero(inside[content.y1 - 1, columns])
    down = np.count_nonzero(inside[rows, content.x0]) + np.count_nonzero(inside[rows, content.x1 - 1])
    return float(across * cell[1] + down * cell[0])
