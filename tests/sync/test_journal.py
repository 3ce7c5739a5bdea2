"""The journal: reported means committed, numbers have no gaps, the quota holds, damage is set aside."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.commands.doctor import _state
from edge_runtime.config import read_config
from edge_runtime.errors import ConfigError, JournalError
from edge_runtime.sync import holdings
from edge_runtime.sync.database import PAGE_BYTES, open_db
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.reserve import Reserve
from edge_runtime.sync.state import site_key
from edge_runtime.types import encode
from tests.builders import event, finding, report

KIB, MIB = 2**10, 2**20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def journal(state: Path) -> Iterator[Journal]:
    with Journal.open(state, reserve_bytes=0) as opened:
        yield opened


def seqs(state: Path) -> list[int]:
    with Outbox(state) as outbox:
        return [row.seq for row in holdings.records(outbox)]


def size_bytes(state: Path) -> int:
    return sum(path.stat().st_size for path in state.glob("findings.db*"))


def test_a_batch_is_in_the_journal_and_in_the_outbox_as_it_was_reported(
    journal: Journal, state: Path
) -> None:
    with journal.batch() as batch:
        started = event(batch.stamp())
        batch.add(started, encode(started))
        first = finding(batch.stamp())
        batch.add(first, encode(first))
    with Outbox(state) as outbox:
        rows = outbox.pending(Lane.FINDING, 0, 10)
        assert [(row.seq, row.kind, row.id) for row in rows] == [
            (1, "event", started.event_id),
            (2, "finding", first.finding_id),
        ]
        assert [row.body for row in rows] == [encode(started), encode(first)]


def test_a_batch_that_fails_leaves_nothing_and_no_gap(journal: Journal, state: Path) -> None:
    report(journal, 2)
    with pytest.raises(RuntimeError, match="camera"), journal.batch() as batch:
        record = finding(batch.stamp())
        batch.add(record, encode(record))
        raise RuntimeError("camera gone")
    report(journal, 2)
    assert seqs(state) == [1, 2, 3, 4]


def test_a_stamp_that_is_not_used_leaves_no_gap(journal: Journal, state: Path) -> None:
    with journal.batch() as batch:
        batch.stamp()
    with journal.batch() as batch:
        batch.stamp()
        record = finding(batch.stamp())
        batch.add(record, encode(record))
    assert seqs(state) == [1]


@pytest.mark.parametrize("wrong", [{"seq": 2}, {"epoch": "other"}, {"device_id": "dev-other"}])
def test_a_record_with_another_stamp_is_refused(
    journal: Journal, state: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="want a record stamped"), journal.batch() as batch:
        record = finding(batch.stamp(), **wrong)
        batch.add(record, encode(record))
    assert seqs(state) == []


def test_a_number_is_never_given_twice_even_when_retention_has_removed_the_last_rows(
    journal: Journal, state: Path
) -> None:
    report(journal, 3)
    with Outbox(state) as outbox:
        assert outbox.settle([(1, 3)]) == (3, 0)
    with closing(open_db(state / "findings.db")) as db:
        db.execute("DELETE FROM journal")
    assert report(journal, 1)[0].seq == 4


def test_two_writers_share_one_sequence_without_a_gap(journal: Journal, state: Path) -> None:
    def write() -> None:
        with Journal.open(state, reserve_bytes=0) as other:
            for _ in range(30):
                report(other, 2)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        report(journal, 2)
    for thread in threads:
        thread.join()
    assert seqs(state) == list(range(1, 181))


_WRITER = """
import sys
from pathlib import Path
from edge_runtime.sync.journal import Journal
from tests.builders import report
with Journal.open(Path(sys.argv[1]), reserve_bytes=0) as journal:
    while True:
        for made in report(journal, 3):
            print(made.seq, made.finding_id, flush=True)
"""


def test_what_a_killed_process_has_reported_is_there_and_the_numbers_have_no_gap(state: Path) -> None:
    told: list[str] = []
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(state)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            told += [writer.stdout.readline().strip() for _ in range(20)]
            writer.kill()
            told += [line.strip() for line in writer.stdout.read().splitlines() if len(line.split()) == 2]
    with Outbox(state) as outbox:
        rows = list(holdings.records(outbox))
    assert set(told) <= {f"{row.seq} {row.id}" for row in rows}
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))


# ---------------------------------------------------------------- identity


def test_device_key_and_epoch_outlive_the_process(state: Path) -> None:
    with Journal.open(state, reserve_bytes=0) as one:
        before = (one.device_id, one.epoch, site_key(state).key_id, one.pseudonym("1.2.840"))
    with Journal.open(state, reserve_bytes=0) as two:
        assert (two.device_id, two.epoch, site_key(state).key_id, two.pseudonym("1.2.840")) == before
    assert stat.S_IMODE((state / "site.key").stat().st_mode) == 0o600


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(state: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir() if path.is_file()}


def test_nobody_else_can_read_what_a_journal_makes_in_a_directory_of_somebody_else(
    usual_umask: None, state: Path
) -> None:
    state.mkdir(mode=0o755)
    with Journal.open(state, reserve_bytes=MIB) as journal:
        report(journal, 3)
        made = modes(state)
        assert {"findings.db", "findings.db-wal", "findings.db-shm", "reserve", "reserve.loan"} <= set(made)
        assert set(made.values()) == {0o600}
        assert journal.notices == []


def test_findings_that_anybody_could_read_become_private_and_that_is_said(
    usual_umask: None, state: Path
) -> None:
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 3)
        for path in state.glob("findings.db*"):
            path.chmod(0o644)
        with Journal.open(state, reserve_bytes=0) as again:
            assert {mode for name, mode in modes(state).items() if name.startswith("findings.db")} == {0o600}
            assert "only its owner" in again.notices[0]
            report(again, 1)
    assert seqs(state) == [1, 2, 3, 4]


def test_findings_that_a_group_was_given_stay_the_groups(state: Path) -> None:
    Journal.open(state, reserve_bytes=0).close()
    (state / "findings.db").chmod(0o640)
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 1)
        assert modes(state)["findings.db"] == modes(state)["findings.db-wal"] == 0o640
        assert journal.notices == []


def test_doctor_warns_of_findings_that_anybody_can_read(usual_umask: None, state: Path) -> None:
    state.mkdir(mode=0o755)
    Journal.open(state, reserve_bytes=0).close()
    assert _state(state).state == "ok"
    (state / "findings.db").chmod(0o644)
    assert _state(state).state == "lacks"
    state.chmod(0o700)
    assert _state(state).state == "ok"


def test_pseudonyms_differ_between_sites_and_do_not_contain_the_text(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "a", reserve_bytes=0) as a,
        Journal.open(tmp_path / "b", reserve_bytes=0) as b,
    ):
        assert a.pseudonym("DOE^JANE") != b.pseudonym("DOE^JANE")
        assert a.pseudonym("DOE^JANE") != a.pseudonym("DOE^JOHN")
        assert len(a.pseudonym("DOE^JANE")) == 24
        assert int(a.pseudonym("DOE^JANE"), 16) >= 0


def test_a_damaged_database_is_set_aside_twice_and_nothing_is_overwritten(state: Path) -> None:
    with Journal.open(state, reserve_bytes=0) as first:
        report(first, 5)
        device, epoch = first.device_id, first.epoch
    for n in (1, 2):
        (state / "findings.db").write_bytes(b"not a database " * 1000 + bytes([n]))
        with Journal.open(state, reserve_bytes=0) as again:
            assert again.set_aside == state / f"findings.db.corrupt-{n}"
            assert again.device_id == device
            assert again.epoch != epoch
            assert len(again.notices) == 1
            assert "\n" not in again.notices[0]
            assert report(again, 1)[0].seq == 1
    assert [(state / f"findings.db.corrupt-{n}").read_bytes()[-1] for n in (1, 2)] == [1, 2]


def test_a_page_that_went_bad_is_found_at_open(state: Path) -> None:
    with Journal.open(state, reserve_bytes=0) as first:
        report(first, 200)
    damaged = bytearray((state / "findings.db").read_bytes())
    for page in range(3, len(damaged) // PAGE_BYTES):
        damaged[page * PAGE_BYTES : page * PAGE_BYTES + 8] = os.urandom(8)
    (state / "findings.db").write_bytes(damaged)
    with Journal.open(state, reserve_bytes=0) as again:
        assert again.set_aside is not None
        report(again, 1)


def test_damage_met_while_recording_is_said_and_the_next_batch_begins_a_new_epoch(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(state, reserve_bytes=0) as first:
        report(first, 50)
    damaged = bytearray((state / "findings.db").read_bytes())
    for page in range(6, len(damaged) // PAGE_BYTES):
        damaged[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = b"\xff" * PAGE_BYTES
    (state / "findings.db").write_bytes(damaged)
    monkeypatch.setattr("edge_runtime.sync.journal.CHECK_ALWAYS_BYTES", 0)  # as of a large one
    with Journal.open(state, reserve_bytes=0) as again:
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*damaged"):
            report(again, 1)
        assert report(again, 1)[0].seq == 1
        assert again.set_aside is not None
        assert len(again.notices) == 1


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
    journal: Journal, state: Path, tmp_path: Path
) -> None:
    report(journal, 3)
    with Journal.open(tmp_path / "other", reserve_bytes=0) as other:
        report(other, 7)
    (tmp_path / "other" / "findings.db").rename(state / "findings.db")
    made = report(journal, 2)
    assert [one.seq for one in made] == [8, 9]
    assert seqs(state) == list(range(1, 10))
    assert "replaced by someone" in journal.notices[-1]
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
    journal: Journal, state: Path, left: int
) -> None:
    report(journal, 100)
    with closing(open_db(state / "findings.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    report(journal, 1)
    os.truncate(state / "findings.db", left)
    told = [made.finding_id for made in report(journal, 2) + report(journal, 2)]
    with Outbox(state) as outbox:
        assert [row.id for row in holdings.records(outbox)][-4:] == told
    assert "truncated by someone" in journal.notices[-1]


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


@pytest.mark.parametrize("size", ["inf", "nan", "1e9"])
def test_a_quota_or_reserve_without_end_is_a_usage_error(tmp_path: Path, size: str) -> None:
    for key in ("quota_mb", "reserve_mb"):
        (tmp_path / "config.toml").write_text(f"[journal]\n{key} = {size}\n")
        with pytest.raises(ConfigError, match="config.toml"):
            read_config(None, tmp_path)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(state: Path) -> None:
    Journal.open(state, reserve_bytes=0).close()
    with closing(sqlite3.connect(state / "findings.db", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(JournalError, match="newer version"):
        Journal.open(state, reserve_bytes=0)
    assert not list(state.glob("*corrupt*"))


# ---------------------------------------------------------------- room


def test_a_full_quota_stops_the_recording_loses_nothing_and_keeps_its_word_on_size(state: Path) -> None:
    reported = 0
    with Journal.open(state, quota_bytes=MIB, reserve_bytes=0) as journal:
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*quota of 1 MB.*not delivered") as caught:
            while reported < 5000:
                report(journal, 10)
                reported += 10
        assert "\n" not in str(caught.value)
        assert size_bytes(state) <= MIB + 64 * KIB  # to within one batch, and the shared-memory file
        assert seqs(state) == list(range(1, reported + 1))
        with Outbox(state) as outbox:
            outbox.settle([(1, 100)])
        report(journal, 10)  # delivered ones made room
        kept = seqs(state)
        assert kept[-10:] == list(range(reported + 1, reported + 11))
        assert set(range(101, reported + 1)) <= set(kept)


def test_delivered_findings_stay_until_their_room_is_needed_and_the_oldest_go_first(state: Path) -> None:
    with Journal.open(state, quota_bytes=MIB, reserve_bytes=0) as journal, Outbox(state) as outbox:
        for _ in range(40):
            made = report(journal, 20)
            outbox.settle([(made[0].seq, made[-1].seq)])
    kept = seqs(state)
    assert kept[-1] == 800
    assert 1 < kept[0] < 700
    assert kept == list(range(kept[0], 801))
    assert size_bytes(state) <= MIB + 64 * KIB


def test_the_quota_holds_for_every_connection(state: Path) -> None:
    Journal.open(state, quota_bytes=MIB, reserve_bytes=0).close()
    with closing(open_db(state / "findings.db")) as db, pytest.raises(sqlite3.OperationalError, match="full"):
        for _ in range(100):
            db.execute("INSERT INTO meta VALUES (hex(randomblob(8)), hex(randomblob(10000)))")


def test_a_reader_that_does_not_let_go_cannot_grow_the_log_past_the_quota(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.sync.database.BUSY_MS", 100)
    with Journal.open(state, quota_bytes=MIB, reserve_bytes=0) as journal:
        report(journal, 1)
        with closing(open_db(state / "findings.db")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM journal").fetchone()
            with pytest.raises(JournalError, match="reader"):
                for _ in range(300):
                    report(journal, 10)
            assert size_bytes(state) <= MIB + 64 * KIB
        report(journal, 1)


def test_a_quota_too_small_to_work_with_is_refused(state: Path) -> None:
    with pytest.raises(ConfigError, match="at least"):
        Journal.open(state, quota_bytes=1000)


def test_the_reserve_is_real_room_and_comes_back(state: Path) -> None:
    with Journal.open(state, reserve_bytes=MIB):
        assert sum(path.stat().st_blocks for path in state.glob("reserve*")) * 512 >= MIB
    reserve = Reserve(state, MIB)
    assert reserve.release()
    assert not reserve.held
    assert reserve.take()


def test_a_disk_without_room_for_the_reserve_is_said_and_used_all_the_same(state: Path) -> None:
    with Journal.open(state, reserve_bytes=2**60) as journal:
        assert "too little room" in journal.notices[0]
        assert not (state / "reserve").exists()
        report(journal, 1)
