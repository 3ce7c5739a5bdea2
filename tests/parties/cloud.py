"""What the cloud's end is sent, asked and started as: a device's messages, a page of its own, a receiver as a process."""

from __future__ import annotations

import json
import threading
import urllib.request
from typing import Any
from urllib.error import HTTPError

from edge_runtime.sync.link.link import Broker, Link, Message, Received, Settings
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import CONTENT_TYPE, outgoing
from edge_runtime.types import encode
from tests.builders import STAMP, finding

TOPICS = DeviceTopics("clinic", "room-1", "dev-1")
RECEIVE = (
    "import sys; from edge_runtime.commands import receive;"
    "receive.run(sys.argv[1], sys.argv[2], on_notice=lambda line: print(line, flush=True))"
)


def message(
    payload: bytes | None = None,
    seq: str = "7",
    epoch: str = "e1",
    topic: str | None = None,
    encoding: str | None = None,
) -> Received:
    """A finding of `dev-1` as a receiver gets it, or what is to be taken for one."""
    body = outgoing("finding", encode(finding(STAMP))) if payload is None else payload
    return Received(
        topic or TOPICS.event("finding"),
        body,
        1,
        (("epoch", epoch), ("seq", seq), ("schema", "1.0"), *([("encoding", encoding)] if encoding else [])),
    )


def changed(**over: Any) -> Received:
    """The same with other values in its body."""
    return message(json.dumps({**json.loads(message().payload), **over}).encode())


def send(broker: str, *payloads: bytes) -> None:
    """Publishes them as the finding of `dev-1`."""
    link = Link.open(Settings(Broker.parse(broker), "dev-1"), threading.Event())
    assert link is not None
    for payload in payloads:
        told = (("epoch", "e1"), ("seq", "7"))
        link.publish(Message(TOPICS.event("finding"), payload, CONTENT_TYPE["finding"], properties=told))
    link.close()


def get(url: str) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()
