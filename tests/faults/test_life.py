"""A device's whole life at random: committed = delivered + waiting + dead letters + masks and telemetry that a gap tells of.

The journal and the outbox are real and their quota is small; the broker and the cloud are a set of ids. How rows fly and
are sent again is tried in `tests/sync/test_outbox.py`. `EDGE_RUNTIME_LIVES=500` tries as many.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, closing, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_runtime import clock
from edge_runtime.codes import Clock, Priority
from edge_runtime.errors import JournalError, UplinkError
from edge_runtime.records import Gap
from edge_runtime.sync import database, holdings
from edge_runtime.sync.batch import Batch
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.retention import Days
from edge_runtime.sync.wire import Receipt, SeqRange, decode_receipt, encode_receipt, ranges_of
from edge_runtime.types import encode
from tests.builders import event, finding

QUOTA = database.MIN_QUOTA_BYTES
LIVES = int(os.environ.get("EDGE_RUNTIME_LIVES", "6"))
MAY_GO = {"mask", "telemetry"}
Status = Literal["stored", "rejected"]


class DeviceLife(RuleBasedStateMachine):
    """One state directory and the cloud that it reports to."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        folder = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        self.states = (folder / str(n) for n in range(10**6))
        self.state = next(self.states)
        self.ahead = timedelta(0)  # of the wall clock, which anybody may set
        self.committed: dict[str, dict[int, tuple[str, str]]] = {}  # epoch -> number -> (kind, id)
        self.cloud: dict[str, dict[int, str]] = {}  # epoch -> number -> id
        self.told_gone: dict[str, set[int]] = {}  # by gap records that the cloud has
        self.refused: set[int] = set()  # numbers that the cloud rejected or the broker could not take
        self.receipts: list[bytes] = []  # on their way

    @initialize(full=st.booleans())
    def begins(self, full: bool) -> None:
        patch = self.resources.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(clock, "utc_now", self.wall_clock)
        patch.setattr(clock, "clock_quality", lambda: Clock.RTC)
        self.starts()
        for _ in range(6 if full else 0):
            self.reports(count=6, mask=9000, urgent=False)  # more than the quota takes: masks give way

    def wall_clock(self) -> str:
        now = datetime(2026, 1, 1, tzinfo=timezone.utc) + self.ahead
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def starts(self) -> None:
        self.journal = Journal.open(
            self.state, quota_bytes=QUOTA, reserve_bytes=0, days=Days(delivered=7, unsent=2)
        )
        self.outbox = Outbox(self.state)
        self.ours = self.committed.setdefault(self.journal.epoch, {})
        self.theirs = self.cloud.setdefault(self.journal.epoch, {})
        self.gone = self.told_gone.setdefault(self.journal.epoch, set())

    def ends(self) -> None:
        self.outbox.close()
        self.journal.close()

    # ------------------------------------------------------------ recording

    @rule(count=st.sampled_from([1, 3, 10]), mask=st.sampled_from([0, 300, 9000]), urgent=st.booleans())
    def reports(self, count: int, mask: int, urgent: bool) -> None:
        with suppress(JournalError), self.journal.batch() as batch:
            for _ in range(count):
                one = finding(batch.stamp(), priority=Priority.URGENT if urgent else Priority.ROUTINE)
                masks = tuple(
                    msgspec.structs.replace(m, data="P" * mask if mask else None) for m in one.masks
                )
                add_finding(batch, msgspec.structs.replace(one, masks=masks))
        self.note(batch)

    @rule()
    def an_exam_begins(self) -> None:
        with suppress(JournalError), self.journal.batch() as batch:
            one = event(batch.stamp())
            batch.add(one, encode(one))
        self.note(batch)

    @rule()
    def a_batch_is_given_up(self) -> None:
        with pytest.raises(KeyboardInterrupt), self.journal.batch() as batch:
            add_finding(batch, finding(batch.stamp()))
            raise KeyboardInterrupt

    def note(self, batch: Batch) -> None:
        """A batch counts when the journal has told its last number; a full one has told none."""
        if holdings.stats(self.outbox).last_seq >= batch.rows[-1].seq:
            self.ours.update((row.seq, (row.kind, row.id)) for row in batch.rows)

    # ------------------------------------------------------------ sending

    @rule(
        lane=st.sampled_from(Lane),
        count=st.integers(1, 30),
        puback=st.sampled_from(["ok", "refused", "lost on the way", "lost on the way back"]),
        status=st.sampled_from(["stored", "stored", "stored", "rejected"]),
    )
    def sends(self, lane: Lane, count: int, puback: str, status: Status) -> None:
        rows = self.outbox.pending(lane, 0, count)
        if rows and puback in ("ok", "lost on the way back"):
            self.arrives(rows, status)

    def arrives(self, rows: list[OutboxRow], status: Status) -> None:
        """The consumer commits, and answers."""
        seqs = [row.seq for row in rows]
        if status == "rejected":
            seqs = [seq for seq in seqs if seq not in self.theirs]
            self.refused.update(seqs)
        for row in rows if status == "stored" else []:
            assert self.theirs.get(row.seq, row.id) == row.id, "two records with one number"
            self.theirs[row.seq] = row.id
            if row.kind == "gap":
                ranges = msgspec.json.decode(row.body, type=Gap).ranges
                self.gone.update(seq for first, last in ranges for seq in range(first, last + 1))
        receipt = Receipt(epoch=self.outbox.epoch, status=status, ranges=ranges_of(seqs))
        self.receipts.append(encode_receipt(receipt))

    @precondition(lambda self: self.receipts)
    @rule(
        which=st.integers(0, 99),
        fate=st.sampled_from(["comes", "comes", "comes twice", "comes again later", "lost"]),
    )
    def a_receipt(self, which: int, fate: str) -> None:
        payload = self.receipts.pop(which % len(self.receipts))
        for _ in range({"lost": 0, "comes twice": 2}.get(fate, 1)):
            self.takes(payload)
        if fate == "comes again later":
            self.receipts.append(payload)

    @rule(kind=st.sampled_from(["other epoch", "numbers never given", "nonsense"]), first=st.integers(1, 50))
    def a_forged_receipt(self, kind: str, first: int) -> None:
        epoch = "000000000000" if kind == "other epoch" else self.outbox.epoch
        first += len(self.ours) if kind == "numbers never given" else 0
        payload = encode_receipt(Receipt(epoch=epoch, status="stored", ranges=((first, first + 50),)))
        before = self.outbox.pending_count()
        self.takes(payload[:-9] if kind == "nonsense" else payload)
        assert self.outbox.pending_count() == before

    def takes(self, payload: bytes) -> None:
        """What the uplink does with a receipt."""
        with suppress(UplinkError):
            receipt = decode_receipt(payload)
            if receipt.epoch == self.outbox.epoch:
                ranges: tuple[SeqRange, ...] = receipt.ranges
                stored = receipt.status == "stored"
                self.outbox.settle(
                    ranges if stored else (), () if stored else [(one, "why") for one in ranges]
                )

    @rule(which=st.integers(0, 99))
    def the_broker_cannot_take_a_row(self, which: int) -> None:
        waiting = [row.seq for row in holdings.records(self.outbox, "pending")]
        number = waiting[which % len(waiting)] if waiting else which
        self.outbox.hold(number, "too large")
        self.refused.add(number)

    @rule()
    def held_rows_are_tried_again(self) -> None:
        self.outbox.release()

    @rule()
    def dead_letters_are_sent_again(self) -> None:
        self.outbox.revive()

    @rule(first=st.integers(1, 100), count=st.integers(0, 100))
    def the_cloud_asks_for_a_gap(self, first: int, count: int) -> None:
        with suppress(JournalError), self.journal.batch() as batch:
            one = event(batch.stamp())  # such a command is audited, in the same transaction
            batch.add(one, encode(one))
            for statement, values in DeviceRecords(self.outbox).resend([(first, first + count)]):
                batch.also(statement, values)
        self.note(batch)

    # ------------------------------------------------------------ what goes wrong

    @rule(days=st.sampled_from([-4000, -1, 1, 3, 10, 4000]))
    def the_clock_jumps(self, days: int) -> None:
        self.ahead = max(timedelta(days=-9000), min(timedelta(days=9000), self.ahead + timedelta(days=days)))

    @rule()
    def everything_is_killed(self) -> None:
        """The files as they are at this moment, a transaction under way and nothing closed."""
        before, self.state = self.state, next(self.states)
        with suppress(JournalError, KeyboardInterrupt), self.journal.batch() as batch:
            add_finding(batch, finding(batch.stamp()))
            shutil.copytree(before, self.state)
            raise KeyboardInterrupt
        self.ends()
        self.starts()
        assert self.journal.set_aside is None

    @precondition(lambda self: len(self.ours) > 20)  # seldom: it is the end of a life
    @rule(where=st.integers(0, 99))
    def the_database_is_damaged(self, where: int) -> None:
        old = self.journal.epoch
        self.ends()
        path = self.state / "findings.db"
        with path.open("r+b") as file:
            file.write(bytes([where]) * 100)  # the header
        self.starts()
        assert self.journal.set_aside is not None
        assert self.journal.epoch != old
        self.refused.clear()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def nothing_committed_is_lost(self) -> None:
        if not hasattr(self, "outbox"):
            return
        pending, dead, here = (
            {r.seq: r for r in holdings.records(self.outbox, w)} for w in ("pending", "dead", "all")
        )
        gone = self.gone | self.untold() | gap_numbers(list(here.values()))
        settled = set(self.ours) - set(pending) - set(dead) - gone
        assert not set(pending) & set(dead)
        assert settled <= set(self.theirs), "a row left that the cloud does not have"
        assert set(dead) <= self.refused
        assert {self.ours[seq][0] for seq in gone} <= MAY_GO, "only masks and telemetry may give way"
        for seq, row in here.items():
            assert self.ours[seq] == (row.kind, row.id)

    @invariant()
    def numbers_have_no_gap_and_ids_are_unique(self) -> None:
        for ours in self.committed.values():
            assert sorted(ours) == list(range(1, len(ours) + 1))
            assert len(set(ours.values())) == len(ours)

    def untold(self) -> set[int]:
        with closing(database.open_db(self.state / "findings.db")) as db:
            found = db.execute("SELECT first, last FROM lost WHERE NOT told").fetchall()
        return {seq for first, last in found for seq in range(first, last + 1)}

    def teardown(self) -> None:
        """A good day at last: all that waits arrives, and the cloud has no hole but those it was told of."""
        if hasattr(self, "outbox"):
            self.outbox.revive()
            while rows := [row for lane in Lane for row in self.outbox.pending(lane, 0, 100)]:
                self.arrives(rows, "stored")
                self.takes(self.receipts[-1])
            known = set(self.theirs) | self.gone | self.untold()
            assert known == set(self.ours)
            self.ends()
        self.resources.close()


def gap_numbers(rows: list[OutboxRow]) -> set[int]:
    gaps = [msgspec.json.decode(row.body, type=Gap) for row in rows if row.kind == "gap"]
    return {seq for gap in gaps for first, last in gap.ranges for seq in range(first, last + 1)}


DeviceLife.TestCase.settings = settings(max_examples=LIVES, stateful_step_count=30, deadline=None)
TestDeviceLife = DeviceLife.TestCase
