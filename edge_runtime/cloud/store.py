"""Where the cloud keeps what it received: SQLite or PostgreSQL behind one small Protocol.

`put` is idempotent by finding id and returns only after a durable commit: the receipt that follows it makes devices
let go of their rows. Knows nothing about MQTT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.records import RecordKind
from edge_runtime.sync.database import open_db
from edge_runtime.sync.state import file_mark

_TABLES = (
    """CREATE TABLE IF NOT EXISTS findings (
        device_id TEXT NOT NULL, finding_id TEXT PRIMARY KEY, seq BIGINT NOT NULL, epoch TEXT NOT NULL,
        exam_id TEXT NOT NULL, created_at TEXT NOT NULL, received_at TEXT NOT NULL, body TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS events (
        device_id TEXT NOT NULL, event_id TEXT PRIMARY KEY, seq BIGINT NOT NULL, epoch TEXT NOT NULL,
        exam_id TEXT NOT NULL, created_at TEXT NOT NULL, received_at TEXT NOT NULL, body TEXT NOT NULL
    )""",
    # what could not be read, as it came: somebody must look at it, and it must not come again and again
    """CREATE TABLE IF NOT EXISTS quarantine (
        digest TEXT PRIMARY KEY, topic TEXT NOT NULL, reason TEXT NOT NULL, received_at TEXT NOT NULL,
        payload {blob} NOT NULL
    )""",
)
_QUARANTINE = ("digest", "topic", "reason", "received_at", "payload")


def _columns(name: str) -> tuple[str, ...]:
    """The columns of `findings` and `events`, whose id is called `name`, in the order of `StoreRow.values`."""
    return "device_id", name, "seq", "epoch", "exam_id", "created_at", "received_at", "body"


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One finding or event as it is stored."""

    kind: RecordKind
    device_id: str
    id: str
    seq: int
    epoch: str
    exam_id: str
    created_at: str  # the device's clock
    received_at: str  # ours
    body: str  # JSON, character for character as it was sent

    def values(self) -> tuple[object, ...]:
        return (
            *(self.device_id, self.id, self.seq, self.epoch),
            *(self.exam_id, self.created_at, self.received_at, self.body),
        )


@dataclass(frozen=True, slots=True)
class Poison:
    """A message that cannot be stored as what it says it is."""

    digest: str  # SHA-256 of topic and payload: the same one twice is one row
    topic: str
    reason: str
    received_at: str
    payload: bytes

    def values(self) -> tuple[object, ...]:
        return self.digest, self.topic, self.reason, self.received_at, self.payload


@dataclass(frozen=True, slots=True)
class PutResult:
    """How many rows were new; the others had been stored before."""

    findings: int
    events: int


class RowRefusedError(UplinkError):
    """The database takes the connection but not one of the rows: put them one by one to find it."""


class Store(Protocol):
    """One open database, used by one thread. An outage raises UplinkError and the next call tries anew."""

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        """Stores all of it in one transaction or none of it; returns when it is durable."""
        ...

    def close(self) -> None: ...


def open_store(url: str) -> Store:
    """The store at `sqlite:///relative`, `sqlite:////absolute` or `postgresql://...`, its tables made if need be.

    Raises ConfigError for a URL or a missing driver, UplinkError when the database cannot be reached.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as exc:  # whose text may hold the password
        raise ConfigError("store: not a URL; want sqlite:///file or postgresql://user@host/database") from exc
    if scheme == "sqlite":
        name = url.removeprefix("sqlite:///")
        if name == url or not name:
            raise ConfigError(f"store {url}: want sqlite:///file.db (relative) or sqlite:////path/file.db")
        if not Path(name).parent.is_dir():
            raise ConfigError(f"store {url}: no folder {Path(name).parent}; make it, or name another")
        return SqliteStore(Path(name))
    if scheme in ("postgresql", "postgres"):
        return PostgresStore(url)
    raise ConfigError(f"store {scheme or url}: want sqlite:///file or postgresql://user@host/database")


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
                for table in _TABLES:
                    db.execute(table.format(blob="BLOB"))
                self._mark = file_mark(self._path)
                on_failure.pop_all()
        except (sqlite3.Error, OSError) as exc:
            raise UplinkError(f"store {self._path}: cannot be opened ({exc})") from exc
        return db

    def _in_place(self) -> bool:
        try:
            return file_mark(self._path) == self._mark
        except OSError:
            return False

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        self._db = db = self._db or self._open()
        if not self._in_place():  # a receipt for a row in a file without a name would be a lie
            raise UplinkError(f"store {self._path}: removed or replaced while open; start `receive` again")
        try:
            db.execute("BEGIN IMMEDIATE")
            result = PutResult(*_put(db, rows, poison, "?"))
            db.execute("COMMIT")
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError) as exc:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise RowRefusedError(f"store {self._path}: row refused ({exc})") from exc
        except sqlite3.Error as exc:  # not the row's fault: damage, a full disk, a lock
            self.close()
            raise UplinkError(f"store {self._path}: cannot be written ({exc})") from exc
        return result

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class PostgresStore:
    """A PostgreSQL database through psycopg 3. A connection that is lost is made anew by the next `put`."""

    def __init__(self, url: str) -> None:
        try:
            self._psycopg: Any = import_module("psycopg")
        except ImportError as exc:
            raise ConfigError(
                f"store postgresql: needs psycopg; pip install 'edge-runtime[cloud]' ({exc})"
            ) from exc
        try:
            import_module("psycopg.conninfo").conninfo_to_dict(url)
        except self._psycopg.Error as exc:  # whose text may hold the password
            raise ConfigError(
                "store postgresql: not a URL that PostgreSQL reads; want postgresql://user:password@host:port/database"
            ) from exc
        self._url = url
        self._db: Any = None
        self._connect()

    def _connect(self) -> None:
        try:
            self._db = self._psycopg.connect(
                self._url, connect_timeout=10, application_name="edge-runtime receive"
            )
            # a server tuned for speed answers before the disk has it, and a receipt would be a lie
            if self._db.execute("SHOW synchronous_commit").fetchone()[0] == "off":
                self._db.execute("SET synchronous_commit = on")
            self._db.execute("SELECT pg_advisory_xact_lock(7230155)")  # IF NOT EXISTS races between receivers
            for table in _TABLES:
                self._db.execute(table.format(blob="BYTEA"))
            self._db.commit()
        except self._psycopg.Error as exc:
            raise UplinkError(f"store {self._where()}: {_first_line(exc)}") from exc

    def _where(self) -> str:
        parts = urlsplit(self._url)
        return f"postgresql://{parts.hostname or 'localhost'}{parts.path}"  # without user and password

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        if self._db is None or self._db.closed:
            self._connect()
        try:
            with self._db.transaction(), self._db.cursor() as cursor:
                result = PutResult(*_put(cursor, rows, poison, "%s"))
            self._db.commit()
        except (
            *(self._psycopg.DataError, self._psycopg.IntegrityError),
            *(OverflowError, UnicodeError),
        ) as exc:  # `transaction` has rolled back
            raise RowRefusedError(f"store {self._where()}: row refused ({_first_line(exc)})") from exc
        except self._psycopg.Error as exc:
            self._db.close()
            raise UplinkError(f"store {self._where()}: {_first_line(exc)}") from exc
        return result

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


def _put(cursor: Any, rows: Sequence[StoreRow], poison: Sequence[Poison], mark: str) -> tuple[int, int]:
    """Runs the three inserts with this driver's placeholder; how many findings and events were new."""
    findings = [row.values() for row in rows if row.kind == "finding"]
    events = [row.values() for row in rows if row.kind == "event"]
    _insert(cursor, "quarantine", _QUARANTINE, [one.values() for one in poison], mark)
    return (
        _insert(cursor, "findings", _columns("finding_id"), findings, mark),
        _insert(cursor, "events", _columns("event_id"), events, mark),
    )


def _insert(
    cursor: Any, table: str, columns: tuple[str, ...], values: list[tuple[object, ...]], mark: str
) -> int:
    if not values:
        return 0
    marks = ", ".join([mark] * len(columns))
    sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    done = cursor.executemany(sql, values)
    return int((done or cursor).rowcount)  # sqlite3 answers with a new cursor, psycopg counts in this one


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
