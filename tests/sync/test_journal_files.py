"""The journal's files: private, and beside the database wherever a link leads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime.commands.doctor import _state
from edge_runtime.sync.journal import Journal
from tests.builders import report
from tests.sync.conftest import seqs

MIB = 2**20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(state: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir() if path.is_file()}


def test_nobody_else_can_read_what_a_journal_makes_in_a_directory_of_somebody_else(
    usual_umask: None, state: Path, notices: list[str]
) -> None:
    state.mkdir(mode=0o755)
    with Journal.open(state, reserve_bytes=MIB, on_notice=notices.append) as journal:
        report(journal, 3)
        made = modes(state)
        assert {"findings.db", "findings.db-wal", "findings.db-shm", "reserve", "reserve.loan"} <= set(made)
        assert set(made.values()) == {0o600}
        assert notices == []


def test_findings_that_anybody_could_read_become_private_and_that_is_said(
    usual_umask: None, state: Path, notices: list[str]
) -> None:
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 3)
        for path in state.glob("findings.db*"):
            path.chmod(0o644)
        with Journal.open(state, reserve_bytes=0, on_notice=notices.append) as again:
            assert {mode for name, mode in modes(state).items() if name.startswith("findings.db")} == {0o600}
            assert "only its owner" in notices[0]
            report(again, 1)
    assert seqs(state) == [1, 2, 3, 4]


def test_findings_that_a_group_was_given_stay_the_groups(state: Path, notices: list[str]) -> None:
    Journal.open(state, reserve_bytes=0).close()
    (state / "findings.db").chmod(0o640)
    with Journal.open(state, reserve_bytes=0, on_notice=notices.append) as journal:
        report(journal, 1)
        assert modes(state)["findings.db"] == modes(state)["findings.db-wal"] == 0o640
        assert notices == []


def test_doctor_warns_of_findings_that_anybody_can_read(usual_umask: None, state: Path) -> None:
    state.mkdir(mode=0o755)
    Journal.open(state, reserve_bytes=0).close()
    assert _state(state).state == "ok"
    (state / "findings.db").chmod(0o644)
    assert _state(state).state == "lacks"
    state.chmod(0o700)
    assert _state(state).state == "ok"


@pytest.fixture
def elsewhere(state: Path, tmp_path: Path) -> Path:
    """A folder, of another disk say, to which the database of `state` is linked before there is one."""
    state.mkdir()
    (tmp_path / "disk").mkdir()
    (state / "findings.db").symlink_to(tmp_path / "disk" / "f.db")
    return tmp_path / "disk"


def test_a_database_that_is_linked_to_another_disk_is_made_there_and_private(
    usual_umask: None, state: Path, elsewhere: Path
) -> None:
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 3)
        assert modes(elsewhere) == {"f.db": 0o600, "f.db-wal": 0o600, "f.db-shm": 0o600}
        assert (state / "findings.db").is_symlink()
    with Journal.open(state, reserve_bytes=0) as journal:
        assert report(journal, 1)[0].seq == 4


def test_a_damaged_database_on_another_disk_is_set_aside_there_and_the_next_one_begins_there(
    state: Path, elsewhere: Path
) -> None:
    (elsewhere / "f.db").write_bytes(b"not a database " * 1000)
    with Journal.open(state, reserve_bytes=0) as journal:
        assert journal.set_aside == elsewhere / "f.db.corrupt-1"
        report(journal, 2)
    assert (elsewhere / "f.db.corrupt-1").read_bytes().startswith(b"not a database")
    assert (elsewhere / "f.db").stat().st_size > 0
    assert seqs(state) == [1, 2]


def test_a_link_that_is_led_elsewhere_is_followed_and_the_file_it_left_keeps_its_log(
    state: Path, elsewhere: Path
) -> None:
    with Journal.open(state, reserve_bytes=0) as journal:
        report(journal, 3)
        (state / "findings.db").unlink()
        (state / "findings.db").symlink_to(elsewhere / "g.db")
        assert report(journal, 1)[0].seq == 1
    assert {path.name for path in elsewhere.iterdir()} >= {"f.db", "g.db"}
    assert not list(elsewhere.glob("*corrupt*"))
    assert seqs(state) == [1]


def test_doctor_warns_of_a_file_system_whose_blocks_are_too_small(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir()
    usual = os.statvfs(state)
    small = SimpleNamespace(
        f_frsize=1024, f_bavail=usual.f_bavail, f_blocks=usual.f_blocks, f_bfree=usual.f_bfree
    )
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    check = _state(state)
    assert check.state == "lacks"
    assert "blocks of 1024 bytes" in check.found
