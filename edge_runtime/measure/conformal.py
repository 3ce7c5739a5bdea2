"""Split-conformal quantiles and the exact uncertainty of shares, for sets of frames that come in subjects. Pure.

Frames of one subject are alike, so a subject counts once, whatever its number of frames: a score's weight is
1 / ((K + 1) n_k) for a subject of n_k frames among K, and 1 / (K + 1) lies at infinity (Lee, Barber, Willett 2023,
arXiv 2306.06342, HCP). With one frame a subject this is the rank ceil((n + 1) c) of split-conformal prediction, whose
coverage over draws of the calibration set is Beta(k, n + 1 - k) (Vovk 2012). Knows no measurement and no model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

CERTAIN = 0.95  # of every interval that is told
_STEPS = 200  # of bisection and of the continued fraction


def rank(count: int, coverage: float) -> int:
    """Which of `count` sorted scores, from 1, holds `coverage`; more than `count` where they are too few."""
    return math.ceil(round((count + 1) * coverage, 9))


def least(coverage: float) -> int:
    """The fewest subjects that can hold `coverage`: 9 for nine in ten."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def quantile(scores: Sequence[float], subjects: Sequence[str], coverage: float) -> float:
    """The score that holds `coverage` of a new subject's frames; infinite where there are too few subjects."""
    frames = Counter(subjects)
    share = 0.0
    for score, subject in sorted(zip(scores, subjects, strict=True)):
        share += 1 / frames[subject]
        if share >= (len(frames) + 1) * coverage - 1e-9:
            return score
    return math.inf


def coverage_range(subjects: int, coverage: float) -> tuple[float, float]:
    """Between which the true coverage lies, in 95 of 100 draws of so many calibration subjects; one frame each."""
    k = rank(subjects, coverage)
    return beta_range(k, subjects + 1 - k)


def exact_range(share: float, count: float) -> tuple[float, float]:
    """The exact binomial 95 % interval of `share` of `count` (Clopper and Pearson 1934).

    `share * count` need not be whole: a subject counts once, its frames in parts.
    """
    tail, found = (1 - CERTAIN) / 2, share * count
    low = 0.0 if found <= 0 else beta_quantile(tail, found, count - found + 1)
    high = 1.0 if found >= count else beta_quantile(1 - tail, found + 1, count - found)
    return low, high


def beta_range(a: float, b: float) -> tuple[float, float]:
    """The middle 95 % of Beta(a, b)."""
    tail = (1 - CERTAIN) / 2
    return beta_quantile(tail, a, b), beta_quantile(1 - tail, a, b)


def beta_quantile(share: float, a: float, b: float) -> float:
    """The x for which `beta_below(x, a, b)` is `share`, to the last bits, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if beta_below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_below(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly: DLMF 8.17.4
        return 1 - beta_below(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), from the front by Lentz's method."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 4 * _STEPS):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + term * d) or tiny)
        c = (1 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
