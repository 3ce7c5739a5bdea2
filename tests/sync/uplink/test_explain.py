"""`uplink --explain`: what it shows is what the broker gets, to the letter, and nothing is sent to show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from edge_runtime.commands import explain, mark
from edge_runtime.config import Site
from edge_runtime.errors import ConfigError, JournalError
from edge_runtime.records import KIND_OF
from edge_runtime.sync.uplink.explain import left_out
from edge_runtime.sync.wire import Alert, AlertCode, DeviceState
from edge_runtime.types import encode
from tests.brokers import Mosquitto
from tests.builders import finding
from tests.e2e.command import edge_runtime
from tests.faults.processes import until
from tests.parties.device import Device
from tests.parties.ear import Ear, records
from tests.parties.peer import Peer

PLACE = Site()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = Device(tmp_path)
    made.examine(3)
    mark.run(finding="last", state=made.state)
    return made


@pytest.mark.broker
def test_what_is_shown_is_what_the_broker_gets(device: Device, broker: Mosquitto) -> None:
    told = explain.run(device.state, site=PLACE, limit=100)
    assert (told.waiting, len(told.messages)) == (9, 9)
    with Ear(broker.port) as ear:
        with device.uplink(broker.url):
            ear.until(lambda heard: len({one.user["seq"] for one in records(heard)}) == told.waiting)
        state = next(one for one in ear.heard if one.kind == "state")
    sent = {int(one.user["seq"]): one for one in records(ear.heard)}
    for message in told.messages:
        assert message.seq is not None
        one = sent[message.seq]
        assert (message.topic, message.payload.encode()) == (one.topic, one.payload)
        assert message.content_type == one.properties["ContentType"]
        assert {**message.properties, "sender": ""} == {**one.user, "sender": ""}
    said = msgspec.json.decode(told.state.payload)
    assert told.state.retain
    moving = {"at", "session", "alerts"}
    assert {key: value for key, value in said.items() if key not in moving} == {
        key: value for key, value in state.body.items() if key not in moving
    }


def test_the_bytes_that_are_shown_are_those_of_the_packets(device: Device) -> None:
    told = explain.run(device.state, site=PLACE, limit=100)
    for link in ("normal", "slow"):
        with Peer() as peer, device.uplink(peer.url, link=link):
            until(
                lambda peer=peer: len({size for topic, size in peer.published if "/evt/event" in topic}) == 1
            )
        (came,) = {size for topic, size in peer.published if "/evt/event" in topic}
        (one,) = (one for one in told.messages if one.kind == "event")
        # this peer knows no topic by number: its packets have the topic, and not the number's three bytes
        more = len(one.topic) - 3 if link == "slow" else 0
        shown = one.slow_bytes if link == "slow" else one.packet_bytes
        assert shown is not None
        assert shown + more == 1 + 2 + came  # the packet's kind, and its length in two bytes


def test_the_urgent_comes_first_and_the_masks_last(device: Device) -> None:
    kinds = [one.kind for one in explain.run(device.state, site=PLACE, limit=100).messages]
    assert kinds == ["finding", "event", *["finding"] * 3, "telemetry", *["mask"] * 3]


def test_what_stays_here_is_found_by_comparing_and_told_with_its_reason(device: Device) -> None:
    with device.journal() as journal, journal.batch() as batch:
        made = finding(batch.stamp())
        body = json.loads(encode(made))
        batch.add(made, json.dumps({**body, "operator": "Jane", "model": {**body["model"], "x": 1}}).encode())
    message = explain.run(device.state, site=PLACE, limit=100).messages[5]
    stays = {one.path: one.why for one in message.left_out}
    assert set(stays) == {"source.name", "masks[].data", "operator", "model.x"}
    assert stays["operator"] == "no key of the schema"
    assert "person" in stays["source.name"]


@pytest.mark.parametrize(
    ("whole", "sent", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, ["a.c"]),
        ({"a": [{"b": 1, "c": 2}, {"b": 1, "c": 3}]}, {"a": [{"b": 1}, {"b": 1}]}, ["a[].c"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a"]),
        ({"a": "long"}, {"a": None}, ["a"]),
    ],
)
def test_every_difference_has_its_path(whole: Any, sent: Any, paths: list[str]) -> None:
    found = left_out(json.dumps(whole).encode(), json.dumps(sent).encode())
    assert [one.path for one in found] == paths


def test_a_record_that_can_never_be_sent_is_named(device: Device) -> None:
    with device.journal() as journal, journal.batch() as batch:
        batch.add(finding(batch.stamp()), b'{"schema_version": 12}')
    told = explain.run(device.state, site=PLACE, limit=100)
    assert [(one.seq, one.kind) for one in told.unsendable] == [(10, "finding")]
    assert "number 10, finding" in "\n".join(explain.lines(told))


def test_a_person_reads_every_message_and_how_many_more_there_are(device: Device) -> None:
    lines = explain.lines(explain.run(device.state, site=PLACE, limit=2))
    text = "\n".join(lines)
    assert "9 records wait. Nothing was sent." in lines[0]
    assert '"head_circumference"' in text
    assert "left out      source.name" in text
    assert "7 more records" in text
    assert "Leaves as somebody typed it" in text
    assert max(len(line) for line in lines) < 500


def test_what_a_state_can_say_is_in_the_one_shown_or_told_beside_it(device: Device) -> None:
    told = explain.run(device.state, site=PLACE, limit=1)
    shown = msgspec.json.decode(told.state.payload)
    assert set(shown) == set(DeviceState.__struct_fields__)
    assert (shown["link"], shown["alerts"]) == ("online", [])
    beside = " ".join(told.state_more)
    for word in ("slow", *Alert.__struct_fields__, *get_args(AlertCode)):
        assert word in beside
    assert set(told.state_more) <= {line.strip() for line in explain.lines(told)}


def test_the_command_needs_no_broker_and_changes_nothing(device: Device, tmp_path: Path) -> None:
    before = device.stats()
    done = edge_runtime("uplink", "--explain", "--state", device.state, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert {one["kind"] for one in done.json["messages"]} <= set(KIND_OF.values())
    assert done.json["site_key_id"] in done.json["state"]["payload"]
    after = device.stats()
    assert (after.pending, after.last_seq) == (before.pending, before.last_seq)


def test_without_a_broker_or_a_journal_it_is_one_line(device: Device, tmp_path: Path) -> None:
    done = edge_runtime("uplink", "--state", device.state, cwd=tmp_path)
    assert "--broker" in done.failed_in_one_line(2)
    with pytest.raises(JournalError, match="no findings.db"):
        explain.run(tmp_path / "none", site=PLACE)
    with pytest.raises(ConfigError, match="--limit"):
        explain.run(device.state, site=PLACE, limit=0)
