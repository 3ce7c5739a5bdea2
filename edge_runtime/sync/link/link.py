"""One MQTT v5 connection: the only place that knows paho.

paho re-sends and queues on its own account, ignores the broker's limits, and deadlocks or dies on a callback
that does anything. So: one paho client per connection (nothing survives it), QoS 1, callbacks that only append to
a deque, one thread, and the broker's limits kept here. Knows nothing about findings; policy is its caller's.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.clock import monotonic_ns
from edge_runtime.errors import ConfigError
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.incoming import Received, read_puback, read_publish
from edge_runtime.sync.link.publishing import Message, Packed, packet_bytes
from edge_runtime.sync.link.reason_codes import LinkError, Trouble, trouble_of, words_of
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

CONNECT_TIMEOUT_S = 60.0  # mutual TLS over 2.4 kbit/s takes 13.5 s
_POLL_PACKETS = 200
_TCP_CORK = getattr(socket, "TCP_CORK", None)  # Linux
_KEEP_ALIVE_TIMEOUT = 0x8D  # paho's own word where nothing was heard for two keep-alives
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "UNKNOWN CA")  # in the names of TLS alerts
_BYE_S = 0.5


@dataclass(frozen=True, slots=True)
class Acked:
    """The broker's PUBACK: it has the message, or says why not. Never a delivery."""

    mid: int
    code: int  # 0 taken, 0x10 nobody listens, 0x80 and above refused
    text: str
    waited_ns: int = 0
    size: int = 0  # the bytes without a PUBACK when this message had been sent, its own among them


@dataclass(slots=True)
class _Owed:
    at_ns: int
    size: int  # of the packet
    behind: int  # and of all that had no PUBACK then


@dataclass(frozen=True, slots=True)
class Settings:
    """How a connection is made; the same for every try."""

    broker: Broker
    client_id: str
    tls: Tls = field(default_factory=Tls)
    will: Message | None = None
    keepalive_s: int = 30
    receive_maximum: int = 1000  # mosquitto sends 20 at a time to those who do not say
    maximum_packet: int | None = None  # the broker sends us nothing larger
    subscribe: str | tuple[str, ...] | None = None
    needed: int = 1  # of these filters; refusing one of the others is not refusing us


Event = Received | Acked


class Link:
    """An open connection. `Link.open` makes it; once `poll` has raised it is of no more use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox: deque[Event] = deque()
        self._answers: deque[tuple[str, Any, Any]] = (
            deque()
        )  # connack, suback and disconnect: (name, reason, properties)
        self._client = _client(settings, self._inbox, self._answers)
        self._socket: Any = None
        self._corked = False
        self._owed: dict[int, _Owed] = {}  # by mid, until its PUBACK
        self._owed_bytes = 0
        self._last_ack_ns = 0
        self._aliases: dict[str, int] = {}  # of topics that this connection's broker knows by number
        self._alias_max = 0
        self.receive_max = 65535  # of PUBLISHes without PUBACK that the broker allows us
        self.max_packet: int | None = None
        self.not_subscribed: tuple[str, ...] = ()  # filters that are not needed and that the broker refused

    @classmethod
    def open(
        cls, settings: Settings, stop: threading.Event, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> Link | None:
        """Connects and subscribes; None when `stop` was set meanwhile. LinkError when it cannot be."""
        try:
            link = cls(settings)
        except ConfigError as exc:  # TLS files that were good at the start and are not now
            raise LinkError(str(exc), Trouble.CERTIFICATE) from exc
        deadline = monotonic_ns() + int(timeout_s * 1e9)
        if not link._connect_socket(stop, deadline):
            return None
        if not link._await("connack", stop, deadline):
            return None
        if filters := link._filters:
            link._client.subscribe(_subscriptions(filters))
            if not link._await("suback", stop, deadline):
                return None
        return link

    @property
    def _filters(self) -> tuple[str, ...]:
        asked = self._settings.subscribe
        return (asked,) if isinstance(asked, str) else asked or ()

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
        topic, alias = message.topic, 0
        if message.alias and self._alias_max:
            if alias := self._aliases.get(topic, 0):
                topic = ""
            elif len(self._aliases) < self._alias_max:
                alias = self._aliases[topic] = len(self._aliases) + 1
        self._cork(True)
        properties: Any = Packed(message, alias)
        info = self._client.publish(
            topic, message.payload, qos=1, retain=message.retain, properties=properties
        )
        size = len(topic) + len(properties) + len(message.payload)
        self._owed_bytes += size
        self._owed[info.mid] = _Owed(monotonic_ns(), size, self._owed_bytes)
        return int(info.mid)

    def poll(self, timeout_s: float) -> list[Event]:
        """What has arrived, waiting at most `timeout_s` for it. LinkError when the connection is gone."""
        rc = self._turn(timeout_s)
        for _ in range(_POLL_PACKETS):
            before = len(self._inbox)
            if rc != 0 or before == 0:
                break
            rc = self._turn(0)
            if len(self._inbox) == before:
                break
        events = self._take_inbox()
        if not events:
            self._check_alive(rc)
        return events

    def _turn(self, timeout_s: float) -> int:
        """One turn of paho's work. Its own loop would make a system call for each message to wake other threads."""
        client, line = self._client, self._client.socket()
        if line is None:
            return 1
        self._cork(False)
        if self._settings.broker.secure and line.pending():
            timeout_s = 0.0
        readable, writable, _ = select.select([line], [line] if client.want_write() else [], [], timeout_s)
        rc = client.loop_read() if readable or (self._settings.broker.secure and timeout_s == 0.0) else 0
        if rc == 0 and writable:
            rc = client.loop_write()
        return int(rc or client.loop_misc())

    def _cork(self, hold: bool) -> None:
        """While held, what is published leaves in few full packets at the next turn, not in one small one each."""
        if hold != self._corked and _TCP_CORK is not None and self._socket is not None:
            self._corked = hold
            with contextlib.suppress(OSError):  # closed: the next turn finds out
                self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_CORK, hold)

    def _take_inbox(self) -> list[Event]:
        events = list(self._inbox)
        self._inbox.clear()
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
        self._client.ack(received.mid, 1)

    def close(self, last: Message | None = None) -> None:
        """Says goodbye, publishing `last` first; never takes longer than half a second."""
        deadline = monotonic_ns() + int(_BYE_S * 1e9)
        while self._owed and monotonic_ns() < deadline:
            if (
                last is not None and self.room()
            ):  # one too many would end the connection: then the will speaks
                self.publish(last)
                last = None
            if self._turn(0.05) != 0:
                break
            self._take_inbox()
        if last is not None and self.room():
            self.publish(last)
        self._client.disconnect()
        while self._client.socket() is not None and monotonic_ns() < deadline:
            if self._turn(0.05) != 0:
                break
        self.drop()

    def drop(self) -> None:
        """Closes the socket without a goodbye: the broker publishes the will."""
        self._client._reset_sockets()  # private: nothing public of paho's closes without a DISCONNECT

    # ------------------------------------------------------------ connecting

    def _connect_socket(self, stop: threading.Event, deadline_ns: int) -> bool:
        """TCP and TLS in a thread of their own: a look-up or handshake that hangs must not hold up a stop."""
        failure: list[BaseException] = []
        done = threading.Event()

        def connect() -> None:
            try:
                self._client.reconnect()
            except BaseException as exc:  # noqa: BLE001 - handed to the caller below, not swallowed
                failure.append(exc)
            finally:
                done.set()

        threading.Thread(target=connect, daemon=True, name="mqtt-connect").start()
        while not done.wait(0.05):
            if stop.is_set():
                return False
            if monotonic_ns() > deadline_ns:
                raise LinkError(f"broker {self._settings.broker}: no answer; check host and port")
        if failure:
            raise _connect_error(self._settings.broker, failure[0])
        self._socket = (
            self._client.socket()
        )  # paho lets go of it when it fails, and its last word is asked for then
        return True

    def _await(self, name: str, stop: threading.Event, deadline_ns: int) -> bool:
        """Waits for one answer of the broker; False when stopped."""
        while not any(answer[0] == name for answer in self._answers):
            if stop.is_set():
                self.drop()
                return False
            if monotonic_ns() > deadline_ns:
                self.drop()
                raise LinkError(
                    f"broker {self._settings.broker}: connected, but sends no {name.upper()}; is it MQTT v5?"
                )
            rc = self._turn(0.05)
            if not any(answer[0] == name for answer in self._answers):
                self._check_alive(rc)
        _, reasons, properties = next(answer for answer in self._answers if answer[0] == name)
        needed = 1 if name == "connack" else self._settings.needed
        if refused := next((reason for reason in reasons[:needed] if reason.is_failure), None):
            self.drop()
            raise LinkError(
                f"broker {self._settings.broker}: refused ({refused}); check user, certificate and access list",
                trouble_of(refused.value),
                refused.value,
            )
        if name == "connack":
            self.receive_max = getattr(properties, "ReceiveMaximum", 65535)
            self.max_packet = getattr(properties, "MaximumPacketSize", None)
            self._alias_max = getattr(properties, "TopicAliasMaximum", 0)
        else:
            answered = zip(self._filters, reasons, strict=False)
            self.not_subscribed = tuple(topic for topic, reason in answered if reason.is_failure)
        return True

    def _check_alive(self, rc: int) -> None:
        lost = next((answer for answer in self._answers if answer[0] == "disconnect"), None)
        if lost is None and rc == 0 and self._client.socket() is not None:
            return
        refusal = getattr(self._client.socket() or self._socket, "refusal", None)
        self.drop()
        where = f"broker {self._settings.broker}"
        if refusal is not None:
            raise _connect_error(self._settings.broker, refusal)
        if lost is None or not lost[2]:
            silent = lost is not None and lost[1][0].value == _KEEP_ALIVE_TIMEOUT
            raise LinkError(f"{where}: {'silent' if silent else 'connection lost'}", by_peer=not silent)
        code = lost[1][0].value
        raise LinkError(f"{where}: {lost[1][0]}", trouble_of(code), code, by_peer=True)


def _client(settings: Settings, inbox: deque[Event], answers: deque[tuple[str, Any, Any]]) -> Any:
    """A paho client for one connection. Its callbacks only append: they run inside paho's locks."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    class Reader(Client):
        def _handle_publish(self) -> Any:
            """A message of the usual form is read here, in a third of the time."""
            message = read_publish(self._in_packet["command"], bytes(self._in_packet["packet"]))
            if message is None:
                return super()._handle_publish()
            inbox.append(message)
            return MQTTErrorCode.MQTT_ERR_SUCCESS

        def _handle_pubackcomp(self, cmd: Any) -> Any:
            """So is a PUBACK, whatever its code; paho keeps each message until then and must let go of it."""
            answer = read_puback(bytes(self._in_packet["packet"])) if cmd == "PUBACK" else None
            if answer is None:
                return super()._handle_pubackcomp(cmd)
            mid, code = answer
            with self._out_message_mutex:
                if self._out_messages.pop(mid, None) is not None:
                    inbox.append(Acked(mid, code, words_of(code)))
            return MQTTErrorCode.MQTT_ERR_SUCCESS

    client = Reader(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.suppress_exceptions = True
    client.max_inflight_messages_set(0)
    if settings.broker.username is not None:
        client.username_pw_set(settings.broker.username, settings.broker.password)
    if settings.broker.secure:
        client.tls_set_context(settings.tls.context())
    if settings.will is not None:
        will = settings.will
        client.will_set(
            will.topic,
            will.payload,
            qos=1,
            retain=will.retain,
            properties=_will_properties(will),
        )
    client.on_connect = lambda c, u, flags, reason, props: answers.append(("connack", [reason], props))
    client.on_subscribe = lambda c, u, mid, reasons, props: answers.append(("suback", reasons, props))
    client.on_disconnect = lambda c, u, flags, reason, props: answers.append(
        ("disconnect", [reason], flags.is_disconnect_packet_from_server)
    )
    client.on_message = lambda c, u, m: inbox.append(_received(m))
    connect: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    connect.ReceiveMaximum = settings.receive_maximum
    connect.SessionExpiryInterval = 0
    if settings.maximum_packet is not None:
        connect.MaximumPacketSize = settings.maximum_packet
    broker = settings.broker
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.connect_async(
        broker.host, broker.port, keepalive=settings.keepalive_s, clean_start=True, properties=connect
    )
    return client


def _received(message: Any) -> Received:
    sent = message.properties
    return Received(
        message.topic,
        bytes(message.payload),
        message.mid,
        tuple(getattr(sent, "UserProperty", ())),
        bool(message.retain),
        getattr(sent, "CorrelationData", None),
        getattr(sent, "ResponseTopic", None),
    )


def _subscriptions(topics: tuple[str, ...]) -> list[tuple[str, Any]]:
    """QoS 1, nothing of our own back, and the retain flag as it was published: a retained command must be known."""
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return [(topic, SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True)) for topic in topics]


def _will_properties(message: Message) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    properties.ContentType = message.content_type
    if message.properties:
        properties.UserProperty = list(message.properties)
    return properties


def _connect_error(broker: Broker, exc: BaseException) -> LinkError:
    trouble = Trouble.LINE
    if isinstance(exc, ssl.SSLCertVerificationError):
        trouble = Trouble.CERTIFICATE
        why = f"its certificate is not trusted ({exc.verify_message}); check --ca and the host name"
    elif isinstance(exc, ssl.SSLError) and any(word in str(exc).upper() for word in _OF_CERTIFICATES):
        trouble = Trouble.CERTIFICATE
        why = f"it refuses this device's certificate ({exc.reason or exc}); check --cert and --key"
    elif isinstance(exc, ssl.SSLError):
        why = f"TLS fails ({exc.reason or exc}); check --ca, --cert and --key"
    elif isinstance(exc, ConnectionRefusedError):
        why = "connection refused; is it running, and is the port right?"
    elif isinstance(exc, OSError):
        why = exc.strerror or str(exc)
    else:
        raise exc
    error = LinkError(f"broker {broker}: {why}", trouble)
    error.__cause__ = exc
    return error
