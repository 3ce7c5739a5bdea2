"""The cloud's tables in PostgreSQL 14 or later, through psycopg 3.

However large a batch is, it is few statements: an insert for each table that it has rows for, with one array for each
column, which was the fastest of six ways (docs/fleet.md); then three for its streams (`postgres_streams`), up to nine
where numbers came late, were left out or refused. They are sent without waiting for the answers, but for the lock on
the streams and what is then read under it. Rows go in the order of their keys, so that receivers with the same rows in
hand wait for one another and never in a circle. Knows nothing about MQTT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edge_runtime.clock import utc_now
from edge_runtime.cloud.postgres_server import PostgresServer
from edge_runtime.cloud.postgres_streams import columns, write_streams
from edge_runtime.cloud.rows import Owner, Poison, PutResult, StoreRow, heard, table_of, taken
from edge_runtime.cloud.schema import APPLIED, VERSIONS, outstanding
from edge_runtime.cloud.store import Missing, RowRefusedError
from edge_runtime.errors import ConfigError, UplinkError, first_line

_LOCK = "SELECT pg_advisory_xact_lock(7230155)"  # receivers that start together make the tables one by one
_NOT_A_VALUE = (OverflowError, UnicodeError)  # Python's own, for what no column of that type can hold


def _insert(table: str, key: str, **columns: str) -> str:
    """An insert whose parameters are one array for each column: `%b` is binary, a fifth of the time of text.

    The key is named: what is refused for any other reason must not pass for a row that is there already.
    """
    arrays = ", ".join(f"%b::{kind}[]" for kind in columns.values())
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) ON CONFLICT ({key}) DO NOTHING"


_ROW = {"seq": "bigint", **dict.fromkeys(("epoch", "exam_id", "created_at", "received_at", "body"), "text")}
_FINDINGS = _insert("findings", "finding_id", device_id="text", finding_id="text", **_ROW)
_EVENTS = _insert("events", "event_id", device_id="text", event_id="text", **_ROW)
_RECORDS = _insert("records", "record_id", kind="text", device_id="text", record_id="text", **_ROW)
_QUARANTINE = _insert(
    "quarantine", "digest", digest="text", topic="text", reason="text", received_at="text", payload="bytea"
)
_MISSING = "SELECT count(*), coalesce(sum(missing), 0) FROM streams WHERE missing > 0"


class PostgresStore:
    """A PostgreSQL database. A connection that is lost is made anew by the next call."""

    def __init__(
        self,
        url: str,
        *,
        accept_unsafe: bool = False,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._server = PostgresServer(url, accept_unsafe=accept_unsafe, on_notice=on_notice)
        self._psycopg = self._server.psycopg
        self._db: Any = None
        self._connect()

    def _connect(self) -> None:
        self._db = self._server.connect()
        try:
            self._migrate()
        except self._psycopg.Error as exc:
            self._db.close()
            raise self._trouble(exc) from exc
        except ConfigError:
            self._db.close()
            raise

    def _migrate(self) -> None:
        """Makes what is missing. A database that is up to date needs no right to make tables."""
        with self._db.transaction():
            made = self._db.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchone()[0]
            if made and not outstanding("postgresql", self._applied(), self._server.name):
                return
            self._db.execute(_LOCK)
            self._db.execute(VERSIONS)
            for migration in outstanding("postgresql", self._applied(), self._server.name):
                for statement in migration.statements:
                    self._db.execute(statement)
                noted = (migration.version, migration.name, utc_now())
                self._db.execute("INSERT INTO schema_version VALUES (%s, %s, %s)", noted)

    def _applied(self) -> int:
        return int(self._db.execute(APPLIED).fetchone()[0])

    def _trouble(self, exc: BaseException) -> UplinkError:
        return UplinkError(f"store {self._server.name}: {first_line(exc)}")

    def _opened(self) -> Any:
        if self._db is None or self._db.closed:
            self._connect()
        return self._db

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        db = self._opened()
        try:
            with db.pipeline(), db.transaction():
                findings = self._many(_FINDINGS, [row[1:9] for row in rows if row.kind == "finding"])
                events = self._many(_EVENTS, [row[1:9] for row in rows if row.kind == "event"])
                others = [row[:9] for row in rows if row.kind not in ("finding", "event")]
                records = self._many(_RECORDS, others, key=2)
                self._many(_QUARANTINE, [one.values() for one in poison], key=0)
                write_streams(db, heard(rows, poison))
        except (self._psycopg.DataError, self._psycopg.IntegrityError, *_NOT_A_VALUE) as exc:
            # `transaction` has rolled back
            raise RowRefusedError(f"store {self._server.name}: row refused ({first_line(exc)})") from exc
        except self._psycopg.Error as exc:
            db.close()
            raise self._trouble(exc) from exc
        counts = [cursor.rowcount if cursor else 0 for cursor in (findings, events, records)]
        result = PutResult(counts[0], counts[1], counts[2])
        return result if result.new == len(rows) else replace(result, taken=taken(rows, self._owners(rows)))

    def _owners(self, rows: Sequence[StoreRow]) -> dict[tuple[str, str], Owner]:
        """Whose ids these are, asked for where some were not new."""
        ids: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            ids.setdefault(table_of(row), []).append(row.id)
        found = {}
        try:
            for (table, name), wanted in ids.items():
                sql = f"SELECT {name}, device_id, epoch, seq FROM {table} WHERE {name} = ANY(%b::text[])"
                found.update({(table, one): tuple(its) for one, *its in self._db.execute(sql, (wanted,))})
        except self._psycopg.Error as exc:
            self._db.close()
            raise self._trouble(exc) from exc
        return found

    def _many(self, sql: str, values: list[tuple[Any, ...]], key: int = 1) -> Any:
        """Sends one insert of all `values`, in the order of their key; its cursor knows later how many were new."""
        if not values:
            return None
        values.sort(key=lambda one: one[key])
        return self._db.execute(sql, columns(values))

    def missing(self) -> Missing:
        db = self._opened()
        try:
            streams, numbers = db.execute(_MISSING).fetchone()
            return Missing(streams, int(numbers))  # a Decimal: two streams may miss more than a bigint holds
        except self._psycopg.Error as exc:
            db.close()
            raise self._trouble(exc) from exc

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
