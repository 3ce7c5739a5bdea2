"""How a findings database is opened, and its tables.

`open_db` is the only way to a connection: each of its settings counts per connection, and one that forgot a setting
has written past a "full" database or lost a commit.

Knows nothing about findings; the journal writes rows and the outbox reads them.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime import clock
from edge_runtime.errors import JournalError

PAGE_BYTES = 8192  # a finding is 2.4 kB: pages of 4096 hold one each and waste the rest
BUSY_MS = 5000  # with no patience, 941 of 1500 inserts failed beside a draining uplink
DEFAULT_QUOTA_BYTES = 512 * 2**20  # about 200,000 findings
MIN_QUOTA_BYTES = 512 * 2**10

SCHEMA_VERSION = 3
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # AUTOINCREMENT: without it SQLite gives a number again once the table's last rows are gone
    """CREATE TABLE IF NOT EXISTS journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        exam_id TEXT NOT NULL,
        created_at TEXT NOT NULL,
        body BLOB NOT NULL
    )""",
    # bodies of what may give way, apart: among findings their removal would leave half-empty pages and no room
    "CREATE TABLE IF NOT EXISTS low (seq INTEGER PRIMARY KEY REFERENCES journal (seq), body BLOB NOT NULL)",
    # a row here is not delivered; the reference keeps retention from ever removing its record
    """CREATE TABLE IF NOT EXISTS outbox (
        seq INTEGER PRIMARY KEY REFERENCES journal (seq),
        lane INTEGER NOT NULL DEFAULT 1
    )""",
    "CREATE INDEX IF NOT EXISTS outbox_lane ON outbox (lane, seq)",
    # held: not the cloud's word but this broker's, so it is tried again at the next start
    """CREATE TABLE IF NOT EXISTS dead (
        seq INTEGER PRIMARY KEY REFERENCES journal (seq),
        reason TEXT NOT NULL,
        held INTEGER NOT NULL DEFAULT 0
    )""",
    # numbers removed before they were delivered; told: a record of kind `gap` names them
    """CREATE TABLE IF NOT EXISTS lost (
        first INTEGER PRIMARY KEY,
        last INTEGER NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT NOT NULL,
        told INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX IF NOT EXISTS lost_untold ON lost (first) WHERE NOT told",
)
# From version 1, which knew findings and events alone. A constraint that is taken away leaves the content as it was, so
# the schema's own text may be changed (sqlite.org/lang_altertable.html): no copy, which a full quota would not hold.
FROM_1 = (
    "PRAGMA writable_schema = ON",
    """UPDATE sqlite_master SET sql = replace(sql, " CHECK (kind IN ('finding', 'event'))", "")
        WHERE type = 'table' AND name = 'journal'""",
    "PRAGMA writable_schema = RESET",
    "ALTER TABLE outbox ADD COLUMN lane INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE dead ADD COLUMN held INTEGER NOT NULL DEFAULT 0",
)
# From version 2, which forgot what a gap record had told: the records that are still here say it.
FROM_2 = (
    "ALTER TABLE lost ADD COLUMN told INTEGER NOT NULL DEFAULT 0",
    """INSERT OR IGNORE INTO lost
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(gap, '$.lost'),
            json_extract(gap, '$.reason'), 1
        FROM (SELECT CAST(body AS TEXT) AS gap FROM journal WHERE kind = 'gap'), json_each(gap, '$.ranges')""",
)
_UPDATES = {1: FROM_1, 2: FROM_2}  # before SCHEMA, which makes what is missing
RECORD = "seq, kind, id, exam_id, created_at, coalesce(low.body, journal.body)"
RECORDS = "journal LEFT JOIN low USING (seq)"
LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal'"
ADD_JOURNAL = "INSERT INTO journal (seq, kind, id, exam_id, created_at, body) VALUES (?, ?, ?, ?, ?, ?)"
ADD_LOW = "INSERT INTO low (seq, body) VALUES (?, ?)"
ADD_OUTBOX = "INSERT INTO outbox (seq, lane) VALUES (?, ?)"


def wal_limit_bytes(quota_bytes: int) -> int:
    """The part of the quota that the write-ahead log may take."""
    return min(16 * 2**20, quota_bytes // 4)


def pragmas(quota_bytes: int | None) -> tuple[str, ...]:
    """The settings of every connection, in order; the power-cut test applies these same ones."""
    quota = quota_bytes or DEFAULT_QUOTA_BYTES
    wal = wal_limit_bytes(quota)
    settings = [
        f"busy_timeout = {BUSY_MS}",
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = FULL",  # NORMAL lost committed rows in 163 of 200 simulated power cuts, FULL in none
        "foreign_keys = ON",
        "secure_delete = ON",
        f"wal_autocheckpoint = {max(8, wal // 4 // PAGE_BYTES)}",
        f"journal_size_limit = {wal}",
    ]
    if quota_bytes is not None:
        settings.append(f"max_page_count = {(quota_bytes - wal) // PAGE_BYTES}")
    return tuple(f"PRAGMA {setting}" for setting in settings)


def open_db(path: Path, *, quota_bytes: int | None = None, create: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode with every setting made; the caller closes it.

    It may be used by one thread at a time. Without `quota_bytes` the one written in the database holds. Raises
    sqlite3.Error as it comes: `journal_error` says what it means.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    try:
        if quota_bytes is None and _has_tables(db):
            row = db.execute("SELECT value FROM meta WHERE key = 'quota_bytes'").fetchone()
            quota_bytes = _number(row[0], "quota_bytes") if row else None
        for pragma in pragmas(quota_bytes):
            _patiently(db, pragma)
    except BaseException:
        db.close()
        raise
    return db


def open_unwritable(path: Path) -> sqlite3.Connection:
    """A connection for reading where nothing can be written, not even SQLite's own files beside the database.

    Raises sqlite3.OperationalError when there is a write-ahead log: SQLite would not look into it, and miss its rows.
    """
    path = Path(os.path.realpath(path))  # the log is beside the file that a link leads to
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise sqlite3.OperationalError(
            f"read-only, and {log.name} is not empty: copy the directory elsewhere"
        )
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _has_tables(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


def _patiently(db: sqlite3.Connection, statement: str) -> None:
    """The switch to WAL asks no busy handler when two processes make the same database at once."""
    for _ in range(50):
        try:
            db.execute(statement).fetchall()
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc):
                raise
            clock.sleep_s(0.1)
        else:
            return
    db.execute(statement).fetchall()


def create_tables(db: sqlite3.Connection, meta: dict[str, str], now: dict[str, str]) -> None:
    """Makes what is missing, once, with `meta` as a new database's facts; those of `now` are written in any case."""
    with transaction(db):
        _bring_up_to_date(db)
        for statement in SCHEMA:
            db.execute(statement)
        db.executemany(
            "INSERT OR IGNORE INTO meta VALUES (?, ?)", {**meta, "schema": str(SCHEMA_VERSION)}.items()
        )
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", now.items())


def update_tables(db: sqlite3.Connection) -> None:
    """Brings a database of an older version up to date, for those who open what the journal made."""
    if _version(db) < SCHEMA_VERSION:
        with transaction(db):
            _bring_up_to_date(db)


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    if not _has_tables(db) or _version(db) >= SCHEMA_VERSION:
        return
    quota = db.execute("PRAGMA max_page_count").fetchone()[0]
    db.execute("PRAGMA max_page_count = 2147483647")  # a full quota must not keep a device from its update
    for statement in (*_UPDATES.get(_version(db), ()), *SCHEMA):
        db.execute(statement)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(SCHEMA_VERSION),))
    db.execute(f"PRAGMA max_page_count = {quota}")


def _version(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    return _number(row[0], "schema") if row else SCHEMA_VERSION


def read_meta(db: sqlite3.Connection, path: Path) -> dict[str, str]:
    """The facts of a database; JournalError when a newer version made it, DatabaseError when they are damaged."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    if _number(meta.get("schema", str(SCHEMA_VERSION)), "schema") > SCHEMA_VERSION:
        raise JournalError(
            f"{path}: made by a newer version (schema {meta['schema']}, known {SCHEMA_VERSION}); update"
        )
    return meta


def _number(text: str, key: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", str(text)):
        raise sqlite3.DatabaseError(f"malformed: {key} in meta is {text!r}")
    return int(text)


def check(db: sqlite3.Connection) -> None:
    """Reads all of a database, 0.1 s for 100 MB from memory; raises DatabaseError when it is damaged.

    Not asked of a larger one that nothing can have damaged: else it shows when it is used, and the journal sets it aside.
    """
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"quick_check: {verdict}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE ... COMMIT; none of it when the block or the COMMIT raises."""
    with committed(db):
        db.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def committed(db: sqlite3.Connection) -> Iterator[None]:
    """The end of a transaction that was begun before; none of it when the block or the COMMIT raises."""
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise


def roll_back(db: sqlite3.Connection) -> None:
    """Ends a transaction without its changes, if one is open."""
    if db.in_transaction:
        db.execute("ROLLBACK")


def is_corrupt(exc: sqlite3.Error) -> bool:
    """SQLite's own words, which Python 3.10 gives no code for."""
    return any(word in str(exc) for word in ("malformed", "not a database", "quick_check"))


def is_full(exc: sqlite3.Error | OSError) -> bool:
    """The quota or the disk; on a full disk SQLite's shared-memory file fails with an I/O error."""
    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(word in str(exc) for word in ("is full", "disk I/O error"))


def journal_error(state_dir: Path, exc: sqlite3.Error) -> JournalError:
    """What `exc` means to a person."""
    text = str(exc)
    if "readonly" in text or "unable to open" in text:
        why = f"cannot be written ({text}); mend that or choose another with --state"
    elif is_full(exc):
        why = f"no room ({text}); free some space"
    elif "locked" in text:
        why = f"another process has held the database for {BUSY_MS // 1000} s; end it"
    elif is_corrupt(exc):
        why = f"the database is damaged ({text}); start again to have it set aside"
    else:
        why = text
    return JournalError(f"NOT RECORDING: state directory {state_dir}: {why}")
