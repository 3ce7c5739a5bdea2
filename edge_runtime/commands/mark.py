"""`edge-runtime mark FINDING --urgent`: a person says that a finding cannot wait. No model can.

A finding is never changed: the mark is a new revision that supersedes it, and goes before all else that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_runtime import clock
from edge_runtime.codes import Priority
from edge_runtime.commands.state import open_journal
from edge_runtime.config import read_config
from edge_runtime.errors import ConfigError
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Stamp
from edge_runtime.sync.outbox import Outbox
from edge_runtime.types import Finding, encode


class MarkReport(msgspec.Struct, frozen=True, kw_only=True):
    finding_id: str  # of the new revision
    supersedes: str
    priority: Priority
    revision: int


def run(*, finding: str, state: Path, on_notice: Callable[[str], None] = lambda line: None) -> MarkReport:
    """Marks the finding of this id, `last` for the newest. ConfigError when there is none, or it is urgent already.

    `on_notice` gets what the journal wants a person to know.
    """
    if not finding.isprintable():
        raise ConfigError(f"finding {finding!r}: that is no finding's id")
    before = _find(finding, state)
    with open_journal(state, read_config(None, state), on_notice) as journal, journal.batch() as batch:
        marked = _revision(before, batch.stamp())
        batch.add(marked, encode(marked))
    return MarkReport(
        finding_id=marked.finding_id,
        supersedes=before.finding_id,
        priority=marked.priority,
        revision=marked.revision,
    )


def _find(finding: str, state: Path) -> Finding:
    """The finding to be marked; ConfigError when there is none, or it is urgent already."""
    with Outbox(state) as outbox:
        row = holdings.last_finding(outbox) if finding == "last" else holdings.finding(outbox, finding)
        if row is None:
            raise ConfigError(
                f"finding {finding}: not in {state}; `edge-runtime outbox list --which all` shows what is"
            )
        after = holdings.superseding(outbox, row)
    found = msgspec.json.decode(row.body, type=Finding)
    if found.priority is Priority.URGENT:
        raise ConfigError(f"finding {row.id}: is marked as urgent already")
    if after is not None:
        raise ConfigError(f"finding {row.id}: is marked as urgent already, by {after}")
    return found


def _revision(before: Finding, stamp: Stamp) -> Finding:
    return msgspec.structs.replace(
        before,
        **stamp.head(),
        boot_id=stamp.boot_id,
        monotonic_ns=stamp.monotonic_ns,
        finding_id=clock.uuid7(),
        revision=before.revision + 1,
        supersedes=before.finding_id,
        priority=Priority.URGENT,
    )


def lines(report: MarkReport) -> list[str]:
    """For a person."""
    return [
        f"finding {report.finding_id}: urgent, revision {report.revision} of {report.supersedes}; sent before all else"
    ]
