"""The findings journal: what is in it has been reported, what is not has not. One SQLite file and its outbox.

    with journal.batch() as batch:       BEGIN IMMEDIATE ... COMMIT, one fsync for all of it
        stamp = batch.stamp()
        batch.add(record, encode(record))

A record and its outbox row are one transaction. Knows nothing about MQTT: the uplink is another process.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.config import JournalLimits
from edge_runtime.errors import ConfigError
from edge_runtime.sync import database, retention
from edge_runtime.sync.batch import Batch, Stamp
from edge_runtime.sync.journal_database import JournalDatabase
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.retention import NO_DAYS, Days
from edge_runtime.sync.room import Room
from edge_runtime.sync.state import make_state_dir, site_key, unwritable

__all__ = ["Batch", "Journal", "Stamp"]

DEFAULT_RESERVE_BYTES = 64 * 2**20
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
        self._mutex = threading.Lock()
        self._last_seq = 0  # the last number that was told
        make_state_dir(state_dir)
        with self._disk_errors_told():
            self._key = site_key(state_dir)
            self._room = Room(state_dir, quota_bytes, reserve_bytes, days, on_notice)
            self._database = JournalDatabase(state_dir, self._room, on_notice)

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
        self._database.close()

    @property
    def path(self) -> Path:
        return self._database.path

    @property
    def set_aside(self) -> Path | None:
        """Where a database that could not be read is now."""
        return self._database.set_aside

    @property
    def device_id(self) -> str:
        return self._database.meta["device_id"]

    @property
    def epoch(self) -> str:
        return self._database.epoch

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

    @property
    def _db(self) -> sqlite3.Connection:
        return self._database.db

    # ------------------------------------------------------------ writing

    def _begin(self) -> int:
        """Starts the transaction and returns the next number; from here on no other process can take it."""
        try:
            self._room.retake_reserve()
            if self._database.follow_path(self._last_seq):
                self._last_seq = 0
            self._room.bound_log(self._db, self._database.files)
            self._room.remove_old(self._db)
            return self._begin_once()
        except sqlite3.Error as exc:
            self._rollback()
            if database.is_corrupt(exc):
                self._database.open_anew(exc, self._last_seq)
                self._last_seq = 0
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
        return self._database.last_seq() + 1

    def _commit(self, batch: Batch) -> None:
        if not batch.rows:
            self._rollback()
            return
        try:
            with database.committed(self._db):
                self._write(batch)
        except sqlite3.Error as exc:
            self._database.damage = exc if database.is_corrupt(exc) else None
            self._commit_again(batch, exc)
        self._database.still_there()
        self._last_seq = batch.rows[-1].seq

    def _commit_again(self, batch: Batch, failed: sqlite3.Error) -> None:
        """Makes room and a second try, with what went to make room told in it."""
        wanted_bytes = 2 * sum(len(row.body) for row in batch.rows)
        transaction = self._room.make(self._db, failed, wanted_bytes)
        try:
            with transaction(self._db):
                if self._database.last_seq() + 1 != batch.rows[0].seq:
                    raise sqlite3.OperationalError(
                        "another process took this number while room was made; capture again"
                    )
                self._write(batch)
        except sqlite3.Error as exc:
            if self._room.still_full(self._db, exc, wanted_bytes):
                raise self._room.quota_error() from exc
            raise database.journal_error(self.state_dir, exc) from exc

    def _write(self, batch: Batch) -> None:
        """Puts the batch into the tables, with the gap records that are due at its end."""
        batch.tell(retention.lost(self._db))
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

    def _rollback(self) -> None:
        database.roll_back(self._db)
