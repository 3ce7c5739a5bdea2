"""A connection to a PostgreSQL server whose word may be passed on as a receipt, or why there is none.

Tells apart a server that is not up yet, for which a service that starts with the machine waits, from one that is up and
says no. Knows nothing about tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from edge_runtime.cloud.store import StoreAwayError
from edge_runtime.errors import ConfigError, UplinkError, first_line

_OLDEST = 140000
_CONNECT_S = 10
_ASK_S = 2  # Python stands still meanwhile
_NO_LOSS = ("fsync", "full_page_writes")  # without either a power cut takes what was committed
_NO_ROOM = ("too many", "connection slots")  # SQLSTATE 53300, which libpq keeps to itself


class PostgresServer:
    """The server and database of one URL. ConfigError where the driver is missing or the URL is none."""

    def __init__(self, url: str, *, accept_unsafe: bool, on_notice: Callable[[str], None]) -> None:
        try:
            self.psycopg: Any = import_module("psycopg")
        except ImportError as exc:
            raise ConfigError(
                f"store postgresql: needs psycopg; pip install 'edge-runtime[cloud]' ({exc})"
            ) from exc
        logging.getLogger("psycopg").setLevel(logging.ERROR)  # its warnings repeat what we say of an outage
        try:
            import_module("psycopg.conninfo").conninfo_to_dict(url)
        except self.psycopg.Error as exc:  # whose text may hold the password
            raise ConfigError(
                "store postgresql: not a URL that PostgreSQL reads; want postgresql://user:password@host:port/database"
            ) from exc
        self._url, self._accept_unsafe, self._on_notice = url, accept_unsafe, on_notice
        parts = urlsplit(url)
        self.name = f"postgresql://{parts.hostname or 'localhost'}{parts.path}"  # without user and password

    def connect(self) -> Any:
        """A connection in autocommit mode that answers when the disk has it.

        StoreAwayError when the server is not up, UplinkError when it refuses us, ConfigError when it is none for us.
        """
        try:
            with ExitStack() as on_failure:
                db = self._try_twice()
                on_failure.callback(db.close)
                self._check(db)
                on_failure.pop_all()
        except self.psycopg.Error as exc:
            raise UplinkError(f"store {self.name}: {first_line(exc)}") from exc
        return db

    def _try_twice(self) -> Any:
        """The second time because a server may have come up between our try and the question whether it is up."""
        try:
            return self._try()
        except self.psycopg.OperationalError as exc:
            if isinstance(exc, self.psycopg.errors.ConnectionTimeout) or not self._is_up():
                raise StoreAwayError(f"store {self.name}: {first_line(exc)}") from exc
        try:
            return self._try()
        except self.psycopg.OperationalError as exc:
            if any(words in str(exc) for words in _NO_ROOM):
                raise StoreAwayError(f"store {self.name}: {first_line(exc)}") from exc
            raise

    def _try(self) -> Any:
        return self.psycopg.connect(
            self._url,
            connect_timeout=_CONNECT_S,
            application_name="edge-runtime receive",
            client_encoding="utf8",  # and not what the environment says
            autocommit=True,
        )

    def _is_up(self) -> bool:
        """Whether something there takes connections. A failed one does not tell its SQLSTATE; this question of libpq's
        goes by it: 57P03 (it is starting, stopping or recovering) is a no, any other is a server that is up.
        """
        made = import_module("psycopg.conninfo").make_conninfo(self._url, connect_timeout=_ASK_S)
        pq = self.psycopg.pq
        return bool(pq.PGconn.ping(made.encode()) == pq.Ping.OK)

    def _check(self, db: Any) -> None:
        if db.info.server_version < _OLDEST:
            raise ConfigError(f"store {self.name}: PostgreSQL is too old; want 14 or later")
        if (stores := db.info.parameter_status("server_encoding")) != "UTF8":
            raise ConfigError(  # else it would refuse every record with a letter that it has not
                f"store {self.name}: the database's encoding is {stores}; want UTF8"
            )
        # each statement sees what the one before it waited for
        db.isolation_level = self.psycopg.IsolationLevel.READ_COMMITTED
        # a server tuned for speed answers before the disk has it, and a receipt would be a lie
        if _setting(db, "synchronous_commit") == "off":
            db.execute("SET synchronous_commit = on")
        off = [name for name in _NO_LOSS if _setting(db, name) == "off"]
        if not off:
            return
        what = f"store {self.name}: the server runs with {' and '.join(f'{name} = off' for name in off)}"
        if not self._accept_unsafe:
            raise ConfigError(
                f"{what}: a receipt would promise what a power cut takes away; turn it on, or --accept-unsafe-store"
            )
        self._on_notice(f"{what}: a power cut may take away what devices were told is stored")


def _setting(db: Any, name: str) -> str:
    return str(db.execute("SELECT current_setting(%s)", (name,)).fetchone()[0])
