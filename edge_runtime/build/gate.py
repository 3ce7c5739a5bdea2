"""The gate: may a quantized or a compiled model stand in for the fp32 one?

`judge` is the one function, run after quantizing and again after compiling: what the candidate says of each
frame against what the reference says, on masks, on outlines, on the clinical values and on whether they may
be shown. It fails closed: too few frames, a value that is missing, a value or a limit that is not a number,
all fail.

Masks and values are compared on the frames that the reference shows. Of a frame that it withholds nobody
sees the number; there the candidate must withhold too. The gate knows no ONNX, no scale and no engine, and
nothing of how the frames were read: `readings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.agreement import largest, mean, p99
from edge_runtime.build.gate_report import Bound, Failure, FailureCode, GateReport, Number, named
from edge_runtime.build.readings import (
    Reading,
    Row,
    as_held,
    finite,
    mismatch,
    rows_of,
    shown_unit,
    twin,
)
from edge_runtime.infer.model import GateSpec, Tolerance


def judge(
    reference: Sequence[Reading],
    candidate: Sequence[Reading],
    spec: GateSpec,
    truth: Sequence[NDArray[np.uint8] | None] | None = None,
    *,
    subject: str = "",
    model: str = "",
) -> GateReport:
    """Whether `candidate` may stand in for `reference`, with every number that says so.

    `truth` has a label picture or None for each frame, of the frame's size or the grid's, k for the k-th
    label. A tolerance is held against |candidate - reference| of the value of its name; a relative one
    against that in percent of the reference. A frame that has only the value's twin (with `_px` where a
    spacing is missing, without it where the tolerance is in pixels) counts by its relative difference, for
    an absolute tolerance times the median of what the reference has under the tolerance's own name; it does
    not count towards `min_frames`. p99 is what at most one frame in a hundred exceeds.
    """
    sheet, rows = _Sheet(), list[Row]()
    _same_frames(sheet, reference, candidate, truth)
    if not sheet.failures:
        rows = rows_of(reference, candidate, truth, spec)
        _count_frames(sheet, rows, spec)
        _find_flaws(sheet, rows)
        _compare_statuses(sheet, rows, spec)
        if not spec.measurement:
            sheet.fail(
                "measurement_unknown", "[gate.measurement] holds nothing to a tolerance, want one value"
            )
        for name, tolerance in spec.measurement.items():
            _compare_values(sheet, rows, name, tolerance, spec.min_frames)
        _compare_masks(sheet, rows, spec)
        _compare_with_truth(sheet, rows, spec)
    return GateReport(
        passed=not sheet.failures,
        subject=subject,
        model=model,
        offered=len(reference),
        judged=sum(row.judged for row in rows),
        failures=tuple(sheet.failures),
        numbers=tuple(sheet.numbers),
        measurements=tuple(spec.measurement),
        frames=tuple(row.told() for row in sorted(rows, key=Row.rank)),
    )


def _same_frames(
    sheet: _Sheet,
    reference: Sequence[Reading],
    candidate: Sequence[Reading],
    truth: Sequence[NDArray[np.uint8] | None] | None,
) -> None:
    """Both read the same frames in the same order, on one grid, with the same labels."""
    if len(reference) != len(candidate):
        sheet.fail("frames_differ", f"{len(candidate)} frames, the reference has {len(reference)}")
        return
    if truth is not None and len(truth) != len(reference):
        sheet.fail("truth_differs", f"{len(truth)} label pictures for {len(reference)} frames")
        return
    for at, (ours, theirs) in enumerate(zip(reference, candidate, strict=True)):
        true = None if truth is None else truth[at]
        problem = mismatch(ours, theirs, true)
        if problem is not None:
            code, message = problem
            sheet.fail(code, f"frame {at + 1} of {len(reference)}: {message}", ours)
            return


@dataclass(slots=True)
class _Sheet:
    """Numbers and failures as they are found."""

    numbers: list[Number] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, code: FailureCode, message: str, look: Reading | None = None) -> None:
        if look is None:
            self.failures.append(Failure(code, message))
        else:
            first = f"{message}; look first at {named(look.name, look.frame_id)}"
            self.failures.append(Failure(code, first, look.frame_id))

    def tell(self, name: str, value: float, unit: str = "") -> None:
        """A number for information."""
        self.numbers.append(Number(name=name, value=finite(value), limit=None, unit=unit))

    def hold(
        self,
        code: FailureCode,
        name: str,
        value: float,
        limit: float,
        words: str,
        look: Row | None = None,
        *,
        unit: str = "",
        bound: Bound = "most",
    ) -> None:
        """Holds `value` against `limit`; what is not a number fails, on either side."""
        passed = math.isfinite(value) and math.isfinite(limit)
        passed = passed and (value <= limit if bound == "most" else value >= limit)
        self.numbers.append(
            Number(name=name, value=finite(value), limit=finite(limit), bound=bound, unit=unit, passed=passed)
        )
        if not passed:
            said, wanted = _apart(value, limit)
            suffix = f" {unit}" if unit else ""
            least = "at least " if bound == "least" else ""
            message = f"{words} is {said}{suffix}, limit {least}{wanted}{suffix}"
            self.fail(code, message, None if look is None else look.reference)


def _count_frames(sheet: _Sheet, rows: Sequence[Row], spec: GateSpec) -> None:
    count = _distinct(row for row in rows if row.judged)
    words = "the number of different frames in which the reference shows a structure"
    sheet.hold("too_few_frames", "frames", count, spec.min_frames, words, bound="least")


def _distinct(rows: Iterable[Row]) -> int:
    """How many of the frames have pixels of their own, by their content."""
    return len({row.reference.frame.content_hash for row in rows})


def _find_flaws(sheet: _Sheet, rows: Sequence[Row]) -> None:
    """What not one frame may have, whatever the limits."""
    flaws: tuple[tuple[FailureCode, str, Callable[[Row], bool]], ...] = (
        ("not_finite", "no answer, or a value that is not a number,", _not_finite),
        ("shown_where_withheld", "shown although the reference withholds it", _opened),
        ("structure_missing", "a structure that the reference found is missing", _lost_structure),
        ("value_missing", "a value that the reference has is missing", _lost_value),
    )
    for code, words, has in flaws:
        found = [row for row in rows if has(row)]
        for row in found:
            row.failures.append(code)
        sheet.numbers.append(Number(name=code, value=float(len(found)), limit=0.0, passed=not found))
        if found:
            message = f"{words} on {len(found)} of {len(rows)} frames, limit 0"
            sheet.fail(code, message, min(found, key=Row.rank).reference)


def _not_finite(row: Row) -> bool:
    """The reference's own too: nothing can be held against it."""
    return any(
        reading.mask is None or not all(math.isfinite(value) for value in reading.values.values())
        for reading in (row.reference, row.candidate)
    )


def _opened(row: Row) -> bool:
    return row.candidate.shown and not row.reference.shown


def _lost_structure(row: Row) -> bool:
    ours, theirs = row.reference.mask, row.candidate.mask
    if not row.judged or ours is None or theirs is None:
        return False
    return bool(set(np.unique(ours.labels)) - set(np.unique(theirs.labels)) - {0})


def _lost_value(row: Row) -> bool:
    return row.judged and bool(row.reference.values.keys() - row.candidate.values.keys())


def _compare_statuses(sheet: _Sheet, rows: Sequence[Row], spec: GateSpec) -> None:
    """Of what the reference shows not too much may be lost."""
    shown = [row for row in rows if row.reference.shown]
    lost = [row for row in shown if not row.candidate.shown]
    sheet.hold(
        "withheld_where_shown",
        "withheld_where_shown",
        100 * len(lost) / len(shown) if shown else math.nan,
        100 * spec.max_lost,
        "the share of frames that the reference shows and the candidate withholds",
        min(lost, key=Row.rank, default=None),
        unit="%",
    )


def _compare_masks(sheet: _Sheet, rows: Sequence[Row], spec: GateSpec) -> None:
    agreed = [(row.agreement, row) for row in rows if row.judged and row.agreement is not None]
    away = [(row.boundary, row) for row in rows if row.judged and row.boundary is not None]
    sheet.hold(
        "agreement",
        "agreement_mean",
        mean([value for value, _ in agreed]),
        spec.min_agreement,
        "the mean agreement of masks (Dice)",
        _worst([(-value, row) for value, row in agreed]),
        bound="least",
    )
    sheet.tell("agreement_lowest", min((value for value, _ in agreed), default=math.nan))
    sheet.hold(
        "boundary",
        "boundary_p99",
        p99([value for value, _ in away]),
        spec.max_boundary_cells,
        "the distance of outlines (95 % of a frame's, p99 of frames)",
        _worst(away),
        unit="cells",
    )


def _compare_with_truth(sheet: _Sheet, rows: Sequence[Row], spec: GateSpec) -> None:
    """Dice against labels over all frames that have some, shown or not."""
    labelled = [(row.dice, row) for row in rows if row.dice is not None]
    if not labelled:
        return
    before, after = (mean([scores[which] for scores, _ in labelled]) for which in (0, 1))
    sheet.tell("dice_reference", before)
    sheet.tell("dice_candidate", after)
    sheet.hold(
        "dice_drop",
        "dice_drop",
        before - after,
        spec.max_dice_drop,
        f"the drop of Dice against the labels, {before:.4f} to {after:.4f},",
        _worst([(scores[0] - scores[1], row) for scores, row in labelled]),
    )


def _compare_values(
    sheet: _Sheet, rows: Sequence[Row], name: str, tolerance: Tolerance, min_frames: int
) -> None:
    """One tolerance over all judged frames."""
    judged = [row for row in rows if row.judged]
    having = [row for row in judged if name in row.values]
    if judged and not having:
        sheet.fail("measurement_unknown", f"{name} has a tolerance, but no frame has a value of that name")
        return
    enough = _distinct(row for row in having if tolerance.relative or name in row.reference.values)
    if enough < min_frames:
        bare = any(twin(name) in row.reference.values for row in having)
        advice = "; give the frames a spacing" if bare and not name.endswith("_px") else ""
        words = f"the number of different frames with a {name} is {enough}"
        sheet.fail("too_few_frames", f"{words}, limit at least {min_frames}{advice}")
    counted = [(row.counted[name], row) for row in having if name in row.counted]
    away, look = [value for value, _ in counted], _worst(counted)
    limits: tuple[tuple[FailureCode, str, float, float], ...] = (
        ("value_mean", "mean", mean(away), tolerance.mean),
        ("value_p99", "p99", p99(away), tolerance.p99),
        ("value_max", "max", largest(away), tolerance.max),
    )
    unit = "%" if tolerance.relative else shown_unit(name)
    for code, which, value, limit in limits:
        words = f"the {which.replace('max', 'largest')} difference of {name}"
        held = as_held(tolerance, limit)
        sheet.hold(code, f"{name}_{which}", value, held, words, look, unit=unit)


# ---------------------------------------------------------------- words and numbers


def _worst(numbers: Sequence[tuple[float, Row]]) -> Row | None:
    """The frame with the largest number; one that is not a number is larger."""
    if not numbers:
        return None
    _, row = min(numbers, key=lambda pair: (not math.isnan(pair[0]), -pair[0], pair[1].rank()))
    return row


def _apart(value: float, limit: float) -> tuple[str, str]:
    """Both with as few digits as tell them apart."""
    for digits in (3, 4, 6, 9, 17):
        said, wanted = _digits(value, digits), _digits(limit, digits)
        if said != wanted:
            break
    return said, wanted


def _digits(value: float, digits: int) -> str:
    if math.isnan(value):
        return "not a number"
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.{digits}g}"
