"""Both databases of the cloud, one row, one message that nobody can read, and how to look at what is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cloud.rows import Poison, StoreRow
from edge_runtime.cloud.store import Store, open_store

ROW = StoreRow(
    "finding",
    "dev-1",
    "f1",
    7,
    "e1",
    "exam é",
    "2026-01-01T00:00:00.000Z",
    "2026-01-01T00:00:01.000Z",
    '{"b": 1.50}',
)
POISON = Poison("d1", "er/v1/a/b/c/evt/finding", "not JSON", "2026-01-01T00:00:01.000Z", b"\x00\xff")


Reader = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/cloud.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url)) as opened:
        yield opened


@pytest.fixture
def read(url: str) -> Reader:
    """Runs a query over a connection of its own: only what is committed is seen."""

    def run(sql: str) -> list[tuple[Any, ...]]:
        if url.startswith("sqlite"):
            import sqlite3

            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
                return db.execute(sql).fetchall()
        import psycopg

        with psycopg.connect(url) as db:
            return [tuple(row) for row in db.execute(sql.encode()).fetchall()]

    return run


Write = Callable[[str], None]


@pytest.fixture
def write(url: str) -> Write:
    """Runs a statement over a connection of its own, and commits it."""

    def run(sql: str) -> None:
        if url.startswith("sqlite"):
            import sqlite3

            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db, db:
                db.execute(sql)
            return
        import psycopg

        with psycopg.connect(url) as db:
            db.execute(sql.encode())

    return run
