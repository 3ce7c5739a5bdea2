"""A picture in chest coordinates: millimetres from the midline to the patient's left and from the apices down.

Places shapes on the grid of pixels; knows no organ.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.frames.phantom.truth import inside_polygon
from edge_runtime.frames.phantom.ultrasound import Floats, smooth

Points = NDArray[Any]  # (n, 2) float64: x, y


class Canvas:
    """A grid of `size`, (H, W), pixels of `pixel_mm`; `origin` is the pixel (x, y) of the midline at the apices.

    `x` and `y` are (H, W) float32, the place of every pixel's centre.
    """

    def __init__(self, size: tuple[int, int], pixel_mm: float, origin: tuple[float, float]) -> None:
        self.size, self.pixel_mm, self.origin = size, pixel_mm, origin
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
        self.x: Floats = (x - np.float32(origin[0])) * np.float32(pixel_mm)
        self.y: Floats = (y - np.float32(origin[1])) * np.float32(pixel_mm)

    def sheet(self) -> NDArray[np.uint8]:
        """An empty sheet to draw bones on."""
        return np.zeros(self.size, np.uint8)

    def pixels_of(self, points: Points) -> Points:
        """`points` in pixels."""
        return cast("Points", points / self.pixel_mm + self.origin)

    def texture(self, rng: np.random.Generator, sigma: float) -> Floats:
        """Smooth noise of unit variance, (H, W); `sigma` is in pixels of a picture 504 of them high or wide."""
        scaled = sigma * min(self.size) / 504
        return smooth(rng, self.size, (scaled, scaled))

    def inside(self, outline: Points) -> NDArray[np.bool_]:
        """(H, W): the pixels whose centre lies in `outline`, given in chest coordinates."""
        return inside_polygon(self.pixels_of(outline), self.size)

    def stroke(self, sheet: NDArray[np.uint8], line: Points, thick_mm: float, value: int) -> None:
        """Draws `line`, in chest coordinates, into `sheet`, in place."""
        pixels = self.pixels_of(line) * 16
        points = np.clip(pixels, -(2**17), 2**17).round().astype(np.int32).reshape(-1, 1, 2)
        thick = max(1, round(thick_mm / self.pixel_mm))
        cv2.polylines(sheet, [points], False, value, thick, cv2.LINE_AA, 4)

    def bone(self, sheet: NDArray[np.uint8], line: Points, thick_mm: float) -> None:
        """A bone along `line`: its rims brighter than its middle."""
        self.stroke(sheet, line, thick_mm, 255)
        self.stroke(sheet, line, thick_mm * 0.66, 135)


def soft_step(value: Floats) -> Floats:
    """A soft step from 0 to 1 about 0."""
    return cast("Floats", 1 / (1 + np.exp(-np.clip(value, -40, 40))))
