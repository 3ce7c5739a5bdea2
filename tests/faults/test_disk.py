"""A full disk, a read-only one: one clear line, and nothing that was reported is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.errors import JournalError
from edge_runtime.sync import holdings
from edge_runtime.sync.database import PAGE_BYTES, open_db, open_unwritable
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.reserve import Loan
from edge_runtime.sync.state import free_bytes
from tests.brokers import Mosquitto
from tests.builders import finding, report
from tests.faults.ends import receiving, sending
from tests.faults.processes import stored, until

MIB = 2**20


def test_a_full_disk_uses_the_reserve_then_says_not_recording_and_loses_nothing_reported(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=16m")
    reported: list[str] = []
    notices: list[str] = []
    with Journal.open(disk / "state", reserve_bytes=4 * MIB, on_notice=notices.append) as journal:
        assert (disk / "state" / "reserve").exists()
        reported += [made.finding_id for made in report(journal, 20)]
        free = os.statvfs(disk)
        (disk / "holiday.mp4").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 8192)))
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*disk is full") as caught:
            for _ in range(1000):
                reported += [made.finding_id for made in report(journal, 10)]
        assert "\n" not in str(caught.value)
        assert len(notices) == 1
        assert "reserve" in notices[0]
        assert not (disk / "state" / "reserve").exists()
        assert len(reported) > 500  # of 2.4 kB each; part of the reserve is lent only
        with Outbox(disk / "state") as outbox:
            assert [row.id for row in holdings.records(outbox)] == reported
        (disk / "holiday.mp4").unlink()
        reported += [made.finding_id for made in report(journal, 10)]  # and it goes on as soon as it can
    with Journal.open(disk / "state", reserve_bytes=4 * MIB) as again, Outbox(disk / "state") as outbox:
        assert again.set_aside is None
        assert (disk / "state" / "reserve").exists()
        assert [row.id for row in holdings.records(outbox)] == reported
        assert [row.seq for row in holdings.records(outbox)] == list(range(1, len(reported) + 1))


def fill(disk: Path) -> None:
    """Somebody's film takes what is free."""
    with (disk / "holiday.mp4").open("ab", buffering=0) as film, suppress(OSError):
        for size in (MIB, 2**16, 2**12):
            while free_bytes(disk) >= size:
                film.write(bytes(size))
                os.fsync(film.fileno())


def record_until_full(journal: Journal) -> list[str]:
    """Reports until it cannot be; the ids of what was reported."""
    reported: list[str] = []
    with pytest.raises(JournalError, match=r"^NOT RECORDING: .*disk is full"):
        for _ in range(2000):
            reported += [made.finding_id for made in report(journal, 10)]
    return reported


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize(
    ("reserve", "alive"), [(MIB, True), (4 * MIB, False)], ids=["still running", "all processes ended"]
)
def test_a_device_whose_disk_filled_up_offline_recovers_by_itself_when_the_link_returns(
    reserve: int, alive: bool, mount: Callable[[str], Path], tmp_path: Path, broker: Mosquitto
) -> None:
    disk = mount("size=16m")
    state, store = disk / "state", tmp_path / "cloud.db"
    with ExitStack() as running:
        journal = running.enter_context(Journal.open(state, reserve_bytes=reserve))
        fill(disk)
        reported = record_until_full(journal)
        fill(disk)
        assert free_bytes(disk) < PAGE_BYTES  # ext4 keeps a last block or two for itself
        if not alive:
            running.close()
            fill(disk)
            assert outbox.stats(state).pending == len(reported)  # for a person who looks, too
        with receiving(broker.url, store), sending(state, broker.url):
            until(lambda: outbox.stats(state).pending == 0)
            if not alive:
                journal = running.enter_context(Journal.open(state, reserve_bytes=reserve))
            for _ in range(3):  # on a disk that is as full as before
                reported += [made.finding_id for _ in range(5) for made in report(journal, 10)]
                until(lambda: outbox.stats(state).pending == 0)
    assert free_bytes(disk) < reserve
    assert Counter(stored(store)) == Counter(reported)
    with Journal.open(state, reserve_bytes=reserve) as again:
        assert again.set_aside is None
    with Outbox(state) as held:
        kept = [row.id for row in holdings.records(held)]
    assert kept == reported[-len(kept) :]  # the oldest went, after they were delivered
    assert len(kept) < len(reported)


def test_masks_give_way_to_findings_on_a_full_disk_as_within_a_full_quota(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=8m")
    with Journal.open(disk / "state", reserve_bytes=MIB) as journal:
        for _ in range(100):
            with journal.batch() as batch:
                add_finding(batch, finding(batch.stamp()))
        fill(disk)
        record_until_full(journal)
    with Outbox(disk / "state") as outbox:
        stats = holdings.stats(outbox)
    assert "mask" not in stats.records
    assert stats.lost == 100


def test_a_process_killed_while_it_had_the_loan_leaves_a_device_that_recovers(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=8m")
    state = disk / "state"
    with Journal.open(state, reserve_bytes=MIB) as journal:
        fill(disk)
        reported = record_until_full(journal)
        loan = state / "reserve.loan"
        size = loan.stat().st_size
        os.truncate(loan, 0)
        os.truncate(loan, size)  # as it is while it is lent
        assert Loan(state).away()
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*disk is full"):
            while True:
                reported += [made.finding_id for made in report(journal, 1)]
        assert not Loan(state).away()  # what is free is held for receipts, not used up
        with Outbox(state) as held:
            assert held.settle([(1, len(reported))]) == (len(reported), 0)
        report(journal, 10)


def test_a_log_that_is_long_already_takes_no_more_than_the_loan_could_bring_into_the_database(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=16m")
    state = disk / "state"
    with Journal.open(state, reserve_bytes=MIB) as journal:
        with closing(open_db(state / "findings.db")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM journal").fetchone()
            reported = [made.finding_id for _ in range(80) for made in report(journal, 10)]
        assert (state / "findings.db-wal").stat().st_size > 2 * MIB
        (state / "reserve").unlink()
        reported += [made.finding_id for made in report(journal, 10)]  # nobody reads: the log begins anew
        fill(disk)
        reported += record_until_full(journal)
        with Outbox(state) as held:
            assert held.settle([(1, len(reported))]) == (len(reported), 0)
        report(journal, 10)
        assert not Loan(state).away()


def test_a_journal_opens_on_a_full_disk_by_giving_up_the_reserve(mount: Callable[[str], Path]) -> None:
    disk = mount("size=6m")
    with Journal.open(disk / "state", reserve_bytes=MIB) as journal:
        report(journal, 5)
    fill(disk)
    notices: list[str] = []
    with Journal.open(disk / "state", reserve_bytes=MIB, on_notice=notices.append) as journal:
        report(journal, 5)
        assert "the disk is full" in notices[-1]


def test_a_read_only_disk_is_one_clear_line_with_its_path(mount: Callable[[str], Path]) -> None:
    disk = mount("size=1m,ro")
    with pytest.raises(
        JournalError, match=r"NOT RECORDING: .*disk0.*(Read-only|cannot be written)"
    ) as caught:
        Journal.open(disk)
    assert "\n" not in str(caught.value)
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open(disk / "state")


def test_a_disk_that_turns_read_only_in_the_middle_says_so(mount: Callable[[str], Path]) -> None:
    disk = mount("size=6m")
    with Journal.open(disk / "state", reserve_bytes=0) as journal:
        report(journal, 5)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open(disk / "state", reserve_bytes=0)


def test_an_outbox_on_a_read_only_disk_can_be_read_and_not_changed(mount: Callable[[str], Path]) -> None:
    disk = mount("size=6m")
    with Journal.open(disk, reserve_bytes=0) as journal:
        report(journal, 5)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert outbox.stats(disk).pending == 5
    assert len(outbox.list_rows(disk)) == 5
    assert len(list(outbox.lines(disk))) == 5
    with pytest.raises(JournalError, match="findings.db cannot be read"):
        outbox.requeue(disk)


def test_rows_that_are_only_in_the_log_are_not_passed_over_on_a_read_only_disk(tmp_path: Path) -> None:
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        report(journal, 5)
        with pytest.raises(sqlite3.OperationalError, match="not empty"):
            open_unwritable(tmp_path / "findings.db")


def test_a_state_path_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(JournalError, match=r"NOT RECORDING: state directory .*state: cannot be written"):
        Journal.open(tmp_path / "state")


def test_a_directory_of_somebody_else_is_one_clear_line(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may write anywhere: ask as nobody
        program = (
            "import sys; from pathlib import Path\n"
            "from edge_runtime.errors import JournalError\n"
            "from edge_runtime.sync.journal import Journal\n"
            "import os; os.setuid(65534)\n"
            "try: Journal.open(Path(sys.argv[1]))\n"
            "except JournalError as exc: print(exc)"
        )
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
        assert "NOT RECORDING" in done.stdout, done.stderr
        return
    tmp_path.chmod(0o500)
    with pytest.raises(JournalError, match="NOT RECORDING"):
        Journal.open(tmp_path)
