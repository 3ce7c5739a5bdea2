"""INTERGROWTH formulas against their published vectors and the vectors of the clinical reference."""

from __future__ import annotations

import itertools

import pytest

from edge_runtime.codes import Reason
from edge_runtime.errors import ConfigError
from edge_runtime.measure import growth


def test_the_published_ages_are_reproduced():
    assert growth.age_days(250) == pytest.approx(189.8, abs=0.05)
    assert growth.age_days_with_femur(250, 55) == pytest.approx(200.5, abs=0.05)


@pytest.mark.parametrize(
    "hc_mm, weeks", [(100, 14.19), (175, 20.22), (250, 27.11), (300, 32.96), (340, 38.87)]
)
def test_the_age_of_a_head(hc_mm, weeks):
    assert growth.age_days(hc_mm) / 7 == pytest.approx(weeks, abs=0.006)


@pytest.mark.parametrize(
    "weeks, mean, sd",
    [(14, 97.9, 5.6), (20, 172.5, 7.4), (28, 260.4, 8.9), (36, 319.4, 10.8), (40, 333.9, 12.9)],
)
def test_the_chart_of_heads(weeks, mean, sd):
    assert growth.hc_mean_mm(weeks) == pytest.approx(mean, abs=0.051)
    assert growth.hc_sd_mm(weeks) == pytest.approx(sd, abs=0.051)


@pytest.mark.parametrize("hc_mm, below, above", [(175, 8.2, 8.9), (250, 12.6, 11.8), (300, 17.9, 24.2)])
def test_the_age_interval_comes_from_inverse_regression(hc_mm, below, above):
    age = growth.age_days(hc_mm)
    low, high = growth.age_interval_days(hc_mm, hc_mm)
    assert age - low == pytest.approx(below, abs=0.051)
    assert high - age == pytest.approx(above, abs=0.051)


def test_a_wider_circumference_widens_the_age():
    low, high = growth.age_interval_days(250, 250)
    wide_low, wide_high = growth.age_interval_days(246, 254)
    assert wide_low < low < high < wide_high


def test_above_308_mm_term_is_not_excluded():
    assert growth.age_interval_days(308.5, 308.5)[1] < growth.TERM_DAYS
    assert growth.age_interval_days(308.7, 308.7)[1] is None
    assert growth.age_interval_days(304, 309)[1] is None  # the interval of the circumference counts


def test_both_edges_of_the_chart_rise_where_bounds_are_searched():
    weeks = [10 + step / 10 for step in range(301)]
    for sign in (-1.96, 1.96):
        edge = [growth.hc_mean_mm(w) + sign * growth.hc_sd_mm(w) for w in weeks]
        assert all(later > earlier for earlier, later in itertools.pairwise(edge)), sign


def test_the_smallest_valid_head_has_a_lower_bound_inside_the_search():
    low, high = growth.age_interval_days(growth.HC_VALID_MM[0] * 0.97, growth.HC_VALID_MM[0])
    assert 7 * 10.1 < low < growth.age_days(growth.HC_VALID_MM[0]) < high


def test_a_small_head_is_seen_as_small_only_at_an_age_of_another_origin():
    """True 32 weeks, -3 SD: the head's own age would say 28.8 weeks and z -0.24, which is circular."""
    assert growth.z_score(32.0, 265.5) == pytest.approx(-3.00, abs=0.005)
    assert growth.z_score_for(265.5, None) is Reason.GA_NOT_INDEPENDENT
    assert growth.z_score_for(265.5, growth.AgeReference("crl", 32.0)) == pytest.approx(-3.00, abs=0.005)
    own_age = growth.age_days(265.5) / 7
    assert growth.z_score(own_age, 265.5) == pytest.approx(-0.24, abs=0.01)


def test_an_age_from_the_head_itself_is_no_reference():
    with pytest.raises(ConfigError, match="circular"):
        growth.AgeReference("hc", 28.8)


def test_outside_the_chart_there_is_no_z_score():
    assert growth.z_score_for(90, growth.AgeReference("lmp", 13.0)) is Reason.AGE_OUT_OF_VALIDITY
    with pytest.raises(ValueError, match="14 to 40"):
        growth.z_score(41, 330)
