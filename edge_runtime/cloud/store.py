"""Where the cloud keeps what it received: one small Protocol, with a database behind it.

`put` is idempotent by a record's id and returns only after a durable commit: the receipt that follows it makes
devices let go of their rows. Knows nothing about MQTT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from edge_runtime.cloud.rows import Poison, PutResult, StoreRow
from edge_runtime.errors import ConfigError, UplinkError


class Missing(NamedTuple):
    """How many streams have holes, and how many numbers are in them: late, or lost."""

    streams: int
    numbers: int


class RowRefusedError(UplinkError):
    """The database takes the connection but not one of the rows: put fewer at a time to find it."""


class StoreAwayError(UplinkError):
    """Nothing answers where the database should be, or it is still starting: it may be there in a moment."""


class Store(Protocol):
    """One open database, used by one thread. An outage raises UplinkError and the next call tries anew."""

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        """Stores all of it in one transaction or none of it; returns when it is durable."""
        ...

    def missing(self) -> Missing:
        """What the view `missing` holds, counted; also the proof that the database answers."""
        ...

    def close(self) -> None: ...


def open_store(
    url: str, *, accept_unsafe: bool = False, on_notice: Callable[[str], None] = lambda line: None
) -> Store:
    """The store at `sqlite:///relative`, `sqlite:////absolute` or `postgresql://...`, its tables made if need be.

    Raises ConfigError for a URL, a missing driver, or a server that a power cut would take committed rows from
    (`accept_unsafe`: told by a notice instead); StoreAwayError when it is not up, UplinkError when it refuses us.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as exc:  # whose text may hold the password
        raise ConfigError("store: not a URL; want sqlite:///file or postgresql://user@host/database") from exc
    if scheme == "sqlite":
        name = url.removeprefix("sqlite:///")
        if name == url or not name:
            raise ConfigError("store sqlite: want sqlite:///file.db (relative) or sqlite:////path/file.db")
        if not Path(name).parent.is_dir():
            raise ConfigError(f"store {url}: no folder {Path(name).parent}; make it, or name another")
        from edge_runtime.cloud.sqlite import SqliteStore

        return SqliteStore(Path(name))
    if scheme in ("postgresql", "postgres"):
        from edge_runtime.cloud.postgres import PostgresStore

        return PostgresStore(url, accept_unsafe=accept_unsafe, on_notice=on_notice)
    known = scheme or "without a scheme"  # not the URL: it may hold a password
    raise ConfigError(f"store {known}: want sqlite:///file or postgresql://user@host/database")
