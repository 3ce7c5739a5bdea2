"""Receipts, from both ends: what a consumer owes before it sends one, and what a device does on one (docs/wire.md)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cloud.judging import judge, receipts_for
from edge_runtime.cloud.rows import Poison, PutResult, StoreRow
from edge_runtime.cloud.sqlite import SqliteStore
from edge_runtime.commands import outbox
from edge_runtime.errors import UplinkError
from edge_runtime.sync import holdings
from edge_runtime.sync.link.link import Received
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.wire import MAX_RANGES, REASON_CHARS, Receipt, decode_receipt
from edge_runtime.types import encode
from tests.builders import finding
from tests.conformance.conftest import Conversation
from tests.conformance.told import read, say, stored
from tests.faults.processes import until
from tests.parties.device import receiver
from tests.parties.documents import payload_of
from tests.parties.ear import Ear, Heard, records
from tests.parties.place import Place

pytestmark = [pytest.mark.broker]


class Failing(SqliteStore):
    """A real database that cannot commit for a while, or that dies right after its first commit."""

    def __init__(self, path: Path, *, before: int = 0, after: int = 0) -> None:
        super().__init__(path)
        self.before, self.after = before, after
        self.tries = 0

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        self.tries += 1
        if self.before > 0:
            self.before -= 1
            raise UplinkError("the database is away")
        result = super().put(rows, poison)
        if self.after > 0:
            self.after -= 1
            raise UplinkError("killed between commit and receipt")
        return result


def receipts(heard: list[Heard]) -> list[Receipt]:
    return [decode_receipt(one.payload) for one in heard if one.kind == "rcpt"]


@pytest.mark.slow
def test_er_rcpt_1_no_receipt_is_sent_before_the_commit(place: Place) -> None:
    place.device.add(finding)
    store = Failing(place.store, before=3)
    with (
        Ear(place.broker.port) as ear,
        receiver(place.broker.url, store),
        place.device.uplink(place.broker.url),
    ):
        until(lambda: store.tries >= 3)
        ear.until(receipts)
        assert store.tries >= 4  # none for the three that failed
        assert len(read(place.store, "SELECT * FROM findings")) == 1
        until(lambda: place.device.stats().pending == 0)


def test_er_rcpt_2_a_receipt_fits_its_schema_and_its_bounds(conversation: Conversation) -> None:
    said = [one for one in conversation.heard if one.kind == "rcpt"]
    assert said
    for one in said:
        payload_of("receipt").validate(one.body)
        assert one.properties["ContentType"] == "application/vnd.edge-runtime.receipt+json"
        assert one.body["epoch"] == conversation.device.epoch
    many = [_nonsense(conversation, seq) for seq in range(1, 4 * MAX_RANGES, 2)]
    answers = [decode_receipt(message.payload) for message in receipts_for(many)]
    assert [len(answer.ranges) for answer in answers] == [MAX_RANGES, MAX_RANGES]
    assert {(answer.status, answer.code) for answer in answers} == {("rejected", "schema")}
    assert all(answer.reason and len(answer.reason) <= REASON_CHARS for answer in answers)


def _nonsense(conversation: Conversation, seq: int) -> Any:
    """A message of that number that nobody can read."""
    told = (("epoch", conversation.device.epoch), ("seq", str(seq)))
    return judge(Received(conversation.device.topics.event("finding"), b"{", seq, told), "now")


def test_er_rcpt_3_a_row_goes_on_a_receipt_and_on_no_puback(place: Place) -> None:
    place.device.add(finding)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        ear.until(lambda heard: len(records(heard)) >= 3)  # each had its PUBACK
        assert place.device.stats().pending == 1
        say(ear, place, stored(place, (1, 1)))
        until(lambda: place.device.stats().pending == 0)
    assert place.device.stats().delivered == 1


def test_er_rcpt_4_a_rejected_row_is_a_dead_letter_here_and_kept_there(place: Place) -> None:
    with place.device.journal() as journal, journal.batch() as batch:
        made = finding(batch.stamp(), schema_version="9.0")
        batch.add(made, encode(made))
    with (
        Ear(place.broker.port) as ear,
        receiver(place.broker.url, place.store),
        place.device.uplink(place.broker.url),
    ):
        (said,) = ear.until(receipts)
        until(lambda: place.device.stats().dead == 1)
        (sent,) = records(ear.heard)
    with Outbox(place.device.state, reading=True) as outbox:
        assert holdings.reasons(outbox, [1]) == {1: said.reason}
    assert read(place.store, "SELECT topic, payload, reason FROM quarantine") == [
        (sent.topic, sent.payload, said.reason)
    ]


def test_er_rcpt_5_what_is_no_receipt_for_waiting_rows_changes_nothing(place: Place) -> None:
    place.device.examine(2)
    waiting = place.device.stats().pending
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url) as said:
        ear.until(lambda heard: len(records(heard)) >= waiting)
        say(ear, place, stored(place, (1, waiting), epoch="another"))
        say(ear, place, stored(place, (1, waiting)), sender="another")
        say(ear, place, stored(place, (1, waiting), v=2))
        say(ear, place, stored(place, (waiting, 1)))
        say(ear, place, stored(place, (0, waiting)))
        say(ear, place, stored(place, (waiting + 1, 9000)))
        say(ear, place, stored(place, (1, waiting), status="done"))
        for junk in (b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"v":1,"epoch":"e"}'):
            ear.say(place.device.topics.receipts, junk)
        ear.say(place.device.topics.receipts, b"x" * 500_000)  # more than the device said it takes
        say(ear, place, stored(place, (1, 1)))
        say(ear, place, stored(place, (1, 1)))
        until(lambda: place.device.stats().pending == waiting - 1)
        say(ear, place, stored(place, (1, 1), status="rejected", reason="late", code="schema"))
        say(ear, place, stored(place, (2, 2)))
        until(lambda: place.device.stats().pending == waiting - 2)
        assert sum("connected" in line for line in said) == 1
    assert place.device.stats().dead == 0


def test_er_rcpt_6_a_row_that_comes_again_is_stored_once_and_gets_its_receipt_again(place: Place) -> None:
    place.device.add(finding)
    with Ear(place.broker.port) as ear, receiver(place.broker.url, place.store):
        with place.device.uplink(place.broker.url):
            until(lambda: place.device.stats().pending == 0)
        (sent,) = records(ear.heard)
        before = len(receipts(ear.heard))
        ear.say(sent.topic, sent.payload, user=tuple(sent.user.items()))
        ear.until(lambda heard: len(receipts(heard)) == before + 1)
        assert receipts(ear.heard)[-1] == receipts(ear.heard)[0]
    assert len(read(place.store, "SELECT * FROM findings")) == 1


def test_er_rcpt_7_a_consumer_that_dies_after_its_commit_costs_a_second_delivery_and_no_row(
    place: Place,
) -> None:
    place.device.examine(5)
    store = Failing(place.store, after=1)
    with Ear(place.broker.port) as ear, receiver(place.broker.url, store) as consumer:
        with place.device.uplink(place.broker.url):
            until(lambda: place.device.stats().pending == 0)
        assert len(records(ear.heard)) > len({one.user["seq"] for one in records(ear.heard)})
        assert consumer.report.repeated > 0
    found = read(place.store, "SELECT seq FROM findings ORDER BY seq")
    assert len(found) == len(set(found)) == 5


def test_er_rcpt_8_a_message_that_names_no_row_is_kept_and_not_answered(place: Place) -> None:
    topics = place.device.topics
    with Ear(place.broker.port) as ear, receiver(place.broker.url, place.store) as consumer:
        until(lambda: consumer.report.connects == 1)
        ear.say(topics.event("finding"), b"{}")
        ear.say(topics.event("finding"), b"{}", user=(("epoch", "e"), ("seq", "-1")))
        ear.say(f"{topics.prefix}/evt/thumbnail", b"{}", user=(("epoch", "e"), ("seq", "1")))
        until(lambda: consumer.report.rejected == 3)
        place.device.add(finding)
        with place.device.uplink(place.broker.url):
            until(lambda: place.device.stats().pending == 0)
        assert [said.status for said in receipts(ear.heard)] == ["stored"]
    with closing(sqlite3.connect(place.store)) as db:
        assert db.execute("SELECT count(*) FROM quarantine").fetchone()[0] in (2, 3)


def test_er_rcpt_9_a_receipt_says_back_whose_records_it_is_about(place: Place) -> None:
    place.device.add(finding)
    with Ear(place.broker.port) as ear:
        with place.device.uplink(place.broker.url):
            first = ear.until(records)[-1].user["sender"]
        with place.device.uplink(place.broker.url):
            second = ear.until(lambda heard: {one.user["sender"] for one in records(heard)} - {first}).pop()
            say(ear, place, stored(place, (1, 1)), sender=first)
            say(ear, place, stored(place, (1, 1), epoch="another"), sender=second)
            seen = len(records(ear.heard))
            ear.until(lambda heard: len(records(heard)) > seen + 1)  # it goes on asking
            assert place.device.stats().pending == 1
            with receiver(place.broker.url, place.store):
                until(lambda: place.device.stats().pending == 0)
        assert receipts(ear.heard)[-1].sender == second


@pytest.mark.slow
def test_er_rcpt_10_a_late_receipt_settles_no_row_that_was_sent_again(place: Place) -> None:
    place.device.add(finding)

    def sent_by_another(heard: list[Heard], *known: str) -> str:
        return next(
            (one.user["sender"] for one in records(heard, "finding") if one.user["sender"] not in known), ""
        )

    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        first = ear.until(sent_by_another)
        rejected = stored(place, (1, 1), status="rejected", reason="unknown", code="schema")
        say(ear, place, rejected)
        until(lambda: place.device.stats().dead == 1)
        assert outbox.requeue(place.device.state) == 1
        second = ear.until(lambda heard: sent_by_another(heard, first))
        for late in (rejected, stored(place, (1, 1))):
            say(ear, place, late, sender=first)
        say(ear, place, stored(place, (1, 1)), sender=f"{first}-99999999")  # never sent, and named by nobody
        _goes_on_asking(ear)
        assert (place.device.stats().pending, place.device.stats().dead) == (1, 0)
        say(ear, place, stored(place, (1, 1)), sender=second)
        until(lambda: place.device.stats().pending == 0)
        place.device.ask(place.broker.url, "resend", epoch=place.device.epoch, ranges=[[1, 1]])
        ear.until(lambda heard: sent_by_another(heard, first, second))
        for late in (first, second):
            say(ear, place, stored(place, (1, 1)), sender=late)
        _goes_on_asking(ear)
        with Outbox(place.device.state, reading=True) as held:
            assert [row.seq for row in holdings.records(held, "pending") if row.kind == "finding"] == [1]


def _goes_on_asking(ear: Ear) -> None:
    seen = len(records(ear.heard, "finding"))
    ear.until(lambda heard: len(records(heard, "finding")) > seen + 1)
