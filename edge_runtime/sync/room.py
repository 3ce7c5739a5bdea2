"""Room for the next record: a journal's quota, what is removed within it, and the reserve of its disk.

What is removed, and in which order, is `sync/retention.py`'s; here is when. Knows nothing about records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from edge_runtime import clock
from edge_runtime.codes import Clock
from edge_runtime.errors import JournalError
from edge_runtime.sync import database, retention
from edge_runtime.sync.journal_files import JournalFiles
from edge_runtime.sync.reserve import Reserve, loan_bytes
from edge_runtime.sync.retention import Days
from edge_runtime.sync.state import free_bytes

_SLACK_BYTES = 64 * 2**10  # a transaction's pages beyond its rows: index nodes, the outbox, half-full pages
_RETAKE_NS = 60 * 10**9  # how often a released reserve is tried again
_OLD_NS = 3600 * 10**9  # how often the days are looked at
_OLD_STEPS = 200  # of 16 rows: 20 ms, and the rest an hour later

Transaction = Callable[[sqlite3.Connection], AbstractContextManager[None]]  # from its BEGIN to its COMMIT


class Room:
    """One journal's. The connection is the journal's at that moment, outside a transaction; it is the caller's.

    `quota_bytes` bounds database and log together, to within one batch. `notice` gets a line when a person should know.
    """

    def __init__(
        self,
        state_dir: Path,
        quota_bytes: int,
        reserve_bytes: int,
        days: Days,
        notice: Callable[[str], None],
    ) -> None:
        self.quota_bytes = quota_bytes
        self._state_dir, self._days, self._notice = state_dir, days, notice
        self._reserve = Reserve(state_dir, reserve_bytes)
        self._retake_ns = self._old_due_ns = 0
        if not self._reserve.take():
            notice(f"{state_dir}: too little room on this disk for the reserve of {reserve_bytes >> 20} MB")

    def release_reserve(self) -> bool:
        """Gives the reserve back to the disk, and says so; False when there was none to give."""
        if not self._reserve.release():
            return False
        self._retake_ns = clock.monotonic_ns() + _RETAKE_NS
        size = f"{self._reserve.size_bytes >> 20} MB"
        self._notice(f"{self._state_dir}: the disk is full; findings now use the reserve of {size}")
        return True

    def retake_reserve(self) -> None:
        """Holds the reserve again where the disk has room for it; tried once a minute."""
        if self._retake_ns and clock.monotonic_ns() > self._retake_ns:
            self._retake_ns = 0 if self._reserve.take() else clock.monotonic_ns() + _RETAKE_NS

    def loan_is_away(self) -> bool:
        """Whether the room for receipts is not where it should be: what is free now is not for records."""
        return self._reserve.loan.away()

    def await_loan(self) -> None:
        """Waits for whoever has it. JournalError where the disk has not even this room left."""
        loan = self._reserve.loan
        if not (loan.come_back() or (self.release_reserve() and loan.come_back())):
            raise self._disk_error()

    def open_on_loan(self) -> AbstractContextManager[None]:
        """Room for SQLite's own files beside the database."""
        return self._reserve.loan.lent()

    def prepare(self, db: sqlite3.Connection) -> None:
        """What of the log is not in the database yet must always fit into the loan: else that could not get it there."""
        if self._reserve.size_bytes > 0:
            pages = loan_bytes(self._reserve.size_bytes) // 2 // database.PAGE_BYTES
            set_already: int = db.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
            db.execute(f"PRAGMA wal_autocheckpoint = {max(1, min(pages, set_already))}").fetchall()

    def bound_log(self, db: sqlite3.Connection, files: JournalFiles) -> None:
        """Keeps the write-ahead log within its part of the quota: one open reader let it grow to 111 MB."""
        if self._reserve.size_bytes > 0 and not self._reserve.held:
            # raises on a full disk: a log whose file is long already would take more than the loan could bring in
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        limit = database.wal_limit_bytes(self.quota_bytes)
        if files.log_bytes() <= limit:
            return
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if files.log_bytes() > limit:
            raise JournalError(
                f"NOT RECORDING: state directory {self._state_dir}: a reader keeps the write-ahead log in use, past the"
                " quota; end the program that has findings.db open"
            )

    def make(self, db: sqlite3.Connection, exc: sqlite3.Error, wanted_bytes: int) -> Transaction:
        """Finds room for one more try after `exc`, which must be made in this kind of transaction; or raises.

        Within a full quota what may go does. On a full disk the reserve goes first, which costs nothing.
        """
        if not database.is_full(exc):
            raise database.journal_error(self._state_dir, exc) from exc
        wanted = _pages_for(wanted_bytes)
        try:
            if _quota_is_full(db, wanted):
                if self._evict(db, wanted + self.quota_bytes // 100 // database.PAGE_BYTES):
                    return database.transaction
                raise self.quota_error() from exc
        except sqlite3.Error as again:
            if not database.is_full(again):
                raise database.journal_error(self._state_dir, again) from again
        if self.release_reserve():
            return database.transaction
        if self._evict_on_loan(db, wanted):
            return self._reserve.loan.transaction
        if free_bytes(self._state_dir) > 2 * wanted * database.PAGE_BYTES:  # the log's
            return database.transaction
        raise self._disk_error() from exc

    def quota_error(self) -> JournalError:
        """There is room on the disk, and none within the quota."""
        return JournalError(
            f"NOT RECORDING: state directory {self._state_dir}: the quota of {self.quota_bytes / 2**20:.0f} MB is full of"
            " findings that are not delivered; run `edge-runtime uplink`, or raise [journal] quota_mb in config.toml"
        )

    def _disk_error(self) -> JournalError:
        return JournalError(
            f"NOT RECORDING: state directory {self._state_dir}: the disk is full, the reserve too; free some space, or"
            " let `edge-runtime uplink` deliver what waits"
        )

    def still_full(self, db: sqlite3.Connection, exc: sqlite3.Error, wanted_bytes: int) -> bool:
        """Whether what was made room for does not fit into the quota all the same."""
        return database.is_full(exc) and _quota_is_full(db, _pages_for(wanted_bytes))

    def remove_old(self, db: sqlite3.Connection) -> None:
        """Removes what is past its days, looked at once an hour; not by a clock that nobody has set."""
        if clock.monotonic_ns() < self._old_due_ns or clock.clock_quality() is Clock.UNSYNCED:
            return
        self._old_due_ns = clock.monotonic_ns() + _OLD_NS
        now, days = clock.utc_now(), self._days
        with database.transaction(db):
            for _ in range(_OLD_STEPS):
                done = 0
                if days.delivered is not None:
                    done += retention.remove_delivered(db, retention.days_ago(now, days.delivered))
                if days.unsent is not None:
                    done += retention.remove_unsent(db, "age", retention.days_ago(now, days.unsent))
                if done == 0:
                    break

    def _evict(self, db: sqlite3.Connection, wanted_pages: int) -> bool:
        """Removes what may go until that many pages are free; False if there was nothing."""
        evicted = 0
        with database.transaction(db):
            while _free_pages(db) < wanted_pages and (done := _remove_some(db)):
                evicted += done
        return evicted > 0

    def _evict_on_loan(self, db: sqlite3.Connection, wanted_pages: int) -> bool:
        """The same where the file cannot grow; False where too little may go."""
        done = 1
        try:
            while done:  # once in any case: the log is emptied, too
                with self._reserve.loan.transaction(db):
                    done = 0 if _unused_pages(db) >= wanted_pages else _remove_some(db)
            return _unused_pages(db) >= wanted_pages
        except sqlite3.Error:
            return False


def _remove_some(db: sqlite3.Connection) -> int:
    """A few records; the disk's size is a quota like the other."""
    return retention.remove_delivered(db) or retention.remove_unsent(db, "quota")


def _pages_for(wanted_bytes: int) -> int:
    return (wanted_bytes + _SLACK_BYTES) // database.PAGE_BYTES


def _quota_is_full(db: sqlite3.Connection, wanted_pages: int) -> bool:
    try:
        return _free_pages(db) < wanted_pages
    except sqlite3.Error:  # not even readable: then it is the disk
        return False


def _free_pages(db: sqlite3.Connection) -> int:
    """Pages that the quota still allows: never used ones and those of removed rows."""
    used, free, most = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "max_page_count")
    )
    return int(most - used + free)


def _unused_pages(db: sqlite3.Connection) -> int:
    """Pages of removed rows, which the file has already."""
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])
