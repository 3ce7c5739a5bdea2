"""How an example looks: gain, tone, speckle, blur, shadows, marks, as each modality varies. On the model's grid."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.data import Grey

Floats = NDArray[np.float32]


def varied(
    image: Grey, look: Literal["ultrasound", "xray"], grey_share: float, rng: np.random.Generator
) -> Grey:
    """`image` (h, w) as another scanner, another hand or another screen would have shown it; gain and contrast of
    ultrasound vary by `grey_share` of the usual."""
    x = image.astype(np.float32)
    x = _ultrasound(x, grey_share, rng) if look == "ultrasound" else _xray(x, rng)
    if rng.random() < 0.7:
        x[image < 2] = 0  # outside the picture stays black
    grey = as_grey(x)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 7))):
            (_text if rng.random() < 0.5 else _caliper)(grey, rng)
    return grey


def nothing(size_hw: tuple[int, int], rng: np.random.Generator) -> Grey:
    """Blank, noise, stripes, text, speckle in a sector, or ellipses without anatomy."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.full(size_hw, rng.uniform(0, 255) if rng.random() < 0.3 else 0.0, np.float32)
    kind = rng.integers(6)
    if kind == 1:
        image = rng.normal(rng.uniform(20, 200), rng.uniform(5, 80), size_hw).astype(np.float32)
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 4))
    elif kind == 2:
        angle, period = rng.uniform(0, math.pi), rng.uniform(3, 60)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period)
        wave = np.sign(wave) if rng.random() < 0.5 else wave
        image = (128 + rng.uniform(20, 127) * wave).astype(np.float32)
    elif kind == 3:
        written = as_grey(image)
        for _ in range(int(rng.integers(3, 25))):
            _text(written, rng)
        image = written.astype(np.float32)
    elif kind >= 4:
        image = _speckle(size_hw, rng) * rng.uniform(20, 140) * np.exp(-y / rng.uniform(50, 1000))
        if kind == 5:
            image = _ovals(image, rng)
        image = _sector(image, rng)
    return as_grey(image)


def _ovals(image: Floats, rng: np.random.Generator) -> Floats:
    height, width = image.shape
    for _ in range(int(rng.integers(1, 7))):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = (int(rng.uniform(4, 80)), int(rng.uniform(4, 60)))
        level, thick = rng.uniform(0, 255), int(rng.choice([-1, 1, 3, 6]))
        start = rng.uniform(0, 360)
        sweep = 360 if thick < 0 else rng.uniform(20, 120)
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), start, start + sweep, level, thick)
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    return np.asarray(blurred * _speckle((height, width), rng), np.float32)


# ---------------------------------------------------------------- ultrasound


def _ultrasound(x: Floats, share: float, rng: np.random.Generator) -> Floats:
    x = _sharpness(_grain(_gain(x, share, rng), rng), rng)
    return _shadow(x, rng) if rng.random() < 0.25 else x


def _gain(x: Floats, share: float, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.8:
        x = 255 * (x / 255) ** math.exp(rng.normal(0, 0.3 * share)) * math.exp(rng.normal(0, 0.25 * share))
    if rng.random() < 0.3:
        x += rng.normal(0, 12 * share)
    if rng.random() < 0.4:
        knots = np.exp(rng.normal(0, 0.3 * share, 6)).astype(np.float32)
        x *= cv2.resize(knots[:, None], (1, x.shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.maximum(x, 0)


def _grain(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.35:
        x *= 1 + rng.uniform(0.05, 0.5) * (_speckle((x.shape[0], x.shape[1]), rng) - 1)
    if rng.random() < 0.25:
        x += rng.normal(0, 1, x.shape).astype(np.float32) * rng.uniform(1, 12)
    return x


def _sharpness(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.3:
        return np.asarray(cv2.GaussianBlur(x, (0, 0), rng.uniform(0.3, 1.2)), np.float32)
    if rng.random() < 0.15:
        x += rng.uniform(0.3, 1.2) * (x - cv2.GaussianBlur(x, (0, 0), 1.0))
    return x


def _shadow(x: Floats, rng: np.random.Generator) -> Floats:
    height, width = x.shape
    column = np.arange(width, dtype=np.float32)
    dark = 1 - rng.uniform(0.3, 0.95) * np.exp(
        -(((column - rng.uniform(0, width)) / rng.uniform(4, 25)) ** 2)
    )
    begin = int(rng.uniform(0, 0.7) * height)
    x[begin:] *= dark.astype(np.float32)
    return x


def _speckle(size_hw: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Rayleigh multiplicative noise of mean 1, correlated over a few pixels."""
    parts = rng.standard_normal((2, size_hw[0] // 2, size_hw[1] // 2), np.float32)
    spread = (rng.uniform(0.4, 1.4), rng.uniform(0.3, 0.6))
    amplitude = np.hypot(*(cv2.GaussianBlur(part, (0, 0), *spread) for part in parts))
    amplitude = cv2.resize(amplitude, (size_hw[1], size_hw[0]))
    return np.asarray(amplitude / max(1e-6, float(amplitude.mean())), np.float32)


def _sector(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.4:
        return x
    height, width = x.shape
    mask = np.zeros_like(x)
    apex = (int(width * rng.uniform(0.4, 0.6)), int(-height * rng.uniform(0, 0.6)))
    half = rng.uniform(25, 60)
    cv2.ellipse(mask, apex, (int(height * 1.5),) * 2, 90, -half, half, 1.0, -1)
    return x * mask


# ---------------------------------------------------------------- X-ray


def _xray(x: Floats, rng: np.random.Generator) -> Floats:
    """Exposure, processing and noise: every maker's tone curve and edge enhancement is another."""
    if rng.random() < 0.25:
        tiles = int(rng.integers(2, 9))
        clahe = cv2.createCLAHE(clipLimit=rng.uniform(1, 6), tileGridSize=(tiles, tiles))
        x = clahe.apply(as_grey(x)).astype(np.float32)
    if rng.random() < 0.8:
        x = _tone(x, rng)
    if rng.random() < 0.3:
        wide = cv2.GaussianBlur(x, (0, 0), rng.uniform(10, 50))
        x = x - rng.uniform(0.2, 0.8) * (wide - wide.mean())  # dynamic range compression
    if rng.random() < 0.4:
        slope = rng.normal(0, 0.25, 2)
        height, width = x.shape
        ramp = np.add.outer(np.linspace(-1, 1, height) * slope[0], np.linspace(-1, 1, width) * slope[1])
        x *= np.exp(ramp).astype(np.float32)  # heel effect, a turned patient
    if rng.random() < 0.3:
        x += rng.standard_normal(x.shape, np.float32) * rng.uniform(1, 12)
    return _sharpness(x, rng)


def _tone(x: Floats, rng: np.random.Generator) -> Floats:
    """A random rising curve of grey."""
    knots = np.concatenate([[0.0], np.cumsum(rng.gamma(1.5, 1.0, 6) + 0.15)])
    knots = 255 * knots / knots[-1]
    low, high = rng.uniform(-40, 50), rng.uniform(180, 300)
    curve = np.interp(np.arange(256), np.linspace(0, 255, 7), low + (high - low) * knots / 255)
    return np.asarray(curve.astype(np.float32)[as_grey(x)], np.float32)


# ---------------------------------------------------------------- marks


def _text(x: Grey, rng: np.random.Generator) -> None:
    letters = "".join(rng.choice(list("ABCDEFHMGR0123456789 .:-/cmdB%"), int(rng.integers(1, 14))))
    at = (int(rng.uniform(-10, x.shape[1] * 0.9)), int(rng.uniform(4, x.shape[0])))
    level, size = rng.uniform(120, 255), rng.uniform(0.2, 0.5)
    cv2.putText(x, letters, at, cv2.FONT_HERSHEY_SIMPLEX, size, level, 1, cv2.LINE_AA)


def _caliper(x: Grey, rng: np.random.Generator) -> None:
    """A caliper cross and a dotted line, anywhere: they must not draw the mask to themselves."""
    level = rng.uniform(150, 255)
    px, py = rng.uniform(0, x.shape[1]), rng.uniform(0, x.shape[0])
    marker = cv2.MARKER_CROSS if rng.random() < 0.5 else cv2.MARKER_TILTED_CROSS
    cv2.drawMarker(x, (int(px), int(py)), level, marker, int(rng.integers(4, 11)), 1)
    if rng.random() < 0.5:
        angle, gap = rng.uniform(0, 2 * math.pi), rng.uniform(3, 7)
        for step in range(int(rng.integers(8, 40))):
            at = (int(px + step * gap * math.cos(angle)), int(py + step * gap * math.sin(angle)))
            cv2.circle(x, at, 0, level, -1)


def as_grey(x: NDArray[np.floating]) -> Grey:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
