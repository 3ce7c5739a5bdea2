"""Somebody else on the broker, on a client of its own: hears every message with all that MQTT says beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_runtime.sync.packing import unpack
from tests.patience import within

_TOLD = (
    "UserProperty",
    "ContentType",
    "ResponseTopic",
    "CorrelationData",
    "MessageExpiryInterval",
    "PayloadFormatIndicator",
)


@dataclass(frozen=True)
class Heard:
    """One message as it came."""

    topic: str
    payload: bytes
    retain: bool
    properties: dict[str, Any]  # all of MQTT's own, by name

    @property
    def user(self) -> dict[str, str]:
        """User properties; the short one of a slow line as the four that it stands for."""
        told = dict(self.properties.get("UserProperty", ()))
        if "r" in told:
            told |= zip(("encoding", "epoch", "seq", "sender"), told.pop("r").split(" "), strict=True)
        return told

    @property
    def kind(self) -> str:
        """What comes last in the topic, as `finding`, `rcpt` or `state`."""
        return self.topic.rpartition("/")[2]

    @property
    def is_record(self) -> bool:
        return "/evt/" in self.topic

    @property
    def plain(self) -> bytes:
        return unpack(self.payload, self.user.get("encoding"))

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.plain)


@dataclass
class Ear:
    """Connected while it is entered; `heard` grows in the order of arrival."""

    port: int
    filter: str = "#"
    user: str = ""
    client_id: str = ""
    heard: list[Heard] = field(default_factory=list)

    def __enter__(self) -> Ear:
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id or f"ear-{id(self):x}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        if self.user:
            self._client.username_pw_set(self.user)
        self._changed = threading.Condition()
        listening = threading.Event()
        self._client.on_message = self._hear
        self._client.on_subscribe = lambda *_: listening.set()
        connect = Properties(PacketTypes.CONNECT)
        connect.ReceiveMaximum = 65535  # type: ignore[attr-defined]
        self._client.connect("127.0.0.1", self.port, clean_start=True, properties=connect)
        self._client.loop_start()
        self._client.subscribe([(self.filter, SubscribeOptions(qos=1, retainAsPublished=True))])
        assert listening.wait(within(10))
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, client: Client, userdata: Any, message: Any) -> None:
        said = message.properties
        names = {name: getattr(said, name) for name in _TOLD if hasattr(said, name)}
        with self._changed:
            self.heard.append(Heard(message.topic, bytes(message.payload), bool(message.retain), names))
            self._changed.notify_all()

    def until(self, condition: Callable[[list[Heard]], Any], timeout_s: float = 60.0) -> Any:
        """Waits until `condition` of all that was heard is true; what it gave."""
        found: list[Any] = []

        def met() -> bool:
            found[:] = [condition(self.heard)]
            return bool(found[0])

        with self._changed:
            assert self._changed.wait_for(met, within(timeout_s)), [one.topic for one in self.heard[-20:]]
        return found[0]

    def say(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        user: tuple[tuple[str, str], ...] = (),
        correlation: bytes | None = None,
        response_topic: str | None = None,
    ) -> None:
        """Publishes, and returns when the broker has it."""
        properties: Any = Properties(PacketTypes.PUBLISH)
        if user:
            properties.UserProperty = list(user)
        if correlation is not None:
            properties.CorrelationData = correlation
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        info.wait_for_publish(within(10))


def records(heard: list[Heard], kind: str = "") -> list[Heard]:
    """Those that carry a record, of one kind if it is named."""
    return [one for one in heard if one.is_record and one.kind.startswith(kind)]


def states(heard: list[Heard], **said: Any) -> list[Any]:
    """The state messages that say this much, in order."""
    bodies = [one.body for one in heard if one.kind == "state"]
    return [body for body in bodies if all(body[key] == value for key, value in said.items())]
