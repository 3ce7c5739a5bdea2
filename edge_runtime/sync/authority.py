"""Whether a command may be done: how it came, who signed it, what it says, and whether it is fresh. Time comes in.

Nothing of a payload is read before a trusted key's signature over it holds. Freshness does not trust the clock: a command
names the session, a random name that the device gives each connection and each hour of one, and its nonce is taken once
in a session. `expires_at` counts besides where the clock is set by the network. Knows nothing about what commands do.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime

from edge_runtime.codes import Clock
from edge_runtime.sync.command import (
    COMMAND_NAMES,
    MOST_BYTES,
    MOST_CORRELATION_BYTES,
    SIGNATURE_PROPERTY,
    Arguments,
    Command,
    Refused,
    arguments_of,
    decode_command,
)
from edge_runtime.sync.signing import NO_KEYS, TrustedKeys, decode_signature
from edge_runtime.sync.topics import DeviceTopics

SESSION_S = 3600.0  # then a new one begins: a command that is held back on its way grows no older
MOST_NONCES = 5000  # of one session: four times what an hour's budget of commands lets through
GRACE_S = 60.0  # in which the one before still counts, for what is on its way
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message on a command's topic, with what MQTT says beside it."""

    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    retained: bool = False
    correlation: bytes | None = None
    response_topic: str | None = None

    @property
    def signatures(self) -> list[str]:
        return [value for key, value in self.properties if key == SIGNATURE_PROPERTY]

    @property
    def echo(self) -> bytes | None:
        """The correlation data that an answer repeats; too much of it is none."""
        fits = self.correlation is not None and len(self.correlation) <= MOST_CORRELATION_BYTES
        return self.correlation if fits else None


@dataclass(frozen=True, slots=True)
class Now:
    """One moment: by the monotonic clock, by the wall clock, and how far that can be trusted."""

    ns: int
    utc: datetime
    clock: Clock


@dataclass(slots=True)
class _Session:
    began_ns: int
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    nonces: set[str] = field(default_factory=set)


class Authority:
    """One device's judgement; a new connection calls `begin`."""

    def __init__(self, topics: DeviceTopics, keys: TrustedKeys, now_ns: int) -> None:
        self._topics, self._keys = topics, keys
        self._sessions = [_Session(now_ns)]  # this one, and after an hour the one before

    @property
    def session(self) -> str:
        """What a command must name now."""
        return self._sessions[-1].name

    def begin(self, now_ns: int) -> None:
        """A connection begins: whatever was captured before is worth nothing from here on."""
        self._sessions = [_Session(now_ns)]

    def renew(self, now_ns: int) -> bool:
        """Begins a new session when this one has lasted; True when it did, and the state must say so."""
        if now_ns - self._sessions[-1].began_ns < SESSION_S * _NS:
            return False
        self._sessions = [self._sessions[-1], _Session(now_ns)]
        return True

    def admit(self, arrived: Arrived, now: Now) -> tuple[Command, Arguments]:
        """The command and its checked arguments, its nonce taken; raises Refused."""
        self._how_it_came(arrived)
        key_id = self._who_signed(arrived)
        command = decode_command(arrived.payload)
        if command.key_id != key_id:
            raise Refused("bad_signature", f"signed by {key_id}, says {command.key_id}")
        if arrived.topic != self._topics.command(command.command):
            raise Refused("malformed", "command: another than its topic names", command)
        arguments = arguments_of(command)
        self._whether_fresh(command, now)
        return command, arguments

    def _how_it_came(self, arrived: Arrived) -> None:
        if arrived.retained:
            raise Refused("retained", "commands are never retained; clear this topic")
        if len(arrived.payload) > MOST_BYTES:
            raise Refused("oversize", f"want at most {MOST_BYTES} bytes, got {len(arrived.payload)}")
        if not arrived.topic.startswith(self._topics.command("")):
            raise Refused("other_device", "the topic is not this device's")
        if arrived.response_topic not in (None, self._topics.responses):
            raise Refused("response_topic", f"answers go to {self._topics.responses} and nowhere else")

    def _who_signed(self, arrived: Arrived) -> str:
        if self._keys == NO_KEYS:
            raise Refused("no_keys", "this device trusts no key; start its uplink with --command-keys")
        if not arrived.signatures:
            raise Refused("unsigned", f"want its signature in the user property {SIGNATURE_PROPERTY}")
        signature = decode_signature(arrived.signatures[0]) if len(arrived.signatures) == 1 else None
        key_id = signature and self._keys.signer_of(arrived.topic, arrived.payload, signature)
        if not key_id:
            raise Refused("bad_signature", "no trusted key made it over this topic and these bytes")
        return key_id

    def _whether_fresh(self, command: Command, now: Now) -> None:
        session = next((known for known in self._sessions if known.name == command.session), None)
        if session is None or now.ns - session.began_ns > (SESSION_S + GRACE_S) * _NS:
            raise Refused("session", "not of this connection; read the device's state again", command)
        if command.nonce in session.nonces:
            raise Refused("replayed", "this nonce was taken before", command)
        if now.clock is Clock.NTP and now.utc > command.expires_at:
            raise Refused("expired", f"its time was over at {command.expires_at.isoformat()}", command)
        if len(session.nonces) >= MOST_NONCES:
            raise Refused("flood", "too many commands in this session", command)
        session.nonces.add(command.nonce)


def name_in(topic: str) -> str | None:
    """The command that a topic names, if it is of the closed list: a stranger's words are not repeated."""
    return next((name for name in COMMAND_NAMES if topic.endswith(f"/cmd/{name}")), None)
