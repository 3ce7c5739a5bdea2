"""Files that this program makes: where those lie that it can make again, and how one is written.

Knows no format and no remedy: an OSError is the caller's to tell, with what to do about it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

CACHE_VARIABLE = "EDGE_RUNTIME_CACHE"


def cache_home() -> Path:
    """Where this machine keeps what it can make again: `$EDGE_RUNTIME_CACHE`, else this user's cache directory."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("edge-runtime")


def json_bytes(record: object) -> bytes:
    """`record` as JSON for a file that people read too: the same record always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1) + b"\n"


def write_whole(path: Path, content: bytes) -> None:
    """`content` under this name, whole or not at all, and durable; folders are made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp's is for its owner alone; a service may run as another user
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable: a file's own fsync does not. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
