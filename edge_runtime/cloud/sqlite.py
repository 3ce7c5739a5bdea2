"""The cloud's tables in one SQLite file: enough for a clinic, and for several receivers on one machine.

Knows nothing about MQTT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from edge_runtime.clock import utc_now
from edge_runtime.cloud.rows import (
    QUARANTINE,
    RECORDS,
    TABLES,
    Heard,
    Owner,
    Poison,
    PutResult,
    StoreRow,
    heard,
    table_of,
    taken,
)
from edge_runtime.cloud.schema import APPLIED, VERSIONS, outstanding
from edge_runtime.cloud.store import Missing, RowRefusedError
from edge_runtime.cloud.streams import Known, leaps, settle, within_holes
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.sync.database import open_db, transaction
from edge_runtime.sync.state import file_mark

# The holes that a range touches: at most one begins before it.
_TOUCHED = """
SELECT first, last FROM holes
WHERE device_id = ? AND epoch = ? AND first >= coalesce(
    (SELECT max(first) FROM holes WHERE device_id = ? AND epoch = ? AND first <= ?), 0
) AND last >= ? AND first <= ?
"""
_AHEAD = "SELECT seq FROM refused_ahead WHERE device_id = ? AND epoch = ? AND seq <= ?"
_WRITE = "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?)"
_CLOSE = "DELETE FROM holes WHERE device_id = ? AND epoch = ? AND first = ?"
_OPEN = "INSERT INTO holes VALUES (?, ?, ?, ?)"
_REACHED = "DELETE FROM refused_ahead WHERE device_id = ? AND epoch = ? AND seq = ?"
_REFUSED = "INSERT OR IGNORE INTO refused_ahead VALUES (?, ?, ?)"


class SqliteStore:
    """A file, in write-ahead mode with a full sync per commit. After an outage the next `put` opens it anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            with ExitStack() as on_failure:
                db = open_db(self._path, create=True)
                on_failure.callback(db.close)
                if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
                    raise ConfigError(
                        f"store {self._path}: a device's journal; want a database of the cloud's own"
                    )
                self._migrate(db)
                self._mark = file_mark(self._path)
                on_failure.pop_all()
        except (sqlite3.Error, OSError) as exc:
            raise UplinkError(f"store {self._path}: cannot be opened ({exc})") from exc
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        db.execute(VERSIONS)
        while todo := outstanding("sqlite", db.execute(APPLIED).fetchone()[0], str(self._path)):
            with transaction(db):
                if db.execute(APPLIED).fetchone()[0] >= todo[0].version:
                    continue  # another receiver was faster
                for statement in todo[0].statements:
                    db.execute(statement)
                noted = (todo[0].version, todo[0].name, utc_now())
                db.execute("INSERT INTO schema_version VALUES (?, ?, ?)", noted)

    def _in_place(self) -> bool:
        try:
            return file_mark(self._path) == self._mark
        except OSError:
            return False

    def _opened(self) -> sqlite3.Connection:
        self._db = self._db or self._open()
        if not self._in_place():  # a receipt for a row in a file without a name would be a lie
            raise UplinkError(f"store {self._path}: removed or replaced while open; start `receive` again")
        return self._db

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        db = self._opened()
        try:
            with transaction(db):
                return _put(db, rows, poison)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError) as exc:
            raise RowRefusedError(f"store {self._path}: row refused ({exc})") from exc
        except sqlite3.Error as exc:  # not the row's fault: damage, a full disk, a lock
            self.close()
            raise UplinkError(f"store {self._path}: cannot be written ({exc})") from exc

    def missing(self) -> Missing:
        try:
            # `total`: a sum that no integer of SQLite's holds would be an error
            counted = "SELECT count(*), total(missing) FROM streams WHERE missing > 0"
            streams, numbers = self._opened().execute(counted).fetchone()
            return Missing(streams, int(numbers))
        except sqlite3.Error as exc:
            self.close()
            raise UplinkError(f"store {self._path}: cannot be read ({exc})") from exc

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _put(db: sqlite3.Connection, rows: Sequence[StoreRow], poison: Sequence[Poison]) -> PutResult:
    new = {kind: _insert(db, *table, rows, kind) for kind, table in TABLES.items()}
    records = [(row.device_id, row.id, row.kind, *row[3:9]) for row in rows if row.kind not in TABLES]
    names = ("device_id", "record_id", "kind", "seq", "epoch", "exam_id", "created_at", "received_at", "body")
    added = _many(db, *RECORDS, names, records)
    _many(db, "quarantine", QUARANTINE[0], QUARANTINE, [one.values() for one in poison])
    for stream in heard(rows, poison):
        _unite(db, stream)
    result = PutResult(new["finding"], new["event"], added)
    return result if result.new == len(rows) else replace(result, taken=taken(rows, _owners(db, rows)))


def _owners(db: sqlite3.Connection, rows: Sequence[StoreRow]) -> dict[tuple[str, str], Owner]:
    found = {}
    for row in rows:
        table, name = table_of(row)
        sql = f"SELECT device_id, epoch, seq FROM {table} WHERE {name} = ?"
        found[table, row.id] = db.execute(sql, (row.id,)).fetchone()
    return found


def _insert(db: sqlite3.Connection, table: str, id_name: str, rows: Sequence[StoreRow], kind: str) -> int:
    names = ("device_id", id_name, "seq", "epoch", "exam_id", "created_at", "received_at", "body")
    return _many(db, table, id_name, names, [row[1:9] for row in rows if row.kind == kind])


def _many(
    db: sqlite3.Connection, table: str, key: str, names: tuple[str, ...], values: Sequence[tuple[object, ...]]
) -> int:
    if not values:
        return 0
    marks = ", ".join("?" * len(names))
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT ({key}) DO NOTHING"
    return db.executemany(sql, values).rowcount


def _unite(db: sqlite3.Connection, came: Heard) -> None:
    key = (came.device_id, came.epoch)
    row = db.execute("SELECT highest, missing FROM streams WHERE device_id = ? AND epoch = ?", key).fetchone()
    known = Known(*(row or (0, 0)))
    touched = [(*key, *key, part[0], *part) for part in within_holes(known, came)]
    known.holes = sorted({hole for each in touched for hole in db.execute(_TOUCHED, each)})
    if leaps(known, came):
        known.ahead = [seq for (seq,) in db.execute(_AHEAD, (*key, came.highest))]
    now = settle(known, came)
    db.execute(_WRITE, (*key, now.highest, utc_now(), now.missing))
    for sql, rows in (
        (_CLOSE, _of(key, now.closed)),
        (_OPEN, [(*key, *hole) for hole in now.opened]),
        (_REACHED, _of(key, now.reached)),
        (_REFUSED, _of(key, now.ahead)),
    ):
        if rows:
            db.executemany(sql, rows)


def _of(key: tuple[str, str], numbers: Iterable[int]) -> list[tuple[str, str, int]]:
    return [(*key, number) for number in numbers]
