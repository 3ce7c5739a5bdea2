"""A full disk, a read-only one: one clear line, and nothing that was reported is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.errors import JournalError
from edge_runtime.sync.database import open_unwritable
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.outbox import Outbox
from tests.builders import report

MIB = 2**20


def test_a_full_disk_uses_the_reserve_then_says_not_recording_and_loses_nothing_reported(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=16m")
    reported: list[str] = []
    with Journal.open(disk / "state", reserve_bytes=4 * MIB) as journal:
        assert (disk / "state" / "reserve").exists()
        reported += [made.finding_id for made in report(journal, 20)]
        free = os.statvfs(disk)
        (disk / "holiday.mp4").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 8192)))
        with pytest.raises(JournalError, match=r"^NOT RECORDING: .*disk is full") as caught:
            for _ in range(1000):
                reported += [made.finding_id for made in report(journal, 10)]
        assert "\n" not in str(caught.value)
        assert len(journal.notices) == 1
        assert "reserve" in journal.notices[0]
        assert not (disk / "state" / "reserve").exists()
        assert len(reported) > 500  # of 2.4 kB each; half the reserve is log and database at once
        with Outbox(disk / "state") as outbox:
            assert [row.id for row in outbox.records()] == reported
        (disk / "holiday.mp4").unlink()
        reported += [made.finding_id for made in report(journal, 10)]  # and it goes on as soon as it can
    with Journal.open(disk / "state", reserve_bytes=4 * MIB) as again, Outbox(disk / "state") as outbox:
        assert again.set_aside is None
        assert (disk / "state" / "reserve").exists()
        assert [row.id for row in outbox.records()] == reported
        assert [row.seq for row in outbox.records()] == list(range(1, len(reported) + 1))


def test_a_journal_opens_on_a_full_disk_by_giving_up_the_reserve(mount: Callable[[str], Path]) -> None:
    disk = mount("size=6m")
    with Journal.open(disk / "state", reserve_bytes=MIB) as journal:
        report(journal, 5)
    free = os.statvfs(disk)
    (disk / "holiday.mp4").write_bytes(bytes(free.f_bavail * free.f_frsize))
    with Journal.open(disk / "state", reserve_bytes=MIB) as journal:
        report(journal, 5)
        assert "the disk is full" in journal.notices[-1]


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
