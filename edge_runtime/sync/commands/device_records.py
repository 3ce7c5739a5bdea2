"""The database as commands from the cloud see it (`handlers.Records`): what became of which number, and what a command
would change. It changes nothing itself: that is committed with the command's audit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.sync import database, retention
from edge_runtime.sync.outbox import LANE_AGAIN, Outbox
from edge_runtime.sync.wire import SeqRange

Change = tuple[str, tuple[object, ...]]  # an SQL statement and its values, to be committed with others
_HERE = """SELECT seq, seq IN (SELECT seq FROM dead), seq IN (SELECT seq FROM outbox)
    FROM journal WHERE seq BETWEEN ? AND ?"""
_AGAIN = (
    f"INSERT OR IGNORE INTO outbox SELECT seq, {LANE_AGAIN} FROM journal WHERE seq BETWEEN ? AND ?"
    " AND seq NOT IN (SELECT seq FROM dead)"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of some numbers of this device's sequence; each is in one list and no other."""

    delivered: tuple[int, ...]  # and still in the journal: can be sent again
    waiting: tuple[int, ...]  # not delivered yet
    dead: tuple[int, ...]  # rejected by the cloud, or held: put aside
    lost: tuple[int, ...]  # removed before they were delivered: a `gap` record tells of them, or will
    gone: tuple[int, ...]  # removed after they were delivered
    never: tuple[int, ...]  # no record was ever given this number


class DeviceRecords:
    """Of one open outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    @property
    def epoch(self) -> str:
        return self._outbox.epoch

    def kept(self, ranges: Iterable[SeqRange]) -> Kept:
        """What became of these numbers."""
        asked, delivered, waiting, dead = set[int](), set[int](), set[int](), set[int]()
        lost = set[int]()
        last_given: int = self._outbox.rows(database.LAST_SEQ)[0][0]
        for first, last in ranges:
            asked.update(range(first, last + 1))
            for seq, is_dead, waits in self._outbox.rows(_HERE, first, last):
                (dead if is_dead else waiting if waits else delivered).add(seq)
            for begin, end in self._outbox.ask(retention.lost_among, (first, last)):
                lost.update(range(max(first, begin), min(last, end) + 1))
        never = {seq for seq in asked if seq > last_given}
        gone = asked - delivered - waiting - dead - lost - never
        return Kept(*(tuple(sorted(seqs)) for seqs in (delivered, waiting, dead, lost, gone, never)))

    def resend(self, ranges: Iterable[SeqRange]) -> tuple[Change, ...]:
        """What makes delivered rows pending again, for a cloud that misses them; see `Batch.also`."""
        return tuple((_AGAIN, found) for found in ranges)

    def remember(self, key: str, value: str) -> tuple[Change, ...]:
        """What writes a fact of this database."""
        return (("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value)),)
