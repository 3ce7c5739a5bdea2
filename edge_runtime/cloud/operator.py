"""An operator's end of a command: reads the device's session, signs, sends, and waits for the answer. One command a call.

Knows nothing about what the commands do.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from edge_runtime import clock
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.sync.commands.command import (
    COMMAND_CONTENT_TYPE,
    MOST_BYTES,
    SIGNATURE_PROPERTY,
    Answer,
    Command,
    Refused,
    arguments_of,
    decode_answer,
    encode_command,
)
from edge_runtime.sync.commands.signing import Signer
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.incoming import Received
from edge_runtime.sync.link.link import Acked, Event, Link, Settings
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.link.reason_codes import NO_SUBSCRIBERS
from edge_runtime.sync.link.tls import Tls
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import DeviceState, decode_state

T = TypeVar("T")

LEAST_LIFE_S = 60.0  # the two clocks may differ a little
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asks, over which broker, and how long to wait for an answer."""

    broker: Broker
    signer: Signer
    tls: Tls = field(default_factory=Tls)
    timeout_s: float = 30.0
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, topics: DeviceTopics, name: str, arguments: dict[str, Any]) -> Answer | None:
        """The device's answer; None when stopped before.

        ConfigError for a command or arguments that no device would take; UplinkError when there is no answer, which
        says whether the command may have been done all the same.
        """
        draft = self._draft(name, arguments)
        deadline_ns = clock.monotonic_ns() + int(self.timeout_s * 1e9)
        with self._link(topics) as link:
            if link is None:
                return None
            state = self._wait(
                link,
                deadline_ns,
                lambda event: _state_in(event, topics),
                f"device {topics.device}: no state message on {topics.state}; check its id, --tenant and --site",
            )
            if state is None:
                return None
            if state.state != "online" or state.session is None:
                since = f" since {state.at}" if state.at else ""
                raise UplinkError(f"device {topics.device}: {state.state}{since}; it takes no commands now")
            message, nonce = self._signed(draft, topics, state.session)
            mid = link.publish(message)
            answer = self._wait(
                link,
                deadline_ns,
                lambda event: _answer_in(event, topics, mid, nonce),
                f"device {topics.device}: no answer in {self.timeout_s:.0f} s; whether the command was done, its audit says",
            )
            link.close()
        return answer

    def _draft(self, name: str, arguments: dict[str, Any]) -> Command:
        """The command without its session; ConfigError where the device would not understand it."""
        issued = clock.utc()
        draft = Command(
            command=name,
            arguments=arguments,
            nonce=secrets.token_hex(16),
            issued_at=issued,
            expires_at=issued + timedelta(seconds=max(self.timeout_s, LEAST_LIFE_S)),
            session="0" * 16,
            key_id=self.signer.key_id,
        )
        try:
            arguments_of(draft)
        except Refused as exc:
            raise ConfigError(f"command {name}: {exc.text}") from exc
        if len(encode_command(draft)) > MOST_BYTES:
            raise ConfigError(f"command {name}: larger than {MOST_BYTES} bytes; ask for less at once")
        return draft

    def _signed(self, draft: Command, topics: DeviceTopics, session: str) -> tuple[Message, str]:
        command = msgspec.structs.replace(draft, session=session)
        topic, payload = topics.command(command.command), encode_command(command)
        message = Message(
            topic,
            payload,
            COMMAND_CONTENT_TYPE,
            properties=((SIGNATURE_PROPERTY, self.signer.sign(topic, payload)),),
            correlation=bytes.fromhex(command.nonce),
            response_topic=topics.responses,
            expiry_s=int(max(self.timeout_s, LEAST_LIFE_S)),
        )
        return message, command.nonce

    @contextmanager
    def _link(self, topics: DeviceTopics) -> Iterator[Link | None]:
        settings = Settings(
            broker=self.broker,
            client_id=f"operator-{secrets.token_hex(4)}",
            tls=self.tls,
            subscribe=(topics.responses, topics.state),
            needed=2,
        )
        link = Link.open(settings, self.stop, self.timeout_s)
        try:
            yield link
        finally:
            if link is not None:
                link.drop()

    def _wait(
        self, link: Link, deadline_ns: int, look: Callable[[Event], T | None], why_not: str
    ) -> T | None:
        """The first that `look` finds; None when the stop was set. UplinkError when the time is over."""
        while not self.stop.is_set():
            if clock.monotonic_ns() > deadline_ns:
                raise UplinkError(why_not)
            for event in link.poll(POLL_S):
                if isinstance(event, Received):
                    link.ack(event)
                if (found := look(event)) is not None:
                    return found
        return None


def _state_in(event: Event, topics: DeviceTopics) -> DeviceState | None:
    if not isinstance(event, Received) or event.topic != topics.state:
        return None
    return decode_state(event.payload)


def _answer_in(event: Event, topics: DeviceTopics, mid: int, nonce: str) -> Answer | None:
    """The answer to this command; raises UplinkError when there can be none."""
    if isinstance(event, Acked):
        if event.mid == mid and event.code >= NO_SUBSCRIBERS:
            raise UplinkError(
                f"the broker does not pass the command on ({event.text}); check the access list and the device's uplink"
            )
        return None
    if event.topic == topics.state:
        if decode_state(event.payload).state == "online":
            return None
        raise UplinkError(
            f"device {topics.device}: went offline; whether the command was done, its audit says"
        )
    if event.topic != topics.responses or event.correlation != bytes.fromhex(nonce):
        return None  # somebody else's
    return decode_answer(event.payload)
