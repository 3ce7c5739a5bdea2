"""The outbox: a row is pending, delivered or dead, and nothing that was committed is ever none of these."""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.commands import outbox as commands
from edge_runtime.errors import JournalError
from edge_runtime.records import Gap
from edge_runtime.sync.database import MIN_QUOTA_BYTES, open_db, transaction
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.uplink.flight import Flight, Pace
from edge_runtime.sync.wire import ranges_of
from edge_runtime.types import encode
from tests.builders import finding, report
from tests.patience import within
from tests.sync.older_versions import VERSION_1, VERSION_2

MADE = "2026-01-01T00:00:00.000Z"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        report(journal, 10)
    return tmp_path


def test_pending_rows_come_oldest_first_and_page_by_page(state: Path) -> None:
    with Outbox(state) as outbox:
        assert [row.seq for row in outbox.pending(Lane.FINDING, 0, 4)] == [1, 2, 3, 4]
        assert [row.seq for row in outbox.pending(Lane.FINDING, 4, 4)] == [5, 6, 7, 8]
        assert outbox.pending(Lane.FINDING, 10, 4) == []


def test_a_receipt_that_comes_twice_counts_once_and_a_foreign_number_not_at_all(state: Path) -> None:
    with Outbox(state) as outbox:
        assert outbox.settle([(1, 3), (900, 999)]) == (3, 0)
        assert outbox.settle([(1, 4)]) == (1, 0)
        assert [row.seq for row in outbox.pending(Lane.FINDING, 0, 10)] == [5, 6, 7, 8, 9, 10]


def test_a_rejected_row_is_kept_with_its_reason_and_can_be_revived(state: Path) -> None:
    with Outbox(state) as outbox:
        assert outbox.settle([], [((2, 3), "schema 9.0, known 1.0")]) == (0, 2)
        assert [row.seq for row in outbox.records("dead")] == [2, 3]
        assert outbox.stats().dead == 2
    listed = commands.list_rows(state, which="dead")
    assert [(row.seq, row.reason) for row in listed] == [
        (2, "schema 9.0, known 1.0"),
        (3, "schema 9.0, known 1.0"),
    ]
    assert commands.requeue(state) == 2
    assert commands.stats(state).pending == 10


def test_stats_say_how_much_waits_and_for_how_long(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.settle([(1, 4)], [((5, 5), "why")])
    stats = commands.stats(state)
    assert (stats.pending, stats.delivered, stats.dead, stats.last_seq) == (5, 4, 1, 10)
    assert stats.oldest_pending_s is not None
    assert 0 <= stats.oldest_pending_s < 60
    with Outbox(state) as outbox:
        outbox.settle([(6, 10)])
    assert commands.stats(state).oldest_pending_s is None


def test_the_export_is_what_was_reported_line_by_line(state: Path) -> None:
    assert [json.loads(line)["seq"] for line in commands.lines(state)] == list(range(1, 11))


def test_a_state_directory_without_a_journal_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"no findings.db in it yet") as caught:
        Outbox(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nothing").exists()


def test_a_row_that_this_broker_cannot_take_is_held_and_tried_at_the_next_start(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.hold(3, "5000 bytes, the broker takes 1000")
        assert [row.seq for row in outbox.records("held")] == [3]
        stats = outbox.stats()
        assert (stats.pending, stats.dead, stats.held) == (9, 1, 1)
        assert outbox.release() == 1
        assert outbox.stats().pending == 10


def test_what_the_cloud_rejected_is_not_released_with_what_is_held(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.settle([], [((2, 2), "schema")])
        outbox.hold(3, "too large")
        assert outbox.release() == 1
        assert [row.seq for row in outbox.records("dead")] == [2]


def test_delivered_rows_are_sent_again_when_asked_for_and_those_gone_are_named(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.settle([(1, 8)], [((9, 9), "schema")])
        outbox._db.execute("DELETE FROM journal WHERE seq IN (2, 3, 6)")
        kept = outbox.kept([(1, 4), (6, 12)])
        assert (kept.delivered, kept.waiting, kept.dead) == ((1, 4, 7, 8), (10,), (9,))
        assert (kept.lost, kept.gone, kept.never) == ((), (2, 3, 6), (11, 12))
        for statement, values in outbox.resend([(1, 4), (6, 50)]):
            outbox._db.execute(statement, values)
        assert [row.seq for row in outbox.pending(Lane.FINDING, 0, 20)] == [1, 4, 7, 8, 10]
        assert [row.seq for row in outbox.records("dead")] == [9]


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
        assert [row.seq for row in outbox.records("dead")] == [1]
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        with journal.batch() as batch:
            add_finding(batch, finding(batch.stamp()))
        assert journal.epoch == "e1"
    with Outbox(tmp_path) as outbox:
        assert [(row.seq, row.kind) for row in outbox.records()][-2:] == [(10, "finding"), (11, "mask")]


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
        assert outbox.kept([(1, 11)]).lost == (3, 4, 5, 6, 8)
        assert outbox.untold()
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        journal.tell_losses()
    with Outbox(tmp_path) as outbox:
        assert not outbox.untold()
        gaps = [msgspec.json.decode(row.body, type=Gap) for row in outbox.records() if row.kind == "gap"]
    assert [gap.ranges for gap in gaps] == [((3, 6),), ((8, 8),)]


def test_what_became_of_many_numbers_is_found_while_a_recorder_waits(state: Path) -> None:
    """A command asks it inside the journal's transaction, where 80,000 ranges once took 6 s."""
    with closing(open_db(state / "findings.db")) as db, transaction(db):
        rows = ((seq, seq, "mask", "quota", 1) for seq in range(12, 160_012, 2))
        db.executemany("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("UPDATE sqlite_sequence SET seq = 160010 WHERE name = 'journal'")
    with Outbox(state) as outbox:
        began = time.monotonic()
        kept = outbox.kept([(150_001, 160_000)])
        kept_apart = outbox.kept([(first, first + 99) for first in range(1001, 160_000, 1600)])
        assert time.monotonic() - began < within(0.5)
    assert (len(kept.lost), len(kept.gone)) == (5000, 5000)
    assert (len(kept_apart.lost), len(kept_apart.gone)) == (5000, 5000)


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


def test_an_export_is_what_was_reported_to_the_byte_and_counts_no_mask_twice(tmp_path: Path) -> None:
    with Journal.open(tmp_path, reserve_bytes=0) as journal, journal.batch() as batch:
        made = []
        for _ in range(3):
            made.append(finding(batch.stamp()))
            add_finding(batch, made[-1])
    assert list(commands.lines(tmp_path)) == [encode(record) + b"\n" for record in made]
    with Outbox(tmp_path) as outbox:
        assert outbox.stats().records == {"finding": 3, "mask": 3}


class OutboxLife(RuleBasedStateMachine):
    """Findings are reported, sent, received, confirmed; receipts and processes are lost at any moment.

    The cloud is a set of ids. What was committed is always delivered, pending or dead, and only what the cloud has
    ever leaves the outbox.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.state = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        self.committed: dict[int, str] = {}
        self.cloud: set[str] = set()
        self.rejected: set[int] = set()
        self.receipts: list[tuple[str, list[int]]] = []  # on their way
        self.now_ns = 0
        self.start()

    def start(self) -> None:
        self.journal = Journal.open(self.state, reserve_bytes=0)
        self.connect()

    def connect(self) -> None:
        self.outbox = Outbox(self.state)
        self.flight = Flight(Pace(window=4, receipt_timeout_s=5), self.now_ns)
        self.cursor = 0
        self.mid = 0

    def teardown(self) -> None:
        self.outbox.close()
        self.journal.close()
        self.resources.close()

    @rule(count=st.integers(1, 3))
    def reports(self, count: int) -> None:
        self.committed.update((made.seq, made.finding_id) for made in report(self.journal, count))

    @rule()
    def a_batch_is_given_up(self) -> None:
        with pytest.raises(KeyboardInterrupt), self.journal.batch() as batch:
            batch.stamp()
            raise KeyboardInterrupt

    @rule(seconds=st.sampled_from([0, 1, 6, 40]), arrives=st.booleans(), readable=st.booleans())
    def sends(self, seconds: int, arrives: bool, readable: bool) -> None:
        self.now_ns += seconds * 10**9
        rows: list[OutboxRow] = self.flight.again(self.now_ns)
        if room := self.flight.room():
            fresh = self.outbox.pending(Lane.FINDING, self.cursor, room)
            self.cursor = fresh[-1].seq if fresh else self.cursor
            rows = rows + fresh
        for row in rows:
            self.mid += 1
            self.flight.sent(row, self.mid)
            self.flight.acked(self.mid, self.now_ns)
        assert len(self.flight) <= 4
        if arrives and rows:
            self.arrives(rows, readable)

    def arrives(self, rows: list[OutboxRow], readable: bool) -> None:
        if readable:
            self.cloud.update(row.id for row in rows)
        self.receipts.append(("stored" if readable else "rejected", [row.seq for row in rows]))

    @precondition(lambda self: self.receipts)
    @rule(which=st.randoms(use_true_random=False), lost=st.booleans(), twice=st.booleans())
    def a_receipt(self, which: random.Random, lost: bool, twice: bool) -> None:
        status, seqs = self.receipts.pop(which.randrange(len(self.receipts)))
        for _ in range(0 if lost else 1 + twice):
            ranges = ranges_of(seqs)
            self.flight.settled(ranges, self.now_ns)
            if status == "stored":
                self.outbox.settle(ranges)
            else:
                self.outbox.settle([], [(one, "unreadable") for one in ranges])
                self.rejected.update(seqs)

    @rule()
    def the_connection_breaks(self) -> None:
        self.outbox.close()
        self.connect()

    @rule()
    def everything_is_killed(self) -> None:
        self.outbox.close()
        self.journal.close()
        self.start()

    @invariant()
    def nothing_committed_is_lost(self) -> None:
        pending, dead, delivered, every = (
            {row.seq: row.id for row in self.outbox.records(which)}
            for which in ("pending", "dead", "delivered", "all")
        )
        assert every == self.committed == {**pending, **dead, **delivered}
        assert len(pending) + len(dead) + len(delivered) == len(every)
        assert set(delivered.values()) <= self.cloud
        assert set(dead) <= self.rejected

    @invariant()
    def numbers_have_no_gap(self) -> None:
        assert sorted(self.committed) == list(range(1, len(self.committed) + 1))


OutboxLife.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestOutboxLife = OutboxLife.TestCase
