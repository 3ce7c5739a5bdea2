"""The physics that every drawn B-mode picture shares: speckle, point spread, noise, detection, log compression.

Arrays over beams have the axes (depth sample, beam); an echo has a third one, its real and imaginary part. Knows no
anatomy and no shape of a probe.
"""

from __future__ import annotations

import math
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32; OpenCV's stubs lose the type

DYNAMIC_RANGE_DB = 60.0
NOISE_PAD = (
    61  # samples and beams by which a noise field is larger than the picture: every frame cuts elsewhere
)


def speckle(rng: np.random.Generator, size: tuple[int, int], sigma_y: float, sigma_x: float) -> Floats:
    """Complex Gaussian noise of unit power as (h, w, 2), smooth enough to be sampled between its points."""
    noise = rng.standard_normal((*size, 2), dtype=np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y)
    return cast("Floats", blurred / blurred.std() * np.float32(math.sqrt(0.5)))


def smooth(rng: np.random.Generator, size: tuple[int, ...], sigma: tuple[float, float]) -> Floats:
    """Smooth noise of unit variance, (h, w); `sigma` is (down, across) in samples."""
    noise = rng.standard_normal(size[:2], dtype=np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigmaX=sigma[1], sigmaY=sigma[0])
    return cast("Floats", (blurred - blurred.mean()) / blurred.std())


def point_spread(echo: Floats) -> Floats:
    """`echo` as the probe resolves it, a new array: blurred along the beam and, more, across the beams."""
    return cast(
        "Floats", cv2.GaussianBlur(echo, (0, 0), sigmaX=1.15, sigmaY=0.85, borderType=cv2.BORDER_REPLICATE)
    )


def add_noise(echo: Floats, noise: Floats, index: int, amplitude: float) -> None:
    """Adds the receiver's noise of frame `index` to `echo`, in place; `noise` is NOISE_PAD larger."""
    top, left = (index * 37) % 61, (index * 23) % 59
    echo += noise[top : top + echo.shape[0], left : left + echo.shape[1]] * np.float32(amplitude)


def detect(echo: Floats, gain: Floats, darkest: int = 3) -> NDArray[np.uint8]:
    """Grey values of `echo`: its magnitude, compounded over beams, times `gain`, log-compressed."""
    level = cv2.magnitude(echo[..., 0], echo[..., 1])
    cv2.GaussianBlur(level, (0, 0), sigmaX=0.9, sigmaY=0.6, dst=level)  # beams are compounded
    level *= gain
    level += np.float32(1e-6)
    cv2.log(level, level)
    level *= np.float32(255 * 20 / (math.log(10) * DYNAMIC_RANGE_DB))
    level += np.float32(255)
    return cast("NDArray[np.uint8]", np.clip(level, darkest, 255).astype(np.uint8))
