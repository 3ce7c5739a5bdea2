"""What the gate says: the verdict, every number with its limit, and each frame. Knows how it is written
down, not how it is found (`gate.py`).
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edge_runtime.codes import Status
from edge_runtime.errors import GateError

FailureCode = Literal[
    "frames_differ",  # not the same frames in the same order
    "masks_differ",  # other labels or another grid
    "truth_differs",  # a label picture that fits neither the frame nor the grid
    "too_few_frames",
    "not_finite",  # no answer, or a value that is not a number
    "shown_where_withheld",
    "structure_missing",  # a label that the reference found
    "value_missing",  # that the reference has
    "withheld_where_shown",
    "agreement",
    "boundary",
    "dice_drop",
    "measurement_unknown",  # a tolerance for what no frame has
    "value_mean",
    "value_p99",
    "value_max",
]
Bound = Literal["most", "least"]


class Failure(msgspec.Struct, frozen=True):
    """Why a candidate is refused."""

    code: FailureCode
    message: str  # one line: the number, the limit, the frame to look at first
    frame_id: str | None = None


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the report's table."""

    name: str
    value: float | None  # None: not a finite number
    limit: float | None  # None with `passed` None: for information
    bound: Bound = "most"  # what the limit is
    unit: str = ""
    passed: bool | None = None  # None: for information

    def used_share(self) -> float | None:
        """How much of its limit it uses, 1 at the limit; infinite for what is no number, None without a limit."""
        if self.passed is None:
            return None
        value, limit = self.value, self.limit
        if value is None or limit is None:
            return math.inf
        if self.bound == "least" and limit > 1:  # a count that must be reached
            return limit / value if value > 0 else math.inf
        if self.bound == "least":  # a share: what is missing to 1
            value, limit = 1 - value, 1 - limit
        if limit > 0:
            return max(0.0, value / limit)
        return 0.0 if value <= limit else math.inf


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One value of one frame."""

    reference: float | None
    candidate: float | None  # None: missing, or not a number
    difference: float | None  # candidate - reference
    counted: float | None  # what the tolerance is held against; None: nothing
    unit: str


class FrameRow(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of both."""

    frame_id: str
    name: str
    judged: bool  # the reference found something and shows it
    strain: float  # the largest of its numbers as a share of its limit
    failures: tuple[FailureCode, ...]  # for which one frame is enough
    agreement: float | None  # Dice of the two masks, mean over labels
    boundary: float | None  # 95th percentile distance of outlines, grid cells, of the worst label
    reference_status: Status
    candidate_status: Status
    values: dict[str, Compared]
    dice: tuple[float, float] | None = None  # reference and candidate against the truth


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict with all it rests on. The same readings and limits give the same bytes."""

    passed: bool
    subject: str  # what was judged, for example "int8 on onnxruntime"
    model: str
    offered: int  # frames
    judged: int  # of them, those that the reference found something in and shows
    failures: tuple[Failure, ...]
    numbers: tuple[Number, ...]
    measurements: tuple[str, ...]  # those with a tolerance, the main one first
    frames: tuple[FrameRow, ...]  # the worst first

    def __post_init__(self) -> None:
        held = bool(self.numbers) and all(number.passed is not False for number in self.numbers)
        if self.passed != (held and not self.failures):
            raise ValueError(
                f"gate report: says passed={self.passed}, its numbers and failures say otherwise"
            )

    def require(self) -> None:
        """Raises GateError, in one line, unless the candidate passed."""
        if self.passed:
            return
        first, more = self.failures[0], len(self.failures) - 1
        worst = self.frames[0] if self.frames and first.frame_id is None else None
        look = "" if worst is None else f"; look first at {named(worst.name, worst.frame_id)}"
        others = "" if not more else f"; {more} more in the report"
        raise GateError(f"gate: {self.subject or 'candidate'} refused: {first.message}{look}{others}")


def named(name: str, frame_id: str) -> str:
    """A frame for people and for machines."""
    return f"{name} ({frame_id})"
