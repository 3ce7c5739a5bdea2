"""Quantiles and exact intervals against their definitions, closed forms and simulation."""

from __future__ import annotations

import math
import random

import pytest

from edge_runtime.measure.conformal import (
    beta_below,
    beta_quantile,
    coverage_range,
    exact_range,
    least,
    quantile,
    rank,
)


@pytest.mark.parametrize(("found", "count"), [(0, 20), (20, 20), (5, 10), (90, 100), (10, 1000)])
def test_the_exact_interval_ends_where_the_binomial_tails_are_a_fortieth(found: int, count: int) -> None:
    """Clopper and Pearson's own definition, by summing binomial probabilities."""

    def at_least(k: int, x: float) -> float:
        return math.fsum(math.comb(count, j) * x**j * (1 - x) ** (count - j) for j in range(k, count + 1))

    low, high = exact_range(found / count, count)
    assert low <= found / count <= high
    assert low == 0.0 if found == 0 else at_least(found, low) == pytest.approx(0.025, rel=1e-6)
    assert high == 1.0 if found == count else 1 - at_least(found + 1, high) == pytest.approx(0.025, rel=1e-6)


def test_nothing_found_in_twenty_leaves_up_to_a_sixth() -> None:
    assert exact_range(0.0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))


def test_the_incomplete_beta_is_the_sum_of_binomial_probabilities() -> None:
    for n, k, x in ((5, 2, 0.3), (40, 37, 0.9), (300, 30, 0.12), (1000, 999, 0.999)):
        tail = math.fsum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(k, n + 1))
        assert beta_below(x, k, n + 1 - k) == pytest.approx(tail, rel=1e-10)


def test_a_quantile_is_the_way_back() -> None:
    for a, b in ((1, 1), (9, 1), (0.5, 30.5), (450, 51), (3.25, 96.75)):
        for share in (0.025, 0.5, 0.975):
            assert beta_below(beta_quantile(share, a, b), a, b) == pytest.approx(share, rel=1e-9)


def test_the_rank_is_the_finite_sample_one_and_nine_subjects_are_the_fewest() -> None:
    assert [rank(n, 0.9) for n in (8, 9, 10, 19, 20, 99, 100)] == [9, 9, 10, 18, 19, 90, 91]
    assert (least(0.9), least(0.95), least(0.8), least(0.5)) == (9, 19, 4, 1)
    scores, names = [float(k) for k in range(9)], [str(k) for k in range(9)]
    assert quantile(scores, names, 0.9) == 8.0
    assert quantile(scores[:8], names[:8], 0.9) == math.inf
    scores, names = [float(k) for k in range(100)], [str(k) for k in range(100)]
    assert quantile(scores, names, 0.9) == float(rank(100, 0.9) - 1)


def test_a_subject_counts_once_however_many_frames_it_has() -> None:
    one_each = quantile([float(k) for k in range(20)], [str(k) for k in range(20)], 0.9)
    scores = [float(k) for k in range(20)] + [0.0] * 500  # the calmest subject comes 500 times more
    assert quantile(scores, [*map(str, range(20)), *["0"] * 500], 0.9) == one_each


def test_the_promised_coverage_holds_in_simulation_and_spreads_as_promised() -> None:
    """Gaussian errors: the coverage of a quantile is known exactly, so only the calibration is random."""
    draw, n = random.Random(3), 60
    covered = []
    for _ in range(2000):
        scores = [abs(draw.gauss(0, 1)) for _ in range(n)]
        limit = quantile(scores, [str(k) for k in range(n)], 0.9)
        covered.append(math.erf(limit / math.sqrt(2)))
    low, high = coverage_range(n, 0.9)
    inside = sum(low <= one <= high for one in covered) / len(covered)
    assert sum(covered) / len(covered) == pytest.approx(rank(n, 0.9) / (n + 1), abs=0.003)
    assert inside == pytest.approx(0.95, abs=0.02)


def test_frames_of_one_subject_that_are_alike_do_not_break_the_coverage() -> None:
    """Every subject has an error of its own that its frames share; frames counted singly would promise too much."""
    draw, covered = random.Random(4), []
    for _ in range(1500):
        scores, names = [], []
        for subject in range(30):
            own = abs(draw.gauss(0, 1))
            for _ in range(draw.choice((1, 1, 1, 12))):
                scores.append(own)
                names.append(str(subject))
        covered.append(math.erf(quantile(scores, names, 0.9) / math.sqrt(2)))
    assert sum(covered) / len(covered) >= 0.9
