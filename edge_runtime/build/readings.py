"""What two models made of the same frames, frame by frame. Knows no verdict: that is `gate.py`'s.

A `Reading` is what the very pipeline that runs on the device made of a frame; a `Row` holds two of them
against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.agreement import agreement, boundary_cells, dice, mean
from edge_runtime.build.gate_report import Compared, FailureCode, FrameRow
from edge_runtime.codes import SEVERITY, Reason, Status
from edge_runtime.infer.model import GateSpec, Tolerance
from edge_runtime.measure.anatomy import raw_values, unit_of
from edge_runtime.pictures import full_mask, picture_name
from edge_runtime.pipeline import Pipeline
from edge_runtime.types import Frame, Mask


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of one frame."""

    frame_id: str  # "<index>.<content hash>"
    name: str  # for people at this machine
    frame: Frame
    mask: Mask | None  # None where the model gave no usable answer
    status: Status
    values: Mapping[str, float]  # `measure.anatomy.raw_values`, shown or not; {} without a mask
    reasons: tuple[Reason, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether a person may see it: not withheld, or only because the model measures nothing at all."""
        doubts = {reason for reason in self.reasons if SEVERITY[reason] is Status.WITHHELD}
        return self.status is not Status.WITHHELD or doubts == {Reason.NO_MEASUREMENT_DEFINED}


def read_frames(pipeline: Pipeline, frames: Iterable[Frame]) -> list[Reading]:
    """What `pipeline` makes of each frame, in order. The pipeline stays open and the caller's.

    A frame that the model has no usable answer for has no mask; one that cannot be prepared at all raises
    FrameError.
    """
    readings, anatomy = [], pipeline.model.manifest.anatomy
    for frame in frames:
        result = pipeline.step(frame)
        found = result.found
        values = {} if found is None else raw_values(anatomy, found, frame.spacing)
        name = picture_name(frame)
        readings.append(
            Reading(frame.frame_id, name, frame, result.mask, result.status, values, result.reasons)
        )
    return readings


def mismatch(
    ours: Reading, theirs: Reading, true: NDArray[np.uint8] | None
) -> tuple[FailureCode, str] | None:
    """Why two readings and a label picture cannot be held against each other; None where they can."""
    if ours.frame_id != theirs.frame_id or ours.frame.size_hw != theirs.frame.size_hw:
        return "frames_differ", f"the candidate read {theirs.frame_id}, the reference {ours.frame_id}"
    a, b = ours.mask, theirs.mask
    if a is not None and b is not None and _layout(a) != _layout(b):
        return "masks_differ", f"the candidate's mask is {_size(b)}, the reference's {_size(a)}"
    if true is None:
        return None
    sizes = [ours.frame.size_hw] + ([a.geometry.grid_hw] if a is not None else [])
    labels = int(np.max(true)) if true.size else 0
    if true.shape in sizes and (a is None or labels <= len(a.names)):
        return None
    return "truth_differs", f"the label picture is {true.shape} with labels up to {labels}, want {sizes[0]}"


def _layout(mask: Mask) -> tuple[object, ...]:
    way = mask.geometry
    return mask.names, way.grid_hw, way.step_x, way.step_y, way.offset_x, way.offset_y


def _size(mask: Mask) -> str:
    height, width = mask.geometry.grid_hw
    return f"{height} x {width} of {', '.join(mask.names)}"


@dataclass(slots=True)
class Row:
    """One frame while it is judged."""

    reference: Reading
    candidate: Reading
    judged: bool
    agreement: float | None = None
    boundary: float | None = None
    dice: tuple[float, float] | None = None
    strain: float = 0.0
    failures: list[FailureCode] = field(default_factory=list)
    values: dict[str, Compared] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)  # what each tolerance is held against

    def strained(self, value: float, limit: float) -> None:
        """Takes a number into account that wants to be small, as a share of its limit."""
        share = value / limit if limit > 0 else (0.0 if value == 0 else math.inf)
        self.strain = max(self.strain, share if share < 1e6 else 1e6)  # NaN too

    def rank(self) -> tuple[bool, float, str]:
        """Sorts the worst first."""
        return not self.failures, -self.strain, self.reference.frame_id

    def told(self) -> FrameRow:
        return FrameRow(
            frame_id=self.reference.frame_id,
            name=self.reference.name,
            judged=self.judged,
            strain=self.strain,
            failures=tuple(self.failures),
            agreement=self.agreement,
            boundary=self.boundary,
            reference_status=self.reference.status,
            candidate_status=self.candidate.status,
            values=self.values,
            dice=self.dice,
        )


def rows_of(
    reference: Sequence[Reading],
    candidate: Sequence[Reading],
    truth: Sequence[NDArray[np.uint8] | None] | None,
    spec: GateSpec,
) -> list[Row]:
    """Every frame with its numbers and how far they strain the limits."""
    rows = []
    for ours, theirs, true in zip(reference, candidate, truth or [None] * len(reference), strict=True):
        row = Row(ours, theirs, judged=ours.shown and ours.mask is not None and bool(ours.mask.labels.any()))
        if ours.mask is not None:
            other = theirs.mask
            row.agreement = 0.0 if other is None else agreement(ours.mask, other)
            away = math.hypot(*ours.mask.labels.shape) if other is None else boundary_cells(ours.mask, other)
            row.boundary = away
            if row.judged:
                row.strained(1 - row.agreement, 1 - spec.min_agreement)
                row.strained(away, spec.max_boundary_cells)
        if true is not None:
            row.dice = _dice_with(ours, true), _dice_with(theirs, true)
        rows.append(row)
    for name, tolerance in spec.measurement.items():
        _add_values(rows, name, tolerance)
    return rows


def _dice_with(reading: Reading, truth: NDArray[np.uint8]) -> float:
    """Dice against the truth, mean over the model's labels, at the truth's resolution; 0 without a mask."""
    mask, size_hw = reading.mask, reading.frame.size_hw
    if mask is None:
        return 0.0
    found = full_mask(mask, size_hw) if truth.shape == size_hw else mask.labels
    return mean([dice(found == k, truth == k) for k in range(1, len(mask.names) + 1)])


def _add_values(rows: Sequence[Row], name: str, tolerance: Tolerance) -> None:
    """Compares the value of `name`, or its twin, on every frame where the reference has it."""
    known = [row.reference.values[name] for row in rows if row.judged and name in row.reference.values]
    typical = float(np.median(known)) if known else None
    for row in rows:
        ours, theirs = row.reference.values, row.candidate.values
        key = name if name in ours else twin(name)
        if key not in ours:
            continue
        before, after = ours[key], theirs.get(key)
        difference = None if after is None else after - before
        counted = None
        if row.judged and difference is not None:
            counted = _counted(difference, before, tolerance, key == name, typical)
        if counted is not None:
            row.counted[name] = counted
            row.strained(counted, as_held(tolerance, tolerance.max))
        row.values[name] = Compared(
            reference=finite(before),
            candidate=finite(after),
            difference=finite(difference),
            counted=finite(counted),
            unit=shown_unit(key),
        )


def _counted(
    difference: float, before: float, tolerance: Tolerance, own: bool, typical: float | None
) -> float | None:
    """What a tolerance is held against: in its own unit, or in percent. None where it has no measure for it."""
    if own and not tolerance.relative:
        return abs(difference)
    share = abs(difference / before) if before else (0.0 if difference == 0 else math.inf)
    if tolerance.relative:
        return 100 * share
    return None if typical is None else share * abs(typical)


def twin(name: str) -> str:
    """The name of the same value with, or without, a spacing."""
    return name.removesuffix("_px") if name.endswith("_px") else f"{name}_px"


def as_held(tolerance: Tolerance, limit: float) -> float:
    """A limit in the unit that it is held in: percent where it is relative."""
    return 100 * limit if tolerance.relative else limit


def shown_unit(name: str) -> str:
    """For people: mm, px, %; nothing for a plain number."""
    unit: str = unit_of(name)
    return {"1": "", "{pixel}": "px", "{pixel}2": "px2"}.get(unit, unit)


def finite(value: float | None) -> float | None:
    """JSON has no word for what is not a number."""
    return float(value) if value is not None and math.isfinite(value) else None
