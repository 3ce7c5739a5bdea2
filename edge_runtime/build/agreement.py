"""How far two masks of one frame agree, and what a list of such numbers amounts to. Pure; knows no limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Mask

OUTLINE_SHARE = 0.95  # of an outline's cells lie within its distance: one spike does not make a boundary


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 1.0 if total == 0 else 2.0 * int(np.count_nonzero(one & other)) / total


def agreement(one: Mask, other: Mask) -> float:
    """Dice of two masks on one grid, mean over the labels that either has; 1 where neither has any."""
    pairs = [(one.labels == k, other.labels == k) for k in range(1, len(one.names) + 1)]
    scores = [dice(a, b) for a, b in pairs if a.any() or b.any()]
    return mean(scores) if scores else 1.0


def boundary_cells(one: Mask, other: Mask) -> float:
    """The 95th percentile distance between the outlines of two masks, in grid cells, of the worst label.

    The larger of both directions, each over the cells of one outline to the nearest cell of the other. Where
    only one has the label: the diagonal of the grid, further than any.
    """
    labels = range(1, len(one.names) + 1)
    return max((_outline_distance(one.labels == k, other.labels == k) for k in labels), default=0.0)


def _outline_distance(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    if not one.any() and not other.any():
        return 0.0
    if not one.any() or not other.any():
        return math.hypot(*one.shape)
    x, y, width, height = cv2.boundingRect((one | other).view(np.uint8))
    near = slice(y, y + height), slice(x, x + width)
    outlines = [_outline(one[near]), _outline(other[near])]
    ways = []
    for here, there in (outlines, outlines[::-1]):
        away = cv2.distanceTransform((~there).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        near_all = float(np.quantile(away[here], OUTLINE_SHARE, method="higher"))
        ways.append(math.sqrt(round(near_all * near_all)))  # OpenCV's last bits are not always the same
    return max(ways)


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells of `inside` that have a neighbour outside of it; beyond the array is outside."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    core = cv2.erode(inside.view(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outline: NDArray[np.bool_] = inside & (core == 0)
    return outline


def mean(values: Sequence[float]) -> float:
    """The mean, in any order the same to the last bit; NaN of none."""
    return math.fsum(value / len(values) for value in values) if values else math.nan


def p99(values: Sequence[float]) -> float:
    """The value that at most one in a hundred exceeds: the largest of up to 100. NaN of none and of NaN."""
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    return sorted(values)[-(-99 * (len(values) - 1) // 100)]


def largest(values: Sequence[float]) -> float:
    """The largest; NaN of none and of NaN."""
    return math.nan if not values or any(math.isnan(value) for value in values) else max(values)
