"""Half-widths of intervals from labelled frames: split-conformal, a subject counted once. Pure.

The score of a frame is its error in units of the model's own half-width, so that small and large structures keep
the widths that the model gave them in relation: one factor scales them all. A measurement for which the model has no
interval gets one that grows with its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edge_runtime.codes import MeasurementName
from edge_runtime.commands.calibrate.reading import Seen
from edge_runtime.errors import CalibrationError
from edge_runtime.measure.conformal import coverage_range, exact_range, least, quantile, rank
from edge_runtime.measure.profile import Width
from edge_runtime.measure.settings import MeasureSettings

SMALLEST = 1e-6  # labels that are the masks themselves
WIDEST = 1000.0  # times the model's own
DIGITS = 4  # of a half-width, rounded up


@dataclass(frozen=True, slots=True)
class Interval:
    """One measurement's."""

    width: Width
    median_width: float  # of the whole interval, in the value's unit, over the labelled frames
    frames: int
    subjects: int
    expected: float  # coverage of frames to come, the mean over draws of so many subjects
    expected_range: tuple[float, float]  # and where it lies in 95 of 100 such draws
    left_out: float | None  # coverage of each subject by the others' interval; None: they are too few
    left_out_range: tuple[float, float] | None  # exact binomial, 95 %


def find_all(seen: Sequence[Seen], settings: MeasureSettings, coverage: float) -> dict[str, Interval]:
    """The interval of every measurement that frames and labels have. Raises CalibrationError for too few subjects."""
    names = sorted({name for one in seen for name in one.values if name in (one.truth or {})})
    if not names:
        raise CalibrationError(
            "--labels: no value can be compared; give the frames a spacing or check the labels"
        )
    return {name: _find(name, seen, settings, coverage) for name in names}


def _find(name: str, seen: Sequence[Seen], settings: MeasureSettings, coverage: float) -> Interval:
    pairs = [
        (one, one.values[name], one.truth[name])
        for one in seen
        if one.truth and {name} <= one.values.keys() & one.truth.keys()
    ]
    own = any(_half(name, value, settings) is not None for _, value, _ in pairs)
    scores, subjects, units = [], [], []
    for one, value, truth in pairs:
        unit = _half(name, value, settings) if own else abs(value)
        if not unit:  # a size for which the model gives no interval: it has none with a profile either
            continue
        units.append(unit)
        scores.append(abs(value - truth) / unit)
        subjects.append(one.subject)
    count = len(set(subjects))
    factor = quantile(scores, subjects, coverage)
    if not math.isfinite(factor):
        raise CalibrationError(
            f"--labels: {name} has {count} labelled subjects, an interval of {100 * coverage:.0f} % wants at least "
            f"{least(coverage)}; label more, or calibrate without --labels"
        )
    if own and factor > WIDEST:
        raise CalibrationError(
            f"--labels: {name} is off by {factor:.3g} times the model's own interval; the labels are not of these frames, "
            "or hc_mm or the spacing is wrong"
        )
    width = Width(scale=_up(factor)) if own else Width(relative=_relative(name, factor))
    left_out = _left_out(scores, subjects, coverage)
    k = rank(count, coverage)
    return Interval(
        width=width,
        median_width=2 * factor * median(units),
        frames=len(scores),
        subjects=count,
        expected=k / (count + 1),
        expected_range=coverage_range(count, coverage),
        left_out=left_out,
        left_out_range=None if left_out is None else exact_range(left_out, count),
    )


def _half(name: str, value: float, settings: MeasureSettings) -> float | None:
    """The model's own half-width around `value`; None where it has none."""
    interval = settings.interval(MeasurementName(name), value)
    return None if interval is None else (interval[1] - interval[0]) / 2


def _left_out(scores: Sequence[float], subjects: Sequence[str], coverage: float) -> float | None:
    """The mean share of a subject's frames that the others' interval holds."""
    shares = []
    for out in sorted(set(subjects)):
        rest = [(score, subject) for score, subject in zip(scores, subjects, strict=True) if subject != out]
        factor = quantile([score for score, _ in rest], [subject for _, subject in rest], coverage)
        if not math.isfinite(factor):
            return None
        mine = [score <= factor for score, subject in zip(scores, subjects, strict=True) if subject == out]
        shares.append(sum(mine) / len(mine))
    return sum(shares) / len(shares)


def _relative(name: str, value: float) -> float:
    if value >= 1:
        raise CalibrationError(
            f"--labels: {name} is off by as much as its own value; the labels are not of these frames, or the spacing is wrong"
        )
    return min(_up(value), 0.9999)


def _up(value: float) -> float:
    """`value` in few digits, never less."""
    value = max(value, SMALLEST)
    step = 10.0 ** (math.floor(math.log10(value)) - DIGITS + 1)
    return round(math.ceil(value / step - 1e-9) * step, 12)
