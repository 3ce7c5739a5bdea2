"""The records of one transaction of the journal, and the stamp each must wear. Knows nothing about SQLite."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime import clock
from edge_runtime.codes import Clock
from edge_runtime.types import ExamEvent, Finding

Row = tuple[int, str, str, str, str, bytes]  # seq, kind, id, exam_id, created_at, body


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


class Batch:
    """The records of one transaction. None of them is reported until the `with` block has ended well."""

    def __init__(self, device: str, epoch: str, next_seq: int) -> None:
        self._device, self._epoch, self._next = device, epoch, next_seq
        self.rows: list[Row] = []

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

    def add(self, record: Finding | ExamEvent, body: bytes) -> None:
        """Adds a record made with the last stamp; `body` is `encode(record)`. ValueError for another's stamp."""
        want = (self._device, self._epoch, self._next)
        if (came := (record.device_id, record.epoch, record.seq)) != want:
            raise ValueError(f"journal: want a record stamped {want}, got {came}")
        kind, name = (
            ("finding", record.finding_id) if isinstance(record, Finding) else ("event", record.event_id)
        )
        self.rows.append((record.seq, kind, name, record.exam_id, record.created_at, body))
        self._next += 1
