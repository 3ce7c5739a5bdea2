"""What is exactly known of a drawn picture: where the structure lies, and its sizes. Draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.measure.ellipse import ramanujan2


class Truth(Protocol):
    """The structure of one drawn picture."""

    @property
    def values(self) -> dict[str, float]:
        """Known sizes by the measurement's name (`codes.MeasurementName`), in that measurement's unit."""

    def mask(self, size_hw: tuple[int, ...]) -> NDArray[np.uint8]:
        """(H, W) uint8: 0 where nothing is, then the labels of the anatomy in order from 1; the caller's."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """A border in image pixels; `angle_rad` turns the long axis from +x to +y (down)."""

    center_x: float
    center_y: float
    semi_major: float
    semi_minor: float
    angle_rad: float
    values: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def circumference(self) -> float:
        """In pixels, Ramanujan II."""
        return ramanujan2(self.semi_major, self.semi_minor)

    def mask(self, size_hw: tuple[int, ...]) -> NDArray[np.uint8]:
        """(H, W) uint8, 1 where a pixel's centre lies inside."""
        dy, dx = np.ogrid[: size_hw[0], : size_hw[1]]
        dx, dy = dx - self.center_x, dy - self.center_y
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        u = (cos * dx + sin * dy) / self.semi_major
        v = (cos * dy - sin * dx) / self.semi_minor
        return (u * u + v * v <= 1.0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class LabelledTruth:
    """Labels of a picture's own size."""

    labels: NDArray[np.uint8]  # (H, W); never written to
    values: dict[str, float]

    def mask(self, size_hw: tuple[int, ...]) -> NDArray[np.uint8]:
        """A copy of the labels. Raises ValueError for another size than the picture's."""
        if tuple(size_hw) != self.labels.shape:
            raise ValueError(f"mask: want the picture's size {self.labels.shape}, got {tuple(size_hw)}")
        copied: NDArray[np.uint8] = self.labels.copy()
        return copied


def semi_axes(circumference: float, cephalic_index: float) -> tuple[float, float]:
    """The semi-axes (long, short) of the ellipse of this circumference and ratio short/long."""
    long = circumference / ramanujan2(1.0, cephalic_index)
    return long, long * cephalic_index


def polygon_area(points: NDArray[Any]) -> float:
    """Area inside the closed polygon `points`, (n, 2), in their squared unit (the shoelace formula)."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def inside_polygon(points: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W): whether a pixel's centre lies inside the closed polygon `points`, (n, 2) of x, y in pixels.

    OpenCV's fill also takes the pixels that the border touches, half a pixel too much all around.
    """
    height, width = size_hw
    x0, y0 = points[:, 0], points[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    rows = np.arange(height)[:, None]
    row, edge = np.nonzero((y0 <= rows) != (y1 <= rows))
    cross = x0[edge] + (row - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    flips = np.zeros((height, width + 1), np.int32)
    np.add.at(flips, (row, np.clip(np.ceil(cross), 0, width).astype(np.intp)), 1)
    return (np.cumsum(flips[:, :width], axis=1) % 2).astype(bool)
