"""Records as they are on the wire, and what a consumer makes of them (docs/wire.md)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edge_runtime.codes import Clock
from edge_runtime.records import KIND_OF, Gap
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.wire import CONTENT_TYPE, SENT
from tests.builders import finding, report
from tests.conformance.conftest import Conversation
from tests.conformance.told import headers_of, numbers, read
from tests.faults.processes import until
from tests.parties.device import receiver
from tests.parties.documents import payload_of
from tests.parties.ear import Ear, Heard, records
from tests.parties.place import Place

pytestmark = [pytest.mark.broker]

ID_KEY = {"finding": "finding_id", "event": "event_id"}


def test_er_rec_1_a_payload_fits_the_schema_of_its_kind(conversation: Conversation) -> None:
    assert {one.kind for one in conversation.records()} == set(SENT)
    for one in conversation.records():
        payload_of(one.kind).validate(json.loads(one.payload.decode("utf-8")))
        assert one.properties["ContentType"] == CONTENT_TYPE[one.kind]  # type: ignore[index]
        headers_of(one)


def test_er_rec_2_a_body_says_what_every_consumer_needs(conversation: Conversation) -> None:
    common = {"schema_version", "device_id", "seq", "epoch", "exam_id", "created_at", "clock"}
    for one in conversation.records():
        assert common | {ID_KEY.get(one.kind, "record_id")} <= set(one.body)


def test_er_rec_3_the_properties_name_the_row_of_the_body(conversation: Conversation) -> None:
    for one in conversation.records():
        assert (one.user["epoch"], int(one.user["seq"])) == (one.body["epoch"], one.body["seq"])


def test_er_rec_4_a_consumer_needs_neither_content_type_nor_schema(place: Place) -> None:
    place.device.examine(2)
    with Ear(place.broker.port) as ear, receiver(place.broker.url, place.store):
        with place.device.uplink(place.broker.url, link="slow"):
            until(lambda: place.device.stats().pending == 0)
        sent = records(ear.heard)
        assert sent
        assert not any("ContentType" in one.properties or "schema" in one.user for one in sent)
    assert len(read(place.store, "SELECT * FROM findings")) == 2


def test_er_rec_5_a_record_that_is_sent_again_is_the_same(place: Place) -> None:
    sent = place.device.add(finding)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):  # nobody gives a receipt
        again = ear.until(lambda heard: len(records(heard)) > 2 and records(heard))
    assert {(one.payload, one.user["seq"], one.user["epoch"]) for one in again} == {
        (again[0].payload, str(sent.seq), sent.epoch)
    }
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url, link="slow"):
        packed = ear.until(records)[0].body
    spared = {"timing", "masks"}
    whole = again[0].body
    assert {key: packed[key] for key in packed if key not in spared} == {
        key: whole[key] for key in whole if key not in spared
    }
    assert packed["timing"]["age_ms"] == whole["timing"]["age_ms"]


def message_of(place: Place, **over: Any) -> tuple[str, bytes, tuple[tuple[str, str], ...]]:
    """A finding of this device in another's words: topic, payload, properties."""
    with place.device.journal() as journal, journal.batch() as batch:
        body = {**msgspec.to_builtins(finding(batch.stamp())), **over}
    told = (("epoch", place.device.epoch), ("seq", "1"))
    return place.device.topics.event("finding"), json.dumps(body).encode(), told


def receipt_for(place: Place, message: tuple[str, bytes, tuple[tuple[str, str], ...]]) -> Any:
    """The consumer's word on it."""
    topic, payload, user = message
    with Ear(place.broker.port, "+/+/+/+/+/rcpt") as ear, receiver(place.broker.url, place.store) as consumer:
        until(lambda: consumer.report.connects == 1)
        ear.say(topic, payload, user=user)
        return ear.until(lambda heard: heard and heard[0].body)


def test_er_rec_6_a_later_minor_version_is_stored_to_the_letter(place: Place) -> None:
    later = message_of(place, schema_version="1.99", shade="new", reasons=["a_code_of_tomorrow"])
    assert receipt_for(place, later)["status"] == "stored"
    assert read(place.store, "SELECT body FROM findings") == [(later[1].decode(),)]


@pytest.mark.parametrize("version", ["2.0", "0.9", "one"])
def test_er_rec_7_another_major_version_is_rejected(place: Place, version: str) -> None:
    said = receipt_for(place, message_of(place, schema_version=version))
    assert (said["status"], said["code"], said["ranges"]) == ("rejected", "schema", [[1, 1]])


def test_er_rec_8_every_record_says_how_far_its_time_can_be_trusted(conversation: Conversation) -> None:
    assert {one.body["clock"] for one in conversation.records()} <= {each.value for each in Clock}


@pytest.mark.parametrize("over", [{"device_id": "dev-other"}, {"epoch": "other"}, {"seq": 2}])
def test_er_rec_9_a_body_that_names_another_row_is_rejected(place: Place, over: dict[str, Any]) -> None:
    said = receipt_for(place, message_of(place, **over))
    assert (said["status"], said["code"]) == ("rejected", "refused")
    assert read(place.store, "SELECT * FROM findings") == []


def test_er_find_1_a_finding_leaves_without_its_sources_name_its_pixels_and_unknown_keys(
    conversation: Conversation, place: Place
) -> None:
    for one in conversation.records("finding"):
        assert "name" not in one.body["source"]
        assert all("data" not in mask for mask in one.body["masks"])
    with place.device.journal() as journal, journal.batch() as batch:
        made = finding(batch.stamp())
        body = {**msgspec.to_builtins(made), "operator": "Jane Roe"}
        batch.add(made, json.dumps(body).encode())
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        assert "operator" not in ear.until(records)[0].body


def test_er_find_2_the_masks_of_a_finding_are_the_record_of_its_id(conversation: Conversation) -> None:
    found = {one.body["finding_id"]: one.body for one in conversation.records("finding")}
    masks = conversation.records("mask")
    assert masks
    for one in masks:
        labels = [mask["label"] for mask in found[one.body["record_id"]]["masks"]]
        assert [mask["label"] for mask in one.body["masks"]] == labels


def test_er_find_3_only_the_finding_that_a_person_marked_is_urgent(conversation: Conversation) -> None:
    urgent = [one.body for one in conversation.records("finding") if one.body["priority"] == "urgent"]
    assert {body["finding_id"] for body in urgent} == {conversation.urgent}
    before = urgent[0]["supersedes"]
    (marked,) = (one.body for one in conversation.records("finding") if one.body["finding_id"] == before)
    assert (urgent[0]["revision"], marked["priority"]) == (marked["revision"] + 1, "routine")


# ---------------------------------------------------------------- numbers


def test_er_seq_1_numbers_go_from_one_without_a_gap(conversation: Conversation) -> None:
    came = {one.body["seq"] for one in conversation.records()}
    told = {seq for one in conversation.records("gap") for seq in numbers(one.body["ranges"])}
    assert came | told == set(range(1, max(came) + 1))
    assert not came & told


def test_er_seq_2_a_new_database_is_a_new_epoch_from_one(place: Place) -> None:
    place.device.add(finding)
    (place.device.state / "findings.db").write_bytes(b"damage " * 1000)
    for log in place.device.state.glob("findings.db-*"):
        log.unlink()
    with Journal.open(place.device.state, reserve_bytes=0) as journal:
        assert journal.epoch != place.device.epoch
        assert report(journal, 1)[0].seq == 1
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        sent = ear.until(records)[0].body
    assert sent["seq"] == 1
    assert sent["epoch"] != place.device.epoch


def test_er_seq_3_a_gap_names_masks_or_telemetry_and_no_finding(conversation: Conversation) -> None:
    gaps = [msgspec.convert(one.body, Gap) for one in conversation.records("gap")]
    assert gaps
    gone = {seq for gap in gaps for seq in numbers(gap.ranges)}
    assert {gap.lost for gap in gaps} <= {"mask", "telemetry"}
    kept = {row[0] for row in read(conversation.device.state / "findings.db", "SELECT seq FROM journal")}
    assert not gone & kept
    findings = {one.body["seq"] for one in conversation.records("finding")}
    assert len(findings) == 30 + 120 + 1
    assert not gone & findings


def test_er_seq_4_what_no_gap_names_and_did_not_come_is_missing(
    conversation: Conversation, place: Place
) -> None:
    assert read(conversation.store, "SELECT * FROM missing") == []  # there were gaps, and they were told
    _, payload, _ = message_of(place, seq=7)
    told = (("epoch", place.device.epoch), ("seq", "7"))
    receipt_for(place, (place.device.topics.event("finding"), payload, told))
    assert read(place.store, "SELECT first, last FROM missing") == [(1, 6)]


def test_er_seq_5_any_order_of_arrival_is_as_good(conversation: Conversation, place: Place) -> None:
    sent: list[Heard] = list({one.user["seq"]: one for one in conversation.records()}.values())
    with Ear(place.broker.port) as ear, receiver(place.broker.url, place.store) as consumer:
        until(lambda: consumer.report.connects == 1)
        for one in reversed(sent):
            ear.say(one.topic, one.payload, user=tuple(one.user.items()))
        until(lambda: consumer.report.messages == len(sent))
    for table in ("findings", "events", "records", "missing"):
        key = "first" if table == "missing" else "seq"
        sql = f"SELECT device_id, epoch, {key} FROM {table} ORDER BY 1, 2, 3"
        assert read(place.store, sql) == read(conversation.store, sql)


@pytest.mark.parametrize("ranges", [[[7, 7]], [[1, 9]], [[3, 2]]])
def test_er_seq_6_a_gap_that_names_what_has_not_been_yet_is_rejected(
    conversation: Conversation, place: Place, ranges: Any
) -> None:
    for one in conversation.records("gap"):
        assert max(numbers(one.body["ranges"])) < one.body["seq"]
    gap = conversation.records("gap")[0]
    body = {**gap.body, "device_id": place.device.topics.device, "epoch": "e", "seq": 7, "ranges": ranges}
    told = (("epoch", "e"), ("seq", "7"))
    said = receipt_for(place, (place.device.topics.event("gap"), json.dumps(body).encode(), told))
    assert (said["status"], said["code"]) == ("rejected", "refused")


def test_every_kind_is_in_the_conversation(conversation: Conversation) -> None:
    """Else the tests above say nothing of it."""
    assert {one.kind for one in conversation.records()} == set(KIND_OF.values())
