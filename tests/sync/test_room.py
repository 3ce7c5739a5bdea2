"""The quota holds and the reserve is real."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError, JournalError
from edge_runtime.sync.database import open_db
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.reserve import Reserve
from tests.builders import report
from tests.sync.conftest import seqs

KIB, MIB = 2**10, 2**20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def size_bytes(state: Path) -> int:
    return sum(path.stat().st_size for path in state.glob("findings.db*"))


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


def test_a_disk_without_room_for_the_reserve_is_said_and_used_all_the_same(
    state: Path, notices: list[str]
) -> None:
    with Journal.open(state, reserve_bytes=2**60, on_notice=notices.append) as journal:
        assert "too little room" in notices[0]
        assert not (state / "reserve").exists()
        report(journal, 1)
