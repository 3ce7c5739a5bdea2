"""Who may command, and when: each refusal by its code; no byte may change; nothing counts twice."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.codes import Clock
from edge_runtime.sync.commands.authority import GRACE_S, MOST_NONCES, SESSION_S, Arrived, Authority, name_in
from edge_runtime.sync.commands.command import (
    COMMAND_NAMES,
    MOST_BYTES,
    SIGNATURE_PROPERTY,
    Code,
    Command,
    Refused,
    Resend,
    SendState,
    arguments_of,
    decode_answer,
    decode_command,
    encode_command,
)
from edge_runtime.sync.commands.signing import NO_KEYS
from edge_runtime.sync.topics import DeviceTopics
from tests.real import ROOT
from tests.sync.commands.signed import BEGAN, TOPICS, a_command, arrived, moment, signed, signer, trusted


@pytest.fixture
def authority() -> Authority:
    return Authority(TOPICS, trusted(signer()), 0)


def refusal(authority: Authority, what: Arrived, seconds: float = 1.0, clock: Clock = Clock.NTP) -> Refused:
    with pytest.raises(Refused) as caught:
        authority.admit(what, moment(seconds, clock))
    return caught.value


def test_a_signed_command_of_this_session_is_let_in(authority: Authority) -> None:
    command, arguments = authority.admit(arrived(a_command(authority.session)), moment(1))
    assert (command.command, arguments) == ("send_state", SendState())


def test_arguments_come_checked(authority: Authority) -> None:
    wanted = a_command(
        authority.session, command="resend", arguments={"epoch": "e", "ranges": [[1, 4], [9, 9]]}
    )
    _, arguments = authority.admit(arrived(wanted), moment(1))
    assert arguments == Resend(epoch="e", ranges=((1, 4), (9, 9)))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"retained": True}, "retained"),
        ({"properties": ()}, "unsigned"),
        ({"properties": (("signature", "x"),)}, "unsigned"),
        ({"properties": ((SIGNATURE_PROPERTY, ""),)}, "bad_signature"),
        ({"properties": ((SIGNATURE_PROPERTY, "A" * 86),)}, "bad_signature"),
        ({"properties": ((SIGNATURE_PROPERTY, "\u00e4" * 86),)}, "bad_signature"),
        ({"response_topic": "er/v1/local/site/dev-2/rsp"}, "response_topic"),
        ({"response_topic": "er/v1/local/site/dev-1/state"}, "response_topic"),
    ],
)
def test_how_it_came_is_refused_by_its_code(authority: Authority, how: dict[str, Any], code: str) -> None:
    good = arrived(a_command(authority.session))
    assert refusal(authority, replace(good, **how)).code == code
    authority.admit(good, moment(1))  # and the refused one took nothing from the good one


def test_two_signatures_are_none(authority: Authority) -> None:
    good = arrived(a_command(authority.session))
    assert refusal(authority, replace(good, properties=good.properties * 2)).code == "bad_signature"


def test_an_answer_may_be_asked_for_on_the_devices_own_topic(authority: Authority) -> None:
    authority.admit(arrived(a_command(authority.session), response_topic=TOPICS.responses), moment(1))


def test_without_keys_every_command_is_refused() -> None:
    authority = Authority(TOPICS, NO_KEYS, 0)
    assert refusal(authority, arrived(a_command(authority.session))).code == "no_keys"


def test_the_key_of_another_fleet_is_refused(authority: Authority) -> None:
    stranger = signer(1)
    wrong = arrived(a_command(authority.session, key_id=stranger.key_id), by=stranger)
    assert refusal(authority, wrong).code == "bad_signature"
    assert refusal(authority, arrived(a_command(authority.session), by=stranger)).code == "bad_signature"


def test_any_of_several_trusted_keys_may_command() -> None:
    authority = Authority(TOPICS, trusted(signer(), signer(1)), 0)
    command = a_command(authority.session, key_id=signer(1).key_id)
    assert authority.admit(arrived(command, by=signer(1)), moment(1))[0].key_id == signer(1).key_id


def test_a_key_cannot_speak_for_another(authority: Authority) -> None:
    both = Authority(TOPICS, trusted(signer(), signer(1)), 0)
    assert refusal(both, arrived(a_command(both.session), by=signer(1))).code == "bad_signature"


def test_a_command_for_another_device_is_refused(authority: Authority) -> None:
    other = DeviceTopics("local", "site", "dev-2")
    assert refusal(authority, arrived(a_command(authority.session), other)).code == "other_device"
    moved = replace(arrived(a_command(authority.session), other), topic=TOPICS.command("send_state"))
    assert refusal(authority, moved).code == "bad_signature"


def test_a_topic_and_a_command_that_differ_are_refused(authority: Authority) -> None:
    payload = encode_command(a_command(authority.session))
    assert refusal(authority, signed(TOPICS.command("send_log"), payload)).code == "malformed"


def test_too_large_is_refused_before_anything_is_read(authority: Authority) -> None:
    assert refusal(authority, signed(TOPICS.command("send_log"), b"[" * (MOST_BYTES + 1))).code == "oversize"


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"[]", b"null", b"{", b'"x"', b"[" * 4000, b'{"v": 1}', b'{"v": true}'],
    ids=repr,
)
def test_what_is_no_command_is_refused_though_it_is_signed(authority: Authority, payload: bytes) -> None:
    assert refusal(authority, signed(TOPICS.command("send_state"), payload)).code in ("malformed", "version")


@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({"v": 2}, "version"),
        ({"nonce": "short"}, "malformed"),
        ({"nonce": "0" * 33}, "malformed"),
        ({"later": 1}, "malformed"),  # a constraint of a later version is not passed over
        ({"issued_at": "2026-01-01T12:00:00"}, "malformed"),  # of no time zone
        ({"expires_at": "2026-01-01T11:00:00Z"}, "malformed"),
        ({"key_id": "x"}, "malformed"),
        ({"arguments": [1]}, "malformed"),
        ({"command": "../state"}, "malformed"),
        ({"command": "reboot"}, "unknown_command"),
        ({"arguments": {"lines": 3}}, "arguments"),
        ({"command": "send_log", "arguments": {"lines": 0}}, "arguments"),
        ({"command": "send_log", "arguments": {"lines": 10_000}}, "arguments"),
        ({"command": "send_log", "arguments": {"file": "/etc/passwd"}}, "arguments"),
        ({"command": "resend", "arguments": {"epoch": "e", "ranges": []}}, "arguments"),
        ({"command": "resend", "arguments": {"epoch": "e", "ranges": [[2, 1]]}}, "arguments"),
        ({"command": "resend", "arguments": {"epoch": "e", "ranges": [[0, 1]]}}, "arguments"),
        ({"command": "resend", "arguments": {"epoch": "e", "ranges": [[1, 2**62]]}}, "arguments"),
        ({"command": "resend", "arguments": {"ranges": [[1, 2]]}}, "arguments"),
        ({"command": "set_profile", "arguments": {"profile": "fast"}}, "arguments"),
        ({"command": "acknowledge_alert", "arguments": {}}, "arguments"),
    ],
    ids=str,
)
def test_what_it_says_is_refused_by_its_code(authority: Authority, over: dict[str, Any], code: str) -> None:
    body = {**msgspec.to_builtins(a_command(authority.session)), **over}
    name = body["command"] if body["command"] != "../state" else "send_state"
    assert refusal(authority, signed(TOPICS.command(name), msgspec.json.encode(body))).code == code


def test_the_same_command_again_is_refused(authority: Authority) -> None:
    good = arrived(a_command(authority.session))
    authority.admit(good, moment(1))
    assert refusal(authority, good).code == "replayed"


def test_a_nonce_is_taken_whatever_command_used_it(authority: Authority) -> None:
    authority.admit(arrived(a_command(authority.session)), moment(1))
    other = a_command(authority.session, command="send_log", arguments={"lines": 1})
    assert refusal(authority, arrived(other)).code == "replayed"


def test_a_captured_command_is_worth_nothing_after_a_reconnection(authority: Authority) -> None:
    captured = arrived(a_command(authority.session))
    authority.begin(2 * 10**9)
    assert refusal(authority, captured, 3).code == "session"


def test_a_session_ends_after_an_hour_and_the_one_before_counts_for_a_minute(authority: Authority) -> None:
    first = authority.session
    late = a_command(first, expires_at=BEGAN + timedelta(days=1))
    assert not authority.renew(int((SESSION_S - 1) * 1e9))
    assert authority.renew(int(SESSION_S * 1e9))
    assert authority.session != first
    authority.admit(arrived(late), moment(SESSION_S + GRACE_S - 1))
    assert refusal(authority, arrived(late), SESSION_S + GRACE_S - 1).code == "replayed"
    fresh = msgspec.structs.replace(late, nonce="f" * 32)
    assert refusal(authority, arrived(fresh), SESSION_S + GRACE_S + 1).code == "session"


def test_a_session_ends_although_nobody_renewed_it(authority: Authority) -> None:
    late = a_command(authority.session, expires_at=BEGAN + timedelta(days=1))
    assert refusal(authority, arrived(late), SESSION_S + GRACE_S + 1).code == "session"


@pytest.mark.parametrize(
    ("clock", "lets_in"), [(Clock.NTP, False), (Clock.RTC, True), (Clock.UNSYNCED, True)]
)
def test_its_time_counts_only_by_a_clock_that_is_set(
    authority: Authority, clock: Clock, lets_in: bool
) -> None:
    old = arrived(a_command(authority.session))
    if lets_in:
        authority.admit(old, moment(600, clock))
    else:
        assert refusal(authority, old, 600, clock).code == "expired"


def test_a_session_takes_only_so_many_commands(authority: Authority) -> None:
    for count in range(MOST_NONCES):
        authority._sessions[-1].nonces.add(f"{count:032x}")
    assert refusal(authority, arrived(a_command(authority.session, nonce="f" * 32))).code == "flood"


def test_a_refusal_of_unsigned_words_carries_none_of_them(authority: Authority) -> None:
    bad = replace(arrived(a_command(authority.session)), properties=())
    assert refusal(authority, bad).command is None
    assert name_in("er/v1/local/site/dev-1/cmd/anna_miller") is None
    assert name_in("er/v1/local/site/dev-1/cmd/resend") == "resend"


ONE = arrived(a_command("5e55"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bit_of_payload_topic_or_signature_may_change(data: st.DataObject) -> None:
    authority = Authority(TOPICS, trusted(signer()), 0)
    authority._sessions[-1].name = "5e55"
    where = data.draw(st.sampled_from(("payload", "topic", "signature")))
    text = {"payload": ONE.payload, "topic": ONE.topic.encode(), "signature": ONE.signatures[0].encode()}[
        where
    ]
    at, bit = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 6))  # ASCII stays ASCII
    other = bytearray(text)
    other[at] ^= 1 << bit
    changed = {
        "payload": {"payload": bytes(other)},
        "topic": {"topic": other.decode()},
        "signature": {"properties": ((SIGNATURE_PROPERTY, other.decode()),)},
    }[where]
    assert refusal(authority, replace(ONE, **changed)).code in ("bad_signature", "other_device")
    authority.admit(ONE, moment(1))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_signed_bytes_are_judged_and_never_break_the_judge(payload: bytes) -> None:
    authority = Authority(TOPICS, trusted(signer()), 0)
    assert refusal(authority, signed(TOPICS.command("send_state"), payload)).code in ("malformed", "version")


def test_the_example_in_the_docs_is_a_command_and_its_answer() -> None:
    text = (ROOT / "docs" / "wire.md").read_text().partition("## Commands")[2]
    command, answer = re.findall(r'\{"v": 1,.*?\}\n', text, flags=re.DOTALL)
    read = decode_command(command.encode())
    assert isinstance(arguments_of(read), Resend)
    assert decode_answer(answer.encode()).code == "ok"
    assert read.key_id == "1c9a77e0aa41b3d2"


def test_every_code_and_command_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "wire.md").read_text()
    assert [
        word for word in (*get_args(Code), *COMMAND_NAMES) if f"`{word}`" not in text and word != "ok"
    ] == []


def test_a_command_reads_back_as_it_was_written() -> None:
    command = a_command("5e55", command="set_profile", arguments={"profile": "slow"})
    assert msgspec.json.decode(encode_command(command), type=Command) == command
