"""What leaves a journal when its quota is full or its time is over, and in which order.

    delivered records, the oldest first
    masks that were not delivered, then telemetry, each the oldest first: noted in `lost`, and told by a gap record
    findings, exam events, gaps, audits and dead letters: never before they are delivered

Every function works inside its caller's transaction. Knows nothing about files and disks.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from edge_runtime import clock
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.wire import MAX_RANGES, SeqRange, ranges_of

ROWS = 16  # removed at a step: the caller looks after each whether it is enough
TOLD_A_PAGE = 4  # ranges of `lost` kept for each page of the quota: 1 % of it
LaneLost = Literal["mask", "telemetry"]
WhyLost = Literal["quota", "age"]
LOSS_KEY = "lost"  # in the table meta


@dataclass(frozen=True, slots=True)
class Days:
    """How long records are kept, by the wall clock; None is as long as there is room."""

    delivered: float | None = None
    unsent: float | None = None  # masks and telemetry that no cloud has taken


NO_DAYS = Days()

_MADE_BEFORE = "(? IS NULL OR created_at < ?)"
_NOT_OWED = "seq NOT IN (SELECT seq FROM outbox) AND seq NOT IN (SELECT seq FROM dead)"
_FIRST_TO_GO: dict[LaneLost, Lane] = {"mask": Lane.MASK, "telemetry": Lane.TELEMETRY}


def remove_delivered(db: sqlite3.Connection, before: str | None = None) -> int:
    """Removes some of the oldest delivered records, made before this moment if one is given; how many."""
    sql = f"SELECT seq FROM journal WHERE {_NOT_OWED} AND {_MADE_BEFORE} ORDER BY seq LIMIT ?"
    return _remove(db, [seq for (seq,) in db.execute(sql, (before, before, ROWS))])


def remove_unsent(db: sqlite3.Connection, why: WhyLost, before: str | None = None) -> int:
    """Removes some of the oldest masks, then telemetry, that wait for the cloud, and notes their numbers; how many."""
    for kind, lane in _FIRST_TO_GO.items():
        sql = f"SELECT seq FROM outbox JOIN journal USING (seq) WHERE lane = ? AND {_MADE_BEFORE} ORDER BY seq LIMIT ?"
        seqs = [seq for (seq,) in db.execute(sql, (lane, before, before, ROWS))]
        if seqs:
            db.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])
            db.executemany(
                "INSERT INTO lost (first, last, kind, reason) VALUES (?, ?, ?, ?)",
                [(first, last, kind, why) for first, last in ranges_of(seqs)],
            )
            removed = _remove(db, seqs)
            _add_up(db, removed)
            return removed
    return 0


def _add_up(db: sqlite3.Connection, count: int) -> None:
    """How many were ever lost, and when the last: the table tells which, as far back as it may grow."""
    before, _ = loss(db)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (LOSS_KEY, f"{before + count} {clock.utc_now()}"))


def loss(db: sqlite3.Connection) -> tuple[int, datetime | None]:
    """How many records this database lost unsent, and when the last of them, by this device's clock."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (LOSS_KEY,)).fetchone()
    count, _, last = str(row[0]).partition(" ") if row else ("0", "", "")
    try:
        return int(count), datetime.fromisoformat(last.replace("Z", "+00:00"))
    except ValueError:  # never written, or by nobody of us
        return 0, None


def _remove(db: sqlite3.Connection, seqs: list[int]) -> int:
    numbers = [(seq,) for seq in seqs]
    db.executemany("DELETE FROM low WHERE seq = ?", numbers)
    db.executemany("DELETE FROM journal WHERE seq = ?", numbers)
    return len(seqs)


def lost(db: sqlite3.Connection) -> dict[tuple[LaneLost, WhyLost], list[SeqRange]]:
    """The numbers that are gone and not yet told of, as many as fit into a record."""
    found: dict[tuple[Any, Any], list[SeqRange]] = {}
    for first, last, kind, why in db.execute(
        "SELECT first, last, kind, reason FROM lost WHERE NOT told ORDER BY first LIMIT ?", (MAX_RANGES,)
    ):
        found.setdefault((kind, why), []).append((first, last))
    return found


def told(db: sqlite3.Connection, ranges: list[SeqRange]) -> None:
    """A gap record names these now: in the same transaction. They stay in the table, for whoever asks what became of a
    number once that record is delivered and gone; the oldest go, so that the table does not take the findings' room.
    """
    if not ranges:
        return
    db.executemany("UPDATE lost SET told = 1 WHERE first = ?", [(first,) for first, _ in ranges])
    most = TOLD_A_PAGE * db.execute("PRAGMA max_page_count").fetchone()[0]
    too_many = db.execute("SELECT count(*) FROM lost").fetchone()[0] - most
    if too_many > 0:
        oldest = "SELECT first FROM lost WHERE told ORDER BY first LIMIT ?"
        db.execute(f"DELETE FROM lost WHERE first IN ({oldest})", (too_many,))


def lost_among(db: sqlite3.Connection, asked: SeqRange) -> list[SeqRange]:
    """The ranges of lost numbers, told of or not, that have one of these."""
    first, last = asked
    before = "SELECT coalesce(max(first), 0) FROM lost WHERE first <= ?"  # they do not overlap
    sql = f"SELECT first, last FROM lost WHERE first BETWEEN ({before}) AND ? AND last >= ?"
    return db.execute(sql, (first, last, first)).fetchall()


def untold(db: sqlite3.Connection) -> bool:
    """Whether numbers are gone that no gap record names yet."""
    return db.execute("SELECT 1 FROM lost WHERE NOT told LIMIT 1").fetchone() is not None


def days_ago(now: str, days: float) -> str:
    """The moment `days` before `now`, in the journal's own words, which sort as times do."""
    return clock.utc_text(clock.utc_of(now) - timedelta(days=days))
