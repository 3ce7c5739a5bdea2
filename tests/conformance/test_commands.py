"""Commands, as a device keeps them (docs/wire.md)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from edge_runtime.codes import Clock
from edge_runtime.records import Audit
from edge_runtime.sync.commands.authority import Authority
from edge_runtime.sync.commands.command import COMMAND_NAMES, Refused
from edge_runtime.sync.commands.signing import Signer, new_key
from tests.builders import finding
from tests.conformance.conftest import Conversation, large_masks
from tests.conformance.told import numbers
from tests.faults.processes import until
from tests.parties.device import receiver
from tests.parties.documents import WIRE_TEXT, payload_of
from tests.parties.ear import Ear, Heard, records, states
from tests.parties.place import Place
from tests.sync.commands.signed import TOPICS, a_command, arrived, moment, signer, trusted

pytestmark = [pytest.mark.broker]


def audits(place: Place) -> list[Audit]:
    return place.device.audits()


def codes(place: Place) -> list[str]:
    """What became of each command, by the device's own record."""
    return [audit.code for audit in audits(place)]


def answers(heard: list[Heard], **said: Any) -> list[Heard]:
    came = [one for one in heard if one.kind == "rsp"]
    return [one for one in came if all(one.body[key] == value for key, value in said.items())]


def commands(heard: list[Heard]) -> list[Heard]:
    return [one for one in heard if "/cmd/" in one.topic]


def say_again(ear: Ear, command: Heard, **over: Any) -> None:
    """A command as it was captured on the wire."""
    ear.say(
        command.topic,
        command.payload,
        user=tuple(command.user.items()),
        correlation=command.properties.get("CorrelationData"),
        **over,
    )


def test_er_cmd_1_what_no_trusted_key_signed_is_not_done(place: Place) -> None:
    stranger = place.folder / "stranger.pem"
    new_key(stranger)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        assert place.device.ask(place.broker.url, "set_profile", profile="slow").outcome == "done"
        captured = commands(ear.heard)[0]
        ear.say(captured.topic, captured.payload)
        ear.until(lambda heard: answers(heard, code="unsigned"))
        say_again(ear, replace(captured, payload=captured.payload.replace(b"slow", b"auto")))
        ear.until(lambda heard: answers(heard, code="bad_signature"))
        signature = Signer.load(stranger).sign(captured.topic, captured.payload)
        ear.say(captured.topic, captured.payload, user=(("sig", signature),))
        (_, refused) = ear.until(
            lambda heard: len(found := answers(heard, code="bad_signature")) == 2 and found
        )
        assert (refused.body["command"], refused.body["nonce"]) == (None, None)
        assert states(ear.heard)[-1]["link"] == "slow"
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url, command_keys=None):
        ear.until(lambda heard: states(heard, state="online"))
        assert place.device.ask(place.broker.url, "send_state").code == "no_keys"
    assert codes(place) == ["ok", "unsigned", "bad_signature", "bad_signature", "no_keys"]


def test_er_cmd_2_a_retained_command_is_refused(conversation: Conversation, place: Place) -> None:
    assert not any(one.retain for one in commands(conversation.heard))
    with Ear(place.broker.port) as ear:
        with place.device.uplink(place.broker.url):
            place.device.ask(place.broker.url, "send_state")
            say_again(ear, commands(ear.heard)[0], retain=True)
            ear.until(lambda heard: answers(heard, code="retained"))
        with place.device.uplink(place.broker.url):  # where it waits for the device
            ear.until(lambda heard: len(answers(heard, code="retained")) == 2)
    assert codes(place) == ["ok", "retained", "retained"]


def test_er_cmd_3_a_captured_command_is_worth_nothing(place: Place) -> None:
    with Ear(place.broker.port) as ear:
        with place.device.uplink(place.broker.url):
            place.device.ask(place.broker.url, "set_profile", profile="slow")
            captured = commands(ear.heard)[0]
            say_again(ear, captured)
            ear.until(lambda heard: answers(heard, code="replayed"))
        with place.device.uplink(place.broker.url):
            ear.until(lambda heard: len({one["session"] for one in states(heard, state="online")}) >= 2)
            say_again(ear, captured)
            ear.until(lambda heard: answers(heard, code="session"))
    assert codes(place) == ["ok", "replayed", "session"]


def test_er_cmd_4_a_command_whose_time_is_over_is_refused_where_the_clock_is_set() -> None:
    for clock, admitted in ((Clock.NTP, False), (Clock.RTC, True), (Clock.UNSYNCED, True)):
        authority = Authority(TOPICS, trusted(signer()), 0)
        command = a_command(authority.session)
        late = moment((command.expires_at - command.issued_at + timedelta(seconds=1)).seconds, clock)
        if admitted:
            assert authority.admit(arrived(command), late)[0] == command
            continue
        with pytest.raises(Refused) as caught:
            authority.admit(arrived(command), late)
        assert caught.value.code == "expired"


def test_er_cmd_5_what_is_not_in_the_table_is_refused(place: Place) -> None:
    assert all(f"| `{name}` |" in WIRE_TEXT for name in COMMAND_NAMES)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        session = ear.until(lambda heard: states(heard, state="online"))[0]["session"]
        key = Signer.load(place.device.key)
        for at, (name, arguments, more, code) in enumerate(
            (
                ("reboot", {}, {}, "unknown_command"),
                ("send_log", {"file": "/etc/passwd"}, {}, "arguments"),
                ("send_log", {"lines": 201}, {}, "arguments"),
                ("send_state", {}, {"sudo": True}, "malformed"),
                ("send_state", {}, {"v": 2}, "version"),
                ("send_state", {}, {"pad": "x" * 4096}, "oversize"),
            )
        ):
            draft = a_command(
                session, command=name, arguments=arguments, nonce=f"{at:032x}", key_id=key.key_id
            )
            payload = msgspec.json.encode({**msgspec.to_builtins(draft), **more})
            topic = place.device.topics.command(name)
            ear.say(topic, payload, user=(("sig", key.sign(topic, payload)),))
            ear.until(
                lambda heard, code=code: answers(heard)[-1:] and answers(heard)[-1].body["code"] == code
            )
    assert {audit.outcome for audit in audits(place)} == {"refused"}


def test_er_cmd_6_each_command_is_an_audit_on_the_disk_before_its_answer(
    conversation: Conversation, place: Place
) -> None:
    (record,) = conversation.records("audit")
    number = conversation.answer.audit
    assert (record.body["record_id"], record.body["epoch"], record.body["seq"]) == (
        number.record_id,
        number.epoch,
        number.seq,
    )
    place.device.add(finding)
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        place.device.ask(place.broker.url, "resend", epoch=place.device.epoch, ranges=[[1, 1]])
        (answer,) = answers(ear.heard) or ear.until(answers)
        assert [audit.record_id for audit in audits(place)] == [answer.body["audit"]["record_id"]]


def test_er_cmd_7_a_device_answers_on_its_own_topic_with_the_correlation_data(
    conversation: Conversation, place: Place
) -> None:
    (command,), (answer,) = commands(conversation.heard), answers(conversation.heard)
    payload_of("answer").validate(answer.body)
    payload_of("command_send_state").validate(command.body)
    assert answer.topic == conversation.device.topics.responses == command.properties["ResponseTopic"]
    assert answer.properties["CorrelationData"] == command.properties["CorrelationData"]
    elsewhere = f"{place.device.topics.prefix}/evt/finding"
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        ear.until(lambda heard: states(heard, state="online"))
        ear.say(place.device.topics.command("send_state"), b"{}", response_topic=elsewhere)
        ear.until(lambda heard: answers(heard, code="response_topic"))
        assert not [one for one in records(ear.heard) if one.kind == "finding"]


def test_er_cmd_8_a_flood_is_not_written_down_one_by_one(place: Place) -> None:
    with Ear(place.broker.port) as ear, place.device.uplink(place.broker.url):
        ear.until(lambda heard: states(heard, state="online"))
        for _ in range(40):
            ear.say(place.device.topics.command("send_state"), b"{}")
        assert place.device.ask(place.broker.url, "send_state").outcome == "done"  # junk keeps nobody out
        ear.until(lambda heard: answers(heard, outcome="done"))
        refused = len(answers(ear.heard, code="unsigned"))
        assert 10 <= refused <= 20  # ten at once, and one more each six seconds
    until(lambda: len(audits(place)) <= refused + 2)


def test_er_cmd_9_the_answer_to_resend_accounts_for_each_number_once(place: Place) -> None:
    device = place.device
    large_masks(device, 120)  # of which some have to go
    with Ear(place.broker.port) as ear, device.uplink(place.broker.url):
        with receiver(place.broker.url, place.store):
            until(lambda: device.stats().pending == 0)
        device.add(finding)  # which nobody takes any more
        last = device.stats().last_seq
        answer = device.ask(place.broker.url, "resend", epoch=device.epoch, ranges=[[1, last + 7]])
        said = [one for one in answers(ear.heard) or ear.until(answers) if one.body["command"] == "resend"]
    payload_of("answer").validate(said[0].body)
    lists = {name: numbers(ranges) for name, ranges in answer.result.items()}
    assert set(lists) == {"resent", "waiting", "dead", "lost", "gone", "never"}
    assert sorted(seq for seqs in lists.values() for seq in seqs) == list(range(1, last + 8))
    assert lists["never"] == {last + 1 + n for n in range(7)}
    assert lists["waiting"] == {last}
    told = {seq for gap in records(ear.heard, "gap") for seq in numbers(gap.body["ranges"])}
    assert set(lists["lost"]) == told != set()
    assert not lists["gone"]
