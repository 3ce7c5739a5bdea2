"""X-rays that show no chest: a belly with gas, spine and hip bones, or the long bones of a limb.

Maps of attenuation like the chest's (`chest.py`), of the same texture and brightness.
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np

from edge_runtime.frames.phantom.canvas import Canvas, soft_step
from edge_runtime.frames.phantom.lung_outline import closed_curve
from edge_runtime.frames.phantom.ultrasound import Floats


def abdomen(canvas: Canvas, rng: np.random.Generator, half: float, tall: float) -> Floats:
    """Belly with gas, spine and hip bones; `half` wide to each side and `tall` high, in mm."""
    u = half / 145  # a larger patient is drawn larger
    share = np.clip(1 - (canvas.x / (half * rng.uniform(1.0, 1.3))) ** 2, 0, 1)
    dense = 5.2 * np.sqrt(share)
    gas = np.zeros(canvas.size, np.float32)
    for _ in range(int(rng.integers(5, 14))):
        at_x, at_y = rng.normal(0, 0.45) * half, rng.uniform(0.0, 1.0) * tall
        far = np.hypot((canvas.x - at_x) / rng.uniform(8, 34), (canvas.y - at_y) / rng.uniform(8, 22))
        gas += rng.uniform(0.3, 1.0) * soft_step((1 - far / u) * 6 + 0.8 * canvas.texture(rng, 7))
    dense -= gas
    wide = 19 * u
    disc = (0.5 + 0.5 * np.cos(2 * math.pi * canvas.y / (u * 34))) ** 4
    dense += 1.0 * np.exp(-((canvas.x / wide) ** 6)) * (1 - 0.35 * disc)
    sheet = canvas.sheet()
    for side in (-1, 1):
        wing = np.array(
            [(0.18, 0.85), (0.45, 0.66), (0.85, 0.62), (0.9, 0.8), (0.62, 1.02), (0.5, 1.25), (0.2, 1.1)]
        )
        sheet |= 255 * canvas.inside(closed_curve(wing * (side * half, tall))).astype(np.uint8)
    dense += 0.9 / 255 * cv2.GaussianBlur(sheet, (0, 0), 2.0) * (1 + 0.2 * canvas.texture(rng, 6))
    return cast("Floats", dense * (1 + 0.03 * canvas.texture(rng, 14)))


def limb(canvas: Canvas, rng: np.random.Generator, half: float, tall: float) -> Floats:
    """Two long bones, or the five rays of a hand, in their soft tissue; `half` and `tall` as for the belly."""
    u = half / 145  # a larger patient is drawn larger
    count = 2 if rng.random() < 0.5 else 5
    lean = rng.uniform(-0.15, 0.15)
    flesh, bone = canvas.sheet(), canvas.sheet()
    for number in range(count):
        at = (number - (count - 1) / 2) * (0.55 if count == 2 else 0.42) * half
        spread = (lean + (0.0 if count == 2 else 0.16 * (number - 2))) * half
        line = np.array([(at * 0.55, 1.3 * tall), (at, 0.5 * tall), (at + spread, -0.2 * tall)])
        thick = (30 if count == 2 else 17) * u * rng.uniform(0.8, 1.2)
        canvas.stroke(flesh, line, thick * (3.4 if count == 2 else 2.2), 255)
        canvas.bone(bone, line, thick)
        for joint in line[1:] if count == 5 else line[:0]:
            canvas.stroke(bone, joint + np.array([(-2.0 * u, 0.0), (2.0 * u, 0.0)]), thick * 1.35, 220)
    soft = cv2.GaussianBlur(flesh, (0, 0), 9 * u / canvas.pixel_mm).astype(np.float32) / 255
    bones = cv2.GaussianBlur(bone, (0, 0), 1.5).astype(np.float32) / 255
    dense = 1.9 * soft + 2.2 * bones * (1 + 0.1 * canvas.texture(rng, 5))
    return cast("Floats", dense)
