"""What the consumer makes of a message: a row, or poison with a reason; and the receipts for a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_runtime.cloud.judging import judge, poisoned, receipts_for
from edge_runtime.codes import Clock
from edge_runtime.sync.journal import Stamp
from edge_runtime.sync.link.link import Received
from edge_runtime.sync.packing import ENCODING, pack
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import decode_receipt, outgoing
from edge_runtime.types import encode
from tests.builders import STAMP, event, finding
from tests.parties.cloud import TOPICS, changed, message

NOW = "2026-01-01T00:00:05.000Z"


def test_a_finding_becomes_a_row_and_its_receipt_says_stored() -> None:
    received = message()
    judged = judge(received, NOW)
    assert judged.row is not None
    assert judged.poison is None
    assert (judged.row.device_id, judged.row.seq, judged.row.epoch, judged.row.exam_id) == (
        "dev-1",
        7,
        "e1",
        "exam-1",
    )
    assert (judged.row.received_at, judged.row.body.encode()) == (NOW, received.payload)
    (receipt,) = receipts_for([judged])
    assert receipt.topic == TOPICS.receipts
    assert decode_receipt(receipt.payload).status == "stored"
    assert decode_receipt(receipt.payload).ranges == ((7, 7),)


def test_an_event_becomes_a_row_of_its_own_kind() -> None:
    record = event(STAMP)
    judged = judge(message(encode(record), topic=TOPICS.event("event")), NOW)
    assert judged.row is not None
    assert (judged.row.kind, judged.row.id) == ("event", record.event_id)


def test_a_later_minor_version_with_new_keys_and_codes_is_accepted() -> None:
    judged = judge(
        changed(schema_version="1.9", lesion={"x": 1}, status="new-word", reasons=["new_reason"]), NOW
    )
    assert judged.poison is None


@pytest.mark.parametrize(
    ("bad", "reason", "code"),
    [
        (message(b""), "truncated", "schema"),
        (message(b"\xff\xfe"), "utf-8", "schema"),
        (message(b"[1, 2]"), "object", "schema"),
        (message(b"[" * 100_000), "", "schema"),
        (changed(schema_version="2.0"), "schema 2.0", "schema"),
        (changed(schema_version="one"), "schema_version", "schema"),
        (changed(device_id="dev-2"), "different rows", "refused"),
        (changed(seq=8), "different rows", "refused"),
        (changed(epoch="e2"), "different rows", "refused"),
        (changed(seq=10**30), "", "schema"),
        (changed(exam_id="a\x00b"), "exam_id", "schema"),
        (changed(exam_id="x" * 300), "exam_id", "schema"),
        (changed(finding_id=None), "finding_id", "schema"),
    ],
)
def test_what_cannot_be_read_is_poison_and_the_device_is_told(bad: Received, reason: str, code: str) -> None:
    judged = judge(bad, NOW)
    assert judged.row is None
    assert judged.poison is not None
    assert reason in judged.poison.reason
    assert judged.poison.payload == bad.payload
    (receipt,) = receipts_for([judged])
    told = decode_receipt(receipt.payload)
    assert (told.status, told.epoch, told.ranges, told.code) == ("rejected", "e1", ((7, 7),), code)


def test_a_reason_is_bounded_and_clean_before_it_is_stored_and_sent() -> None:
    judged = judge(changed(schema_version="\x1b[31m" + "x" * 5000), NOW)
    noted = judged._replace(
        poison=poisoned(judged.received, judged.sender, "schema", "\x1b[31m\n" + "x" * 5000, NOW)
    )
    assert noted.poison is not None
    (receipt,) = receipts_for([noted])
    reason = decode_receipt(receipt.payload).reason
    assert reason == noted.poison.reason == "?[31m?" + "x" * 194


@pytest.mark.parametrize(
    "unknown",
    [
        message(seq="x"),
        message(seq=""),
        message(seq="-1"),
        message(seq="9" * 5000),
        message(epoch=""),
        message(epoch="e" * 201),
        message(epoch="e\0"),
        message(topic="x"),
    ],
)
def test_a_message_from_nobody_is_poison_without_a_receipt(unknown: Received) -> None:
    judged = judge(unknown, NOW)
    assert judged.poison is not None
    assert receipts_for([judged]) == []


def test_a_batch_of_two_devices_gets_one_receipt_each_with_the_fewest_ranges() -> None:
    batch = []
    for device, seqs in (("dev-1", (3, 1, 2, 9)), ("dev-2", (5,))):
        for seq in seqs:
            stamp = Stamp(device, "e1", "boot", seq, STAMP.created_at, Clock.NTP, 1)
            topic = DeviceTopics("clinic", "room-1", device).event("finding")
            body = outgoing("finding", encode(finding(stamp)))
            batch.append(judge(message(body, seq=str(seq), topic=topic), NOW))
    told = {receipt.topic: decode_receipt(receipt.payload).ranges for receipt in receipts_for(batch)}
    assert told == {TOPICS.receipts: ((1, 3), (9, 9)), TOPICS.receipts.replace("dev-1", "dev-2"): ((5, 5),)}


def test_a_packed_finding_is_stored_as_the_json_it_was() -> None:
    plain = message().payload
    packed = judge(message(pack(plain), encoding=ENCODING), NOW)
    assert packed.row is not None
    assert packed.row.body.encode() == plain


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [(b"{}", "zd9"), (b"{}", ENCODING), (pack(b"{}")[:-1], ENCODING), (pack(b" " * 2**23), ENCODING)],
    ids=["unknown", "not packed", "cut off", "a bomb"],
)
def test_what_cannot_be_unpacked_is_asked_for_again_as_plain_json(payload: bytes, encoding: str) -> None:
    judged = judge(message(payload, encoding=encoding), NOW)
    (receipt,) = receipts_for([judged])
    told = decode_receipt(receipt.payload)
    assert (told.status, told.code, told.ranges) == ("rejected", "encoding", ((7, 7),))


def side(kind: str, **over: Any) -> Received:
    fields = ("schema_version", "device_id", "seq", "epoch", "created_at", "clock")
    body = json.loads(message().payload)
    record = {name: body[name] for name in fields} | {"record_id": "r1", "exam_id": None} | over
    return message(json.dumps(record).encode(), topic=f"{TOPICS.prefix}/evt/{kind}")


@pytest.mark.parametrize("kind", ["mask", "telemetry", "audit"])
def test_the_other_kinds_become_rows_with_or_without_an_exam(kind: str) -> None:
    for exam in (None, "exam-1"):
        judged = judge(side(kind, exam_id=exam), NOW)
        assert judged.row is not None
        assert (judged.row.kind, judged.row.id, judged.row.exam_id) == (kind, "r1", exam)


def test_a_gap_tells_which_numbers_will_never_come() -> None:
    judged = judge(side("gap", ranges=[[1, 2], [4, 6]]), NOW)
    assert judged.row is not None
    assert judged.row.lost == ((1, 2), (4, 6))


@pytest.mark.parametrize("ranges", [[[6, 7]], [[1, 10**15]], [[3, 2]], [[0, 1]], [[1]], "all", None])
def test_a_gap_that_tells_of_what_has_not_been_yet_is_refused(ranges: Any) -> None:
    assert judge(side("gap", ranges=ranges), NOW).poison is not None


def test_only_a_synced_clock_counts_for_the_lag() -> None:
    assert judge(message(), NOW).synced
    assert not judge(changed(clock="rtc"), NOW).synced
    assert not judge(changed(clock=5), NOW).synced
