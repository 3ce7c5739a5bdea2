"""A scripted MQTT v5 peer: it answers a CONNECT as told, and each PUBLISH with the next of its reason codes.

A fault injector for what a real broker does only on a bad day: chosen reason codes, limits, silence, a cut line.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.sync.link.publishing import Message, publish_packet

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


@dataclass
class Peer:
    """Listens on `port` until closed; one connection at a time."""

    connack: int = 0
    receive_max: int | None = None
    max_packet: int | None = None
    puback: Sequence[int | None] = (
        0,
    )  # of each finding in turn, the last for all that follow; None: silence
    cut_on_finding: bool = False  # closes the connection instead of answering a finding
    of_kind: Mapping[str, int] = field(default_factory=dict)  # instead, for records of this kind
    disconnect: int | None = None  # said instead of answering a record; then the connection is closed
    alias_max: int | None = None
    bodies: list[bytes] = field(default_factory=list)  # of the records, as they came
    others: list[bytes] = field(default_factory=list)  # of all else: states and answers
    published: list[tuple[str, int]] = field(default_factory=list)  # (topic, length) as they came
    most_unanswered: int = 0
    connections: int = 0

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.port: int = self._server.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._stop = threading.Event()
        self._findings = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()

    def say(self, *messages: Message) -> None:
        """Publishes these in one write: they arrive together."""
        self._say(b"".join(publish_packet(message, 100 + at) for at, message in enumerate(messages)))

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                line, _ = self._server.accept()
            except TimeoutError:
                continue
            self.connections += 1
            with line:
                line.settimeout(0.05)
                self._say = line.sendall
                self._talk(line)

    def _talk(self, line: socket.socket) -> None:
        data, owed = b"", []
        while not self._stop.is_set():
            try:
                came = line.recv(65536)
                if not came:
                    return
                data += came
            except TimeoutError:
                while owed:  # answered late, so that a window is seen to fill
                    line.sendall(owed.pop(0))
                continue
            except OSError:
                return
            while (packet := _packet(data)) is not None:
                kind, body, data = packet
                answer = self._answer(kind, body)
                if answer is None:
                    return
                if kind == PUBLISH and answer:
                    owed.append(answer)
                    self.most_unanswered = max(self.most_unanswered, len(owed))
                elif answer:
                    line.sendall(answer)

    def _answer(self, kind: int, body: bytes) -> bytes | None:
        """The bytes to send, none, or None to cut the line."""
        if kind == CONNECT:
            limits = b"" if self.receive_max is None else b"\x21" + struct.pack(">H", self.receive_max)
            limits += b"" if self.max_packet is None else b"\x27" + struct.pack(">I", self.max_packet)
            limits += b"" if self.alias_max is None else b"\x22" + struct.pack(">H", self.alias_max)
            self._aliases: dict[int, str] = {}
            return _frame(CONNACK, bytes([0, self.connack, len(limits)]) + limits)
        if kind == SUBSCRIBE:
            return _frame(SUBACK, body[:2] + b"\x00\x01")
        if kind == PINGREQ:
            return _frame(PINGRESP, b"")
        if kind != PUBLISH:
            return b""
        length = struct.unpack(">H", body[:2])[0]
        topic, mid = body[2 : 2 + length].decode(), body[2 + length : 4 + length]
        if (alias := _alias(body[4 + length :])) is not None:
            topic = self._aliases.setdefault(alias, topic)
        self.published.append((topic, len(body)))
        if "/evt/" not in topic:
            self.others.append(body)
            return _frame(PUBACK, mid + b"\x00\x00")
        self.bodies.append(body)
        if self.cut_on_finding:
            return None
        if self.disconnect is not None:
            self._say(_frame(DISCONNECT, bytes([self.disconnect, 0])))
            return None
        if (refusal := self.of_kind.get(topic.rpartition("/")[2])) is not None:
            return _frame(PUBACK, mid + bytes([refusal, 0]))
        code = self.puback[min(self._findings, len(self.puback) - 1)]
        self._findings += 1
        return b"" if code is None else _frame(PUBACK, mid + bytes([code, 0]))


def _packet(data: bytes) -> tuple[int, bytes, bytes] | None:
    """(type, body, rest) of the first whole packet in `data`."""
    length = shift = 0
    for at in range(1, min(len(data), 5)):
        length |= (data[at] & 0x7F) << shift
        shift += 7
        if not data[at] & 0x80:
            end = at + 1 + length
            return (data[0] >> 4, data[at + 1 : end], data[end:]) if len(data) >= end else None
    return None


def _alias(after_mid: bytes) -> int | None:
    """The topic alias among a PUBLISH's properties; each kind of property that this project sends is known."""
    at, end = 1, 1 + after_mid[0]  # they are shorter than 128 bytes together, or there is no alias
    while at < min(end, len(after_mid)) and after_mid[0] < 128:
        if after_mid[at] == 0x23:
            return int.from_bytes(after_mid[at + 1 : at + 3], "big")
        for _ in range(2 if after_mid[at] == 0x26 else 1):
            at += 2 + int.from_bytes(after_mid[at + 1 : at + 3], "big")
        at += 1
    return None


def _frame(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind << 4, len(body)]) + body
