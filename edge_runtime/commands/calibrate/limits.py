"""Where a good frame ends: one limit for each number, at the same rank, so that about `target` of frames fall out.

The limit of a number is its r-th worst value among the good frames. A frame that is left out is refused by the others'
limits when fewer than r of them are as bad as it is, so the expected rate of each r is known without another set;
the largest r that keeps to the target is taken. Where even the worst good frames would refuse more (r = 0: too few
frames), the limits that hold without a profile stay, except where a good frame lies beyond them. The rate that is
told comes from whole subjects left out, r chosen anew without them. Pure; knows no picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.measure.conformal import exact_range
from edge_runtime.measure.quality import GRADED, default_limits

GATED = ("presence", "confidence", "ellipse_iou")  # less than the model's own is never enough
UNCOUNTED = ("near_field",)  # gives a hint and no reason
STRICTEST = {"saturated": 0.005}  # a few burnt-out pixels, a caliper or a logo, are no fault anywhere
ULTRASOUND_ONLY = ("lit_median", "near_field")
FOLDS = 20
GOOD = 0.10  # this share of good frames scores below 100 on one number; nearly all are above what is captured


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one number, in its own direction."""

    limit: float
    good: float


@dataclass(frozen=True, slots=True)
class Found:
    """The limits and what they will do."""

    limits: dict[str, Limit]
    rank: int  # 0: too few frames for the target
    rate: float | None  # of whole subjects left out; None: there is only one
    rate_range: tuple[float, float] | None  # exact, 95 %, each subject counted once
    by_number: dict[str, int]  # frames left out that each number refused


def standing_limits(ultrasound: bool, gated: Mapping[str, float]) -> dict[str, float]:
    """What holds without a profile for this kind of picture: the modality's defaults and the model's gate."""
    graded = default_limits(ultrasound)
    return {
        **{name: limit for name, limit in graded.items() if ultrasound or name not in ULTRASOUND_ONLY},
        **gated,
    }


def find(
    numbers: Sequence[Mapping[str, float]],
    subjects: Sequence[str],
    standing: Mapping[str, float],
    target: float,
) -> Found:
    """The limits of these frames, for each number of `standing`: the limits that hold without a profile.

    At least one frame, and every number in each.
    """
    names = tuple(standing)
    up = np.array([_up(name) for name in names])
    rule = _Rule(
        counted=np.array([name not in UNCOUNTED for name in names]),
        standing=up * np.array([standing[name] for name in names]),
        strictest=up * np.array([STRICTEST.get(name, _up(name) * np.inf) for name in names]),
        allowed=int(target * len(numbers) + 1e-9),
    )
    table = up * np.array([[frame[name] for name in names] for frame in numbers])
    limits, good = rule.limits(table), np.quantile(table, GOOD, axis=0)
    refused = _left_out(table, rule, subjects)
    rate = None if refused is None else float(refused.any(axis=1).mean())
    return Found(
        {
            name: Limit(_loosely(name, limits[k]), abs(float(max(good[k], limits[k]))))
            for k, name in enumerate(names)
        },
        rule.rank(table),
        rate,
        None if rate is None else exact_range(rate, len(set(subjects))),
        {} if refused is None else {name: int(refused[:, k].sum()) for k, name in enumerate(names)},
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """How limits follow from a table (frames, numbers) in which more is better throughout."""

    counted: NDArray[np.bool_]  # the numbers that refuse a frame
    standing: NDArray[np.float64]
    strictest: NDArray[np.float64]
    allowed: int  # frames of the whole set; the same without a fold, or a whole number would jump

    def rank(self, table: NDArray[np.float64]) -> int:
        """The largest rank at which frames left out one by one are refused in `allowed` cases at most."""
        table = table[:, self.counted]
        ordered = np.sort(table, axis=0)
        as_bad = [np.searchsorted(ordered[:, k], table[:, k], "right") - 1 for k in range(table.shape[1])]
        lowest = np.sort(np.min(as_bad, axis=0))  # how few others are as bad as a frame, in its worst number
        return int(lowest[min(self.allowed, len(table) - 1)])

    def limits(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        rank = self.rank(table)
        worst = np.sort(table, axis=0)[max(rank, 1) - 1]
        found: NDArray[np.float64] = np.minimum(worst, self.strictest if rank else self.standing)
        return found


def _up(name: str) -> int:
    """1 where more of it is better, else -1: the table holds every number so that more is better."""
    return 1 if GRADED.get(name, True) else -1


def _loosely(name: str, limit: float) -> float:
    """The limit in its own direction and five digits, on the side that lets more through."""
    if limit == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(limit))) - 4)
    return round(_up(name) * math.floor(limit / step + 1e-9) * step, 12)


def _left_out(table: NDArray[np.float64], rule: _Rule, subjects: Sequence[str]) -> NDArray[np.bool_] | None:
    """(frames, numbers): refused by limits that other subjects set; None where there is one subject only."""
    order = sorted(set(subjects))
    if len(order) < 2:
        return None
    fold_of = {subject: place % min(FOLDS, len(order)) for place, subject in enumerate(order)}
    folds = np.array([fold_of[subject] for subject in subjects])
    refused = np.zeros(table.shape, bool)
    for fold in range(folds.max() + 1):
        mine = folds == fold
        refused[mine] = (table[mine] < rule.limits(table[~mine])) & rule.counted
    return refused
