"""The journal's rows that are not delivered yet, as the uplink reads and settles them.

A row is pending until a receipt says stored (then only the journal has it, until retention) or rejected (then it
is dead: kept with the reason, never sent again). One that this broker cannot take is held: dead until the next start.
Every call is one short transaction: a reader that stays open lets the write-ahead log grow without bound. Knows
nothing about MQTT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.errors import JournalError
from edge_runtime.records import RecordKind
from edge_runtime.sync import database, retention
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.reserve import Loan
from edge_runtime.sync.state import DATABASE, file_mark, read_device_id
from edge_runtime.sync.wire import SeqRange

_Found = TypeVar("_Found")
# a record that comes back goes into its kind's lane: a person's mark was for the first time
LANE_AGAIN = f"CASE kind WHEN 'mask' THEN {Lane.MASK:d} WHEN 'telemetry' THEN {Lane.TELEMETRY:d} ELSE {Lane.FINDING:d} END"
_PUT_ASIDE = "INSERT OR IGNORE INTO dead SELECT seq, ?, ? FROM outbox WHERE seq"


@cache
def _pages_of(lanes: int) -> str:
    page = (
        f"SELECT {database.RECORD}, lane FROM outbox JOIN journal USING (seq) LEFT JOIN low USING (seq)"
        " WHERE lane = ? AND seq > ? ORDER BY seq LIMIT ?"
    )
    return " UNION ALL ".join([f"SELECT * FROM ({page})"] * lanes)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One record of the journal."""

    seq: int
    kind: RecordKind
    id: str  # a mask's is that of its finding
    exam_id: str  # empty where it belongs to none
    created_at: str
    body: bytes
    lane: int = Lane.FINDING  # while it is pending


class Outbox:
    """An open outbox, used by one thread. Raises JournalError when the database cannot be read or written."""

    def __init__(self, state_dir: Path, *, reading: bool = False) -> None:
        """With `reading`, a directory that cannot be written will do."""
        self.state_dir = state_dir
        self._path = state_dir / DATABASE
        self._loan = Loan(state_dir)
        name = read_device_id(state_dir)
        if name is None or not self._path.exists():
            raise JournalError(
                f"state directory {state_dir}: no findings.db in it yet; `edge-runtime run --state` makes one"
            )
        self.device_id = name
        try:
            self._db = self._open(reading)
        except (sqlite3.Error, OSError) as exc:
            raise self._unreadable(exc) from exc
        try:
            self._mark = file_mark(self._path)
            self._update(reading)
            self.facts = database.read_meta(self._db, self._path)
            self.epoch = self.facts["epoch"]
        except (sqlite3.Error, OSError, KeyError) as exc:
            self._db.close()
            raise self._unreadable(exc) from exc
        except JournalError:
            self._db.close()
            raise

    def _open(self, reading: bool) -> sqlite3.Connection:
        try:
            return database.open_db(self._path)
        except sqlite3.OperationalError as exc:
            if database.is_full(exc):
                with self._loan.lent():
                    return database.open_db(self._path)
            if not (reading and any(word in str(exc) for word in ("unable to open", "readonly"))):
                raise
            return database.open_unwritable(self._path)

    def _update(self, reading: bool) -> None:
        try:
            database.update_tables(self._db)
        except sqlite3.OperationalError as exc:
            if reading and "readonly" in str(exc):
                why = "made by an older version; bring it up to date where it can be written, or read a copy"
                raise JournalError(f"state directory {self.state_dir}: findings.db: {why}") from exc
            raise

    def _unreadable(self, exc: Exception) -> JournalError:
        return JournalError(f"state directory {self.state_dir}: findings.db cannot be read ({exc})")

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the database; nothing can be asked afterwards."""
        self._db.close()

    def replaced(self) -> bool:
        """True once the journal has set this database aside and begun another: open that one."""
        try:
            return file_mark(self._path) != self._mark
        except OSError:
            return True

    def pending(self, lane: Lane, after_seq: int, limit: int) -> list[OutboxRow]:
        """At most `limit` undelivered rows of a lane above `after_seq`, oldest first."""
        return self.pages({lane: after_seq}, limit)

    def pages(self, after: Mapping[Lane, int], limit: int) -> list[OutboxRow]:
        """The same of several lanes, each above its number, in one statement."""
        wanted = (value for lane, seq in after.items() for value in (lane, seq, limit))
        return [OutboxRow(*row) for row in self.rows(_pages_of(len(after)), *wanted)]

    def pending_count(self) -> int:
        """How many rows are not delivered."""
        count: int = self.rows("SELECT count(*) FROM outbox")[0][0]
        return count

    def span(self) -> tuple[int, int] | None:
        """The first and the last number that waits; None where nothing does."""
        first, last = self.rows("SELECT (SELECT min(seq) FROM outbox), (SELECT max(seq) FROM outbox)")[0]
        return None if first is None else (first, last)

    def dead_count(self) -> int:
        """How many rows were rejected by the cloud or not taken by the broker."""
        count: int = self.rows("SELECT count(*) FROM dead")[0][0]
        return count

    def waiting(self) -> dict[Lane, int]:
        """How many rows each lane has that are not delivered; empty lanes too."""
        counted = dict(self.rows("SELECT lane, count(*) FROM outbox GROUP BY lane"))
        return {lane: counted.get(lane, 0) for lane in Lane}

    def loss(self) -> tuple[int, datetime | None]:
        """How many masks and telemetry records were removed unsent, and when the last of them."""
        return self.ask(retention.loss)

    def untold(self) -> bool:
        """Whether numbers are gone that no gap record names yet."""
        return self.ask(retention.untold)

    def settle(
        self, stored: Iterable[SeqRange], rejected: Iterable[tuple[SeqRange, str]] = ()
    ) -> tuple[int, int]:
        """Takes rows out of the outbox, in one transaction: (newly delivered, newly dead).

        Numbers that are not pending are passed over: receipts come twice.
        """
        rejected = tuple(rejected)
        stored = tuple(stored)

        def note() -> tuple[int, int]:
            delivered = dead = 0
            for first, last in stored:
                delivered += self._changed("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", first, last)
            for (first, last), reason in rejected:
                dead += self._changed(f"{_PUT_ASIDE} BETWEEN ? AND ?", reason, 0, first, last)
                self._changed("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", first, last)
            return delivered, dead

        return self._change("receipts cannot be noted, rows will be sent again", note)

    def hold(self, seq: int, reason: str) -> None:
        """Puts a row aside that this broker cannot take: it is tried again after `release`."""

        def put_aside() -> int:
            self._changed(f"{_PUT_ASIDE} = ?", reason, 1, seq)
            return self._changed("DELETE FROM outbox WHERE seq = ?", seq)

        self._change("a row cannot be put aside", put_aside)

    def release(self) -> int:
        """Makes held rows pending again; how many."""
        return self._revive("held")

    def revive(self) -> int:
        """Makes dead rows pending again, for a cloud that has learnt to read them; how many."""
        return self._revive("1")

    def _revive(self, which: str) -> int:
        def back() -> int:
            revived = self._changed(
                f"INSERT OR IGNORE INTO outbox SELECT seq, {LANE_AGAIN} FROM dead JOIN journal USING (seq) WHERE {which}"
            )
            self._changed(f"DELETE FROM dead WHERE {which}")
            return revived

        return self._change("dead letters cannot be sent again", back)

    def _changed(self, sql: str, *values: object) -> int:
        return self._db.execute(sql, values).rowcount

    def _change(self, what: str, changes: Callable[[], _Found]) -> _Found:
        """One transaction; on a full disk it is made on the room that is lent for this."""
        try:
            try:
                with database.transaction(self._db):
                    return changes()
            except sqlite3.Error as exc:
                if not database.is_full(exc):
                    raise
            with self._loan.transaction(self._db):
                return changes()
        except sqlite3.Error as exc:
            raise JournalError(f"state directory {self.state_dir}: {what} ({exc})") from exc

    def ask(self, question: Callable[..., _Found], *values: object) -> _Found:
        """What a function says of the database, which is its first argument."""
        try:
            return question(self._db, *values)
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All that a query finds."""
        return self.ask(lambda db: db.execute(sql, values).fetchall())
