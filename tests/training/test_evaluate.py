"""The ruler that judges the model, against shapes of known size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.training import evaluate


def drawn(a: float, b: float, angle: float, size_hw: tuple[int, int] = (192, 288)) -> np.ndarray:
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(float)
    dx, dy = x - 140.3, y - 95.6
    u, v = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    return ((u / a) ** 2 + (v / b) ** 2 <= 1).astype(np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2])
def test_the_moment_ellipse_has_the_drawn_diameters(angle: float) -> None:
    long, short = evaluate.ellipse_axes(drawn(80, 60, angle), (0.3, 0.3))
    assert long == pytest.approx(2 * 80 * 0.3, rel=2e-3)
    assert short == pytest.approx(2 * 60 * 0.3, rel=2e-3)


def test_cells_that_are_not_square_stretch_the_ellipse() -> None:
    assert evaluate.ellipse_axes(drawn(60, 60, 0), (0.2, 0.4)) == pytest.approx((48, 24), rel=2e-3)


def test_the_circumference_of_a_circle_is_pi_times_its_diameter() -> None:
    assert evaluate.circumference(10, 10) == pytest.approx(10 * math.pi)


def test_an_ellipse_overlaps_itself_and_two_blobs_do_not() -> None:
    assert evaluate.ellipse_iou(drawn(80, 60, 0.4)) > 0.98
    blobs = np.zeros((192, 288), np.uint8)
    blobs[20:60, 20:60] = blobs[120:180, 200:280] = 1
    assert evaluate.ellipse_iou(blobs) < 0.6


def test_cleaning_keeps_the_largest_part_and_fills_its_holes() -> None:
    found = drawn(60, 40, 0).astype(bool)
    wanted = found.copy()
    found[95, 140] = False
    found[2:6, 2:6] = True
    assert np.array_equal(evaluate.cleaned(found), wanted)


def test_the_conformal_scale_covers_nine_of_ten() -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(60, 340, 4000)
    pairs = np.stack([true + rng.normal(0, 0.01, 4000) * true, true], axis=1)
    scale = evaluate._scale(pairs[:2000], knee=100.0)
    covered = np.abs(pairs[2000:, 0] - pairs[2000:, 1]) <= scale * np.maximum(100.0, pairs[2000:, 0])
    assert covered.mean() == pytest.approx(0.9, abs=0.02)
