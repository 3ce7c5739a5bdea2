"""One MQTT v5 connection that is open: publishing within the broker's limits, and what arrives.

One thread, QoS 1, one paho client for each connection; paho ignores the broker's limits, so they are kept here. Knows
nothing about findings; policy is its caller's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from edge_runtime.clock import monotonic_ns
from edge_runtime.errors import ConfigError
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.client import CONNECT_TIMEOUT_S
from edge_runtime.sync.link.connecting import Opening
from edge_runtime.sync.link.incoming import Acked, Event, Received
from edge_runtime.sync.link.line import Line
from edge_runtime.sync.link.publishing import Message, packet_bytes, puback_packet, publish_packet
from edge_runtime.sync.link.reason_codes import LinkError, Trouble
from edge_runtime.sync.link.settings import Settings
from edge_runtime.sync.link.tls import Tls

__all__ = [
    "CONNECT_TIMEOUT_S",
    "Acked",
    "Broker",
    "Event",
    "Link",
    "LinkError",
    "Message",
    "Received",
    "Settings",
    "Tls",
]

_MOST_EVENTS = 200  # of one poll
_BYE_S = 0.5


@dataclass(slots=True)
class _Owed:
    at_ns: int
    size: int  # of the packet
    behind: int  # and of all that had no PUBACK then


class Link:
    """An open connection. `Link.open` makes it; once `poll` has raised it is of no more use."""

    def __init__(self, line: Line, opening: Opening) -> None:
        self._line = line
        self._owed: dict[int, _Owed] = {}  # by mid, until its PUBACK
        self._owed_bytes = 0
        self._last_mid = 1  # SUBSCRIBE had one
        self._last_ack_ns = 0
        self._aliases: dict[str, int] = {}  # of topics that this connection's broker knows by number
        self._alias_max: int = opening.allowed("TopicAliasMaximum", 0)
        # of PUBLISHes without PUBACK that the broker allows us
        self.receive_max: int = opening.allowed("ReceiveMaximum", 65535)
        self.max_packet: int | None = opening.allowed("MaximumPacketSize", None)
        self.not_subscribed = opening.not_subscribed()

    @classmethod
    def open(
        cls, settings: Settings, stop: threading.Event, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> Link | None:
        """Connects and subscribes; None when `stop` was set meanwhile. LinkError when it cannot be."""
        try:
            line = Line(settings)
        except ConfigError as exc:  # TLS files that were good at the start and are not now
            raise LinkError(str(exc), Trouble.CERTIFICATE) from exc
        opening = Opening(line, stop, monotonic_ns() + int(timeout_s * 1e9))
        done = opening.connect() and opening.await_answer("connack") and opening.subscribe()
        return cls(line, opening) if done else None

    @property
    def unacked(self) -> int:
        """How many PUBLISHes the broker has not answered."""
        return len(self._owed)

    def room(self) -> bool:
        """Whether the broker allows one more PUBLISH now."""
        return len(self._owed) < self.receive_max

    def fits(self, message: Message) -> bool:
        """Whether the broker takes a message of this size; one too large would end the connection."""
        return self.max_packet is None or packet_bytes(message) <= self.max_packet

    def publish(self, message: Message) -> int:
        """Sends with QoS 1 and returns the id that its `Acked` will carry. Call only while `room()`."""
        alias = self._aliases.get(message.topic, 0) if message.alias else 0
        known = alias > 0
        if message.alias and not known and len(self._aliases) < self._alias_max:
            alias = self._aliases[message.topic] = len(self._aliases) + 1
        mid = self._next_mid()
        packet = publish_packet(message, mid, alias, known=known)
        self._line.write(packet)
        self._owed_bytes += len(packet)
        self._owed[mid] = _Owed(monotonic_ns(), len(packet), self._owed_bytes)
        return mid

    def flush(self) -> None:
        """What was published leaves now, not at the next `poll`."""
        self._line.flush()

    def _next_mid(self) -> int:
        """An id that no PUBLISH without a PUBACK has."""
        while True:
            self._last_mid = self._last_mid % 65535 + 1
            if self._last_mid not in self._owed:
                return self._last_mid

    def poll(self, timeout_s: float) -> list[Event]:
        """What has arrived, waiting at most `timeout_s` for it. LinkError when the connection is gone."""
        inbox = self._line.inbox
        rc, before = self._line.turn(timeout_s), 0
        while rc == 0 and before < len(inbox) < _MOST_EVENTS:
            before = len(inbox)
            rc = self._line.turn(0)
        events = self._take_inbox()
        if not events:
            self._line.check_alive(rc)
        return events

    def _take_inbox(self) -> list[Event]:
        events = list(self._line.inbox)
        self._line.inbox.clear()
        now_ns = monotonic_ns()
        for at, event in enumerate(events):
            if isinstance(event, Acked):
                self._last_ack_ns = now_ns
                if owed := self._owed.pop(event.mid, None):
                    self._owed_bytes -= owed.size
                    waited_ns = now_ns - owed.at_ns
                    events[at] = Acked(event.mid, event.code, event.text, waited_ns, owed.behind)
        return events

    def silent_s(self) -> float:
        """How long the broker has owed us a PUBACK and sent none at all; 0 when it owes none."""
        if not self._owed:
            return 0.0
        oldest = next(iter(self._owed.values()))  # they are in the order of their sending
        return (monotonic_ns() - max(self._last_ack_ns, oldest.at_ns)) / 1e9

    def ack(self, received: Received) -> None:
        """Tells the broker that a received message is dealt with: it need not be delivered again."""
        self._line.write(puback_packet(received.mid))

    def close(self, last: Message | None = None) -> None:
        """Says goodbye, publishing `last` first; never takes longer than half a second."""
        deadline = monotonic_ns() + int(_BYE_S * 1e9)
        while self._owed and monotonic_ns() < deadline:
            # one too many would end the connection: then the will speaks
            if last is not None and self.room():
                self.publish(last)
                last = None
            if self._line.turn(0.05) != 0:
                break
            self._take_inbox()
        if last is not None and self.room():
            self.publish(last)
        self._line.flush()
        self._line.client.disconnect()
        while self._line.open and monotonic_ns() < deadline:
            if self._line.turn(0.05) != 0:
                break
        self.drop()

    def drop(self) -> None:
        """Closes the socket without a goodbye: the broker publishes the will."""
        self._line.drop()
