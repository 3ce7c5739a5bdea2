"""One contract over both databases: stored once, all or nothing, durable, quarantined as it came."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.cloud.store import RowRefusedError, Store, open_store
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.records import RecordKind
from edge_runtime.sync.journal import Journal
from tests.cloud.conftest import POISON, ROW, Reader, Write


def test_a_finding_is_stored_with_the_columns_of_the_contract_and_its_body_to_the_letter(
    store: Store, read: Reader
) -> None:
    assert store.put([ROW]).findings == 1
    sql = "SELECT device_id, finding_id, seq, epoch, exam_id, created_at, received_at, body FROM findings"
    assert read(sql) == [ROW[1:9]]


def test_a_finding_that_comes_again_is_stored_once_and_counted_as_not_new(store: Store, read: Reader) -> None:
    store.put([ROW, ROW._replace(id="f2", seq=8)])
    again = store.put([ROW._replace(received_at="later"), ROW._replace(id="f3", seq=9)])
    assert again.findings == 1
    assert read("SELECT count(*), min(received_at) FROM findings") == [(3, ROW.received_at)]


def test_a_table_that_would_take_a_finding_twice_or_drop_one_in_silence_gets_none(
    url: str, read: Reader, write: Write
) -> None:
    """Somebody's own `findings` from before, without its key: no receipt, and not the rows' fault."""
    columns = "device_id TEXT, finding_id TEXT, seq BIGINT, epoch TEXT, exam_id TEXT, created_at TEXT"
    write(f"CREATE TABLE findings ({columns}, received_at TEXT, body TEXT)")
    with closing(open_store(url)) as store, pytest.raises(UplinkError) as caught:
        store.put([ROW])
    assert not isinstance(caught.value, RowRefusedError)
    assert read("SELECT count(*) FROM findings") == [(0,)]


def test_a_row_that_another_rule_of_the_table_stops_is_refused_and_not_taken_for_stored(
    store: Store, read: Reader, write: Write
) -> None:
    write("CREATE UNIQUE INDEX one_of_each ON findings (device_id, epoch, seq)")
    store.put([ROW])
    with pytest.raises(RowRefusedError):
        store.put([ROW._replace(id="f2")])
    assert read("SELECT finding_id FROM findings") == [(ROW.id,)]


@pytest.mark.parametrize("kind", ["finding", "event", "mask"])
def test_a_row_with_the_id_of_another_is_named_and_not_taken_for_a_repeated_one(
    store: Store, kind: RecordKind
) -> None:
    first = ROW._replace(kind=kind)
    other, new = first._replace(device_id="dev-2", body="{}"), first._replace(id="f2", seq=8)
    assert store.put([first]).taken == frozenset()
    result = store.put([first._replace(received_at="later"), other, new])
    assert (result.new, result.taken) == (1, {other})


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_letter_is_a_usage_error(postgres_url: str, encoding: str) -> None:
    import psycopg

    made = f"CREATE DATABASE small ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with closing(psycopg.connect(postgres_url, autocommit=True)) as db:
        db.execute(made.encode())
        try:
            with pytest.raises(ConfigError, match="encoding"):
                open_store(f"{postgres_url.rpartition('/')[0]}/small")
        finally:
            db.execute(b"DROP DATABASE small")


def test_a_finding_twice_in_one_batch_is_stored_once(store: Store, read: Reader) -> None:
    assert store.put([ROW, ROW]).findings == 1
    assert read("SELECT count(*) FROM findings") == [(1,)]


def test_events_have_their_own_table(store: Store, read: Reader) -> None:
    result = store.put([ROW._replace(kind="event", id="e1"), ROW])
    assert (result.findings, result.events) == (1, 1)
    assert read("SELECT event_id FROM events") == [("e1",)]


def test_poison_is_kept_byte_for_byte_and_once(store: Store, read: Reader) -> None:
    store.put([], [POISON])
    store.put([ROW], [POISON])
    found = read("SELECT topic, reason, payload FROM quarantine")
    assert [(topic, reason, bytes(payload)) for topic, reason, payload in found] == [
        (POISON.topic, POISON.reason, POISON.payload)
    ]


def test_a_row_that_the_database_refuses_takes_the_batch_with_it_and_the_store_lives_on(
    store: Store, read: Reader
) -> None:
    with pytest.raises(RowRefusedError):
        store.put([ROW, ROW._replace(id="f2", seq=2**70)])
    assert read("SELECT count(*) FROM findings") == [(0,)]
    assert store.put([ROW]).findings == 1


def test_two_receivers_may_use_one_database(store: Store, url: str, read: Reader) -> None:
    with closing(open_store(url)) as other:
        assert (store.put([ROW]).findings, other.put([ROW]).findings) == (1, 0)
    assert read("SELECT count(*) FROM findings") == [(1,)]


def test_postgres_answers_only_when_the_disk_has_it_and_reconnects(postgres_url: str) -> None:
    with closing(open_store(postgres_url)) as store:
        assert store._db.execute("SHOW synchronous_commit").fetchone()[0] == "on"
        store._db.commit()
        import psycopg

        with psycopg.connect(postgres_url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'edge-runtime%'"
            )
        with pytest.raises(UplinkError, match="postgresql://127.0.0.1/postgres"):
            store.put([ROW])
        store.put([ROW])


def test_a_damaged_database_is_an_outage_and_never_a_refusal_of_the_row(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    with closing(open_store(f"sqlite:///{path}")) as store:
        for n in range(100):
            store.put([ROW._replace(id=f"f{n}", body="x" * 2000)])
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xff" * (len(damaged) - 8192)
    whole = path.read_bytes()
    path.write_bytes(damaged)
    with (
        pytest.raises(UplinkError, match="malformed") as caught,
        closing(open_store(f"sqlite:///{path}")) as store,
    ):
        store.put([ROW._replace(id="new")])
    assert not isinstance(caught.value, RowRefusedError)
    path.write_bytes(whole)
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert store.put([ROW._replace(id="new")]).findings == 1


def test_a_database_that_was_replaced_takes_no_row_that_nobody_could_read(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/cloud.db")) as store:
        store.put([ROW])
        (tmp_path / "cloud.db").rename(tmp_path / "old.db")
        with pytest.raises(UplinkError, match="removed or replaced"):
            store.put([ROW._replace(id="f2")])


def test_a_devices_journal_is_refused_as_a_store(tmp_path: Path) -> None:
    Journal.open(tmp_path, reserve_bytes=0).close()
    with pytest.raises(ConfigError, match="device's journal"):
        open_store(f"sqlite:///{tmp_path}/findings.db")


def test_a_store_in_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        open_store(f"sqlite:///{tmp_path}/nodir/cloud.db")
    assert not (tmp_path / "nodir").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://u:secret@[",
        "postgresql://u:secret%zz@h/d",
        "//u:secret@h/d",
        "the_user:secret@h/d",
        "host=h password=secret",
        "sqlite://u:secret@h",
    ],
)
def test_a_password_is_in_no_message_about_a_wrong_store(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(wrong)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["cloud.db", "sqlite://cloud.db", "sqlite:///", "mysql://h/d", ""])
def test_a_wrong_store_url_is_a_usage_error(wrong: str) -> None:
    with pytest.raises(ConfigError, match="want"):
        open_store(wrong)


def test_a_store_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UplinkError, match="cannot be opened") as caught:
        open_store(f"sqlite:///{tmp_path}")
    assert "\n" not in str(caught.value)
