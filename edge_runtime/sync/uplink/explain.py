"""What the uplink would send of a state directory, message by message, and what it would leave out. Nothing is sent.

The messages are made by the functions that make them for the broker (`parcels`, `device_state`), and what is left out is
found by comparing them with the journal: a rule that changes changes this too. Knows nothing about connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from edge_runtime.config import Site
from edge_runtime.errors import UplinkError
from edge_runtime.records import RecordKind
from edge_runtime.sync.commands.recent_log import Discretion
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.link.link_state import LinkMachine, Patience
from edge_runtime.sync.link.publishing import Message, publish_packet
from edge_runtime.sync.link.speed import Speed
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.packing import ENCODING, unpack
from edge_runtime.sync.state import site_key
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.device_state import StateMessages
from edge_runtime.sync.uplink.ledger import Ledger
from edge_runtime.sync.uplink.parcels import parcel
from edge_runtime.sync.wire import Alert, AlertCode

PAGE = 100
WHY = {
    "source.name": "a file or an address, which may name a person",
    "masks[].data": "the pixels of a mask are a record of kind mask, the last to be sent",
    "masks[].sha256": "the digest of a mask whose pixels follow",
    "timing.stages_ms": "for the people at this device",
}
OUTSIDE = "no key of the schema"
NEVER = (
    "a pixel of an image; of a mask no more than its outline's runs",
    "a DICOM tag but the pixel spacing that a value was made with: names, ids, dates and study numbers are in no record",
    "the site key: pseudonyms are HMAC-SHA256 under it, and its id is in the state message",
    "a path of this machine",
)
NEW = (
    "the property sender, with each start of the uplink; with a number behind it once records are sent anew",
    "session in the state, with each connection",
)
STATE_MORE = (
    "link is slow on a line that carries little",
    f"alerts, while there is something to mend: {', '.join(Alert.__struct_fields__)}; the text is one line without paths,"
    f" the code one of {', '.join(get_args(AlertCode))}",
)
TYPED = (
    "an exam's name given with --exam; without it the exam is a pseudonym",
    "the name of a site's profile",
    "tenant, site and device id, in every topic",
)


class Withheld(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the journal has and the message has not."""

    path: str  # in the record, as `masks[].data`
    why: str


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One message as the broker would get it."""

    topic: str
    retain: bool
    content_type: str
    properties: dict[str, str]  # MQTT user properties
    payload: str  # to the letter
    packet_bytes: int  # of the whole PUBLISH
    kind: RecordKind | Literal["state", "will"]
    seq: int | None = None
    left_out: tuple[Withheld, ...] = ()
    # on a slow line, but for the first of its kind: packed, the topic by number
    slow_bytes: int | None = None
    left_out_slow: tuple[Withheld, ...] = ()  # there, besides


class Unsendable(msgspec.Struct, frozen=True, kw_only=True):
    """A record that can never be sent; the uplink would keep it as a dead letter."""

    seq: int
    kind: RecordKind
    why: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    device_id: str
    epoch: str
    site_key_id: str
    waiting: int  # records; the first of them, in the order of sending, are in `messages`
    messages: tuple[Explained, ...]
    unsendable: tuple[Unsendable, ...]
    state: Explained  # on every connect, here of a good line and nothing to mend
    will: Explained  # said by the broker when the device is lost
    state_more: tuple[str, ...] = STATE_MORE  # what the state says at other times, and not in the one shown
    never: tuple[str, ...] = NEVER
    typed: tuple[str, ...] = TYPED  # leaves as a person wrote it
    new: tuple[str, ...] = NEW  # random, and another when it is sent


def explain(state_dir: Path, place: Site, limit: int) -> Explanation:
    """At most `limit` waiting records. Raises JournalError when there is no readable journal."""
    with Outbox(state_dir, reading=True) as outbox:
        topics = DeviceTopics(place.tenant, place.site, outbox.device_id)
        say = StateMessages(
            topics,
            outbox.epoch,
            site_key(state_dir).key_id,
            _ledger(),
            lambda: None,
            Discretion((str(state_dir), str(state_dir.absolute()))),
        )
        pending = outbox.pending_count()
        messages: list[Explained] = []
        unsendable: list[Unsendable] = []
        for row in islice(_waiting(outbox), min(limit, pending)):
            try:
                messages.append(_record(row, topics, outbox.epoch, say.ledger.sendings.sender))
            except UplinkError as exc:
                unsendable.append(Unsendable(seq=row.seq, kind=row.kind, why=str(exc)))
        return Explanation(
            device_id=outbox.device_id,
            epoch=outbox.epoch,
            site_key_id=say.site_key_id,
            waiting=pending,
            messages=tuple(messages),
            unsendable=tuple(unsendable),
            state=_explained(say.message(say.online(pending)), "state"),
            will=_explained(say.message(say.offline("lost")), "will"),
        )


def _ledger() -> Ledger:
    """Of an uplink that has done nothing yet."""
    return Ledger(lambda line: None, lambda: None, lambda: True, LinkMachine(Patience()), Speed())


def _waiting(outbox: Outbox) -> Iterator[OutboxRow]:
    """In the order of sending, but for the turns that lanes behind get."""
    for lane in Lane:
        after = 0
        while rows := outbox.pending(lane, after, PAGE):
            yield from rows
            after = rows[-1].seq


def _record(row: OutboxRow, topics: DeviceTopics, epoch: str, sender: str) -> Explained:
    plain = parcel(row, topics, epoch, sender, short=False, packed=False)
    slow = parcel(row, topics, epoch, sender, short=True, packed=True)
    unpacked = unpack(slow.payload, ENCODING)
    made = _explained(plain, row.kind)
    return msgspec.structs.replace(
        made,
        seq=row.seq,
        left_out=left_out(row.body, plain.payload),
        slow_bytes=len(publish_packet(slow, alias=1, known=True)),
        left_out_slow=left_out(plain.payload, unpacked),
    )


def _explained(message: Message, kind: RecordKind | Literal["state", "will"]) -> Explained:
    return Explained(
        topic=message.topic,
        retain=message.retain,
        content_type=message.content_type,
        properties=dict(message.properties),
        payload=message.payload.decode(),
        packet_bytes=len(publish_packet(message)),
        kind=kind,
    )


def left_out(whole: bytes, sent: bytes) -> tuple[Withheld, ...]:
    """What the JSON `whole` says and the JSON `sent` does not, each path once."""
    paths = dict.fromkeys(_missing(msgspec.json.decode(whole), msgspec.json.decode(sent), ""))
    return tuple(Withheld(path=path, why=WHY.get(path, OUTSIDE)) for path in paths)


def _missing(whole: Any, sent: Any, path: str) -> Iterator[str]:
    if isinstance(whole, dict) and isinstance(sent, dict) and (sent or not whole):
        for key, value in whole.items():
            here = f"{path}.{key}" if path else key
            if key not in sent:
                yield here
            else:
                yield from _missing(value, sent[key], here)
    elif isinstance(whole, list) and isinstance(sent, list) and len(whole) == len(sent):
        for value, other in zip(whole, sent, strict=True):
            yield from _missing(value, other, f"{path}[]")
    elif whole != sent:
        yield path
