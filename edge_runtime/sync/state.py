"""The files of a state directory other than the database: device id, site key, locks.

    findings.db            the journal, see `sync/journal.py`
    findings.db.corrupt-N  a database that could not be read, set aside and never touched again
    device_id              one line of text; outlives the database
    site.key               32 random bytes, mode 0600, made once: pseudonyms are HMACs under it
    reserve, reserve.loan  room kept for when the disk is full, see `sync/reserve.py`
    lock                   held (shared) by everyone who records here
    uplink.lock            held by the one uplink
    link.json              how that uplink sees its link, see `sync/link/link_file.py`
    config.toml            settings, by a person: device/config.toml shows every key

Knows nothing about SQLite.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError, JournalError, UplinkError
from edge_runtime.sync.topics import check_level

DATABASE = "findings.db"
KEY_BYTES = 32
PSEUDONYM_DIGITS = 24  # 96 bits: no two of a site's studies will meet


def make_state_dir(path: Path) -> None:
    """Makes `path` if need be, for its owner only, and proves that it can be written; JournalError if not."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as exc:
        raise unwritable(path, exc) from exc


def unwritable(path: Path, exc: OSError) -> JournalError:
    return JournalError(
        f"NOT RECORDING: state directory {path}: cannot be written ({exc.strerror}); choose another with --state"
    )


@dataclass(frozen=True, slots=True)
class SiteKey:
    """The secret under which this site's pseudonyms are made; without it no old one can be made again."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise JournalError(
                f"site.key: want {KEY_BYTES} bytes, got {len(self.secret)}; restore it from a backup"
            )

    def __repr__(self) -> str:
        return f"SiteKey(id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """Names the key without telling it: 8 hex digits, sent with the device's state."""
        return self._hmac(b"site-key-id")[:8]

    def pseudonym(self, text: str) -> str:
        """24 hex digits of HMAC-SHA256 over `text`: the same text, the same pseudonym, at this site only."""
        return self._hmac(b"pseudonym\0" + text.encode())[:PSEUDONYM_DIGITS]

    def _hmac(self, message: bytes) -> str:
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()


def site_key(state_dir: Path) -> SiteKey:
    """The key of this state directory, made at first use; two processes at once get the same one. JournalError."""
    path = state_dir / "site.key"
    try:
        return SiteKey(_read_or_create(path, secrets.token_bytes(KEY_BYTES)))
    except OSError as exc:
        raise JournalError(
            f"NOT RECORDING: {path}: cannot be read ({exc.strerror}); mend its owner or its mode"
        ) from exc


def device_id(state_dir: Path, remembered: str | None) -> str:
    """The id in the directory's file; else `remembered`, the database's; else a new one. Written down."""
    name = remembered or f"dev-{secrets.token_hex(4)}"
    path = state_dir / "device_id"
    return _checked_id(path, _read_or_create(path, f"{name}\n".encode()))


def read_device_id(state_dir: Path) -> str | None:
    """The id of a state directory that somebody else made; None when there is none yet. Raises JournalError."""
    path = state_dir / "device_id"
    try:
        return _checked_id(path, path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise JournalError(f"{path}: cannot be read ({exc.strerror}); mend its owner or its mode") from exc


def _checked_id(path: Path, content: bytes) -> str:
    try:
        return check_level(content.decode(errors="replace").strip(), "device id")
    except ConfigError as exc:
        raise JournalError(f"{path}: {exc}; restore it, or remove it to begin as a new device") from exc


def _read_or_create(path: Path, content: bytes) -> bytes:
    """The content of `path`; made with `content`, whole or not at all, when it does not exist."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):  # somebody was faster: theirs counts
            os.link(part, path)
    finally:
        part.unlink()
    sync_dir(path.parent)
    return path.read_bytes()


def sync_dir(path: Path) -> None:
    """Makes names in `path` durable: a file's own fsync does not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_mark(path: Path) -> tuple[int, int]:
    """Which file is at `path` now: device and inode. OSError when there is none."""
    found = path.stat()
    return found.st_dev, found.st_ino


def free_mb(path: Path) -> int:
    """What the disk of `path` has left for this user."""
    return free_bytes(path) >> 20


def free_bytes(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


@contextlib.contextmanager
def only_uplink(state_dir: Path) -> Iterator[None]:
    """Held by the one uplink of a state directory: two would take the connection from each other. UplinkError."""
    try:
        fd = os.open(state_dir / "uplink.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # no directory yet, or none that can be written: other words are for that
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise UplinkError(
            f"state directory {state_dir}: an uplink runs here already; it delivers what waits, or stop it first"
        ) from exc
    try:
        yield
    finally:
        os.close(fd)


class DirectoryLock:
    """Shared by all who record here; alone for the moment in which a database is set aside."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def in_place(self) -> bool:
        """False once the directory was removed, renamed or emptied: another would not see this lock."""
        held = os.fstat(self._fd)
        try:
            return file_mark(self._path) == (held.st_dev, held.st_ino)
        except OSError:
            return False

    def try_alone(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._fd, fcntl.LOCK_SH)  # a failed conversion may have dropped it
            return False
        return True

    def share(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        os.close(self._fd)
