"""paho's client, as a connection needs it: nothing but a protocol, turned by others.

Left to itself it re-sends and queues on its own account, and deadlocks or dies on a callback that does anything. So
its callbacks only append, since they run inside its locks. Knows nothing about what is said.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from edge_runtime.sync.link.incoming import Event, Received
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.link.settings import Settings

CONNECT_TIMEOUT_S = 60.0  # mutual TLS over 2.4 kbit/s takes 13.5 s

Answer = tuple[str, Any, Any]  # connack, suback or disconnect; reasons; properties


def make_client(settings: Settings, inbox: deque[Event], answers: deque[Answer]) -> Any:
    """For one connection: nothing of paho's survives it."""
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    from edge_runtime.sync.link.reader import Reader

    client = Reader(
        inbox,
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


def subscriptions(topics: tuple[str, ...]) -> list[tuple[str, Any]]:
    """QoS 1, nothing of our own back, and the retain flag as it was published: a retained command must be known."""
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return [(topic, SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True)) for topic in topics]


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


def _will_properties(message: Message) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
    properties.ContentType = message.content_type
    if message.properties:
        properties.UserProperty = list(message.properties)
    return properties
