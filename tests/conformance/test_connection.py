"""Connections, topics, order of sending and slow lines (docs/wire.md)."""

from __future__ import annotations

import hashlib
import re
import threading
import time
import zlib
from pathlib import Path

import pytest

from edge_runtime.commands import mark
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.sync.lanes import Lane, lane_of
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.link.link_state import LinkMachine, Patience
from edge_runtime.sync.link.reason_codes import Trouble
from edge_runtime.sync.link.speed import SLOW
from edge_runtime.sync.packing import MAX_BYTES, unpack
from edge_runtime.sync.topics import EVENTS_FILTER, DeviceTopics, parse_event
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from tests.brokers import Mosquitto, free_port
from tests.builders import finding, report
from tests.conformance.conftest import Conversation
from tests.conformance.told import headers_of, read, say, stored
from tests.faults.processes import until
from tests.parties.device import receiver
from tests.parties.documents import WIRE_TEXT, documented
from tests.parties.ear import Ear, Heard, records
from tests.parties.peer import Peer
from tests.parties.place import Place
from tests.patience import within
from tests.real import ROOT

pytestmark = [pytest.mark.broker]


def test_er_conn_1_a_device_connects_with_mqtt_5_a_clean_start_and_its_own_id(
    conversation: Conversation,
) -> None:
    device = conversation.device.topics.device
    (words,) = re.findall(rf"New client connected from \S+ as {device} \((.*?)\)", conversation.broker_log)
    assert words.split(", ")[:2] == ["p5", "c1"]


def test_er_conn_2_a_device_publishes_with_qos_1(conversation: Conversation) -> None:
    device = conversation.device.topics.device
    found = re.findall(rf"Received PUBLISH from {device} \(d\d, (q\d)", conversation.broker_log)
    assert len(found) > len(conversation.records()) - 1
    assert set(found) == {"q1"}


def test_er_conn_3_neither_the_brokers_receive_maximum_nor_the_window_is_passed(place: Place) -> None:
    with place.device.journal() as journal:
        report(journal, 120)
    with Peer(receive_max=3) as peer, place.device.uplink(peer.url):
        until(lambda: len(peer.published) > 20)
        assert peer.most_unanswered <= 3
    patient = Pace(receipt_timeout_s=60.0)
    assert patient.window == 100
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url, pace=patient) as said:
        ear.until(lambda heard: len(records(heard)) >= 100)
        until(lambda: any("connected" in line for line in said))
        time.sleep(0.3)  # in which nothing more may come: nobody gave a receipt
        assert len(records(ear.heard)) == 100


def test_er_conn_4_what_the_broker_cannot_take_is_held_back_and_the_rest_is_sent(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, "max_packet_size 3000") as broker:
        place = Place(tmp_path, broker)
        small = place.device.add(finding)
        place.device.add(finding, source=_long_source())
        with (
            Ear(broker.port) as ear,
            receiver(broker.url, place.store),
            place.device.uplink(broker.url) as said,
        ):
            until(lambda: place.device.stats().held == 1 and place.device.stats().pending == 0)
            assert [one.body["seq"] for one in records(ear.heard)] == [small.seq]
            assert sum("connected" in line for line in said) == 1


def _long_source() -> object:
    from edge_runtime.codes import SourceKind
    from edge_runtime.types import SourceUsed

    frames = tuple(f"{index}.9f86d081" for index in range(500))
    return SourceUsed(kind=SourceKind.PHANTOM, study_uid_pseudonym=None, frame_ids=frames)


def test_er_conn_5_a_broker_that_owes_a_puback_is_left(place: Place) -> None:
    place.device.add(finding)
    settings = UplinkSettings(Broker.parse("mqtt://127.0.0.1:1"))
    assert (settings.puback_timeout_s, SLOW.puback_timeout_s) == (20.0, 90.0)
    with Peer(puback=(None,)) as peer, place.device.uplink(peer.url, puback_timeout_s=0.3) as said:
        until(lambda: peer.connections >= 2)
        assert any("acknowledged nothing" in line for line in said)


def test_er_conn_6_pauses_between_connections_double_and_have_an_end(place: Place) -> None:
    settings = UplinkSettings(Broker.parse("mqtt://127.0.0.1:1"))
    link = LinkMachine(Patience(settings.backoff_s, settings.backoff_max_s, settings.refused_s))
    pauses = [link.failed(Trouble.LINE, "gone", 0) for _ in range(10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    place.device.add(finding)
    nobody = UplinkSettings(Broker.parse(f"mqtt://127.0.0.1:{free_port()}"))
    said: list[str] = []
    uplink = Uplink(place.device.state, nobody, threading.Event(), on_notice=said.append)
    began = time.monotonic()
    with pytest.raises(UplinkError, match="1 rows remain"):
        uplink.run(once=True, timeout_s=0.2)
    assert time.monotonic() - began < within(5.0)
    assert uplink._ledger.report.connects == 0


# ---------------------------------------------------------------- topics


@pytest.mark.parametrize("level", ["", "a/b", "+", "#", "-a", "a b", "ä", "a" * 65, "a\0"])
def test_er_topic_1_a_level_that_could_be_read_otherwise_is_refused(level: str) -> None:
    for levels in ((level, "site", "dev"), ("local", level, "dev"), ("local", "site", level)):
        with pytest.raises(ConfigError):
            DeviceTopics(*levels)
        assert parse_event(f"er/v1/{'/'.join(levels)}/evt/finding") is None
    assert parse_event(f"er/v1/{'a' * 64}/A.b_c-9/0/evt/finding") is not None


def test_er_topic_2_a_device_publishes_on_its_own_topics_only(conversation: Conversation) -> None:
    topics = conversation.device.topics
    device = re.findall(
        rf"Received PUBLISH from {topics.device} \(d\d, q\d, r\d, m\d+, '(.*?)'", conversation.broker_log
    )
    own = {one.topic for one in conversation.records()} | {topics.state, topics.responses}
    assert set(device) == own
    for one in conversation.records():
        assert one.topic == topics.event(one.kind)  # type: ignore[arg-type]


def test_er_topic_3_two_consumers_share_and_each_record_reaches_one(place: Place) -> None:
    assert EVENTS_FILTER == "$share/er/er/v1/+/+/+/evt/#"
    place.device.examine(40)
    with (
        receiver(place.broker.url, place.store) as one,
        receiver(place.broker.url, place.store) as other,
    ):
        until(lambda: one.report.connects + other.report.connects == 2)
        patient = Pace(receipt_timeout_s=60.0)  # nothing is sent twice
        with place.device.uplink(place.broker.url, pace=patient):
            until(lambda: place.device.stats().pending == 0)
    assert one.report.messages + other.report.messages == place.device.stats().last_seq
    assert min(one.report.messages, other.report.messages) > 0


def test_er_topic_4_the_documented_list_keeps_receipts_to_consumers_and_a_device_to_its_own_id(
    tmp_path: Path,
) -> None:
    lines = documented("%c").splitlines()
    assert len(lines) == 12
    (tmp_path / "access").write_text("user ear\ntopic read #\n" + "\n".join(lines) + "\n")
    with Mosquitto(tmp_path, f"acl_file {tmp_path / 'access'}") as broker:
        device = DeviceTopics("local", "site", "dev-1")
        other = DeviceTopics("local", "site", "dev-2")
        with Ear(broker.port, user="ear") as ear:
            for user, allowed, forbidden in (
                ("dev-1", device.event("finding"), (device.receipts, other.event("finding"), other.state)),
                ("dev-1", device.responses, (device.command("send_log"), other.responses)),
                ("consumer", device.receipts, (device.event("finding"), device.command("send_log"))),
                ("operator", device.command("send_log"), (device.receipts, device.state)),
            ):
                with Ear(broker.port, user=user, client_id=user, filter="nothing") as party:
                    for topic in (*forbidden, allowed):
                        party.say(topic, user.encode())
            # what is allowed was said last, and came; what is forbidden did not
            ear.until(lambda heard: len(heard) >= 4)
            assert [(one.payload.decode(), one.topic) for one in ear.heard] == [
                ("dev-1", device.event("finding")),
                ("dev-1", device.responses),
                ("consumer", device.receipts),
                ("operator", device.command("send_log")),
            ]


# ---------------------------------------------------------------- order of sending


def first_sent(heard: list[Heard]) -> list[Lane]:
    """The lanes of the records in the order in which each was sent first."""
    seen: dict[str, Lane] = {}
    for one in records(heard):
        urgent = one.kind == "finding" and one.body["priority"] == "urgent"
        seen.setdefault(one.user["seq"], Lane.URGENT if urgent else lane_of(one.kind))  # type: ignore[arg-type]
    return list(seen.values())


def test_er_lane_1_the_urgent_goes_first_and_masks_go_last(conversation: Conversation) -> None:
    sent = first_sent(conversation.heard)
    assert sent[0] is Lane.URGENT
    findings = [at for at, lane in enumerate(sent) if lane is Lane.FINDING]
    masks = [at for at, lane in enumerate(sent) if lane is Lane.MASK]
    assert sum(findings) / len(findings) < sum(masks) / len(masks)
    while_findings_wait = sent[: findings[-60]]  # the last are the audit and what a turn made wait
    assert while_findings_wait.count(Lane.FINDING) > 0.8 * len(while_findings_wait)


def test_er_lane_2_of_any_twenty_records_the_lanes_behind_get_one(conversation: Conversation) -> None:
    sent = first_sent(conversation.heard)
    last_mask = max(at for at, lane in enumerate(sent) if lane is Lane.MASK)
    assert last_mask > 100
    for start in range(last_mask - 20):
        assert Lane.MASK in sent[start : start + 20]


def test_er_lane_2_on_a_slow_line_masks_wait_for_all_else(place: Place) -> None:
    place.device.examine(12)
    with Ear(place.broker.port) as ear, receiver(place.broker.url, place.store) as consumer:
        until(lambda: consumer.report.connects == 1)
        with place.device.uplink(place.broker.url, link="slow"):
            until(lambda: place.device.stats().pending == 0)
    sent = first_sent(ear.heard)
    assert sent[-12:] == [Lane.MASK] * 12
    assert Lane.MASK not in sent[:-12]


def test_er_conn_3_urgent_rows_fly_beside_a_full_window(place: Place) -> None:
    with place.device.journal() as journal:
        report(journal, 120)
    patient = Pace(receipt_timeout_s=60.0)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url, pace=patient):
        ear.until(lambda heard: len(records(heard)) >= 100)
        mark.run(finding="last", state=place.device.state)
        urgent = ear.until(lambda heard: len(found := records(heard)) > 100 and found[100:])
        assert [one.body["priority"] for one in urgent] == ["urgent"]


@pytest.mark.slow
def test_er_send_1_a_row_that_was_lost_among_others_is_sent_again(place: Place) -> None:
    assert (Pace().receipt_timeout_s, SLOW.receipt_timeout_s) == (5.0, 60.0)
    place.device.examine(3)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        ear.until(lambda heard: len({one.user["seq"] for one in records(heard)}) == 8)
        say(ear, place, stored(place, (1, 1), (3, 8)))
        ear.until(lambda heard: len(records(heard)) > 12 and all(_two(heard)))
        assert place.device.stats().pending == 1


def _two(heard: list[Heard]) -> list[bool]:
    """Whether the last two records are the one that got no receipt."""
    return [one.user["seq"] == "2" for one in records(heard)[-2:]]


@pytest.mark.slow
def test_er_send_2_without_any_receipt_one_row_probes_and_a_receipt_opens_the_window(place: Place) -> None:
    assert (Pace().probe_s, Pace().probe_max_s) == (1.0, 30.0)
    with place.device.journal() as journal:
        report(journal, 50)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        ear.until(lambda heard: len(records(heard)) >= 54)
        assert {one.user["seq"] for one in records(ear.heard)[50:]} == {"1"}  # the oldest, and no other
        with receiver(place.broker.url, place.store):
            until(lambda: place.device.stats().pending == 0)


@pytest.mark.parametrize("code", [0x10, 0x87, 0x97])
def test_er_send_3_a_refused_row_stays_and_is_one_line(place: Place, code: int) -> None:
    place.device.add(finding)
    with Peer(puback=(code,)) as peer, place.device.uplink(peer.url) as said:
        until(lambda: sum("/evt/" in topic for topic, _ in peer.published) >= 2)
        assert sum("finding" in line for line in said) == 1
        assert peer.connections == 1
    assert place.device.stats().pending == 1


# ---------------------------------------------------------------- slow lines


def test_er_pack_1_a_packed_payload_is_deflate_with_the_named_dictionary(place: Place) -> None:
    place.device.examine(2)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url, link="slow"):
        (one,) = ear.until(lambda heard: records(heard, "event"))[:1]
    dictionary = (ROOT / "edge_runtime/sync/dictionary_zd1.txt").read_bytes()
    plain = zlib.decompressobj(-15, dictionary).decompress(one.payload)
    assert one.user["encoding"] == "zd1"
    assert plain.startswith(b'{"schema_version":')
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        (one,) = ear.until(lambda heard: records(heard, "event"))[:1]
    assert "encoding" not in one.user
    assert one.payload == plain


def test_er_pack_2_the_dictionary_is_the_one_that_the_document_names() -> None:
    (digest,) = re.findall(r"SHA-256 `([0-9a-f]{64})`", WIRE_TEXT)
    dictionary = ROOT / "edge_runtime/sync/dictionary_zd1.txt"
    assert hashlib.sha256(dictionary.read_bytes()).hexdigest() == digest


def test_er_pack_3_what_a_consumer_cannot_unpack_is_sent_again_as_plain_json(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(payload: bytes, encoding: str | None) -> bytes:
        if encoding is not None:
            raise UplinkError(f"encoding {encoding}: not known here")
        return payload

    monkeypatch.setattr("edge_runtime.cloud.judging.unpack", unable)
    place.device.add(finding)
    with (
        Ear(place.broker.port) as ear,
        receiver(place.broker.url, place.store),
        place.device.uplink(place.broker.url, link="slow"),
    ):
        until(lambda: place.device.stats().pending == 0)
        words = [one.body for one in ear.heard if one.kind == "rcpt"]
        assert (words[0]["status"], words[0]["code"]) == ("rejected", "encoding")
        assert ["encoding" in one.user for one in records(ear.heard)][-1] is False
        before = len(records(ear.heard))
        place.device.add(finding)
        until(lambda: place.device.stats().pending == 0)
        assert not any("encoding" in one.user for one in records(ear.heard)[before:])  # from now on
    assert place.device.stats().dead == 0
    assert place.device.stats().delivered == len(read(place.store, "SELECT * FROM findings")) == 2
    assert read(place.store, "SELECT * FROM quarantine") == []


def test_er_pack_5_one_short_property_names_the_row_and_a_consumer_takes_either_form(place: Place) -> None:
    place.device.examine(2)
    with Ear(place.broker.port) as ear, receiver(place.broker.url, place.store):
        with place.device.uplink(place.broker.url, link="slow"):
            until(lambda: place.device.stats().pending == 0)
        sent = records(ear.heard)
        for one in sent:
            row = f"zd1 {one.body['epoch']} {one.body['seq']} {one.user['sender']}"
            assert headers_of(one) == {"r": row}
        for one in sent:
            ear.say(one.topic, one.payload, user=tuple(one.user.items()))  # by names
        answers = [one.body for one in ear.heard if one.kind == "rcpt"]
        ear.until(lambda heard: sum(one.kind == "rcpt" for one in heard) > len(answers))
    answers = [one.body for one in ear.heard if one.kind == "rcpt"]
    assert {(one["status"], one["sender"]) for one in answers} == {("stored", sent[0].user["sender"])}


def test_er_pack_4_what_unpacks_to_more_than_four_mebibytes_is_refused() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(b" " * (MAX_BYTES + 1)) + deflate.flush()
    assert (MAX_BYTES, len(bomb) < 10_000) == (4 * 2**20, True)
    with pytest.raises(UplinkError, match="over"):
        unpack(bomb, "zd1")
