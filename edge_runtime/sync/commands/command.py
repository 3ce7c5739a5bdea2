"""A command from the cloud and its answer, as they cross the wire: the closed list, its arguments, every refusal's code.

    er/v1/{tenant}/{site}/{device}/cmd/{name}    the command; user property `sig`: see `sync/commands/signing.py`
    er/v1/{tenant}/{site}/{device}/rsp           the answer, with the command's correlation data

Unlike elsewhere an unknown key is an error here: a constraint that this version does not know must not be passed over.
Knows nothing about keys, MQTT or SQLite.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from edge_runtime.codes import Clock
from edge_runtime.errors import UplinkError
from edge_runtime.records import Seq
from edge_runtime.sync.link.speed import LinkChoice
from edge_runtime.sync.wire import SeqRange

COMMAND_VERSION = 1
MOST_BYTES = 4096  # of a command's payload
MOST_CORRELATION_BYTES = 64  # of what an answer repeats for whoever asked
MOST_ANSWER_BYTES = 64 * 2**10
MOST_LOG_LINES = 200
MOST_RANGES = 100
MOST_RESENT = 10_000  # rows of one command
SIGNATURE_PROPERTY = "sig"
COMMAND_CONTENT_TYPE = "application/vnd.edge-runtime.command+json"
ANSWER_CONTENT_TYPE = "application/vnd.edge-runtime.answer+json"

CommandName = Literal["send_state", "send_log", "resend", "set_profile", "acknowledge_alert"]
Outcome = Literal["done", "refused", "failed"]
Code = Literal[
    "ok",
    # refused for how it came
    "retained",  # it would come again at every connection
    "oversize",
    "other_device",
    "response_topic",  # an answer goes to the device's own topic and nowhere else
    # refused for who sent it
    "no_keys",  # this device trusts nobody
    "unsigned",
    "bad_signature",  # of no trusted key, or not over this topic and these bytes
    # refused for what it says
    "malformed",
    "version",
    "unknown_command",
    "arguments",
    # refused for when it was said
    "session",  # of a connection that is over
    "replayed",
    "expired",
    "flood",
    # it was let in, and could not be done
    "other_epoch",  # those records are in a database that was set aside
    "unknown_alert",
]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one command may say besides its name."""


class SendState(Arguments, frozen=True):
    """The device's state as of now."""


class SendLog(Arguments, frozen=True):
    """The last lines that the uplink said."""

    lines: Annotated[int, msgspec.Meta(ge=1, le=MOST_LOG_LINES)] = 50


class Resend(Arguments, frozen=True):
    """Records that the cloud misses, by their numbers: what is still there is sent once more."""

    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    ranges: Annotated[tuple[tuple[Seq, Seq], ...], msgspec.Meta(min_length=1, max_length=MOST_RANGES)]


class ResendResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the numbers that were asked for, as ranges: each is in one of these lists and no other."""

    resent: tuple[SeqRange, ...]  # had been delivered, and are sent again
    waiting: tuple[SeqRange, ...]  # not delivered yet: they come by themselves
    dead: tuple[SeqRange, ...]  # dead letters: rejected, or not taken by the broker; they stay put aside
    lost: tuple[SeqRange, ...]  # removed unsent, as a `gap` record tells
    gone: tuple[SeqRange, ...]  # delivered once, and since removed by age or for room
    never: tuple[SeqRange, ...]  # no record was ever given this number


class SetProfile(Arguments, frozen=True):
    """How the uplink treats its line; outlives a restart."""

    profile: LinkChoice


class AcknowledgeAlert(Arguments, frozen=True):
    """A person has seen this alert of the device's state. It stays until its cause is gone."""

    alert: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


ARGUMENTS: dict[CommandName, type[Arguments]] = {
    "send_state": SendState,
    "send_log": SendLog,
    "resend": Resend,
    "set_profile": SetProfile,
    "acknowledge_alert": AcknowledgeAlert,
}
COMMAND_NAMES: tuple[CommandName, ...] = get_args(CommandName)

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Nonce = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed, together with the topic it goes to."""

    v: int = COMMAND_VERSION
    command: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
    arguments: dict[str, Any]
    nonce: Nonce  # new for each command
    issued_at: Moment
    expires_at: Moment
    session: Annotated[str, msgspec.Meta(max_length=64)]  # of the device's state message
    key_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class AuditNumber(msgspec.Struct, frozen=True, kw_only=True):
    """Where the device's own record of a command is in its sequence."""

    record_id: str
    epoch: str
    seq: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one command; sent once its audit is on the device's disk."""

    v: int = COMMAND_VERSION
    device_id: str
    command: str | None  # as signed; null where nothing that a trusted key signed could be read
    nonce: str | None
    outcome: Outcome
    code: Code
    text: str  # the same for a person
    audit: AuditNumber
    at: str
    clock: Clock
    result: dict[str, Any] = {}


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A command is not done; `code` and `text` are what its sender hears."""

    def __init__(self, code: Code, text: str, command: Command | None = None) -> None:
        super().__init__(text)
        self.code, self.text, self.command = code, text, command


_encoder = msgspec.json.Encoder(order="deterministic")
_command = msgspec.json.Decoder(Command)
_answer = msgspec.json.Decoder(Answer)
_head = msgspec.json.Decoder(dict[str, Any])


def encode_command(command: Command) -> bytes:
    return _encoder.encode(command)


def decode_command(payload: bytes) -> Command:
    """Raises Refused, `version` or `malformed`: what it wants cannot be known."""
    try:
        if (version := _head.decode(payload).get("v")) != COMMAND_VERSION:
            raise Refused("version", f"want version {COMMAND_VERSION}, got {str(version)[:20]!r}")
        command = _command.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Refused("malformed", f"not a command: {str(exc)[:150]}") from exc
    if not command.issued_at < command.expires_at:
        raise Refused("malformed", "expires_at: want a moment after issued_at", command)
    return command


def arguments_of(command: Command) -> Arguments:
    """The checked arguments of one of the closed list. Raises Refused, `unknown_command` or `arguments`."""
    wanted = next((kind for name, kind in ARGUMENTS.items() if name == command.command), None)
    if wanted is None:
        raise Refused("unknown_command", f"known are {', '.join(COMMAND_NAMES)}", command)
    try:
        arguments = msgspec.convert(command.arguments, wanted)
    except msgspec.ValidationError as exc:
        raise Refused("arguments", f"{command.command}: {str(exc)[:150]}", command) from exc
    if isinstance(arguments, Resend):
        if any(first > last for first, last in arguments.ranges):
            raise Refused("arguments", "resend: want ranges with first <= last", command)
        if sum(last - first + 1 for first, last in arguments.ranges) > MOST_RESENT:
            raise Refused("arguments", f"resend: want at most {MOST_RESENT} records at once", command)
    return arguments


def encode_answer(answer: Answer) -> bytes:
    return _encoder.encode(answer)


def decode_answer(payload: bytes) -> Answer:
    """Raises UplinkError for what is no answer of a version we know."""
    try:
        answer = _answer.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise UplinkError(f"answer: cannot be read ({str(exc)[:150]})") from exc
    if answer.v != COMMAND_VERSION:
        raise UplinkError(f"answer: want version {COMMAND_VERSION}, got {answer.v}")
    return answer
