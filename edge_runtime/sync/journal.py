"""The findings journal: what is in it has been reported, what is not has not. One SQLite file and its outbox.

    with journal.batch() as batch:       BEGIN IMMEDIATE ... COMMIT, one fsync for all of it
        stamp = batch.stamp()
        batch.add(record, encode(record))

A record and its outbox row are one transaction. Knows nothing about MQTT: the uplink is another process.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_runtime import clock
from edge_runtime.codes import Clock
from edge_runtime.config import JournalLimits
from edge_runtime.errors import ConfigError, JournalError
from edge_runtime.sync import database, retention
from edge_runtime.sync.batch import Batch, Row, Stamp
from edge_runtime.sync.database import open_db, read_meta
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.retention import NO_DAYS, Days
from edge_runtime.sync.state import (
    DATABASE,
    DirectoryLock,
    Reserve,
    device_id,
    file_mark,
    make_state_dir,
    site_key,
    sync_dir,
    unwritable,
)

__all__ = ["Batch", "Journal", "Stamp"]

DEFAULT_RESERVE_BYTES = 64 * 2**20
CHECK_ALWAYS_BYTES = 128 * 2**20
_SLACK_BYTES = 64 * 2**10  # a transaction's pages beyond its rows: index nodes, the outbox, half-full pages
_RETAKE_NS = 60 * 10**9  # how often a released reserve is tried again
_MB = 1 << 20
_OLD_NS = 3600 * 10**9
_OLD_STEPS = 200  # of 16 rows: 20 ms, and the rest an hour later


class Journal:
    """One state directory, open for recording. Several processes may have the same one open.

    `batch()` belongs to one thread at a time (the sink's); `pseudonym` may be called from any.
    """

    def __init__(self, state_dir: Path, quota_bytes: int, reserve_bytes: int, days: Days) -> None:
        self.state_dir = state_dir
        self.path = state_dir / DATABASE
        self._log = state_dir / f"{DATABASE}-wal"
        self.set_aside: Path | None = None  # where a database that could not be read is now
        self.notices: list[str] = []  # lines that a person should see; the caller prints and clears them
        self._quota_bytes = quota_bytes
        self._damage: sqlite3.Error | None = None  # found while writing: the next batch begins a new database
        self._mutex = threading.Lock()
        self._retake_ns = self._old_due_ns = 0
        self._days = days
        self._last_seq = 0  # the last number that was told
        make_state_dir(state_dir)
        try:
            self._key = site_key(state_dir)
            self._reserve = Reserve(state_dir, reserve_bytes)
            if not self._reserve.take():
                self.notices.append(
                    f"{state_dir}: too little room on this disk for the reserve of {reserve_bytes >> 20} MB"
                )
            self._lock = DirectoryLock(state_dir)
        except OSError as exc:
            raise unwritable(state_dir, exc) from exc
        try:
            self._db = self._open_making_room()
            self._mark_file()
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        quota_bytes: int = database.DEFAULT_QUOTA_BYTES,
        reserve_bytes: int = DEFAULT_RESERVE_BYTES,
        days: Days = NO_DAYS,
    ) -> Journal:
        """Opens `state_dir`, making it if need be.

        A database that cannot be read is set aside and a new epoch begun. `quota_bytes` bounds database and write-ahead
        log together, to within one batch: what gives way is told in `sync/retention.py`. Raises JournalError.
        """
        if quota_bytes < database.MIN_QUOTA_BYTES:
            raise ConfigError(f"quota: want at least {database.MIN_QUOTA_BYTES} bytes, got {quota_bytes}")
        return cls(state_dir, quota_bytes, reserve_bytes, days)

    @classmethod
    def open_within(cls, state_dir: Path, limits: JournalLimits) -> Journal:
        """Opens `state_dir` within a site's limits."""
        return cls.open(
            state_dir,
            quota_bytes=int(limits.quota_mb * _MB),
            reserve_bytes=int(limits.reserve_mb * _MB),
            days=Days(limits.keep_delivered_days, limits.keep_unsent_days),
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    @property
    def device_id(self) -> str:
        return self._meta["device_id"]

    @property
    def epoch(self) -> str:
        return self._meta["epoch"]

    def pseudonym(self, text: str) -> str:
        """24 hex digits that stand for `text` at this site: HMAC-SHA256 under the site key."""
        return self._key.pseudonym(text)

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """One transaction: all of the batch is on the disk when the block has ended, or it raised and nothing is.

        Raises JournalError, one line that begins with NOT RECORDING, when nothing can be written.
        """
        with self._mutex:
            with self._disk_errors_told():
                next_seq = self._begin()  # first: it may have begun a new epoch
            batch = Batch(self.device_id, self.epoch, next_seq)
            try:
                yield batch
            except BaseException:
                self._rollback()
                raise
            with self._disk_errors_told():
                self._commit(batch)

    @contextmanager
    def _disk_errors_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise unwritable(self.state_dir, exc) from exc

    # ------------------------------------------------------------ writing

    def _begin(self) -> int:
        """Starts the transaction and returns the next number; from here on no other process can take it."""
        try:
            self._retake_reserve()
            self._follow_path()
            self._bound_wal()
            self._remove_old()
            return self._begin_once()
        except sqlite3.Error as exc:
            self._rollback()
            if database.is_corrupt(exc):
                self._open_anew(exc)
            else:
                self._make_room(exc, 0)
        try:
            return self._begin_once()
        except sqlite3.Error as exc:
            self._rollback()
            raise database.journal_error(self.state_dir, exc) from exc

    def _begin_once(self) -> int:
        self._db.execute("BEGIN IMMEDIATE")
        last: int = self._db.execute(database.LAST_SEQ).fetchone()[0]
        return last + 1

    def _commit(self, batch: Batch) -> None:
        if not batch.rows:
            self._rollback()
            return
        try:
            batch.tell(retention.lost(self._db))
            self._write(batch)
            self._confirm(batch.rows)
            return
        except sqlite3.Error as exc:
            self._rollback()
            self._damage = exc if database.is_corrupt(exc) else None
            self._make_room(exc, 2 * sum(len(row.body) for row in batch.rows))
        try:
            if self._begin_once() != batch.rows[0].seq:
                raise sqlite3.OperationalError(
                    "another process took this number while room was made; capture again"
                )
            self._write(batch)
            self._confirm(batch.rows)
        except sqlite3.Error as exc:
            self._rollback()
            raise database.journal_error(self.state_dir, exc) from exc

    def _write(self, batch: Batch) -> None:
        low = [row for row in batch.rows if row.lane >= Lane.TELEMETRY]
        self._db.executemany(
            database.ADD_JOURNAL,
            [(*row[:5], b"" if row.lane >= Lane.TELEMETRY else row.body) for row in batch.rows],
        )
        if low:
            self._db.executemany(database.ADD_LOW, [(row.seq, row.body) for row in low])
        self._db.executemany(database.ADD_OUTBOX, [(row.seq, row.lane) for row in batch.rows])
        retention.told(self._db, batch.told)
        for statement, values in batch.changes:
            self._db.execute(statement, values)
        self._db.execute("COMMIT")

    def _confirm(self, rows: list[Row]) -> None:
        """What went into a file that is no longer at the path was not reported."""
        if (what := self._what_happened()) is not None:
            raise JournalError(f"NOT RECORDING: {self.path}: {what} while it was written; record again")
        self._mark_file()
        self._last_seq = rows[-1].seq

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    # ------------------------------------------------------------ the file at the path

    def _mark_file(self) -> None:
        found = self.path.stat()
        self._mark, self._size_bytes = (found.st_dev, found.st_ino), found.st_size
        self._log_mark: tuple[int, int] | None = None
        with suppress(FileNotFoundError):
            self._log_mark = file_mark(self._log)

    def _what_happened(self) -> str | None:
        """What somebody did to the file since it was opened; None when it is the same one and has not shrunk."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return "removed"
        if (found.st_dev, found.st_ino) != self._mark:
            return "replaced"
        return "truncated" if found.st_size < self._size_bytes else None

    def _follow_path(self) -> None:
        """Opens the file that is at the path now: SQLite would go on writing where nobody can read."""
        if self._damage is not None:
            self._open_anew(self._damage)
        elif (what := self._what_happened()) is not None:
            before = self.epoch
            self._open_anew(None)
            how = "it was read again" if self.epoch == before else f"epoch {self.epoch} begins"
            self.notices.append(f"{self.path}: {what} by someone; {how}")

    def _open_anew(self, damage: sqlite3.Error | None) -> None:
        """Closes the file and opens the one at the path. When that fails nothing is open, and the next batch tries."""
        if not self._lock.in_place():
            raise JournalError(
                f"NOT RECORDING: state directory {self.state_dir}: removed, renamed or emptied under way; start again"
            )
        self._db.close()
        mark, self._mark, before = self._mark, (0, 0), self.epoch
        try:
            if damage is None:
                self._park_log(mark)
                self._db = self._open_or_set_aside(doubt=True)
                if (
                    self.epoch == before
                    and self._db.execute(database.LAST_SEQ).fetchone()[0] < self._last_seq
                ):
                    damage = sqlite3.DatabaseError("an older copy, whose numbers were given already")
                    self._db.close()
            if damage is not None:
                self._db = self._set_aside(damage)
        except sqlite3.Error as exc:
            raise self._cannot_open(exc) from exc
        self._damage, self._last_seq = None, 0
        self._mark_file()

    def _park_log(self, mark: tuple[int, int]) -> None:
        """Sets the log of a file that is gone aside: it would be replayed into the one that took its place."""
        gone = not self.path.exists() or file_mark(self.path) != mark
        if gone and self._log.exists() and file_mark(self._log) == self._log_mark:
            self._rename_aside("-wal", "-shm")

    # ------------------------------------------------------------ room

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def _bound_wal(self) -> None:
        """Keeps the write-ahead log within its part of the quota: one open reader let it grow to 111 MB."""
        limit = database.wal_limit_bytes(self._quota_bytes)
        if self._log_bytes() <= limit:
            return
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self._log_bytes() > limit:
            raise JournalError(
                f"NOT RECORDING: state directory {self.state_dir}: a reader keeps the write-ahead log in use, past the"
                " quota; end the program that has findings.db open"
            )

    def _make_room(self, exc: sqlite3.Error, wanted_bytes: int) -> None:
        """Finds room for one more try, or raises: delivered findings go before the reserve does."""
        if not database.is_full(exc):
            raise database.journal_error(self.state_dir, exc) from exc
        wanted = (wanted_bytes + _SLACK_BYTES) // database.PAGE_BYTES
        if self._quota_is_full(wanted):
            if self._evict(wanted + self._quota_bytes // 100 // database.PAGE_BYTES):
                return
            raise JournalError(
                f"NOT RECORDING: state directory {self.state_dir}: the quota of {self._quota_bytes / 2**20:.0f} MB is full"
                " of findings that are not delivered; run `edge-runtime uplink`, or raise the quota"
            ) from exc
        if self._reserve.release():
            self._say_reserve_is_used()
            return
        raise JournalError(
            f"NOT RECORDING: state directory {self.state_dir}: the disk is full, the reserve too; free some space"
        ) from exc

    def _say_reserve_is_used(self) -> None:
        self._retake_ns = clock.monotonic_ns() + _RETAKE_NS
        size = f"{self._reserve.size_bytes >> 20} MB"
        self.notices.append(f"{self.state_dir}: the disk is full; findings now use the reserve of {size}")

    def _quota_is_full(self, wanted_pages: int) -> bool:
        try:
            return self._free_pages() < wanted_pages
        except sqlite3.Error:  # not even readable: then it is the disk
            return False

    def _free_pages(self) -> int:
        """Pages that the quota still allows: never used ones and those of removed rows."""
        used, free, most = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "max_page_count")
        )
        return int(most - used + free)

    def _evict(self, wanted_pages: int) -> bool:
        """Removes what may go until that many pages are free; False if there was nothing."""
        evicted = 0
        try:
            self._db.execute("BEGIN IMMEDIATE")
            while self._free_pages() < wanted_pages:
                done = retention.remove_delivered(self._db) or retention.remove_unsent(self._db, "quota")
                if done == 0:
                    break
                evicted += done
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._rollback()
            raise database.journal_error(self.state_dir, exc) from exc
        return evicted > 0

    def _remove_old(self) -> None:
        """Removes what is past its days, looked at once an hour; not by a clock that nobody has set."""
        if clock.monotonic_ns() < self._old_due_ns or clock.clock_quality() is Clock.UNSYNCED:
            return
        self._old_due_ns = clock.monotonic_ns() + _OLD_NS
        now, days = clock.utc_now(), self._days
        self._db.execute("BEGIN IMMEDIATE")
        for _ in range(_OLD_STEPS):
            done = 0
            if days.delivered is not None:
                done += retention.remove_delivered(self._db, retention.days_ago(now, days.delivered))
            if days.unsent is not None:
                done += retention.remove_unsent(self._db, "age", retention.days_ago(now, days.unsent))
            if done == 0:
                break
        self._db.execute("COMMIT")

    def _retake_reserve(self) -> None:
        if self._retake_ns and clock.monotonic_ns() > self._retake_ns:
            self._retake_ns = 0 if self._reserve.take() else clock.monotonic_ns() + _RETAKE_NS

    # ------------------------------------------------------------ opening

    def _open_making_room(self) -> sqlite3.Connection:
        try:
            return self._open_or_set_aside()
        except (sqlite3.Error, OSError) as exc:
            full = isinstance(exc, OSError) or database.is_full(exc)
            if not (full and self._reserve.release()):
                raise self._cannot_open(exc) from exc
        self._say_reserve_is_used()
        try:
            return self._open_or_set_aside()
        except (sqlite3.Error, OSError) as exc:
            raise self._cannot_open(exc) from exc

    def _cannot_open(self, exc: sqlite3.Error | OSError) -> JournalError:
        return (
            unwritable(self.state_dir, exc)
            if isinstance(exc, OSError)
            else database.journal_error(self.state_dir, exc)
        )

    def _open_or_set_aside(self, *, doubt: bool = False) -> sqlite3.Connection:
        try:
            return self._open_checked(doubt=doubt)
        except sqlite3.DatabaseError as exc:
            if not database.is_corrupt(exc):
                raise
            return self._set_aside(exc)

    def _open_checked(self, *, doubt: bool = False) -> sqlite3.Connection:
        """With `doubt`, all of it is read, whatever its size."""
        unclean = doubt or self._log.exists()  # before opening: that makes one
        db = open_db(self.path, quota_bytes=self._quota_bytes, create=True)
        try:
            if unclean or self.path.stat().st_size <= CHECK_ALWAYS_BYTES:
                database.check(db)
            known = db.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
            remembered = read_meta(db, self.path).get("device_id") if known else None
            name = device_id(self.state_dir, remembered)
            database.create_tables(db, {"device_id": name, "epoch": secrets.token_hex(6)}, self._quota_bytes)
            self._meta = {**read_meta(db, self.path), "device_id": name}
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, cause: sqlite3.Error) -> sqlite3.Connection:
        """Renames the damaged database, its log first, and begins a new one. Nothing is overwritten or deleted."""
        if not self._lock.try_alone():
            raise JournalError(
                f"NOT RECORDING: {self.path}: damaged ({cause}), and open in another process; end that one first"
            ) from cause
        try:
            aside = self._rename_aside(
                "-wal", "-shm", ""
            )  # a log left behind would be replayed into the new one
            self.set_aside = aside
            self.notices.append(
                f"{self.path}: damaged ({cause}); set aside as {aside.name}, a new epoch begins"
            )
            return self._open_checked()
        finally:
            self._lock.share()

    def _rename_aside(self, *suffixes: str) -> Path:
        """Renames these of the database's files to a name that none of them has taken; which one."""
        taken = {entry.name for entry in self.state_dir.iterdir()}
        names = (f"{DATABASE}.corrupt-{n}" for n in range(1, 10**6))
        aside = next(name for name in names if taken.isdisjoint({name, f"{name}-wal", f"{name}-shm"}))
        for suffix in suffixes:
            if DATABASE + suffix in taken:
                (self.state_dir / (DATABASE + suffix)).rename(self.state_dir / (aside + suffix))
        sync_dir(self.state_dir)
        return self.state_dir / aside
