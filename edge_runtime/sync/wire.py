"""What crosses the wire: a finding without what is personal, receipts back, the device's state.

What is sent is made from the types, so a key that the schema does not know cannot leave, and `source.name` and
the masks' pixels are taken out. Knows nothing about MQTT connections or SQLite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from edge_runtime.errors import UplinkError
from edge_runtime.sync.topics import EventKind
from edge_runtime.types import SCHEMA_VERSION, ExamEvent, Finding

RECEIPT_VERSION = 1
REASON_CHARS = 200
MAX_RANGES = 1000  # of one receipt: 20 kB at most
CONTENT_TYPE: dict[EventKind, str] = {
    "finding": "application/vnd.edge-runtime.finding+json",
    "event": "application/vnd.edge-runtime.event+json",
}
RECEIPT_CONTENT_TYPE = "application/vnd.edge-runtime.receipt+json"

SeqRange = tuple[int, int]  # first and last, both included
Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]

_encoder = msgspec.json.Encoder(order="deterministic")
_finding = msgspec.json.Decoder(Finding)
_event = msgspec.json.Decoder(ExamEvent)


def outgoing(kind: EventKind, body: bytes) -> bytes:
    """The journal's `body` as it may leave: no source name, no mask pixels, no key outside the schema.

    Raises UplinkError when the body is not of this schema: such a row can never be sent.
    """
    try:
        record = _finding.decode(body) if kind == "finding" else _event.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise UplinkError(f"{kind} does not fit schema {SCHEMA_VERSION}: {exc}") from exc
    plain: dict[str, Any] = msgspec.to_builtins(record)
    if kind == "finding":
        del plain["source"]["name"]
        for mask in plain["masks"]:
            del mask["data"]
    return _encoder.encode(plain)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The consumer's word on rows of one epoch, sent after its commit: they are stored, or can never be."""

    v: int = RECEIPT_VERSION
    epoch: str
    status: Literal["stored", "rejected"]
    ranges: tuple[tuple[Seq, Seq], ...]
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARS)] | None = None  # why they were rejected


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


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """The retained state message. Said on every connect, on a clean stop, and by the will."""

    v: int = 1
    device_id: str
    state: Literal["online", "offline"]
    why: Literal["connected", "stopped", "lost"]
    version: str
    at: str | None = None  # UTC; null in the will, which is written before it is true
    epoch: str | None = None
    site_key_id: str | None = None  # of the key that pseudonyms are made with
    pending: int | None = None


def encode_state(state: DeviceState) -> bytes:
    return _encoder.encode(state)
