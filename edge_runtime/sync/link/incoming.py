"""Packets as they arrive, and what a PUBLISH or a PUBACK among them says, read from their bytes. Knows nothing about connections.

paho makes an object of checked names for the properties of each message, which was most of a receiver's time. What is not
as expected here is left to paho: it knows what to say to a broker that sends nonsense. Of a PUBACK it reads the codes alone
that the specification gives to one, and takes the connection down over 0x95, with which mosquitto refuses what is too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION, _USER_PROPERTY = 0x03, 0x08, 0x09, 0x26
_SIZES = {0x01: 1, 0x02: 4}  # payload format, message expiry: nobody here asks for them
_QOS_1, _RETAIN = 0x02, 0x01


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    mid: int  # for `Link.ack`
    properties: tuple[tuple[str, str], ...]
    retained: bool = False
    correlation: bytes | None = None
    response_topic: str | None = None


@dataclass(frozen=True, slots=True)
class Acked:
    """The broker's PUBACK: it has the message, or says why not. Never a delivery."""

    mid: int
    code: int  # 0 taken, 0x10 nobody listens, 0x80 and above refused
    text: str
    waited_ns: int = 0
    size: int = 0  # the bytes without a PUBACK when this message had been sent, its own among them


Event = Received | Acked


class Packets:
    """Whole packets out of bytes that come in pieces of any length (MQTT v5, 2.1)."""

    def __init__(self) -> None:
        self._held = b""

    def take(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The first byte of each, and what follows its length. ValueError for a length that is none."""
        data, self._held = self._held + data, b""
        at = 0
        while len(data) - at >= 2:
            try:
                length, start = _number(data, at + 1)
            except IndexError:
                break
            if start - at > 5:
                raise ValueError("a length of more than four bytes")
            if start + length > len(data):
                break
            yield data[at], data[start : start + length]
            at = start + length
        self._held = data[at:]


def read_publish(first: int, packet: bytes) -> Received | None:
    """The message in `packet`, all that follows the length; None when it is not one of QoS 1 with the usual properties."""
    if first & 0x06 != _QOS_1:
        return None
    try:
        topic, at = _block(packet, 0)
        mid = int.from_bytes(packet[at : at + 2], "big")
        length, at = _number(packet, at + 2)
        end = at + length
        user: list[tuple[str, str]] = []
        found: dict[int, bytes] = {}
        while at < end:
            kind = packet[at]
            if kind == _USER_PROPERTY:
                name, at = _block(packet, at + 1)
                value, at = _block(packet, at)
                user.append((name.decode(), value.decode()))
            elif kind in (_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION):
                found[kind], at = _block(packet, at + 1)
            else:
                at += 1 + _SIZES[kind]
        if at != end or end > len(packet) or not mid:
            return None
        asker = found.get(_RESPONSE_TOPIC)
        return Received(
            topic.decode(),
            bytes(packet[end:]),
            mid,
            tuple(user),
            bool(first & _RETAIN),
            found.get(_CORRELATION),
            None if asker is None else asker.decode(),
        )
    except (IndexError, KeyError, UnicodeDecodeError):
        return None


def read_puback(packet: bytes) -> tuple[int, int] | None:
    """Message id and reason code of the PUBACK in `packet`, all that follows the length (MQTT v5, 3.4); None when it is none.

    A code of any value: what it means is another's question. Its properties, a reason in words, are passed over.
    """
    if len(packet) < 2:
        return None
    mid = packet[0] << 8 | packet[1]
    if len(packet) < 4:
        return mid, packet[2] if len(packet) == 3 else 0
    try:
        length, at = _number(packet, 3)
    except IndexError:
        return None
    return (mid, packet[2]) if at + length == len(packet) else None


def _block(packet: bytes, at: int) -> tuple[bytes, int]:
    """Two bytes of length and as many bytes, and where they end."""
    start = at + 2
    end = start + (packet[at] << 8 | packet[at + 1])
    if end > len(packet):
        raise IndexError
    return bytes(packet[start:end]), end


def _number(packet: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer (MQTT v5, 1.5.5), and where it ends."""
    value = shift = 0
    while True:
        byte = packet[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
