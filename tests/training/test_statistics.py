"""Limits, errors, intervals, risk and coverage, from made-up cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.measure.conformal import exact_range
from models.training import statistics
from models.training.evaluate import Seen
from tests.training.seen import RULE, case, cases, seen

share = st.floats(0, 1, width=32)
some_seen = st.builds(lambda p, c, f: Seen(p, c, f, {"length": 1.0}), share, share, share)
EVERYTHING = ((0.0, math.inf),)


# ---------------------------------------------------------------- intervals


@settings(deadline=None)
@given(st.lists(st.floats(0, 2.0**20, width=32), min_size=1, max_size=300))
def test_the_conformal_quantile_is_the_score_of_its_rank(scores: list[float]) -> None:
    quantile = statistics.conformal_quantile(np.array(scores))
    count = len(scores)
    rank = min(count, -(-9 * (count + 1) // 10))  # ceil(0.9 (n + 1)), in whole numbers
    assert quantile in scores
    assert sum(score <= quantile for score in scores) >= rank
    assert sum(score < quantile for score in scores) < rank


@settings(max_examples=20, deadline=None)
@given(st.integers(9, 120), st.integers(0, 2**32 - 1))
def test_the_conformal_quantile_covers_nine_of_ten_exchangeable_draws(count: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).gamma(1.0, 1.0, (1500, count + 1))
    inside = np.mean([row[-1] <= statistics.conformal_quantile(row[:-1]) for row in drawn])
    expected = math.ceil(0.9 * (count + 1)) / (count + 1)  # exact for exchangeable scores without ties
    assert inside == pytest.approx(expected, abs=5 * math.sqrt(0.9 * 0.1 / 1500))


def test_bands_with_too_few_images_are_joined_with_the_next() -> None:
    true = np.concatenate([np.full(5, 50.0), np.full(20, 120.0), np.full(30, 180.0), np.full(4, 300.0)])
    error = np.concatenate([np.full(5, 5.0), np.full(20, 1.0), np.full(30, 2.0), np.full(4, 9.0)])
    bands = ((0.0, 100.0), (100.0, 150.0), (150.0, 220.0), (220.0, 400.0))
    half = statistics.half_widths(cases(true, error), "length", bands, ratio=True)
    assert [band["up_to"] for band in half] == [150.0, 400.0]  # 5 + 20, and 30 + 4
    assert [band["absolute"] for band in half] == [5.0, 9.0]
    assert all(band["relative"] == 0 for band in half)


def test_few_images_in_all_make_one_band_of_everything() -> None:
    half = statistics.half_widths(
        cases(np.linspace(50, 300, 12), np.linspace(0, 3, 12)), "length", ((0.0, 100.0), (100.0, 400.0)), True
    )
    assert [band["up_to"] for band in half] == [400.0]


def test_errors_that_grow_with_the_value_become_a_share_of_it() -> None:
    true = np.linspace(50, 300, 100)
    (half,) = statistics.half_widths(cases(true, 0.02 * true), "length", EVERYTHING, ratio=False)
    assert half["absolute"] == 0
    assert half["relative"] == pytest.approx(0.02 / 1.02, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_half_width_holds_nine_of_ten_of_those_it_was_made_of(seed: int, ratio: bool) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(50, 350, 200)
    some = cases(true, rng.normal(0, 0.02, 200) * (200 if ratio else true))
    half = statistics.half_widths(some, "length", ((0.0, 150.0), (150.0, 250.0), (250.0, 400.0)), ratio)
    told = statistics.covered(some, "length", half)
    assert told["of"] == 200
    assert told["covered"] >= 180
    assert told["interval"][0] < told["covered"] / 200 < told["interval"][1]


def test_a_value_beyond_the_last_band_takes_the_last() -> None:
    half = [
        {"up_to": 100.0, "absolute": 1.0, "relative": 0.0},
        {"up_to": 200.0, "absolute": 5.0, "relative": 0.0},
    ]
    told = statistics.covered([case(304.0, 300.0), case(94.0, 90.0)], "length", half)
    assert told["covered"] == 1
    assert told["median_width"] == 6.0


# (hits, count, lower, upper): the exact 95 % intervals of published tables
PUBLISHED = [
    (0, 10, 0.0, 0.3085),
    (1, 10, 0.0025, 0.4450),
    (5, 10, 0.1871, 0.8129),
    (10, 10, 0.6915, 1.0),
    (0, 100, 0.0, 0.0362),
    (10, 100, 0.0490, 0.1762),
    (95, 100, 0.8872, 0.9836),
]


@pytest.mark.parametrize(("hits", "count", "lower", "upper"), PUBLISHED)
def test_the_binomial_interval_is_that_of_clopper_and_pearson(
    hits: int, count: int, lower: float, upper: float
) -> None:
    assert exact_range(hits / count, count) == pytest.approx((lower, upper), abs=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_binomial_interval_mirrors_and_holds_the_share(pair: tuple[int, int]) -> None:
    hits, count = pair
    lower, upper = exact_range(hits / count, count)
    assert 0 <= lower <= hits / count <= upper <= 1
    mirrored = exact_range((count - hits) / count, count)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((lower, upper), abs=1e-9)


# ---------------------------------------------------------------- risk and coverage


def test_a_perfect_doubt_has_the_ideal_risk_and_one_that_knows_nothing_the_mean_error() -> None:
    rng = np.random.default_rng(1)
    error, true = rng.permutation(np.linspace(0, 10, 200)), rng.uniform(100, 200, 200)
    perfect = statistics.risk_coverage(
        cases(true, error, 1 - error / (true + error)), "length", lambda c: abs(c.error("length")) > 9
    )
    assert perfect["aurc"] == pytest.approx(perfect["aurc_ideal"])
    assert perfect["aurc"] < perfect["aurc_without"] == pytest.approx(5.0)
    assert perfect["large"] == perfect["large_in_last_tenth"] == 20
    constant = statistics.risk_coverage(cases(true, error), "length", lambda c: abs(c.error("length")) > 9)
    assert constant["aurc"] == pytest.approx(5.0, abs=1.0)
    assert constant["large_in_last_tenth"] < 10


def test_the_curve_ends_with_all_images_at_their_mean_error() -> None:
    error = np.linspace(1, 4, 81)
    risk = statistics.risk_coverage(
        cases(np.full(81, 100.0), error, 1 - error / 9), "length", lambda c: False
    )
    assert risk["curve"][-1] == pytest.approx([1.0, 2.5])
    assert [point[0] for point in risk["curve"]] == sorted(point[0] for point in risk["curve"])


# ---------------------------------------------------------------- what is shown


@settings(deadline=None)
@given(st.lists(some_seen, min_size=1, max_size=120), st.lists(some_seen, max_size=20))
def test_the_rule_keeps_96_of_100_tune_images(tune: list[Seen], foreign: list[Seen]) -> None:
    rule = statistics.choose_rule(tune, foreign)
    assert sum(statistics.shown(one, rule) for one in tune) >= 0.96 * len(tune)
    assert 0 <= rule["min_presence"] <= 0.95


@settings(deadline=None)
@given(st.floats(0.25, 0.9990234375, width=32), share)
def test_foreign_pictures_raise_the_limit_and_never_above_the_lowest_that_is_kept(
    lowest: float, strange: float
) -> None:
    tune = [seen(presence=lowest), seen(presence=0.999)]
    with_foreign = statistics.choose_rule(tune, [seen(presence=strange)])["min_presence"]
    assert statistics.choose_rule(tune, [])["min_presence"] <= with_foreign <= lowest


def test_nothing_found_is_never_shown() -> None:
    nothing = Seen(1.0, 1.0, 1.0, {})
    assert not statistics.shown(nothing, dict.fromkeys(RULE, 0.0))
    assert statistics.shown(seen(), RULE)
    for limit in ("presence", "confidence", "fit"):
        assert not statistics.shown(seen(**{limit: 0.49}), RULE)


def test_foreign_pictures_are_counted_by_class_and_split() -> None:
    strange = [
        ("abdomen", "train", seen(presence=0.1)),
        ("abdomen", "test", seen(presence=0.9)),
        ("abdomen", "test", seen(presence=0.2)),
        ("lungs", "test", seen(presence=0.3)),
    ]
    assert statistics.foreign_rates(strange, RULE) == {
        "abdomen": {"train": [0, 1], "test": [1, 2]},
        "lungs": {"test": [0, 1]},
    }


# ---------------------------------------------------------------- how far off


def test_errors_are_told_in_the_values_unit_and_in_percent() -> None:
    told = statistics.errors_of(np.array([2.0, -1.0, 5.0]), np.array([100.0, 50.0, 250.0]))
    assert told["mae"] == pytest.approx(8 / 3)
    assert told["bias"] == pytest.approx(2.0)
    assert told["max"] == 5.0
    assert told["mean_percent"] == told["median_percent"] == pytest.approx(2.0)
    assert told["bias_percent"] == pytest.approx(2 / 3)


def test_a_description_counts_what_would_be_withheld_and_bands_by_the_true_value() -> None:
    some = cases(np.array([50.0, 90.0, 200.0]), np.array([1.0, -1.0, 4.0]), np.array([0.9, 0.4, 0.8]))
    told = statistics.describe(some, "length", ((0.0, 100.0), (100.0, 150.0), (150.0, 300.0)), RULE)
    assert (told["images"], told["withheld"]) == (3, 1)
    assert [(band["from"], band["images"], band["mae"]) for band in told["bands"]] == [
        (0.0, 2, 1.0),
        (150.0, 1, 4.0),
    ]
    assert told["shown"]["mae"] == pytest.approx(2.5)
    low, high = told["error"]["mae_interval"]
    assert low <= told["error"]["mae"] <= high


def test_agreement_is_the_distance_from_the_reference() -> None:
    true = np.full(50, 100.0)
    reference, other = cases(true, np.zeros(50)), cases(true, np.full(50, 0.5))
    assert statistics.agreement(reference, reference, "length", False)["max"] == 0
    told = statistics.agreement(reference, other, "length", False)
    assert (told["mean"], told["p99"], told["max"]) == (0.5, 0.5, 0.5)
    assert statistics.agreement(reference, other, "length", True)["mean"] == pytest.approx(0.005)
