"""The database at a journal's path, whichever file that is now: opened, checked, set aside, followed.

Somebody may remove, replace or damage it under way. Knows nothing about records.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from edge_runtime import clock
from edge_runtime.errors import JournalError
from edge_runtime.sync import database
from edge_runtime.sync.journal_files import JournalFiles
from edge_runtime.sync.room import Room
from edge_runtime.sync.state import DirectoryLock, device_id, unwritable

CHECK_ALWAYS_BYTES = 128 * 2**20
GOOD_IN_BOOT = "good_in_boot"  # in the table meta


class JournalDatabase:
    """Open from its making to `close`; `db` is its connection at the moment. `on_notice` gets what a person should know."""

    db: sqlite3.Connection
    meta: dict[str, str]

    def __init__(self, state_dir: Path, room: Room, on_notice: Callable[[str], None]) -> None:
        """Raises JournalError; OSError when the directory cannot be locked."""
        self._state_dir, self._room, self._notice = state_dir, room, on_notice
        self.files = JournalFiles(state_dir)
        self.set_aside: Path | None = None  # where a database that could not be read is now
        self.damage: sqlite3.Error | None = None  # found while writing: `follow_path` begins a new database
        self._lock = DirectoryLock(state_dir)
        try:
            self.db = self._open_making_room()
            self.files.mark()
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        self.db.close()
        self._lock.close()

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def epoch(self) -> str:
        return self.meta["epoch"]

    def last_seq(self) -> int:
        """The last number that was given; 0 for none yet."""
        last: int = self.db.execute(database.LAST_SEQ).fetchone()[0]
        return last

    def still_there(self) -> None:
        """JournalError where what was written just now went into a file that is no longer at the path."""
        if (what := self.files.what_happened()) is not None:
            raise JournalError(f"NOT RECORDING: {self.path}: {what} while it was written; record again")
        self.files.mark()

    # ------------------------------------------------------------ following the path

    def follow_path(self, last_seq: int) -> bool:
        """Opens the file that is at the path now: SQLite would go on writing where nobody can read. Whether it is another.

        `last_seq` is the last number that was told: an older copy of this database would give it again.
        """
        if self.damage is not None:
            self.open_anew(self.damage, last_seq)
        elif (what := self.files.what_happened()) is not None:
            before = self.epoch
            self.open_anew(None, last_seq)
            how = "it was read again" if self.epoch == before else f"epoch {self.epoch} begins"
            self._notice(f"{self.path}: {what} by someone; {how}")
        else:
            return False
        return True

    def open_anew(self, damage: sqlite3.Error | None, last_seq: int) -> None:
        """Closes the file and opens the one at the path, or with `damage` a new one in its place.

        When that fails nothing is open, and the next `follow_path` tries.
        """
        if not self._lock.in_place():
            raise JournalError(
                f"NOT RECORDING: state directory {self._state_dir}: removed, renamed or emptied under way; start again"
            )
        self.db.close()
        was, before = self.files.forget(), self.epoch
        try:
            if damage is None:
                self.files.park_log(was)
                self.db = self._open_or_set_aside(doubt=True)
                if self.epoch == before and self.last_seq() < last_seq:
                    damage = sqlite3.DatabaseError("an older copy, whose numbers were given already")
                    self.db.close()
            if damage is not None:
                self.db = self._set_aside(damage)
        except sqlite3.Error as exc:
            raise self._cannot_open(exc) from exc
        self.damage = None
        self.files.mark()

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
            unwritable(self._state_dir, exc)
            if isinstance(exc, OSError)
            else database.journal_error(self._state_dir, exc)
        )

    def _open_or_set_aside(self, *, doubt: bool = False) -> sqlite3.Connection:
        try:
            return self._open_checked(doubt=doubt)
        except sqlite3.DatabaseError as exc:
            if not database.is_corrupt(exc):
                raise
            return self._set_aside(exc)

    def _open_checked(self, *, doubt: bool = False) -> sqlite3.Connection:
        unclean = self.files.log.exists()  # before opening: that makes one
        if (told := self.files.make_private()) is not None:
            self._notice(told)
        db = database.open_db(self.path, quota_bytes=self._room.quota_bytes, create=True)
        try:
            self.meta = self._checked_facts(db, doubt, unclean)
            self._room.prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _checked_facts(self, db: sqlite3.Connection, doubt: bool, unclean: bool) -> dict[str, str]:
        """The facts of a database that was found good. With `doubt`, all of it is read, whatever its size.

        Else a large one is read where it was not closed well and this boot has not seen it whole: a kill damages
        nothing, only the machine's end does. A log alone tells of neither: an uplink beside us has it open.
        """
        known = db.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
        facts = database.read_meta(db, self.path) if known else {}
        boot = clock.boot_id()
        doubt = doubt or (unclean and facts.get(GOOD_IN_BOOT) != boot)
        if doubt or self.path.stat().st_size <= CHECK_ALWAYS_BYTES:
            database.check(db)
        name = device_id(self._state_dir, facts.get("device_id"))
        database.create_tables(
            db,
            {"device_id": name, "epoch": secrets.token_hex(6)},
            {"quota_bytes": str(self._room.quota_bytes), GOOD_IN_BOOT: boot},
        )
        return {**database.read_meta(db, self.path), "device_id": name}

    def _set_aside(self, cause: sqlite3.Error) -> sqlite3.Connection:
        """Renames the damaged database and begins a new one. Nothing is overwritten or deleted."""
        if not self._lock.try_alone():
            raise JournalError(
                f"NOT RECORDING: {self.path}: damaged ({cause}), and open in another process; end that one first"
            ) from cause
        try:
            self.set_aside = aside = self.files.set_aside()
            self._notice(f"{self.path}: damaged ({cause}); set aside as {aside.name}, a new epoch begins")
            return self._open_checked()
        finally:
            self._lock.share()
