"""By how much the frames of a run missed the limits that are numbers: what came, and what was wanted.

For telling a person; nothing is decided here. Knows only the reasons whose number a result still carries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from edge_runtime.codes import Reason
from edge_runtime.measure.ellipse import own_overlap
from edge_runtime.measure.quality import Limits, lowest_confidence
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Mask


class Short(msgspec.Struct, frozen=True):
    """What came where at least `wanted` was asked for, from the worst frame to the best of those refused."""

    wanted: float
    worst: float
    best: float

    def in_words(self) -> str:
        came = f"{self.worst:.4g}"
        if f"{self.best:.4g}" != came:
            came += f" to {self.best:.4g}"
        return f"{came}, want {self.wanted:.4g}"


_CAME: dict[Reason, Callable[[Mask], float]] = {
    Reason.FOREIGN_IMAGE: lambda mask: mask.presence,
    Reason.LOW_CONFIDENCE: lowest_confidence,
    Reason.SHAPE_NOT_ELLIPTIC: lambda mask: own_overlap(mask.of(mask.names[0])),
}


@dataclass(slots=True)
class Shortfalls:
    """Of one run, by reason."""

    wanted: dict[Reason, float]
    found: dict[Reason, Short] = field(default_factory=dict)

    @classmethod
    def of(cls, limits: Limits, settings: MeasureSettings) -> Shortfalls:
        return cls(
            {
                Reason.FOREIGN_IMAGE: limits.min_presence,
                Reason.LOW_CONFIDENCE: limits.min_confidence,
                Reason.SHAPE_NOT_ELLIPTIC: settings.min_ellipse_iou,
            }
        )

    def add(self, reasons: tuple[Reason, ...], found: Mask | None) -> None:
        """One frame's reasons, and the mask that was measured."""
        if found is None:
            return
        for reason in reasons:
            if reason in _CAME:
                came = _CAME[reason](found)
                old = self.found.get(reason, Short(self.wanted[reason], came, came))
                self.found[reason] = Short(old.wanted, min(old.worst, came), max(old.best, came))
