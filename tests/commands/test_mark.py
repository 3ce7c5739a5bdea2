"""A person's mark makes a finding urgent: a new revision, sent before all else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_runtime.codes import Priority
from edge_runtime.commands import mark
from edge_runtime.errors import ConfigError
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import Outbox
from edge_runtime.types import Finding
from tests.builders import report


@pytest.fixture
def reported(tmp_path: Path) -> list[Finding]:
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        return report(journal, 4)


def test_a_marked_finding_is_a_new_revision_that_says_what_it_supersedes(
    tmp_path: Path, reported: list[Finding]
) -> None:
    told = mark.run(finding=reported[1].finding_id, state=tmp_path)
    with Outbox(tmp_path) as outbox:
        (row,) = outbox.pending(Lane.URGENT, 0, 9)
    urgent = msgspec.json.decode(row.body, type=Finding)
    assert (urgent.finding_id, urgent.supersedes) == (told.finding_id, reported[1].finding_id)
    assert (urgent.revision, urgent.priority, urgent.seq) == (2, Priority.URGENT, 5)
    assert urgent.measurements == reported[1].measurements


def test_what_no_terminal_can_show_is_no_findings_id(tmp_path: Path, reported: list[Finding]) -> None:
    with pytest.raises(ConfigError, match="no finding's id"):
        mark.run(finding="\udcff", state=tmp_path)


def test_the_newest_finding_needs_no_id_and_no_finding_is_marked_twice(
    tmp_path: Path, reported: list[Finding]
) -> None:
    assert mark.run(finding="last", state=tmp_path).supersedes == reported[-1].finding_id
    with pytest.raises(ConfigError, match="urgent already"):
        mark.run(finding="last", state=tmp_path)


def test_a_finding_that_a_mark_superseded_is_not_marked_again_and_last_is_the_newest_capture(
    tmp_path: Path, reported: list[Finding]
) -> None:
    mark.run(finding=reported[0].finding_id, state=tmp_path)
    with pytest.raises(ConfigError, match="urgent already, by"):
        mark.run(finding=reported[0].finding_id, state=tmp_path)
    assert mark.run(finding="last", state=tmp_path).supersedes == reported[-1].finding_id


def test_an_id_that_is_not_in_the_journal_is_refused(tmp_path: Path, reported: list[Finding]) -> None:
    with pytest.raises(ConfigError, match="outbox list"):
        mark.run(finding="no-such", state=tmp_path)
    with Outbox(tmp_path) as outbox:
        assert holdings.stats(outbox).pending == len(reported)
