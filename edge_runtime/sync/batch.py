"""The records of one transaction of the journal, and the stamp each must wear. Knows nothing about SQLite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from edge_runtime import clock
from edge_runtime.codes import Clock, Priority
from edge_runtime.records import KIND_OF, AnyRecord, Gap, RecordKind, id_of
from edge_runtime.sync.lanes import Lane, lane_of
from edge_runtime.sync.retention import LaneLost, WhyLost
from edge_runtime.sync.wire import SeqRange
from edge_runtime.types import SCHEMA_VERSION, Finding, encode


class Row(NamedTuple):
    """One record as the tables `journal` and `outbox` take it."""

    seq: int
    kind: RecordKind
    id: str
    exam_id: str  # empty where it belongs to none
    created_at: str
    body: bytes
    lane: Lane


class Head(TypedDict):
    """What every record begins with, whatever its kind."""

    schema_version: str
    device_id: str
    seq: int
    epoch: str
    created_at: str
    clock: Clock


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a record must carry to be added: who, which number, when and by what clock."""

    device_id: str
    epoch: str  # of this database: a new one begins when it had to be made anew
    boot_id: str
    seq: int
    created_at: str
    clock: Clock
    monotonic_ns: int

    def head(self) -> Head:
        """The stamp as fields of a record: `Gap(**stamp.head(), ...)`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "device_id": self.device_id,
            "seq": self.seq,
            "epoch": self.epoch,
            "created_at": self.created_at,
            "clock": self.clock,
        }


class Batch:
    """The records of one transaction. None of them is reported until the `with` block has ended well."""

    def __init__(self, device: str, epoch: str, next_seq: int) -> None:
        self._device, self._epoch, self._next = device, epoch, next_seq
        self.rows: list[Row] = []
        self.changes: list[tuple[str, tuple[object, ...]]] = []  # beside the rows, in the same transaction
        self._ends_at: int | None = None  # how many rows there were before `tell`
        self.told: list[SeqRange] = []  # lost numbers that a gap record among `rows` tells of

    def stamp(self) -> Stamp:
        """The stamp of the next record. A number is taken by `add`: a stamp not used leaves no gap."""
        return Stamp(
            self._device,
            self._epoch,
            clock.boot_id(),
            self._next,
            clock.utc_now(),
            clock.clock_quality(),
            clock.monotonic_ns(),
        )

    def add(self, record: AnyRecord, body: bytes) -> None:
        """Adds a record made with the last stamp; `body` is `encode(record)`. ValueError for another's stamp."""
        want = (self._device, self._epoch, self._next)
        if (came := (record.device_id, record.epoch, record.seq)) != want:
            raise ValueError(f"journal: want a record stamped {want}, got {came}")
        kind = KIND_OF[type(record)]
        urgent = isinstance(record, Finding) and record.priority is Priority.URGENT
        lane = Lane.URGENT if urgent else lane_of(kind)
        self.rows.append(
            Row(record.seq, kind, id_of(record), record.exam_id or "", record.created_at, body, lane)
        )
        self._next += 1

    def also(self, statement: str, values: tuple[object, ...]) -> None:
        """A change that is made with the rows or not at all; what it names may have been removed to make room for them."""
        self.changes.append((statement, values))

    def tell(self, lost: Mapping[tuple[LaneLost, WhyLost], Sequence[SeqRange]]) -> None:
        """Ends the batch with a gap record for each kind of lost numbers; anew, where more were lost meanwhile."""
        if self._ends_at is None:
            self._ends_at = len(self.rows)
        self._next -= len(self.rows) - self._ends_at
        del self.rows[self._ends_at :], self.told[:]
        for (kind, why), ranges in lost.items():
            gap = Gap(
                **self.stamp().head(),
                record_id=clock.uuid7(),
                exam_id=None,
                ranges=tuple(ranges),
                lost=kind,
                reason=why,
            )
            self.add(gap, encode(gap))
            self.told.extend(ranges)
