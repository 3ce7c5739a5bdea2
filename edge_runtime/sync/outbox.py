"""The journal's rows that are not delivered yet, as the uplink reads and settles them.

A row is pending until a receipt says stored (then only the journal has it, until retention) or rejected (then it
is dead: kept with the reason, never sent again). Every call is one short transaction: a reader that stays open
lets the write-ahead log grow without bound. Knows nothing about MQTT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_runtime import clock
from edge_runtime.errors import JournalError
from edge_runtime.sync import database
from edge_runtime.sync.state import DATABASE, file_mark, read_device_id
from edge_runtime.sync.topics import EventKind
from edge_runtime.sync.wire import SeqRange

Which = Literal["pending", "delivered", "dead", "all"]

_WHERE: dict[Which, str] = {
    "pending": "seq IN (SELECT seq FROM outbox)",
    "delivered": "seq NOT IN (SELECT seq FROM outbox) AND seq NOT IN (SELECT seq FROM dead)",
    "dead": "seq IN (SELECT seq FROM dead)",
    "all": "1",
}


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One record of the journal."""

    seq: int
    kind: EventKind
    id: str  # of the finding or the event
    exam_id: str
    created_at: str
    body: bytes


class OutboxStats(msgspec.Struct, frozen=True, kw_only=True):
    device_id: str
    epoch: str
    pending: int
    delivered: int  # and still in the journal
    dead: int  # rejected by the cloud, kept here with the reason
    oldest_pending_s: float | None  # by the wall clock; null when nothing is pending
    last_seq: int


class Outbox:
    """An open outbox, used by one thread. Raises JournalError when the database cannot be read or written."""

    def __init__(self, state_dir: Path, *, reading: bool = False) -> None:
        """With `reading`, a directory that cannot be written will do."""
        self.state_dir = state_dir
        self._path = state_dir / DATABASE
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
            self.epoch = database.read_meta(self._db, self._path)["epoch"]
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
            if not (reading and any(word in str(exc) for word in ("unable to open", "readonly"))):
                raise
            return database.open_unwritable(self._path)

    def _unreadable(self, exc: Exception) -> JournalError:
        return JournalError(f"state directory {self.state_dir}: findings.db cannot be read ({exc})")

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def replaced(self) -> bool:
        """True once the journal has set this database aside and begun another: open that one."""
        try:
            return file_mark(self._path) != self._mark
        except OSError:
            return True

    def pending(self, after_seq: int, limit: int) -> list[OutboxRow]:
        """At most `limit` undelivered rows above `after_seq`, oldest first."""
        sql = (
            "SELECT outbox.seq, kind, id, exam_id, created_at, body FROM outbox JOIN journal USING (seq)"
            " WHERE outbox.seq > ? ORDER BY outbox.seq LIMIT ?"
        )
        return [OutboxRow(*row) for row in self._read(sql, after_seq, limit)]

    def pending_count(self) -> int:
        """How many rows are not delivered."""
        count: int = self._read("SELECT count(*) FROM outbox")[0][0]
        return count

    def settle(
        self, stored: Iterable[SeqRange], rejected: Iterable[tuple[SeqRange, str]] = ()
    ) -> tuple[int, int]:
        """Takes rows out of the outbox, in one transaction: (newly delivered, newly dead).

        Numbers that are not pending are passed over: receipts come twice.
        """
        delivered = dead = 0
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for first, last in stored:
                delivered += self._db.execute(
                    "DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last)
                ).rowcount
            for (first, last), reason in rejected:
                dead += self._db.execute(
                    "INSERT OR IGNORE INTO dead SELECT seq, ? FROM outbox WHERE seq BETWEEN ? AND ?",
                    (reason, first, last),
                ).rowcount
                self._db.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last))
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(
                f"state directory {self.state_dir}: receipts cannot be noted ({exc}); rows will be sent again"
            ) from exc
        return delivered, dead

    def revive(self) -> int:
        """Makes dead rows pending again, for a cloud that has learnt to read them; how many."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            revived = self._db.execute("INSERT OR IGNORE INTO outbox SELECT seq FROM dead").rowcount
            self._db.execute("DELETE FROM dead")
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(f"state directory {self.state_dir}: {exc}") from exc
        return int(revived)

    def stats(self) -> OutboxStats:
        rows, pending, dead, last = self._read(
            "SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM outbox),"
            f" (SELECT count(*) FROM dead), ({database.LAST_SEQ})"
        )[0]
        oldest = self._read("SELECT created_at FROM journal WHERE seq = (SELECT min(seq) FROM outbox)")
        return OutboxStats(
            device_id=self.device_id,
            epoch=self.epoch,
            pending=pending,
            delivered=rows - pending - dead,
            dead=dead,
            oldest_pending_s=_age_s(oldest[0][0]) if oldest else None,
            last_seq=last,
        )

    def reasons(self, seqs: Iterable[int]) -> dict[int, str]:
        """Why dead rows were rejected."""
        wanted = set(seqs)
        return {seq: reason for seq, reason in self._read("SELECT seq, reason FROM dead") if seq in wanted}

    def records(self, which: Which = "all", page: int = 200) -> Iterator[OutboxRow]:
        """The journal's records in order, page by page: no transaction stays open between them."""
        last = 0
        while rows := self._read(
            f"SELECT seq, kind, id, exam_id, created_at, body FROM journal WHERE seq > ? AND {_WHERE[which]}"
            " ORDER BY seq LIMIT ?",
            last,
            page,
        ):
            yield from (OutboxRow(*row) for row in rows)
            last = rows[-1][0]

    def _read(self, sql: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc


def _age_s(created_at: str) -> float:
    """Seconds since a journal's `created_at`; never negative, though the clock may have been set back."""
    then, now = (
        datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (created_at, clock.utc_now())
    )
    return max(0.0, (now - then).total_seconds())
