"""Power cuts, simulated: a disk that has only what was synced, and of the rest whatever it likes.

`kill -9` cannot show this: the page cache survives it. A VFS holds unsynced writes back; at a random moment the
"machine" stops, each unsynced 512-byte sector reaches the disk or does not, and the database is opened again.
The journal's own settings and statements are what is tried, not a copy of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.sync.database import ADD_JOURNAL, ADD_OUTBOX, LAST_SEQ, SCHEMA, open_db, pragmas

apsw = pytest.importorskip("apsw", reason="apsw is not installed (extra `test`)")

SECTOR = 512
TRIALS = 100


class PowerCutError(Exception):
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


def run_until_the_cut(path: Path, disk: Disk, settings: tuple[str, ...], committed: list[int]) -> None:
    """Reports and settles as the journal and the outbox do, noting each number once its COMMIT has returned."""
    vfs = _Vfs(f"cut-{path.parent.name}", disk)
    db = None
    try:
        db = apsw.Connection(str(path), vfs=f"cut-{path.parent.name}")
        for statement in (*settings, *SCHEMA):
            db.execute(statement).fetchall()
        while True:
            db.execute("BEGIN IMMEDIATE")
            first = db.execute(LAST_SEQ).fetchone()[0] + 1
            for seq in range(first, first + 3):
                row = (seq, "finding", f"id-{seq}", "exam", "2026-01-01T00:00:00.000Z", b"%d " % seq * 200)
                db.execute(ADD_JOURNAL, row)
                db.execute(ADD_OUTBOX, (seq,))
            db.execute("COMMIT")
            committed.extend(range(first, first + 3))
            if first % 10 == 1:
                db.execute("DELETE FROM outbox WHERE seq < ?", (first - 5,))
    except (PowerCutError, apsw.Error):
        assert disk.off
    finally:
        if db is not None:
            db.close(force=True)
        vfs.unregister()


def lost_in_one_cut(folder: Path, seed: int, settings: tuple[str, ...]) -> int:
    """How many committed rows one power cut took. A database that does not open any more fails the test."""
    choose = random.Random(seed)
    disk = Disk(cut_after=choose.randrange(60, 700))
    committed: list[int] = []
    (folder / "live").mkdir(parents=True)
    (folder / "after").mkdir()
    run_until_the_cut(folder / "live" / "findings.db", disk, settings, committed)
    for name, content in disk.after_the_cut(choose).items():
        if not name.endswith("-shm"):
            (folder / "after" / name).write_bytes(content)
    with closing(open_db(folder / "after" / "findings.db")) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone() is None:
            return len(committed)
        rows = dict(db.execute("SELECT seq, body FROM journal"))
    assert sorted(rows) == list(range(1, len(rows) + 1)), "a gap"
    return sum(rows.get(seq) != b"%d " % seq * 200 for seq in committed)


@pytest.fixture
def trials(tmp_path: Path) -> Callable[[tuple[str, ...]], list[int]]:
    def run(settings: tuple[str, ...]) -> list[int]:
        return [lost_in_one_cut(tmp_path / str(seed), seed, settings) for seed in range(TRIALS)]

    return run


def test_no_committed_finding_is_lost_in_a_hundred_power_cuts(
    trials: Callable[[tuple[str, ...]], list[int]],
) -> None:
    assert sum(trials(pragmas(2**20))) == 0


def test_the_model_would_notice_a_journal_that_syncs_too_seldom(
    trials: Callable[[tuple[str, ...]], list[int]],
) -> None:
    careless = tuple(setting.replace("FULL", "NORMAL") for setting in pragmas(2**20))
    assert sum(lost > 0 for lost in trials(careless)) > TRIALS // 4
