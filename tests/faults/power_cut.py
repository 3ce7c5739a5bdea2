"""A disk that has only what was synced, and of the rest whatever it likes; and SQLite on it.

A VFS holds unsynced writes back; at a chosen step the power goes, each unsynced 512-byte sector reaches the disk or does
not, and `after_the_cut` is what the next boot finds. `Db` looks like a connection of sqlite3, so that the journal's and
the outbox's own code runs on it, and not a copy of their statements.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

apsw = pytest.importorskip("apsw", reason="apsw is not installed (extra `test`)")

SECTOR = 512


class PowerCutError(BaseException):
    """The moment after which nothing happens any more."""


@dataclass
class Disk:
    """What a set of files looks like to the program, and what of it is safe."""

    cut_after: int  # writes and syncs until the power goes
    off: bool = False  # the power is gone: nothing has an effect any more
    now: dict[str, bytearray] = field(default_factory=dict)
    safe: dict[str, bytes] = field(default_factory=dict)
    dirty: dict[str, set[int]] = field(default_factory=dict)  # sectors written since the last sync

    def step(self) -> bool:
        """False when the power was gone before; raises at the moment it goes."""
        self.cut_after -= 1
        if self.cut_after < 0 and not self.off:
            self.off = True
            raise PowerCutError
        return not self.off

    def write(self, name: str, data: bytes, offset: int) -> None:
        if not self.step():
            return
        image = self.now.setdefault(name, bytearray())
        if len(image) < offset + len(data):
            image.extend(bytes(offset + len(data) - len(image)))
        image[offset : offset + len(data)] = data
        sectors = range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1)
        self.dirty.setdefault(name, set()).update(sectors)

    def sync(self, name: str) -> None:
        if not self.step():
            return
        self.safe[name] = bytes(self.now.get(name, b""))
        self.dirty[name] = set()

    def after_the_cut(self, choose: random.Random) -> dict[str, bytes]:
        """The files as the next boot finds them."""
        files = {}
        for name, image in self.now.items():
            kept = bytearray(self.safe.get(name, b""))
            for sector in sorted(self.dirty.get(name, ())):
                if choose.random() < 0.5:
                    start, end = sector * SECTOR, min((sector + 1) * SECTOR, len(image))
                    kept.extend(bytes(max(0, end - len(kept))))
                    kept[start:end] = image[start:end]
            files[name] = bytes(kept)
        return files


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name).name

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.write(self._name, bytes(data), offset)
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        if self._disk.step():
            del self._disk.now.setdefault(self._name, bytearray())[size:]
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._name)


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(name, "")

    def xDelete(self, name: str, sync_dir: bool) -> None:  # noqa: N802
        if self._disk.step():
            self._disk.now.pop(Path(name).name, None)
        super().xDelete(name, sync_dir)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._disk, name, flags)


class Cursor:
    """The rows of one statement, as sqlite3 hands them out."""

    def __init__(self, rows: Sequence[tuple[Any, ...]], rowcount: int) -> None:
        self._rows, self.rowcount = iter(rows), rowcount

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows


class Db:
    """One connection to a file on such a disk; errors are sqlite3's, and a power cut is none of them."""

    def __init__(self, path: Path, disk: Disk, settings: Iterable[str]) -> None:
        self._name, self._disk = f"cut-{id(self)}", disk
        self._vfs = _Vfs(self._name, disk)
        self._db = apsw.Connection(str(path), vfs=self._name)
        for setting in settings:
            self.execute(setting)

    @property
    def in_transaction(self) -> bool:
        return bool(self._db.in_transaction)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        return self._run(lambda: self._db.execute(sql, tuple(values)).fetchall())

    def executemany(self, sql: str, values: Iterable[Sequence[Any]]) -> Cursor:
        return self._run(lambda: self._db.executemany(sql, [tuple(row) for row in values]).fetchall())

    def _run(self, work: Any) -> Cursor:
        before = self._db.total_changes()
        try:
            rows = work()
        except apsw.CorruptError as exc:
            raise sqlite3.DatabaseError(f"malformed: {exc}") from exc
        except apsw.FullError as exc:
            raise sqlite3.OperationalError("database or disk is full") from exc
        except apsw.Error as exc:
            if self._disk.off:
                raise PowerCutError from exc
            raise sqlite3.OperationalError(str(exc)) from exc
        return Cursor(rows, self._db.total_changes() - before)

    def close(self) -> None:
        self._db.close(force=True)
        self._vfs.unregister()
