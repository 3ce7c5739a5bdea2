"""A findings database that an earlier version made goes on in this one, and loses nothing on the way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edge_runtime.commands import outbox as commands
from edge_runtime.errors import JournalError
from edge_runtime.records import Gap
from edge_runtime.sync import holdings
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.database import MIN_QUOTA_BYTES, open_db, transaction
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from tests.builders import finding, report
from tests.sync.older_versions import VERSION_1, VERSION_2

MADE = "2026-01-01T00:00:00.000Z"


def make_version_1(folder: Path) -> None:
    with sqlite3.connect(folder / "findings.db", isolation_level=None) as db:
        for statement in VERSION_1:
            db.execute(statement)
        db.execute("INSERT INTO meta VALUES ('schema', '1'), ('device_id', 'dev-1'), ('epoch', 'e1')")
        db.executemany(
            "INSERT INTO journal VALUES (?, 'finding', ?, 'x', ?, 'b')",
            [(1, "a", MADE), (2, "b", MADE), (9, "c", MADE)],
        )
        db.execute("DELETE FROM journal WHERE seq = 9")
        db.execute("INSERT INTO outbox VALUES (2)")
        db.execute("INSERT INTO dead VALUES (1, 'schema')")
    db.close()
    (folder / "device_id").write_text("dev-1\n")


def test_a_database_of_the_first_version_goes_on_in_this_one(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    with Outbox(tmp_path) as outbox:
        assert [(row.seq, row.lane) for row in outbox.pending(Lane.FINDING, 0, 9)] == [(2, Lane.FINDING)]
        assert [row.seq for row in holdings.records(outbox, "dead")] == [1]
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        with journal.batch() as batch:
            add_finding(batch, finding(batch.stamp()))
        assert journal.epoch == "e1"
    with Outbox(tmp_path) as outbox:
        assert [(row.seq, row.kind) for row in holdings.records(outbox)][-2:] == [
            (10, "finding"),
            (11, "mask"),
        ]


def test_a_database_of_the_first_version_can_be_looked_at_before_anything_else(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    assert commands.stats(tmp_path).pending == 1


def test_the_quota_counts_for_the_process_that_brought_a_database_up_to_date(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    with (
        Journal.open(tmp_path, quota_bytes=MIN_QUOTA_BYTES, reserve_bytes=0) as journal,
        pytest.raises(JournalError, match="quota"),
    ):
        report(journal, 1000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * MIN_QUOTA_BYTES


def make_version_2(folder: Path) -> None:
    """Of today's, but for the table of what was lost: there it was forgotten once it was told."""
    with Journal.open(folder, reserve_bytes=0) as journal:
        report(journal, 9)
        lose(journal.path, 3, 6)
        journal.tell_losses()
        lose(journal.path, 8, 8)
        with closing(open_db(journal.path)) as db:
            for statement in (
                "DROP TABLE lost",
                *VERSION_2,
                "INSERT INTO lost VALUES (8, 8, 'mask', 'quota')",
                "UPDATE meta SET value = '2' WHERE key = 'schema'",
            ):
                db.execute(statement)


def lose(path: Path, first: int, last: int) -> None:
    """As retention does."""
    with closing(open_db(path)) as db, transaction(db):
        db.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last))
        db.execute("DELETE FROM journal WHERE seq BETWEEN ? AND ?", (first, last))
        db.execute(
            "INSERT INTO lost (first, last, kind, reason) VALUES (?, ?, 'mask', 'quota')", (first, last)
        )


def test_a_database_of_the_second_version_learns_again_what_its_gap_records_tell(tmp_path: Path) -> None:
    make_version_2(tmp_path)
    with Outbox(tmp_path) as outbox:
        assert DeviceRecords(outbox).kept([(1, 11)]).lost == (3, 4, 5, 6, 8)
        assert outbox.untold()
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        journal.tell_losses()
    with Outbox(tmp_path) as outbox:
        assert not outbox.untold()
        gaps = [
            msgspec.json.decode(row.body, type=Gap) for row in holdings.records(outbox) if row.kind == "gap"
        ]
    assert [gap.ranges for gap in gaps] == [((3, 6),), ((8, 8),)]
