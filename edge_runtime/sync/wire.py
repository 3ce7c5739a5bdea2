"""What crosses the wire: a record without what is personal, receipts back, the device's state.

What is sent is decoded into types that have no field for a source's name or for a mask's pixels in a finding, and that
know no key outside the schema: such things cannot leave. Knows nothing about MQTT connections or SQLite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from edge_runtime.codes import Clock
from edge_runtime.errors import UplinkError
from edge_runtime.records import Audit, Gap, MaskMessage, RecordKind, Seq, Telemetry
from edge_runtime.types import SCHEMA_VERSION, ExamEvent, Finding, MaskRecord, Record, SourceUsed

RECEIPT_VERSION = 1
REASON_CHARS = 200
MAX_RANGES = 1000  # of one receipt: 20 kB at most
CONTENT_TYPE: dict[RecordKind, str] = {
    kind: f"application/vnd.edge-runtime.{kind}+json"
    for kind in ("finding", "event", "mask", "telemetry", "gap", "audit")
}
RECEIPT_CONTENT_TYPE = "application/vnd.edge-runtime.receipt+json"

SeqRange = tuple[int, int]  # first and last, both included


def _without(record: type[msgspec.Struct], *names: str, **other_types: Any) -> Any:
    """The type of `record` as it may leave: without these fields, with other types for those."""
    fields = [
        (field.name, other_types.get(field.name, field.type))
        if field.default is msgspec.NODEFAULT
        else (field.name, other_types.get(field.name, field.type), field.default)
        for field in msgspec.structs.fields(record)
        if field.name not in names
    ]
    return msgspec.defstruct(record.__name__, fields, bases=(Record,), frozen=True, kw_only=True)


_SentMask: Any = _without(MaskRecord, "data")
SentFinding: Any = _without(Finding, source=_without(SourceUsed, "name"), masks=tuple[_SentMask, ...])
SENT: dict[RecordKind, Any] = {
    "finding": SentFinding,
    "event": ExamEvent,
    "mask": MaskMessage,
    "telemetry": Telemetry,
    "gap": Gap,
    "audit": Audit,
}

_encoder = msgspec.json.Encoder(order="deterministic")
_decoders: dict[RecordKind, Any] = {kind: msgspec.json.Decoder(sent) for kind, sent in SENT.items()}


def outgoing(kind: RecordKind, body: bytes, *, thin: bool = False) -> bytes:
    """The journal's `body` as it may leave: no source name, no key outside the schema.

    With `thin`, for a slow link, a finding goes without the times of its stages and the digests of its masks, whose
    pixels follow in a record of their own. Raises UplinkError when the body is not of this schema: such a row can never
    be sent.
    """
    try:
        record = _decoders[kind].decode(body)
        return _encoder.encode(_thinned(record) if thin and kind == "finding" else record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise UplinkError(f"{kind} does not fit schema {SCHEMA_VERSION}: {exc}") from exc


def _thinned(finding: Any) -> Any:
    return msgspec.structs.replace(
        finding,
        timing=msgspec.structs.replace(finding.timing, stages_ms={}),
        masks=tuple(msgspec.structs.replace(mask, sha256=None) for mask in finding.masks),
    )


# `encoding`: not a word on the record, only on how it was packed: send it again as plain JSON
RejectCode = Literal["encoding", "schema", "refused"]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The consumer's word on rows of one epoch, sent after its commit: they are stored, or can never be."""

    v: int = RECEIPT_VERSION
    epoch: str
    sender: str | None = None  # the user property of the messages: a receipt for others is not ours
    status: Literal["stored", "rejected"]
    ranges: tuple[tuple[Seq, Seq], ...]
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARS)] | None = None  # why they were rejected
    code: RejectCode | None = None  # the same for a machine


_receipt = msgspec.json.Decoder(Receipt)


def one_line(text: str) -> str:
    """A reason that somebody else wrote, as it may be shown and stored: bounded, without control characters."""
    return "".join(char if char.isprintable() else "?" for char in text[:REASON_CHARS])


def encode_receipt(receipt: Receipt) -> bytes:
    return _encoder.encode(receipt)


def decode_receipt(payload: bytes) -> Receipt:
    """Raises UplinkError for anything but a receipt of a version we know: then it confirms nothing."""
    try:
        receipt = _receipt.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise UplinkError(f"receipt: cannot be read ({exc}); ignored") from exc
    if receipt.v != RECEIPT_VERSION:
        raise UplinkError(f"receipt: want version {RECEIPT_VERSION}, got {receipt.v}; ignored")
    if len(receipt.ranges) > MAX_RANGES or any(first > last for first, last in receipt.ranges):
        raise UplinkError(f"receipt: want at most {MAX_RANGES} ranges with first <= last; ignored")
    return receipt


def ranges_of(seqs: Iterable[int]) -> tuple[SeqRange, ...]:
    """`seqs` in any order as the fewest ranges, ascending."""
    ranges: list[SeqRange] = []
    for seq in sorted(set(seqs)):
        if ranges and ranges[-1][1] == seq - 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return tuple(ranges)


AlertCode = Literal[
    "certificate_ends",  # within two weeks
    "not_authorised",  # the broker takes some kinds of records and not this one
    "no_consumer",  # the broker has nobody who takes records
    "taken_over",  # another device connects under this id
    "dead_letters",  # records that the cloud rejected, or that this broker cannot take
    "records_lost",  # masks or telemetry were removed unsent, within a day
    "disk_full",  # or soon: no room for the journal's reserve
    "clock_unsynced",
]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person should mend; there until it is mended, acknowledged or not."""

    id: str
    code: AlertCode
    text: str
    since: str
    acknowledged: bool = False


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """The retained state message. Said on every connect, when it changes, on a clean stop, and by the will."""

    v: int = 1
    device_id: str
    state: Literal["online", "offline"]
    why: Literal["connected", "stopped", "lost"]
    version: str
    at: str | None = None  # UTC; null in the will, which is written before it is true
    clock: Clock | None = None  # how far `at` can be trusted
    epoch: str | None = None
    site_key_id: str | None = None  # of the key that pseudonyms are made with
    session: str | None = None  # of this connection: a command must name it
    link: Literal["online", "slow"] | None = None
    pending: int | None = None
    alerts: tuple[Alert, ...] = ()


def encode_state(state: DeviceState) -> bytes:
    return _encoder.encode(state)


_state = msgspec.json.Decoder(DeviceState)


def decode_state(payload: bytes) -> DeviceState:
    """Raises UplinkError for what is no state of a version we know."""
    try:
        return _state.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise UplinkError(f"device state: cannot be read ({exc})") from exc
