"""What a batch of messages becomes in the database: rows, quarantined messages, and what they say of each stream.

A stream is all that one device numbered within one epoch. Pure values: knows neither MQTT nor SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.records import RecordKind
from edge_runtime.sync.wire import RejectCode, SeqRange

# A table, by what its rows are, and the name of its id.
TABLES = {"finding": ("findings", "finding_id"), "event": ("events", "event_id")}
RECORDS = ("records", "record_id")
QUARANTINE = ("digest", "topic", "reason", "received_at", "payload")


class StoreRow(NamedTuple):
    """One record as it is stored."""

    kind: RecordKind
    device_id: str
    id: str
    seq: int
    epoch: str
    exam_id: str | None
    created_at: str  # the device's clock
    received_at: str  # ours
    body: str  # JSON, character for character as it was sent
    lost: tuple[SeqRange, ...] = ()  # of a gap: the numbers that will never come


@dataclass(frozen=True, slots=True)
class Poison:
    """A message that cannot be stored as what it says it is."""

    digest: str  # SHA-256 of topic and payload: the same one twice is one row
    topic: str
    reason: str
    received_at: str
    payload: bytes
    stream: tuple[str, str] | None = None  # device and epoch, where the message names them
    seq: int = 0
    code: RejectCode = "refused"

    def values(self) -> tuple[object, ...]:
        return self.digest, self.topic, self.reason, self.received_at, self.payload


@dataclass(frozen=True, slots=True)
class PutResult:
    """How many rows were new; the others had been stored before, but for those in `taken`."""

    findings: int
    events: int
    records: int = 0
    taken: frozenset[StoreRow] = frozenset()  # not stored: their id is that of another row

    @property
    def new(self) -> int:
        return self.findings + self.events + self.records


Owner = tuple[str, str, int]  # device, epoch and number: whose an id is


def taken(rows: Sequence[StoreRow], owners: Mapping[tuple[str, str], Owner]) -> frozenset[StoreRow]:
    """Those of `rows` whose id is another's; `owners` by table and id."""
    mine = [(row, (row.device_id, row.epoch, row.seq)) for row in rows]
    return frozenset(row for row, it in mine if owners.get((table_of(row)[0], row.id), it) != it)


def table_of(row: StoreRow) -> tuple[str, str]:
    """The table of a row, and the name of its id there."""
    return TABLES.get(row.kind, RECORDS)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a batch adds to one stream: numbers that need not be waited for, and the highest that was stored."""

    device_id: str
    epoch: str
    known: tuple[SeqRange, ...]
    highest: int


def heard(rows: Sequence[StoreRow], poison: Sequence[Poison]) -> list[Heard]:
    """In the order of device and epoch: two receivers that hold rows of one database never wait for each other.

    A refused number is known, and never the highest: a message that cannot be read might say any number. A row whose id
    turns out to be another's was read, and its number counts as given.
    """
    known: dict[tuple[str, str], list[SeqRange]] = {}
    highest: dict[tuple[str, str], int] = {}
    for row in rows:
        stream = (row.device_id, row.epoch)
        known.setdefault(stream, []).append((row.seq, row.seq))
        known[stream].extend(row.lost)
        highest[stream] = max(highest.get(stream, 0), row.seq)
    for one in poison:
        if one.stream is not None:
            known.setdefault(one.stream, []).append((one.seq, one.seq))
    return [Heard(*stream, united(known[stream]), highest.get(stream, 0)) for stream in sorted(known)]


def united(ranges: Iterable[SeqRange]) -> tuple[SeqRange, ...]:
    """`ranges` in any order, overlapping or not, as the fewest, ascending."""
    found: list[SeqRange] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            if last > found[-1][1]:
                found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return tuple(found)
