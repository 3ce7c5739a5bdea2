"""Intervals around a value: one rule for all sizes, or one for each band of sizes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.codes import MeasurementName, Reason
from edge_runtime.config import read_toml
from edge_runtime.errors import ConfigError
from edge_runtime.infer.model import Manifest
from edge_runtime.measure import fetal_head
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.pipeline import settings_of
from tests.measure.test_fetal_head import head, spaced

HC, CI = MeasurementName.HEAD_CIRCUMFERENCE, MeasurementName.CEPHALIC_INDEX
BANDS = ((100.0, 2.0, 0.0), (200.0, 1.0, 0.02), (math.inf, 3.0, 0.015))
BANDED = MeasureSettings(bands={HC.value: BANDS}, intervals={CI.value: (4.0, 0.0)})


@pytest.mark.parametrize(
    "value, half",
    [(60, 2.0), (100, 2.0), (100.001, 0.02 * 100.001), (150, 3.0), (200, 4.0), (201, 3.015), (300, 4.5)],
)
def test_a_value_has_the_interval_of_its_size(value, half):
    assert BANDED.interval(HC, value) == pytest.approx((value - half, value + half))


def test_a_measurement_without_bands_keeps_its_one_rule():
    assert BANDED.interval(CI, 80.0) == (76.0, 84.0)
    assert BANDED.interval(MeasurementName.LUMEN_AREA, 80.0) is None


@given(value=st.floats(0, 1e4), sizes=st.lists(st.floats(1, 1e3), min_size=1, max_size=5, unique=True))
def test_the_interval_is_that_of_the_first_band_which_the_value_does_not_exceed(value, sizes):
    bands = tuple((size, 1.0 + at, 0.0) for at, size in enumerate(sorted(sizes)))
    found = MeasureSettings(bands={HC.value: bands}).interval(HC, value)
    expected = next((half for size, half, _ in bands if value <= size), None)
    assert found == (None if expected is None else (value - expected, value + expected))


def test_beyond_the_last_band_the_rule_for_all_sizes_counts_or_there_is_none():
    low = ((100.0, 2.0, 0.0),)
    assert MeasureSettings(bands={HC.value: low}).interval(HC, 101.0) is None
    both = MeasureSettings(bands={HC.value: low}, intervals={HC.value: (5.0, 0.0)})
    assert both.interval(HC, 101.0) == (96.0, 106.0)
    assert both.interval(HC, 99.0) == (97.0, 101.0)


def test_a_head_beyond_the_calibrated_sizes_says_so():
    settings = MeasureSettings(plane_confirmed=True, bands={HC.value: ((200.0, 2.0, 0.0),)})
    small, large = (fetal_head.measure(head(size), spaced(), None, settings)[0] for size in (180, 220))
    assert small.interval == pytest.approx((small.value - 2, small.value + 2))
    assert large.interval is None
    assert Reason.INTERVAL_UNCALIBRATED in large.reasons


@pytest.mark.parametrize(
    "bands",
    [
        {"head": BANDS},
        {HC.value: ((100.0, -1.0, 0.0),)},
        {HC.value: ((100.0, 1.0, 1.0),)},
        {HC.value: ((100.0, math.nan, 0.0),)},
        {HC.value: ((100.0, 1.0, 0.0), (100.0, 2.0, 0.0))},
        {HC.value: ((200.0, 1.0, 0.0), (100.0, 2.0, 0.0))},
        {HC.value: ((math.nan, 1.0, 0.0),)},
    ],
)
def test_bands_that_cannot_be_meant_are_refused(bands):
    with pytest.raises(ConfigError, match="intervals"):
        MeasureSettings(bands=bands)


def test_a_manifest_gives_bands_and_an_old_one_stays_what_it_was(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(
        """name = "heads"
[interval.half_width.head_circumference]
bands = [{ up_to = 100.0, absolute = 2.0 }, { up_to = inf, absolute = 1.0, relative = 0.02 }]
[interval.half_width.cephalic_index]
absolute = 4.27
"""
    )
    settings = settings_of(read_toml(path, Manifest), False)
    assert settings.interval(HC, 90.0) == (88.0, 92.0)
    assert settings.interval(HC, 300.0) == (294.0, 306.0)
    assert settings.interval(CI, 80.0) == pytest.approx((75.73, 84.27))
    path.write_text(
        'name = "old"\n[interval.half_width.head_circumference]\nabsolute = 2.0\nrelative = 0.01\n'
    )
    assert settings_of(read_toml(path, Manifest), False).interval(HC, 300.0) == (297.0, 303.0)
