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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from edge_runtime import clock
from edge_runtime.config import JournalLimits
from edge_runtime.errors import ConfigError, JournalError
from edge_runtime.sync import database, retention
from edge_runtime.sync.batch import Batch, Row, Stamp
from edge_runtime.sync.database import open_db, read_meta
from edge_runtime.sync.journal_files import JournalFiles
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.retention import NO_DAYS, Days
from edge_runtime.sync.room import Room
from edge_runtime.sync.state import DirectoryLock, device_id, make_state_dir, site_key, unwritable

__all__ = ["Batch", "Journal", "Stamp"]

DEFAULT_RESERVE_BYTES = 64 * 2**20
CHECK_ALWAYS_BYTES = 128 * 2**20
GOOD_IN_BOOT = "good_in_boot"  # in the table meta
_MB = 1 << 20


class Journal:
    """One state directory, open for recording. Several processes may have the same one open.

    `batch()` belongs to one thread at a time (the sink's); `pseudonym` may be called from any.
    """

    def __init__(
        self,
        state_dir: Path,
        quota_bytes: int,
        reserve_bytes: int,
        days: Days,
        on_notice: Callable[[str], None],
    ) -> None:
        self.state_dir = state_dir
        self._files = JournalFiles(state_dir)
        self.path = self._files.path
        self.set_aside: Path | None = None  # where a database that could not be read is now
        self._notice = on_notice
        self._damage: sqlite3.Error | None = None  # found while writing: the next batch begins a new database
        self._mutex = threading.Lock()
        self._last_seq = 0  # the last number that was told
        make_state_dir(state_dir)
        try:
            self._key = site_key(state_dir)
            self._room = Room(state_dir, quota_bytes, reserve_bytes, days, on_notice)
            self._lock = DirectoryLock(state_dir)
        except OSError as exc:
            raise unwritable(state_dir, exc) from exc
        try:
            self._db = self._open_making_room()
            self._files.mark()
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
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> Journal:
        """Opens `state_dir`, making it if need be.

        A database that cannot be read is set aside and a new epoch begun. `quota_bytes` bounds database and write-ahead
        log together, to within one batch: what gives way is told in `sync/retention.py`. `on_notice` gets each line
        that a person should see, when it comes. Raises JournalError.
        """
        if quota_bytes < database.MIN_QUOTA_BYTES:
            raise ConfigError(f"quota: want at least {database.MIN_QUOTA_BYTES} bytes, got {quota_bytes}")
        return cls(state_dir, quota_bytes, reserve_bytes, days, on_notice)

    @classmethod
    def open_within(cls, state_dir: Path, limits: JournalLimits, on_notice: Callable[[str], None]) -> Journal:
        """Opens `state_dir` within a site's limits."""
        return cls.open(
            state_dir,
            quota_bytes=int(limits.quota_mb * _MB),
            reserve_bytes=int(limits.reserve_mb * _MB),
            days=Days(limits.keep_delivered_days, limits.keep_unsent_days),
            on_notice=on_notice,
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

    def tell_losses(self) -> None:
        """Makes the gap records that are due, for when no batch is to come. JournalError as by `batch`."""
        with self.batch() as batch:
            batch.tell(retention.lost(self._db))

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
            self._room.retake_reserve()
            self._follow_path()
            self._room.bound_log(self._db, self._files)
            self._room.remove_old(self._db)
            return self._begin_once()
        except sqlite3.Error as exc:
            self._rollback()
            if database.is_corrupt(exc):
                self._open_anew(exc)
            else:
                self._room.make(self._db, exc, 0)
        try:
            return self._begin_once()
        except sqlite3.Error as exc:
            self._rollback()
            raise database.journal_error(self.state_dir, exc) from exc

    def _begin_once(self) -> int:
        self._db.execute("BEGIN IMMEDIATE")
        while self._room.loan_is_away():  # to an uplink that notes receipts on a full disk
            self._rollback()
            self._room.await_loan()
            self._db.execute("BEGIN IMMEDIATE")
        return self._next_seq()

    def _next_seq(self) -> int:
        last: int = self._db.execute(database.LAST_SEQ).fetchone()[0]
        return last + 1

    def _commit(self, batch: Batch) -> None:
        if not batch.rows:
            self._rollback()
            return
        wanted_bytes = 2 * sum(len(row.body) for row in batch.rows)
        try:
            with database.committed(self._db):
                batch.tell(retention.lost(self._db))
                self._write(batch)
            self._confirm(batch.rows)
            return
        except sqlite3.Error as exc:
            self._damage = exc if database.is_corrupt(exc) else None
            again = self._room.make(self._db, exc, wanted_bytes)
        try:
            with again(self._db):
                if self._next_seq() != batch.rows[0].seq:
                    raise sqlite3.OperationalError(
                        "another process took this number while room was made; capture again"
                    )
                batch.tell(retention.lost(self._db))  # with what went just now, to make room for it
                self._write(batch)
            self._confirm(batch.rows)
        except sqlite3.Error as exc:
            if self._room.still_full(self._db, exc, wanted_bytes):
                raise self._room.quota_error() from exc
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

    def _confirm(self, rows: list[Row]) -> None:
        """What went into a file that is no longer at the path was not reported."""
        if (what := self._files.what_happened()) is not None:
            raise JournalError(f"NOT RECORDING: {self.path}: {what} while it was written; record again")
        self._files.mark()
        self._last_seq = rows[-1].seq

    def _rollback(self) -> None:
        database.roll_back(self._db)

    # ------------------------------------------------------------ the file at the path

    def _follow_path(self) -> None:
        """Opens the file that is at the path now: SQLite would go on writing where nobody can read."""
        if self._damage is not None:
            self._open_anew(self._damage)
        elif (what := self._files.what_happened()) is not None:
            before = self.epoch
            self._open_anew(None)
            how = "it was read again" if self.epoch == before else f"epoch {self.epoch} begins"
            self._notice(f"{self.path}: {what} by someone; {how}")

    def _open_anew(self, damage: sqlite3.Error | None) -> None:
        """Closes the file and opens the one at the path. When that fails nothing is open, and the next batch tries."""
        if not self._lock.in_place():
            raise JournalError(
                f"NOT RECORDING: state directory {self.state_dir}: removed, renamed or emptied under way; start again"
            )
        self._db.close()
        was, before = self._files.forget(), self.epoch
        try:
            if damage is None:
                self._files.park_log(was)
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
        self._files.mark()

    # ------------------------------------------------------------ opening

    def _open_making_room(self) -> sqlite3.Connection:
        try:
            return self._open_or_set_aside()
        except (sqlite3.Error, OSError) as exc:
            if not database.is_full(exc):
                raise self._cannot_open(exc) from exc
        try:
            with nullcontext() if self._room.release_reserve() else self._room.open_on_loan():
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
        """With `doubt`, all of it is read, whatever its size.

        Else a large one is read where it was not closed well and this boot has not seen it whole: a kill damages
        nothing, only the machine's end does. A log alone tells of neither: an uplink beside us has it open.
        """
        unclean = self._files.log.exists()  # before opening: that makes one
        if (told := self._files.make_private()) is not None:
            self._notice(told)
        db = open_db(self.path, quota_bytes=self._room.quota_bytes, create=True)
        try:
            known = db.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
            facts = read_meta(db, self.path) if known else {}
            boot = clock.boot_id()
            doubt = doubt or (unclean and facts.get(GOOD_IN_BOOT) != boot)
            if doubt or self.path.stat().st_size <= CHECK_ALWAYS_BYTES:
                database.check(db)
            name = device_id(self.state_dir, facts.get("device_id"))
            database.create_tables(
                db,
                {"device_id": name, "epoch": secrets.token_hex(6)},
                {"quota_bytes": str(self._room.quota_bytes), GOOD_IN_BOOT: boot},
            )
            self._meta = {**read_meta(db, self.path), "device_id": name}
            self._room.prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, cause: sqlite3.Error) -> sqlite3.Connection:
        """Renames the damaged database and begins a new one. Nothing is overwritten or deleted."""
        if not self._lock.try_alone():
            raise JournalError(
                f"NOT RECORDING: {self.path}: damaged ({cause}), and open in another process; end that one first"
            ) from cause
        try:
            self.set_aside = aside = self._files.set_aside()
            self._notice(f"{self.path}: damaged ({cause}); set aside as {aside.name}, a new epoch begins")
            return self._open_checked()
        finally:
            self._lock.share()
