"""When a live stream captures by itself, and what an exam's captures amount to. Pure: time is passed in."""

from __future__ import annotations

import statistics
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edge_runtime.codes import MeasurementName, Status
from edge_runtime.measure.values import told
from edge_runtime.types import ExamValue, Measurement, Unit

FEW = 3  # captures below which a median is not yet worth the name


@dataclass(slots=True)
class AutoCapture:
    """Fires when good frames have shown a steady value for `hold_s`, at most once in `gap_s`. One per
    structure.
    """

    min_score: int = 70
    hold_s: float = 0.5
    gap_s: float = 10.0
    spread: float = 0.02  # largest minus smallest value of the hold, as a share of their median
    stall_s: float = 0.5  # frames further apart do not belong to one hold
    _held: deque[tuple[int, float]] = field(default_factory=deque)  # (ns, value), the oldest first
    _fired_ns: int | None = None

    def see(self, measurements: Sequence[Measurement], status: Status, score: int, now_ns: int) -> bool:
        """Takes the next frame's result into account; whether it is to be captured.

        The value watched is that of the first measurement.
        """
        value = measurements[0].value if measurements else None
        held = self._held
        if status is Status.WITHHELD or score < self.min_score or value is None:
            held.clear()
            return False
        if held and not 0 <= now_ns - held[-1][0] <= self.stall_s * 1e9:
            held.clear()
        held.append((now_ns, value))
        while len(held) > 1 and not self._steady():
            held.popleft()  # what the value was before it came to rest
        while len(held) > 2 and now_ns - held[1][0] >= self.hold_s * 1e9:
            held.popleft()
        if now_ns - held[0][0] < self.hold_s * 1e9:
            return False
        if self._fired_ns is not None and now_ns - self._fired_ns < self.gap_s * 1e9:
            return False
        self._fired_ns = now_ns
        held.clear()
        return True

    def _steady(self) -> bool:
        values = [value for _, value in self._held]
        return max(values) - min(values) <= self.spread * abs(statistics.median(values))


class ExamSummary:
    """What an exam's captures amount to: the median of each measurement with its range. Eight bytes a value."""

    def __init__(self) -> None:
        self.findings = 0
        self._values: dict[tuple[MeasurementName, Unit], array[float]] = {}

    def add(self, measurements: Iterable[Measurement]) -> None:
        """One finding; of what is withheld only that it was."""
        self.findings += 1
        for measurement in measurements:
            if measurement.value is not None:
                key = measurement.name, measurement.unit
                self._values.setdefault(key, array("d")).append(measurement.value)

    def values(self) -> tuple[ExamValue, ...]:
        """The value of each measurement, in the order first seen."""
        return tuple(
            ExamValue(
                name=name,
                unit=unit,
                median=told(statistics.median(found), unit),
                range=(min(found), max(found)),
                captures=len(found),
                few=len(found) < FEW,
            )
            for (name, unit), found in self._values.items()
        )
