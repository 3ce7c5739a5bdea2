"""The outbox: a row is pending, delivered or dead, and nothing that was committed is ever none of these."""

from __future__ import annotations

import random
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.commands import outbox as commands
from edge_runtime.errors import JournalError
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.uplink.flight import Flight, Pace
from edge_runtime.sync.wire import ranges_of
from tests.builders import report


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
        assert [row.seq for row in holdings.records(outbox, "dead")] == [2, 3]
        assert holdings.stats(outbox).dead == 2
    listed = commands.list_rows(state, which="dead")
    assert [(row.seq, row.reason) for row in listed] == [
        (2, "schema 9.0, known 1.0"),
        (3, "schema 9.0, known 1.0"),
    ]
    assert commands.requeue(state) == 2
    assert commands.stats(state).pending == 10


def test_a_state_directory_without_a_journal_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"no findings.db in it yet") as caught:
        Outbox(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "nothing").exists()


def test_a_row_that_this_broker_cannot_take_is_held_and_tried_at_the_next_start(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.hold(3, "5000 bytes, the broker takes 1000")
        assert [row.seq for row in holdings.records(outbox, "held")] == [3]
        stats = holdings.stats(outbox)
        assert (stats.pending, stats.dead, stats.held) == (9, 1, 1)
        assert outbox.release() == 1
        assert holdings.stats(outbox).pending == 10


def test_what_the_cloud_rejected_is_not_released_with_what_is_held(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.settle([], [((2, 2), "schema")])
        outbox.hold(3, "too large")
        assert outbox.release() == 1
        assert [row.seq for row in holdings.records(outbox, "dead")] == [2]


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
            {row.seq: row.id for row in holdings.records(self.outbox, which)}
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
