"""The database at the path: damage is set aside, what somebody does to it under way is followed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime import clock
from edge_runtime.errors import JournalError
from edge_runtime.sync import database, holdings
from edge_runtime.sync.database import PAGE_BYTES, open_db
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.outbox import Outbox
from edge_runtime.types import encode
from tests.builders import finding, report
from tests.sync.conftest import seqs

MIB = 2**20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_damaged_database_is_set_aside_twice_and_nothing_is_overwritten(
    state: Path, notices: list[str]
) -> None:
    with Journal.open(state, reserve_bytes=0) as first:
        report(first, 5)
        device, epoch = first.device_id, first.epoch
    for n in (1, 2):
        (state / "findings.db").write_bytes(b"not a database " * 1000 + bytes([n]))
        with Journal.open(state, reserve_bytes=0, on_notice=notices.append) as again:
            assert again.set_aside == state / f"findings.db.corrupt-{n}"
            assert again.device_id == device
            assert again.epoch != epoch
            assert len(notices) == n
            assert "\n" not in notices[-1]
            assert report(again, 1)[0].seq == 1
    assert [(state / f"findings.db.corrupt-{n}").read_bytes()[-1] for n in (1, 2)] == [1, 2]


@pytest.mark.parametrize("wrong", ["no such folder", "a loop", "a folder"])
def test_a_database_that_cannot_be_made_is_one_clear_line_and_costs_no_reserve(
    state: Path, wrong: str
) -> None:
    Journal.open(state, reserve_bytes=MIB).close()
    path = state / "findings.db"
    path.unlink()
    if wrong == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path if wrong == "a loop" else state / "not mounted" / "f.db")
    with pytest.raises(JournalError, match=r"^NOT RECORDING: .*cannot be written") as caught:
        Journal.open(state, reserve_bytes=MIB)
    assert "\n" not in str(caught.value)
    assert (state / "reserve").exists()


def spoil_pages(path: Path, first: int) -> None:
    damaged = bytearray(path.read_bytes())
    for page in range(first, len(damaged) // PAGE_BYTES):
        damaged[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(damaged)


def test_a_page_that_went_bad_is_found_at_open(state: Path) -> None:
    with Journal.open(state, reserve_bytes=0) as first:
        report(first, 200)
    spoil_pages(state / "findings.db", first=3)
    with Journal.open(state, reserve_bytes=0) as again:
        assert again.set_aside is not None
        report(again, 1)


def test_damage_met_while_recording_is_said_and_the_next_batch_begins_a_new_epoch(
    state: Path, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    with Journal.open(state, reserve_bytes=0) as first:
        report(first, 50)
    spoil_pages(state / "findings.db", first=6)
    monkeypatch.setattr("edge_runtime.sync.journal_database.CHECK_ALWAYS_BYTES", 0)  # as of a large one
    with Journal.open(state, reserve_bytes=0, on_notice=notices.append) as again:
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*damaged"):
            report(again, 1)
        assert report(again, 1)[0].seq == 1
        assert again.set_aside is not None
        assert len(notices) == 1


def test_a_large_database_beside_an_uplink_is_read_whole_once_in_a_boot_of_the_machine(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.sync.journal_database.CHECK_ALWAYS_BYTES", 0)  # all are large
    checked: list[str] = []
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 5)
    check = database.check
    monkeypatch.setattr(database, "check", lambda db: (checked.append(boot), check(db)))
    with Outbox(state) as outbox:
        outbox.settle([(1, 1)])
        for boot in ("first", "first", "second", "second"):
            monkeypatch.setattr(clock, "boot_id", lambda now=boot: now)
            assert (state / "findings.db-wal").exists()
            Journal.open(state, reserve_bytes=0).close()
    assert checked == ["first", "second"]


def test_a_large_database_that_lost_power_is_found_damaged_at_open(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 200)
    spoil_pages(state / "findings.db", first=6)
    (state / "findings.db-wal").touch()  # nobody closed it
    monkeypatch.setattr("edge_runtime.sync.journal_database.CHECK_ALWAYS_BYTES", 0)
    monkeypatch.setattr(clock, "boot_id", lambda: "the next one")
    with Journal.open(state, reserve_bytes=0) as journal:
        assert journal.set_aside is not None


def test_a_damaged_database_that_another_process_has_open_stays_where_it_is(
    journal: Journal, state: Path
) -> None:
    report(journal, 1)
    with closing(open_db(state / "findings.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (state / "findings.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(JournalError, match=r"^NOT RECORDING: .*open in another process"):
        Journal.open(state, reserve_bytes=0)
    assert not list(state.glob("*corrupt*"))


def test_a_database_removed_under_us_is_begun_anew(journal: Journal, state: Path) -> None:
    report(journal, 2)
    epoch = journal.epoch
    for path in state.glob("findings.db*"):
        path.unlink()
    made = report(journal, 1)[0]
    assert made.seq == 1
    assert made.epoch == journal.epoch != epoch
    assert seqs(state) == [1]


def test_a_database_that_another_file_was_moved_over_is_followed_and_nothing_is_told_that_is_not_at_the_path(
    journal: Journal, state: Path, tmp_path: Path, notices: list[str]
) -> None:
    report(journal, 3)
    with Journal.open(tmp_path / "other", reserve_bytes=0) as other:
        report(other, 7)
    (tmp_path / "other" / "findings.db").rename(state / "findings.db")
    made = report(journal, 2)
    assert [one.seq for one in made] == [8, 9]
    assert seqs(state) == list(range(1, 10))
    assert "replaced by someone" in notices[-1]
    assert list(state.glob("findings.db.corrupt-1-wal"))  # else it is replayed into the other file


def test_a_file_that_is_no_database_moved_over_ours_is_set_aside(journal: Journal, state: Path) -> None:
    report(journal, 3)
    (state / "x").write_bytes(b"holiday" * 5000)
    (state / "x").rename(state / "findings.db")
    assert report(journal, 2)[0].seq == 1
    assert seqs(state) == [1, 2]
    assert journal.set_aside is not None
    assert journal.set_aside.read_bytes() == b"holiday" * 5000


def test_an_older_copy_moved_over_ours_gives_no_number_again(journal: Journal, state: Path) -> None:
    report(journal, 3)
    with closing(open_db(state / "findings.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    older = (state / "findings.db").read_bytes()
    report(journal, 3)
    epoch = journal.epoch
    (state / "older").write_bytes(older)
    (state / "older").rename(state / "findings.db")
    made = report(journal, 1)[0]
    assert (made.seq, made.epoch != epoch) == (1, True)
    assert seqs(state) == [1]


@pytest.mark.parametrize("left", [0, 5, PAGE_BYTES])
def test_a_database_truncated_under_us_loses_nothing_that_is_told_afterwards(
    journal: Journal, state: Path, left: int, notices: list[str]
) -> None:
    report(journal, 100)
    with closing(open_db(state / "findings.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    report(journal, 1)
    os.truncate(state / "findings.db", left)
    told = [made.finding_id for made in report(journal, 2) + report(journal, 2)]
    with Outbox(state) as outbox:
        assert [row.id for row in holdings.records(outbox)][-4:] == told
    assert "truncated by someone" in notices[-1]


def test_a_batch_whose_file_was_taken_away_under_way_is_not_reported(journal: Journal, state: Path) -> None:
    with pytest.raises(JournalError, match=r"^NOT RECORDING: .*removed"), journal.batch() as batch:
        record = finding(batch.stamp())
        batch.add(record, encode(record))
        (state / "findings.db").unlink()


@pytest.mark.parametrize("how", ["removed", "renamed", "emptied"])
def test_a_state_directory_that_goes_away_is_one_clear_line_every_time(
    journal: Journal, state: Path, tmp_path: Path, how: str
) -> None:
    report(journal, 1)
    if how == "renamed":
        state.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(state)
    if how == "emptied":
        state.mkdir()
    for _ in range(3):
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*removed, renamed or emptied") as caught:
            report(journal, 1)
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_opened_again_is_one_clear_line_until_it_can(
    journal: Journal, state: Path
) -> None:
    report(journal, 1)
    for path in state.glob("findings.db*"):
        path.unlink()
    (state / "findings.db").mkdir()
    for _ in range(2):
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*cannot be written"):
            report(journal, 1)
    (state / "findings.db").rmdir()
    assert report(journal, 1)[0].seq == 1


def test_a_database_whose_own_facts_are_damaged_is_set_aside(state: Path) -> None:
    Journal.open(state, reserve_bytes=0).close()
    with closing(sqlite3.connect(state / "findings.db", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = 'abc' WHERE key = 'schema'")
    with pytest.raises(JournalError, match="schema in meta is 'abc'"):
        Outbox(state)
    with Journal.open(state, reserve_bytes=0) as journal:
        assert journal.set_aside is not None


def test_a_database_of_a_newer_version_is_refused_and_left_alone(state: Path) -> None:
    Journal.open(state, reserve_bytes=0).close()
    with closing(sqlite3.connect(state / "findings.db", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(JournalError, match="newer version"):
        Journal.open(state, reserve_bytes=0)
    assert not list(state.glob("*corrupt*"))
