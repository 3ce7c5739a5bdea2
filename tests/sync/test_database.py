"""What SQLite and the disk say of a database, in our words."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from edge_runtime.sync.database import is_full


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (sqlite3.OperationalError("database or disk is full"), True),
        (sqlite3.OperationalError("database is locked"), False),
    ],
)
def test_a_full_disk_is_told_from_other_trouble(error: sqlite3.Error | OSError, full: bool) -> None:
    assert is_full(error) is full
