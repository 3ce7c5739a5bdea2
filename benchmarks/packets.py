"""MQTT v5 packets as bytes: what a simulated device needs to say and to hear, and no client library's time in it."""

from __future__ import annotations

from collections.abc import Iterator

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT = 0x20, 0x30, 0x40, 0x90, 0xD0, 0xE0
PING = b"\xc0\x00"


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def _length(count: int) -> bytes:
    out = bytearray()
    while True:
        count, low = divmod(count, 128)
        out.append(low | (128 if count else 0))
        if not count:
            return bytes(out)


def _packet(kind: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([kind]) + _length(len(body)) + body


def connect(client_id: str, keepalive_s: int = 60) -> bytes:
    """Clean start, no session kept, no will."""
    return _packet(
        0x10, _text("MQTT"), b"\x05\x02", keepalive_s.to_bytes(2, "big"), b"\x00", _text(client_id)
    )


def subscribe(topic: str, qos: int = 1) -> bytes:
    return _packet(0x82, b"\x00\x01\x00", _text(topic), bytes([qos]))


def puback(mid: int) -> bytes:
    return b"\x40\x02" + mid.to_bytes(2, "big")


def publish(topic: str, mid: int, payload: bytes, content_type: str, properties: dict[str, str]) -> bytes:
    """With QoS 1."""
    told = b"\x03" + _text(content_type)
    told += b"".join(b"\x26" + _text(key) + _text(value) for key, value in properties.items())
    return _packet(0x32, _text(topic), mid.to_bytes(2, "big"), _length(len(told)), told, payload)


def packets(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes the whole packets off the front of `buffer`: the first byte and the rest after the length."""
    while len(buffer) >= 2:
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(buffer):
                return
            byte = buffer[at]
            length |= (byte & 127) << shift
            shift += 7
            at += 1
            if byte < 128:
                break
        if len(buffer) < at + length:
            return
        packet = buffer[0], bytes(buffer[at : at + length])
        del buffer[: at + length]
        yield packet


def published(first: int, rest: bytes) -> tuple[int, bytes]:
    """The packet id (0 for QoS 0) and the payload of a PUBLISH; topic and properties are passed over."""
    at = 2 + int.from_bytes(rest[:2], "big")
    mid = 0
    if first & 6:
        mid = int.from_bytes(rest[at : at + 2], "big")
        at += 2
    length, shift = 0, 0
    while True:
        byte = rest[at]
        length |= (byte & 127) << shift
        shift += 7
        at += 1
        if byte < 128:
            break
    return mid, rest[at + length :]
