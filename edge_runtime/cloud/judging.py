"""One message, read: a row to store, or what is wrong with it; and what the devices are told of a batch.

Reads of a body only what the tables' columns need: a minor version may add keys and codes. Knows neither a
database nor a connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgspec

from edge_runtime.cloud.rows import Poison, StoreRow
from edge_runtime.errors import UplinkError
from edge_runtime.records import RecordKind, Seq
from edge_runtime.sync import row_name
from edge_runtime.sync.link.incoming import Received
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.packing import unpack
from edge_runtime.sync.topics import DeviceTopics, parse_event
from edge_runtime.sync.wire import (
    MAX_RANGES,
    RECEIPT_CONTENT_TYPE,
    Receipt,
    RejectCode,
    SeqRange,
    encode_receipt,
    one_line,
    ranges_of,
)
from edge_runtime.types import SCHEMA_VERSION

ACCEPTED_MAJORS = ("1",)  # N and N-1, once there is an N-1

Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]


class _Envelope(msgspec.Struct, gc=False):
    """What the tables' columns need of any record."""

    schema_version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
    device_id: Name
    seq: Seq
    epoch: Name
    created_at: Name
    clock: Any = None


class _Finding(_Envelope, kw_only=True, gc=False):
    id: Name = msgspec.field(name="finding_id")
    exam_id: Name


class _Event(_Envelope, kw_only=True, gc=False):
    id: Name = msgspec.field(name="event_id")
    exam_id: Name


class _Record(_Envelope, kw_only=True, gc=False):
    id: Name = msgspec.field(name="record_id")
    exam_id: Name | None = None


class _Gap(_Record, kw_only=True, gc=False):
    ranges: Annotated[tuple[tuple[Seq, Seq], ...], msgspec.Meta(max_length=MAX_RANGES)]


_side = msgspec.json.Decoder(_Record)
_decoders: dict[RecordKind, Any] = {
    "finding": msgspec.json.Decoder(_Finding),
    "event": msgspec.json.Decoder(_Event),
    "mask": _side,
    "telemetry": _side,
    "audit": _side,
    "gap": msgspec.json.Decoder(_Gap),
}
_MOST_TOPIC = 256  # three names of 64 and the rest; what is longer is none of ours, nor worth remembering
_topic = lru_cache(maxsize=50_000)(parse_event)  # a device says the same few topics all its life


class Sender(NamedTuple):
    """Who a message is from and which row of theirs it is: what a receipt needs."""

    device: DeviceTopics
    epoch: str
    seq: int
    word: str | None  # of the process that sent it, said back to it: two devices may have one name


class Judged(NamedTuple):
    """One message, read: a row to store, or poison; with the sender where it is known."""

    received: Received
    sender: Sender | None
    row: StoreRow | None
    poison: Poison | None
    synced: bool = False  # whether the device's clock was, when the record was made


class _WrongError(ValueError):
    """What is wrong with a message, and the receipt's code for it."""

    def __init__(self, code: RejectCode, reason: str) -> None:
        super().__init__(reason)
        self.code: RejectCode = code


def judge(received: Received, received_at: str) -> Judged:
    """Reads one message. Never raises: what cannot be read is poison, with the reason."""
    topic = _topic(received.topic) if len(received.topic) <= _MOST_TOPIC else None
    name = row_name.read(received.properties)
    sender = None
    if topic is not None and name is not None:
        sender = Sender(topic.device, name.epoch, name.seq, name.sender)
    try:
        if topic is None:
            raise _WrongError("refused", "topic is none of this version's")
        if sender is None or name is None:
            raise _WrongError("refused", "user properties epoch and seq, or r, are missing or wrong")
        text = _text(received.payload, name.encoding)
        record = _decoders[topic.kind].decode(text)
        lost = _checked(record, sender)
    except _WrongError as exc:
        return Judged(received, sender, None, poisoned(received, sender, exc.code, str(exc), received_at))
    except (ValueError, RecursionError) as exc:  # msgspec's and Unicode's are ValueErrors too
        return Judged(received, sender, None, poisoned(received, sender, "schema", str(exc), received_at))
    row = StoreRow(
        topic.kind,
        record.device_id,
        record.id,
        record.seq,
        record.epoch,
        record.exam_id,
        record.created_at,
        received_at,
        text,
        lost,
    )
    return Judged(received, sender, row, None, record.clock == "ntp")


def _text(payload: bytes, encoding: str | None) -> str:
    try:
        return unpack(payload, encoding).decode("utf-8")
    except UplinkError as exc:
        raise _WrongError("encoding", str(exc)) from exc


def _checked(record: Any, sender: Sender) -> tuple[SeqRange, ...]:
    """The numbers that `record` declares lost. Raises when it is not what its message says that it is."""
    if record.schema_version.partition(".")[0] not in ACCEPTED_MAJORS:
        raise _WrongError("schema", f"schema {record.schema_version}, known {SCHEMA_VERSION}")
    if (record.device_id, record.epoch, record.seq) != (sender.device.device, sender.epoch, sender.seq):
        raise _WrongError("refused", "body and topic or properties name different rows")
    if not isinstance(record, _Gap):
        return ()
    if any(not first <= last < record.seq for first, last in record.ranges):
        raise _WrongError("refused", "a gap can only tell of numbers before its own, first to last")
    return record.ranges


def poisoned(
    received: Received, sender: Sender | None, code: RejectCode, reason: str, received_at: str
) -> Poison:
    """The message as the table `quarantine` keeps it, with a reason that is safe to show."""
    digest = hashlib.sha256(received.topic.encode() + b"\0" + received.payload).hexdigest()
    stream = (sender.device.device, sender.epoch) if sender else None
    seq = sender.seq if sender else 0
    topic = received.topic.replace("\0", "\ufffd")  # which no text of a database holds
    return Poison(digest, topic, one_line(reason), received_at, received.payload, stream, seq, code)


def receipts_for(batch: Sequence[Judged]) -> list[Message]:
    """The fewest receipts that tell each device what became of its rows."""
    groups: dict[tuple[DeviceTopics, str, str | None, RejectCode | None, str | None], list[int]] = {}
    for one in batch:
        if one.sender is not None:
            code, reason = (one.poison.code, one.poison.reason) if one.poison else (None, None)
            device, epoch, seq, word = one.sender
            groups.setdefault((device, epoch, word, code, reason), []).append(seq)
    messages = []
    for (device, epoch, word, code, reason), seqs in groups.items():
        ranges = ranges_of(seqs)
        for start in range(0, len(ranges), MAX_RANGES):
            receipt = Receipt(
                epoch=epoch,
                sender=word,
                status="rejected" if code else "stored",
                ranges=ranges[start : start + MAX_RANGES],
                reason=reason,
                code=code,
            )
            messages.append(Message(device.receipts, encode_receipt(receipt), RECEIPT_CONTENT_TYPE))
    return messages
