"""Percentiles and counts that do not grow."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from edge_runtime.telemetry import Counters, Series, StageClock


def test_percentiles_are_exact_over_what_is_kept() -> None:
    series = Series(size=100)
    for value in range(250):
        series.add(value)
    assert series.percentile(50) == np.percentile(range(150, 250), 50)
    assert series.count == 250


def test_a_percentile_of_nothing_is_nan_and_null_in_json() -> None:
    nothing = Series().percentile(50)
    assert math.isnan(nothing)
    assert msgspec.json.encode(nothing) == b"null"


def test_stages_are_timed_by_the_monotonic_clock_even_when_they_fail() -> None:
    stages = StageClock()
    with pytest.raises(ZeroDivisionError), stages.stage("measure"):
        _ = 1 / 0
    assert stages.stages_ms["measure"] >= 0


def test_frames_per_second_are_those_from_the_start_to_the_last_result() -> None:
    counters = Counters(started_ns=0)
    counters.result(1.0, {"infer": 2.0})
    counters.last_result_ns = 500_000_000
    assert counters.fps() == pytest.approx(2.0)
    assert counters.stages_ms["infer"].percentile(50) == 2.0
