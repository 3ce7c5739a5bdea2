"""Ranges come from every value of every frame, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.build.observe import BINS, LEVELS, NOTHING, Observed, observe
from edge_runtime.errors import CalibrationError
from tests.build.graphs import images, residual, run

values = hnp.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


@given(st.lists(values, min_size=1, max_size=5))
def test_every_value_is_counted_whatever_comes_first(arrays: list[np.ndarray]) -> None:
    seen = Observed()
    for array in arrays:
        seen.add(array)
    together = np.concatenate(arrays)
    assert seen.counts.sum() == together.size
    assert seen.largest == np.abs(together).max()
    assert seen.negative == bool((together < 0).any())
    assert seen.reach >= seen.largest or seen.largest < NOTHING


@given(values)
def test_no_range_is_larger_than_what_was_seen_and_none_is_zero(array: np.ndarray) -> None:
    seen = Observed()
    seen.add(array)
    ranges = seen.ranges()
    if np.abs(array).max() < NOTHING:
        assert ranges == {}
    else:
        assert ranges["min_max"] == seen.largest
        assert all(0 < value <= seen.largest for value in ranges.values())


def test_one_outlier_does_not_set_the_range_of_a_percentile_but_that_of_min_max() -> None:
    array = np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32)
    array[0] = 100.0
    seen = Observed()
    seen.add(array)
    ranges = seen.ranges()
    assert ranges["min_max"] == 100.0
    assert ranges["percentile_99.9"] == pytest.approx(np.quantile(np.abs(array), 0.999), rel=0.05)
    assert ranges["mse"] < 80


def test_the_range_of_least_squared_error_is_better_than_its_neighbours() -> None:
    array = np.random.default_rng(3).laplace(0, 1, 200_000).astype(np.float32)
    seen = Observed()
    seen.add(array)

    def error(largest: float) -> float:
        step = largest / LEVELS
        return float(((np.clip(np.round(array / step), -LEVELS, LEVELS) * step - array) ** 2).mean())

    best = seen.ranges()["mse"]
    assert error(best) <= min(error(best * 0.8), error(best * 1.25), error(seen.largest))


def test_entropy_is_not_min_max_in_disguise() -> None:
    array = np.random.default_rng(4).normal(0, 1, 200_000).astype(np.float32)
    array[:20] *= 8
    seen = Observed()
    seen.add(array)
    assert seen.ranges()["entropy"] < 0.7 * seen.largest


def test_a_value_that_is_not_finite_ends_the_calibration() -> None:
    seen = Observed()
    with pytest.raises(CalibrationError, match="NaN"):
        seen.add(np.array([1.0, np.nan], np.float32))


def test_inner_tensors_are_those_that_the_network_computes() -> None:
    model, inputs = residual(), images(4)
    found = observe(model, ["image", "mask"], inputs)
    assert found["image"].largest == max(x.max() for x in inputs)
    assert found["mask"].largest == pytest.approx(max(run(model, x).max() for x in inputs), abs=1e-6)
    assert found["mask"].counts.sum() == sum(run(model, x).size for x in inputs)
    assert len(found["mask"].counts) == BINS
