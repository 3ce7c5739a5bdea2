"""A PUBLISH or a PUBACK that arrives is read as paho reads it, or left to paho."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from edge_runtime.sync.link.incoming import Packets, read_puback, read_publish
from edge_runtime.sync.link.publishing import Message, puback_packet, publish_packet
from edge_runtime.sync.link.reason_codes import Verdict, verdict_of, words_of

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


def packed(
    topic: str, mid: int, payload: bytes, retain: bool = False, **given_properties: Any
) -> tuple[int, bytes]:
    """The first byte, and what follows the length, as a broker would send it."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in given_properties.items():
        setattr(properties, name, value)
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + mid.to_bytes(2, "big") + properties.pack() + payload
    return 0x32 | retain, body


def as_paho_reads_it(first: int, body: bytes) -> MQTTMessage:
    came: list[MQTTMessage] = []
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client.on_message = lambda c, u, message: came.append(message)
    client._in_packet["command"], client._in_packet["packet"] = first, bytearray(body)
    client._handle_publish()
    return came[0]


@given(
    topic=TEXT.filter(bool),
    mid=st.integers(1, 65535),
    payload=st.binary(max_size=300),
    retain=st.booleans(),
    user=st.lists(st.tuples(TEXT, TEXT), max_size=4),
    content=st.none() | TEXT,
    correlation=st.none() | st.binary(max_size=20),
    response=st.none() | TEXT,
    expiry=st.none() | st.integers(0, 2**32 - 1),
)
def test_it_is_read_as_paho_reads_it(
    topic: str, mid: int, payload: bytes, retain: bool, user: list[tuple[str, str]], content: str | None,
    correlation: bytes | None, response: str | None, expiry: int | None,
) -> None:  # fmt: skip
    told = {
        "UserProperty": user or None,
        "ContentType": content,
        "CorrelationData": correlation,
        "ResponseTopic": response,
        "MessageExpiryInterval": expiry,
    }
    first, body = packed(
        topic, mid, payload, retain, **{name: one for name, one in told.items() if one is not None}
    )
    ours, paho = read_publish(first, bytearray(body)), as_paho_reads_it(first, body)
    assert ours is not None
    assert (ours.topic, ours.payload, ours.mid) == (paho.topic, bytes(paho.payload), paho.mid)
    assert ours.retained == paho.retain
    assert ours.properties == tuple(getattr(paho.properties, "UserProperty", ()))
    assert ours.correlation == getattr(paho.properties, "CorrelationData", None)
    assert ours.response_topic == getattr(paho.properties, "ResponseTopic", None)


@pytest.mark.parametrize("first", [0x30, 0x34, 0x31])
def test_another_quality_of_service_is_left_to_paho(first: int) -> None:
    assert read_publish(first, packed("a/b", 1, b"x")[1]) is None


def test_a_property_that_nobody_expects_is_left_to_paho() -> None:
    assert read_publish(*packed("a/b", 1, b"x", TopicAlias=3)) is None
    assert read_publish(*packed("a/b", 1, b"x", SubscriptionIdentifier=7)) is None


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_never_raise(body: bytes) -> None:
    read_publish(0x32, body)


def test_a_packet_that_is_cut_off_is_left_to_paho() -> None:
    first, body = packed("a/b", 1, b"", UserProperty=[("epoch", "e1"), ("seq", "1")])
    for end in range(len(body)):
        assert read_publish(first, body[:end]) is None


# ------------------------------------------------------------ PUBACK

CODES = (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)  # those of the specification, 3.4.2.1


@given(mid=st.integers(1, 65535), code=st.sampled_from(CODES), reason=st.none() | TEXT, short=st.booleans())
def test_a_puback_is_read_as_paho_reads_it(mid: int, code: int, reason: str | None, short: bool) -> None:
    said: list[tuple[int, ReasonCode]] = []
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_publish = lambda c, u, mid, reason, properties: said.append((mid, reason))
    properties = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]
    if reason is not None:
        properties.ReasonString = reason
    body = mid.to_bytes(2, "big") + (bytes([code]) if code or not short else b"")
    if reason is not None and len(body) == 3:
        body += properties.pack()
    client._out_messages[mid] = MQTTMessage(mid)
    client._in_packet["command"], client._in_packet["packet"] = 0x40, bytearray(body)
    client._in_packet["remaining_length"] = len(body)
    client._handle_pubackcomp("PUBACK")
    ((paho_mid, paho_reason),) = said
    assert read_puback(bytearray(body)) == (paho_mid, paho_reason.value)
    assert words_of(paho_reason.value).lower() == str(paho_reason).lower()


def test_a_puback_with_a_code_that_the_specification_does_not_give_it_is_an_answer_all_the_same() -> None:
    assert read_puback(b"\0\7\x95") == (7, 0x95)
    assert (verdict_of(0x95), words_of(0x95)) == (Verdict.NEVER_THIS_ROW, "Packet too large")
    assert (verdict_of(0xEE), words_of(0xEE)) == (Verdict.NOT_THIS_ROW, "reason code 0xEE")


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\7\0\5", b"\0\7\0\0more", b"\0\7\0\xff"])
def test_a_puback_that_is_cut_off_or_followed_by_more_is_left_to_paho(body: bytes) -> None:
    assert read_puback(body) is None


# ------------------------------------------------------------ packets


@given(bodies=st.lists(st.binary(max_size=400), max_size=6), cuts=st.lists(st.integers(0, 1200), max_size=8))
def test_packets_are_found_however_the_bytes_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(b"\x40" + VariableByteIntegers.encode(len(body)) + body for body in bodies)
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    packets = Packets()
    found = [one for first, last in pairwise(ends) for one in packets.take(whole[first:last])]
    assert found == [(0x40, body) for body in bodies]


def test_a_length_without_an_end_is_no_packet() -> None:
    packets = Packets()
    with pytest.raises(ValueError, match="four"):
        list(packets.take(b"\x40\xff\xff\xff\xff\x01" + bytes(10)))


# ------------------------------------------------------------ what is written


@given(
    payload=st.binary(max_size=300),
    retain=st.booleans(),
    user=st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
    content=TEXT,
    correlation=st.none() | st.binary(max_size=20),
    response=st.none() | TEXT,
    expiry=st.none() | st.integers(0, 2**32 - 1),
    alias=st.integers(0, 65535),
)
def test_what_is_written_is_what_paho_reads(
    payload: bytes, retain: bool, user: tuple[tuple[str, str], ...], content: str, correlation: bytes | None,
    response: str | None, expiry: int | None, alias: int,
) -> None:  # fmt: skip
    message = Message("a/\u00e4", payload, content, retain, user, correlation, response, expiry)
    ((first, body),) = Packets().take(publish_packet(message, 513, alias))
    said = as_paho_reads_it(first, body)
    told = said.properties
    assert (said.topic, bytes(said.payload), said.mid, said.retain, said.qos) == (
        "a/\u00e4", payload, 513, retain, 1,
    )  # fmt: skip
    assert tuple(getattr(told, "UserProperty", ())) == user
    assert getattr(told, "ContentType", "") == content
    assert getattr(told, "CorrelationData", None) == correlation
    assert getattr(told, "ResponseTopic", None) == response
    assert getattr(told, "MessageExpiryInterval", None) == expiry
    assert getattr(told, "TopicAlias", 0) == alias


def test_a_puback_that_is_written_is_read() -> None:
    ((first, body),) = Packets().take(puback_packet(65535))
    assert (first, read_puback(body)) == (0x40, (65535, 0))
