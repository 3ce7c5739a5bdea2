"""The tables are made by numbered migrations, from nothing and from databases of earlier releases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from edge_runtime.cloud import schema
from edge_runtime.cloud.schema import migrations
from edge_runtime.cloud.store import open_store
from edge_runtime.errors import ConfigError, UplinkError
from tests.cloud.conftest import POISON, ROW, Reader, Write

FIRST = {database: migrations(database)[0].statements for database in ("sqlite", "postgresql")}
SECOND = {database: migrations(database)[1].statements for database in ("sqlite", "postgresql")}


def test_both_databases_have_the_same_migrations_numbered_from_one() -> None:
    names = [
        [(one.version, one.name) for one in migrations(database)] for database in ("sqlite", "postgresql")
    ]
    assert names[0] == names[1]
    assert [version for version, _ in names[0]] == list(range(1, len(names[0]) + 1))


def test_a_new_database_notes_every_migration(url: str, read: Reader) -> None:
    open_store(url).close()
    open_store(url).close()
    made = read("SELECT version, name FROM schema_version ORDER BY version")
    assert made == [(one.version, one.name) for one in migrations("sqlite")]


def test_a_database_from_before_the_numbers_keeps_its_rows_and_learns_its_streams(
    url: str, write: Write, read: Reader
) -> None:
    for statement in FIRST[url.partition(":")[0]]:
        write(statement)
    for seq in (2, 3, 4, 8):
        write(f"INSERT INTO findings VALUES ('dev-1', 'f{seq}', {seq}, 'e1', 'x', 'then', 'now', 'body')")
    write("INSERT INTO events VALUES ('dev-1', 'v5', 5, 'e1', 'x', 'then', 'now', 'body')")
    write("INSERT INTO findings VALUES ('dev-2', 'g1', 1, 'e7', 'x', 'then', 'now', 'body')")
    with closing(open_store(url)) as store:
        assert read("SELECT first, last FROM missing ORDER BY first") == [(1, 1), (6, 7)]
        assert read("SELECT device_id, highest FROM streams ORDER BY 1") == [("dev-1", 8), ("dev-2", 1)]
        store.put([ROW._replace(id="f6", seq=6)])
        assert read("SELECT first, last FROM missing ORDER BY first") == [(1, 1), (7, 7)]
        assert read("SELECT count(*) FROM findings") == [(6,)]


def test_a_database_that_knew_its_streams_as_ranges_knows_their_holes(
    url: str, write: Write, read: Reader
) -> None:
    database = url.partition(":")[0]
    for statement in (*FIRST[database], *SECOND[database]):
        write(statement)
    write(
        "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"
    )
    write("INSERT INTO schema_version VALUES (2, 'records_and_streams', 'then')")
    ranges = {"sqlite": "[[2,4],[8,9],[12,13],[20,20]]", "postgresql": "{[2,4],[8,9],[12,13],[20,20]}"}
    columns = "INSERT INTO streams (device_id, epoch, highest, known, updated_at) VALUES"
    write(f"{columns} ('dev-1', 'e1', 9, '{ranges[database]}', 'then')")  # 12, 13 and 20 were refused
    whole = {"sqlite": "[[1,5]]", "postgresql": "{[1,5]}"}[database]
    write(f"{columns} ('dev-2', 'e1', 5, '{whole}', 'then')")
    write("CREATE VIEW our_own AS SELECT device_id, numbers FROM missing")  # of somebody's dashboard
    with closing(open_store(url)) as store:
        holes = "SELECT device_id, first, last, numbers, updated_at FROM missing ORDER BY 1, 2"
        assert read(holes) == [("dev-1", 1, 1, 1, "then"), ("dev-1", 5, 7, 3, "then")]
        assert store.missing() == (1, 4)
        assert read("SELECT * FROM our_own ORDER BY numbers") == [("dev-1", 1), ("dev-1", 3)]
        store.put([ROW._replace(id="f15", seq=15), ROW._replace(id="f6", seq=6)])
        found = [(1, 1), (5, 5), (7, 7), (10, 11), (14, 14)]
        assert read("SELECT first, last FROM missing ORDER BY first") == found
        assert store.missing() == (1, 6)
        store.put([ROW._replace(id="g6", device_id="dev-2", seq=6)])
        assert store.missing() == (1, 6)


def test_a_database_of_a_later_release_is_left_alone(url: str, write: Write) -> None:
    open_store(url).close()
    write("INSERT INTO schema_version VALUES (999, 'later', 'then')")
    with pytest.raises(ConfigError, match="version 999"):
        open_store(url)


def test_a_migration_that_fails_changes_nothing(
    url: str, read: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(url).close()
    before = migrations("sqlite")
    broken = schema.Migration(
        999, "broken", ("CREATE TABLE extra (x INTEGER)", "CREATE TABLE findings (x INTEGER)")
    )
    monkeypatch.setattr(schema, "migrations", lambda database: (*before, broken))
    with pytest.raises(UplinkError, match="findings"):
        open_store(url)
    monkeypatch.undo()
    assert read("SELECT max(version) FROM schema_version") == [(before[-1].version,)]
    with closing(open_store(url)) as store:
        assert store.put([ROW], [POISON]).findings == 1


def test_receivers_that_start_together_make_the_tables_once(url: str, read: Reader) -> None:
    with ThreadPoolExecutor(6) as pool:
        for store in pool.map(open_store, [url] * 6):
            store.close()
    assert read("SELECT count(*) FROM schema_version") == [(len(migrations("sqlite")),)]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_receiver_that_may_only_write_rows_is_enough_once_the_tables_are_made(
    url: str, write: Write
) -> None:
    open_store(url).close()
    write("DROP ROLE IF EXISTS receiver")
    write("CREATE ROLE receiver LOGIN")
    write("GRANT USAGE ON SCHEMA public TO receiver")
    write("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO receiver")
    write("GRANT DELETE ON holes, refused_ahead TO receiver")
    try:
        with closing(open_store(url.replace("er@", "receiver@"))) as store:
            assert store.put([ROW], [POISON]).findings == 1
            assert store.missing().numbers == 6
            assert store.put([ROW._replace(id="f3", seq=3)]).findings == 1
            assert store.missing().numbers == 5
    finally:
        write("DROP OWNED BY receiver")
        write("DROP ROLE receiver")
