"""Outlines that cannot be seen: disease drawn over a lung, and walls of vessels and skulls that drop out.

Readers outline a structure as far as it reaches, seen or hidden; the pictures that show it are too few to learn it from.
On the model's grid; the truth stays what it was.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.data import Grey

Floats = NDArray[np.float32]


# ---------------------------------------------------------------- ultrasound


def veiled(image: Grey, structure: Grey, rng: np.random.Generator) -> Grey:
    """`image` (h, w) with one to three pieces of the outline of `structure` (h, w) under haze or in shadow, the more
    likely the more the wall lies along the beam, which runs down the picture."""
    contours, _ = cv2.findContours(
        (structure > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    points = max(contours, key=len)[:, 0].astype(np.float32) if contours else np.zeros((0, 2), np.float32)
    if len(points) < 16:
        return image
    along = np.abs(np.roll(points, -4, 0) - np.roll(points, 4, 0))
    likely = 0.15 + along[:, 1] / (along.sum(1) + 1e-3)
    x = image.astype(np.float32)
    inside, outside = (np.percentile(image[where], (20, 70)) for where in _sides(structure))
    diameter = 2 * float(np.sqrt((structure > 127).sum() / np.pi))
    for _ in range(int(rng.integers(1, 4))):
        px, py = points[rng.choice(len(points), p=likely / likely.sum())]
        low, high = inside if rng.random() < 0.5 else outside
        level = rng.uniform(low, high) * _grains(image.shape, rng)
        share = np.zeros(image.shape, np.float32)
        axes = (diameter * rng.uniform(0.06, 0.25), diameter * rng.uniform(0.1, 0.4))
        ellipse = ((float(px), float(py)), (2 * axes[0], 2 * axes[1]), float(rng.normal(0, 25)))
        cv2.ellipse(share, ellipse, 1.0, cv2.FILLED)
        share = cv2.GaussianBlur(share, (0, 0), max(0.5, rng.uniform(0.15, 0.5) * axes[0]))
        x += share * rng.uniform(0.5, 1.0) * (level - x)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _sides(structure: Grey) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Inside, and a ring around it that is about a third as wide as the structure."""
    inside = structure > 127
    wide = 2 * int(np.sqrt(inside.sum() / np.pi) / 3) + 3
    ring = cv2.dilate(inside.astype(np.uint8), np.ones((wide, wide), np.uint8)) > 0
    return inside, ring & ~inside


def _grains(size_hw: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Rayleigh speckle of mean 1, weakened."""
    parts = rng.standard_normal((2, *size_hw), np.float32)
    field = np.hypot(*(cv2.GaussianBlur(part, (0, 0), 0.8) for part in parts))
    return np.asarray(1 + rng.uniform(0.2, 0.8) * (field / field.mean() - 1), np.float32)


# ---------------------------------------------------------------- X-ray


def opacified(image: Grey, lungs: Grey, rng: np.random.Generator) -> Grey:
    """`image` (h, w) with one lung or both of `lungs` (2, h, w) made denser, up to the grey of what lies around."""
    x, outside = image.astype(np.float32), image[(lungs.max(0) < 32) & (image > 8)]
    if outside.size == 0:
        return image
    chosen = (0, 1) if rng.random() < 0.25 else (int(rng.integers(2)),)
    for number in chosen:
        if lungs[number].max() < 128:
            continue
        kind = rng.random()
        if kind < 0.5:
            dense = _fluid(lungs[number], number, rng)
        elif kind < 0.85:
            dense = _patches(lungs[number], rng)
        else:
            dense = _fluid(lungs[number][::-1], number, rng)[::-1]  # from the apex down
        level = float(np.percentile(outside, rng.uniform(55, 98)))
        cloud = level * (1 + 0.08 * _smooth(lungs.shape[1:], int(rng.integers(4, 12)), rng))
        near = cv2.GaussianBlur(
            cv2.dilate(lungs[number], np.ones((5, 5), np.uint8)), (0, 0), rng.uniform(1, 4)
        )
        share = dense * (near.astype(np.float32) / 255) * rng.uniform(0.5, 1.0)
        x += share * np.maximum(cloud - x, 0)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _fluid(lung: Grey, number: int, rng: np.random.Generator) -> Floats:
    """Share (h, w) of fluid below a level that rises to the outer wall (the picture's left for lung 0)."""
    left, top, width, height = cv2.boundingRect(lung)
    y, x = np.mgrid[: lung.shape[0], : lung.shape[1]].astype(np.float32)
    outwards = np.clip((x - left) / max(1, width), 0, 1)
    outwards = 1 - outwards if number == 0 else outwards
    level = top + height * (1 - rng.uniform(0.05, 0.6) - rng.uniform(0, 0.25) * outwards**2)
    return np.asarray(1 / (1 + np.exp(-np.clip((y - level) / rng.uniform(1, 10), -30, 30))), np.float32)


def _patches(lung: Grey, rng: np.random.Generator) -> Floats:
    """Share (h, w) of consolidation: soft clouds."""
    field = _smooth(lung.shape, int(rng.integers(3, 9)), rng)
    return np.asarray(1 / (1 + np.exp(-(field - rng.uniform(-0.3, 1.2)) * rng.uniform(2, 8))), np.float32)


def _smooth(size_hw: tuple[int, ...], nodes: int, rng: np.random.Generator) -> Floats:
    """Smooth noise of mean 0 and deviation about 1."""
    coarse = rng.standard_normal((nodes, nodes), np.float32)
    return np.asarray(cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
