"""The borders of both lungs on a frontal X-ray, as closed curves whose area and width are exact. Draws nothing.

Chest coordinates: millimetres, x from the midline to the patient's left, y from the level of the apices down.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Points = NDArray[Any]  # (n, 2) float64: x, y

# Outlines in half chest widths to the side and chest heights down: up the outer side is last, the dome first.
_OUTER = ((0.985, 0.86), (0.975, 0.72), (0.94, 0.55), (0.88, 0.37), (0.79, 0.20), (0.66, 0.075))
_APEX = ((0.50, 0.012), (0.38, 0.015), (0.26, 0.06))
_RIGHT_INNER = (
    (0.175, 0.14),
    (0.15, 0.25),
    (0.15, 0.36),
    (0.18, 0.47),
    (0.235, 0.57),
    (0.27, 0.67),
    (0.265, 0.76),
    (0.25, 0.83),
)
_RIGHT_DOME = ((0.32, 0.815), (0.46, 0.785), (0.62, 0.785), (0.78, 0.83), (0.90, 0.90), (0.97, 0.97))
_LEFT_INNER = (
    (0.17, 0.14),
    (0.155, 0.21),
    (0.205, 0.27),
    (0.20, 0.34),
    (0.20, 0.41),
    (0.27, 0.50),
    (0.37, 0.59),
    (0.46, 0.69),
    (0.52, 0.79),
    (0.535, 0.86),
)
_LEFT_DOME = ((0.60, 0.845), (0.70, 0.845), (0.82, 0.885), (0.91, 0.94), (0.972, 1.0))


def lung_outlines(rng: np.random.Generator, chest_mm: float, tall_mm: float) -> tuple[Points, Points]:
    """The borders of the right and the left lung in chest coordinates, closed and smooth.

    Scaled last so that the widest row, from the edge of one to that of the other, is the asked width.
    """
    outer = np.array(_OUTER) + rng.normal(0, 0.008, (len(_OUTER), 2))
    top = rng.uniform(-0.05, 0.05)
    lungs = []
    for inner, dome in ((_RIGHT_INNER, _RIGHT_DOME), (_LEFT_INNER, _LEFT_DOME)):
        medial, floor = np.array(inner), np.array(dome)
        heart = rng.uniform(0.85, 1.25)
        medial[:, 0] = 0.15 + (medial[:, 0] - 0.15) * heart + rng.normal(0, 0.008, len(medial))
        lift = rng.uniform(-0.05, 0.04)
        reach = np.clip((0.985 - floor[:, 0]) / 0.4, 0, 1)
        floor[:, 1] += lift * reach + rng.normal(0, 0.004, len(floor))
        floor[:, 0] = np.maximum(floor[:, 0], medial[-1, 0] + 0.02)
        medial[-3:, 1] += lift * np.array([0.3, 0.6, 1.0])
        apex = np.array(_APEX) + np.array([top, 0.0]) * rng.uniform(0.5, 1.0)
        ring = np.vstack((apex, medial, floor, outer + rng.normal(0, 0.004, outer.shape)))
        lungs.append(closed_curve(ring))
    right, left = lungs
    right[:, 0] *= -1
    width = _row_extent(right, left)
    for lung in (right, left):
        lung[:, 0] *= chest_mm / width
        lung[:, 1] *= tall_mm
    return right, left


def closed_curve(ring: Points, steps: int = 10) -> Points:
    """A smooth closed curve through the points of `ring` (Catmull-Rom), `steps` points to each."""
    before, after, next_after = np.roll(ring, 1, 0), np.roll(ring, -1, 0), np.roll(ring, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (points[:, None, :] for points in (before, ring, after, next_after))
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return cast("Points", curve.reshape(-1, 2))


def span(outline: Points, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where each row, a y, first and last meets the closed `outline`: two x, inf and -inf where it does not."""
    x0, y0 = outline[:, 0], outline[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    at = rows[:, None]
    met = (y0 <= at) != (y1 <= at)
    cross = x0 + (at - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
    return np.where(met, cross, np.inf).min(axis=1), np.where(met, cross, -np.inf).max(axis=1)


def _row_extent(right: Points, left: Points) -> float:
    """The largest distance along a row from the outer edge of one lung to that of the other."""
    rows = np.linspace(right[:, 1].min(), right[:, 1].max(), 1001)[1:-1]
    return float((span(left, rows)[1] - span(right, rows)[0]).max())
