"""Room that is kept on the disk for when everything else has filled it.

    reserve        given up for findings, once
    reserve.loan   an eighth of it (256 kB to 8 MB), only ever lent: for one transaction, after which it is held again

A full disk can so be got out of: receipts are noted on the loan, what was delivered is removed on it, and what is written
then fits into the pages that became free. Knows nothing about tables.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_runtime import clock
from edge_runtime.sync import database
from edge_runtime.sync.state import free_bytes

_PART = 8  # of the reserve
_LOAN_BYTES = (256 * 2**10, 8 * 2**20)  # a transaction and what the log before it has to be given, at least
_PATIENCE_NS = database.BUSY_MS * 10**6


def loan_bytes(reserve_bytes: int) -> int:
    """The part of a reserve that is only lent."""
    least, most = _LOAN_BYTES
    return min(max(least, reserve_bytes // _PART), most, reserve_bytes // 2)


class Reserve:
    """`size_bytes` of the disk with its loan; the loan is not its to give up."""

    def __init__(self, state_dir: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.loan = Loan(state_dir)
        self._path = state_dir / "reserve"
        self._file_bytes = size_bytes - loan_bytes(size_bytes)

    @property
    def held(self) -> bool:
        return self.size_bytes > 0 and self._path.exists() and self._path.stat().st_size >= self._file_bytes

    def take(self) -> bool:
        """Tries to hold the reserve; False when the disk has not twice its size to spare."""
        if self.size_bytes <= 0:
            return True
        taken = self.held or (self.possible() and self._fill())
        self.loan.keep(loan_bytes(self.size_bytes))
        return taken

    def _fill(self) -> bool:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._file_bytes)
        except OSError:  # full after all, or a file system that cannot promise room
            self._path.unlink(missing_ok=True)
            return False
        finally:
            os.close(fd)
        return True

    def possible(self) -> bool:
        """Whether it is held, or the disk has twice its size to spare."""
        return self.size_bytes <= 0 or self.held or free_bytes(self._path.parent) >= 2 * self.size_bytes

    def release(self) -> bool:
        """Gives the room back to the disk; False when there was none to give."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True


class Loan:
    """A file whose room is lent to one at a time. It keeps its length meanwhile: who comes after a kill sees what is
    missing. Without the file there is nothing to lend, and a transaction is one like any other.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve.loan"

    def keep(self, size_bytes: int) -> None:
        """Holds that much from now on; nothing where the disk has not twice of it to spare."""
        with suppress(OSError):
            if not self._path.exists() and free_bytes(self._path.parent) < 2 * size_bytes:
                return
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            with self._alone() as fd:
                if fd is None:
                    return
                os.ftruncate(fd, size_bytes)
                if not _fill(fd):  # no room, or a file system that promises room and holds none, as ZFS does
                    self._path.unlink()

    def away(self) -> bool:
        """Whether it is lent now, or others have its room."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and not _holds_enough(found)

    def come_back(self) -> bool:
        """Waits until it was given back, and holds it; False when the disk has no room for it."""
        with self._alone() as fd:
            return _fill(fd)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within `with`, the disk has its room; what was not used comes back."""
        with self._alone() as fd:
            _give(fd)
            try:
                yield
            finally:
                _fill(fd)

    @contextmanager
    def transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """BEGIN ... COMMIT on its room. Then the log goes into the database, and what it took comes back."""
        with self._alone() as fd:
            try:
                with database.transaction(db):
                    _give(fd)  # now that nobody else can write
                    yield
            finally:
                with suppress(sqlite3.Error):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                _fill(fd)

    @contextmanager
    def _alone(self) -> Iterator[int | None]:
        """Its file, locked; None where there is none, or somebody keeps it for longer than they should."""
        try:
            fd = os.open(self._path, os.O_RDWR)
        except OSError:
            yield None
            return
        try:
            yield fd if _locked(fd) else None
        finally:
            os.close(fd)


def _locked(fd: int) -> bool:
    until_ns = clock.monotonic_ns() + _PATIENCE_NS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic_ns() > until_ns:
                return False
            clock.sleep_s(0.005)
        else:
            return True


def _give(fd: int | None) -> None:
    if fd is not None:
        size = os.fstat(fd).st_size
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size)  # the length without the room


def _fill(fd: int | None) -> bool:
    """Holds as much of its length as there is room for; False when that is not half."""
    if fd is None:
        return False
    size = min(os.fstat(fd).st_size, _LOAN_BYTES[1])  # somebody may have made it longer than the disk is
    os.ftruncate(fd, size)
    for eighths in range(8, 3, -1):
        try:
            os.posix_fallocate(fd, 0, max(1, size * eighths // 8))
            break
        except OSError as exc:
            if not database.is_full(exc):
                break
    return _holds_enough(os.fstat(fd))


def _holds_enough(found: os.stat_result) -> bool:
    return found.st_blocks * 512 * 2 >= found.st_size
