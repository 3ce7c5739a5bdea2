"""Test patterns without anatomy: `noise` and `text`. Neither has a truth or millimetres."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.frames.phantom.spec import PhantomSpec


def noise(spec: PhantomSpec, index: int) -> NDArray[np.uint8]:
    """Smoothed noise over the whole picture: speckle of nothing."""
    rng = np.random.default_rng((spec.seed, index))
    field = rng.standard_normal((spec.height, spec.width), dtype=np.float32)
    blurred = cv2.GaussianBlur(field, (0, 0), sigmaX=1.6, sigmaY=1.1)
    grey: NDArray[np.uint8] = np.clip(90 + 110 * blurred, 0, 255).astype(np.uint8)
    return grey


def text(spec: PhantomSpec, index: int) -> NDArray[np.uint8]:
    """Lines of digits on black, scrolling: a screen without an image."""
    pixels = np.zeros((spec.height, spec.width), np.uint8)
    rng = np.random.default_rng(spec.seed)
    for number, top in enumerate(range(-(index % 28), spec.height + 28, 28)):
        words = " ".join(f"{value:05d}" for value in rng.integers(0, 99999, 12))
        cv2.putText(pixels, f"{number:03d} {words}", (8, top), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 210, 1)
    return pixels
