"""The journal's files: what somebody else did to them while they were open, and how they are set aside.

SQLite would go on writing into a file that was removed or replaced, where nobody can read. Knows nothing about what is
in the files.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from edge_runtime.sync.state import DATABASE, file_mark, sync_dir

Mark = tuple[int, int]  # which file it is: device and inode


class JournalFiles:
    """The database of one state directory and its write-ahead log, as they were when last looked at.

    `path` may be a link to another disk, where SQLite then has its log, too: what is made or renamed is what it leads to.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / DATABASE
        self._find()
        self._mark: Mark = (0, 0)
        self._log_mark: Mark | None = None
        self._size_bytes = 0

    def _find(self) -> None:
        """Where the database is, or will be: as the link leads now."""
        self._file = Path(os.path.realpath(self.path))
        self.log = self._file.with_name(f"{self._file.name}-wal")

    def mark(self) -> None:
        """Takes those that are there now for ours. FileNotFoundError without a database."""
        found = self.path.stat()
        self._mark, self._size_bytes = (found.st_dev, found.st_ino), found.st_size
        self._log_mark = None
        with suppress(FileNotFoundError):
            self._log_mark = file_mark(self.log)

    def make_private(self) -> str | None:
        """Nobody but the owner may read findings, whatever the umask; what was changed, for a person.

        A mode with no right for others was set on purpose, for a group: it stays. SQLite gives its log the database's.
        """
        self._find()
        with suppress(FileExistsError):
            os.close(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if not mode & stat.S_IRWXO:
            return None
        for path in (self._file, self.log, self._file.with_name(f"{self._file.name}-shm")):
            with suppress(OSError):  # somebody else's, or a file system without modes: `doctor` tells
                path.chmod(0o600)
        if exposed(self.path):
            return None
        return (
            f"{self.path}: every user of this machine could read it (mode {mode:04o}); now only its owner can"
        )

    def forget(self) -> Mark:
        """No file is ours until the next `mark`; which one was."""
        was, self._mark = self._mark, (0, 0)
        return was

    def what_happened(self) -> str | None:
        """What somebody did to the database since it was marked; None when it is the same and has not shrunk."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return "removed"
        if (found.st_dev, found.st_ino) != self._mark:
            return "replaced"
        return "truncated" if found.st_size < self._size_bytes else None

    def log_bytes(self) -> int:
        """The size of the write-ahead log; 0 without one."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def park_log(self, was: Mark) -> None:
        """Sets our log aside where the file it belongs to is gone: it would be replayed into the one in its place."""
        gone = not self._file.exists() or file_mark(self._file) != was
        if gone and self.log.exists() and file_mark(self.log) == self._log_mark:
            self._rename_aside("-wal", "-shm")

    def set_aside(self) -> Path:
        """Renames all of them; where the database is now."""
        return self._rename_aside("-wal", "-shm", "")  # the log first: left behind, it would be replayed

    def _rename_aside(self, *suffixes: str) -> Path:
        """Renames these to a name that none of the database's files has taken; nothing is overwritten."""
        folder, name = self._file.parent, self._file.name
        taken = {entry.name for entry in folder.iterdir()}
        names = (f"{name}.corrupt-{n}" for n in range(1, 10**6))
        aside = next(one for one in names if taken.isdisjoint({one, f"{one}-wal", f"{one}-shm"}))
        for suffix in suffixes:
            if name + suffix in taken:
                (folder / (name + suffix)).rename(folder / (aside + suffix))
        sync_dir(folder)
        return folder / aside


def exposed(path: Path) -> bool:
    """Whether users who are neither its owner nor of its group may read or write it."""
    return bool(path.stat().st_mode & stat.S_IRWXO)
