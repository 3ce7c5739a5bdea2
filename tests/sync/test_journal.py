"""The journal: reported means committed, numbers have no gaps, names outlive the process."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.config import read_config
from edge_runtime.errors import ConfigError
from edge_runtime.sync import holdings
from edge_runtime.sync.database import open_db
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import site_key
from edge_runtime.types import encode
from tests.builders import event, finding, report
from tests.sync.conftest import seqs


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


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


def test_device_key_and_epoch_outlive_the_process(state: Path) -> None:
    with Journal.open(state, reserve_bytes=0) as one:
        before = (one.device_id, one.epoch, site_key(state).key_id, one.pseudonym("1.2.840"))
    with Journal.open(state, reserve_bytes=0) as two:
        assert (two.device_id, two.epoch, site_key(state).key_id, two.pseudonym("1.2.840")) == before
    assert stat.S_IMODE((state / "site.key").stat().st_mode) == 0o600


def test_pseudonyms_differ_between_sites_and_do_not_contain_the_text(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "a", reserve_bytes=0) as a,
        Journal.open(tmp_path / "b", reserve_bytes=0) as b,
    ):
        assert a.pseudonym("DOE^JANE") != b.pseudonym("DOE^JANE")
        assert a.pseudonym("DOE^JANE") != a.pseudonym("DOE^JOHN")
        assert len(a.pseudonym("DOE^JANE")) == 24
        assert int(a.pseudonym("DOE^JANE"), 16) >= 0


@pytest.mark.parametrize("size", ["inf", "nan", "1e9"])
def test_a_quota_or_reserve_without_end_is_a_usage_error(tmp_path: Path, size: str) -> None:
    for key in ("quota_mb", "reserve_mb"):
        (tmp_path / "config.toml").write_text(f"[journal]\n{key} = {size}\n")
        with pytest.raises(ConfigError, match="config.toml"):
            read_config(None, tmp_path)
