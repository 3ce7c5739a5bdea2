"""The journal's rows that are not delivered yet, as the uplink reads and settles them.

A row is pending until a receipt says stored (then only the journal has it, until retention) or rejected (then it
is dead: kept with the reason, never sent again). One that this broker cannot take is held: dead until the next start.
Every call is one short transaction: a reader that stays open lets the write-ahead log grow without bound. Knows
nothing about MQTT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edge_runtime import clock
from edge_runtime.errors import JournalError
from edge_runtime.records import RecordKind
from edge_runtime.sync import database, retention
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.reserve import Loan
from edge_runtime.sync.state import DATABASE, file_mark, read_device_id
from edge_runtime.sync.wire import SeqRange

Change = tuple[str, tuple[object, ...]]  # an SQL statement and its values, to be committed with others
_Found = TypeVar("_Found")
Which = Literal["pending", "delivered", "dead", "held", "all"]

_WHERE: dict[Which, str] = {
    "pending": "seq IN (SELECT seq FROM outbox)",
    "delivered": "seq NOT IN (SELECT seq FROM outbox) AND seq NOT IN (SELECT seq FROM dead)",
    "dead": "seq IN (SELECT seq FROM dead)",
    "held": "seq IN (SELECT seq FROM dead WHERE held)",
    "all": "1",
}
# a record that comes back goes into its kind's lane: a person's mark was for the first time
_LANE = f"CASE kind WHEN 'mask' THEN {Lane.MASK:d} WHEN 'telemetry' THEN {Lane.TELEMETRY:d} ELSE {Lane.FINDING:d} END"
_PUT_ASIDE = "INSERT OR IGNORE INTO dead SELECT seq, ?, ? FROM outbox WHERE seq"
_HERE = """SELECT seq, seq IN (SELECT seq FROM dead), seq IN (SELECT seq FROM outbox)
    FROM journal WHERE seq BETWEEN ? AND ?"""
_AGAIN = (
    f"INSERT OR IGNORE INTO outbox SELECT seq, {_LANE} FROM journal WHERE seq BETWEEN ? AND ?"
    " AND seq NOT IN (SELECT seq FROM dead)"
)


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


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of some numbers of this device's sequence; each is in one list and no other."""

    delivered: tuple[int, ...]  # and still in the journal: can be sent again
    waiting: tuple[int, ...]  # not delivered yet
    dead: tuple[int, ...]  # rejected by the cloud, or held: put aside
    lost: tuple[int, ...]  # removed before they were delivered: a `gap` record tells of them, or will
    gone: tuple[int, ...]  # removed after they were delivered
    never: tuple[int, ...]  # no record was ever given this number


class OutboxStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits, was delivered or was put aside."""

    device_id: str
    epoch: str
    pending: int
    delivered: int  # and still in the journal
    dead: int  # rejected by the cloud, kept here with the reason
    held: int  # of `dead`: not rejected, but this broker cannot take them; tried again at the next start
    waiting: dict[str, int]  # of `pending`, by lane
    records: dict[str, int]  # in the journal, by kind
    lost: int  # masks and telemetry that this database ever removed unsent
    oldest_pending_s: float | None  # by the wall clock; null when nothing is pending
    last_seq: int


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
        return [OutboxRow(*row) for row in self._read(_pages_of(len(after)), *wanted)]

    def pending_count(self) -> int:
        """How many rows are not delivered."""
        count: int = self._read("SELECT count(*) FROM outbox")[0][0]
        return count

    def span(self) -> tuple[int, int] | None:
        """The first and the last number that waits; None where nothing does."""
        first, last = self._read("SELECT (SELECT min(seq) FROM outbox), (SELECT max(seq) FROM outbox)")[0]
        return None if first is None else (first, last)

    def dead_count(self) -> int:
        """How many rows were rejected by the cloud or not taken by the broker."""
        count: int = self._read("SELECT count(*) FROM dead")[0][0]
        return count

    def waiting(self) -> dict[Lane, int]:
        """How many rows each lane has that are not delivered; empty lanes too."""
        counted = dict(self._read("SELECT lane, count(*) FROM outbox GROUP BY lane"))
        return {lane: counted.get(lane, 0) for lane in Lane}

    def loss(self) -> tuple[int, datetime | None]:
        """How many masks and telemetry records were removed unsent, and when the last of them."""
        return self._ask(retention.loss)

    def untold(self) -> bool:
        """Whether numbers are gone that no gap record names yet."""
        return self._ask(retention.untold)

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
                f"INSERT OR IGNORE INTO outbox SELECT seq, {_LANE} FROM dead JOIN journal USING (seq) WHERE {which}"
            )
            self._changed(f"DELETE FROM dead WHERE {which}")
            return revived

        return self._change("dead letters cannot be sent again", back)

    def kept(self, ranges: Iterable[SeqRange]) -> Kept:
        """What became of these numbers."""
        asked, delivered, waiting, dead = set[int](), set[int](), set[int](), set[int]()
        lost = set[int]()
        last_given: int = self._read(database.LAST_SEQ)[0][0]
        for first, last in ranges:
            asked.update(range(first, last + 1))
            for seq, is_dead, waits in self._read(_HERE, first, last):
                (dead if is_dead else waiting if waits else delivered).add(seq)
            for begin, end in self._ask(retention.lost_among, (first, last)):
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

    def stats(self) -> OutboxStats:
        """The counts of all of it."""
        pending, dead, held, last = self._read(
            "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM dead),"
            f" (SELECT count(*) FROM dead WHERE held), ({database.LAST_SEQ})"
        )[0]
        records = dict(self._read("SELECT kind, count(*) FROM journal GROUP BY kind ORDER BY min(seq)"))
        oldest = self._read("SELECT created_at FROM journal WHERE seq = (SELECT min(seq) FROM outbox)")
        return OutboxStats(
            device_id=self.device_id,
            epoch=self.epoch,
            pending=pending,
            delivered=sum(records.values()) - pending - dead,
            dead=dead,
            held=held,
            waiting={lane.name.lower(): count for lane, count in self.waiting().items()},
            records=records,
            lost=self.loss()[0],
            oldest_pending_s=_age_s(oldest[0][0]) if oldest else None,
            last_seq=last,
        )

    def finding(self, finding_id: str) -> OutboxRow | None:
        """The finding of this id; None when it is not, or no longer, in the journal."""
        return self._one("AND id = ?", finding_id)

    def last_finding(self) -> OutboxRow | None:
        """The newest that was measured, not one that a person's mark made of another; None without any."""
        return self._one("AND json_extract(journal.body, '$.revision') = 1")

    def superseding(self, finding_id: str) -> str | None:
        """The id of the revision that took the place of this finding; None where it stands."""
        row = self._one("AND json_extract(journal.body, '$.supersedes') = ?", finding_id)
        return None if row is None else row.id

    def _one(self, where: str, *values: str) -> OutboxRow | None:
        sql = f"SELECT {database.RECORD} FROM {database.RECORDS} WHERE kind = 'finding'"
        rows = self._read(f"{sql} {where} ORDER BY seq DESC LIMIT 1", *values)
        return OutboxRow(*rows[0]) if rows else None

    def reasons(self, seqs: Iterable[int]) -> dict[int, str]:
        """Why dead rows were rejected."""
        wanted = set(seqs)
        return {seq: reason for seq, reason in self._read("SELECT seq, reason FROM dead") if seq in wanted}

    def records(self, which: Which = "all", page: int = 200) -> Iterator[OutboxRow]:
        """The journal's records in order, page by page: no transaction stays open between them."""
        last = 0
        while rows := self._read(
            f"SELECT {database.RECORD} FROM {database.RECORDS} WHERE seq > ? AND {_WHERE[which]}"
            " ORDER BY seq LIMIT ?",
            last,
            page,
        ):
            yield from (OutboxRow(*row) for row in rows)
            last = rows[-1][0]

    def _ask(self, question: Callable[..., _Found], *values: object) -> _Found:
        try:
            return question(self._db, *values)
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc

    def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc


def _age_s(created_at: str) -> float:
    """Seconds since a journal's `created_at`; never negative, though the clock may have been set back."""
    age = clock.utc_of(clock.utc_now()) - clock.utc_of(created_at)
    return max(0.0, age.total_seconds())
