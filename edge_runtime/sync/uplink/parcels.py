"""A row of the outbox as the message that carries it. Knows the contract of `docs/wire.md` and no connection.

On a slow line the payload is packed, one property names the row, and what a consumer can do without is left out: the
content type, which the topic tells, and the schema, which the body tells.
"""

from __future__ import annotations

from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.sync.packing import ENCODING, pack
from edge_runtime.sync.row_name import RowName, spelled
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import CONTENT_TYPE, outgoing
from edge_runtime.types import SCHEMA_VERSION


def parcel(
    row: OutboxRow, topics: DeviceTopics, epoch: str, sender: str, *, short: bool, packed: bool
) -> Message:
    """`sender` is the uplink's own word, which receipts say back. UplinkError when the row is not of this schema: then it
    can never be sent."""
    payload = outgoing(row.kind, row.body, thin=short)
    names = spelled(RowName(epoch, row.seq, sender, ENCODING if packed else None))
    if packed:
        payload = pack(payload)
    if not short:
        names = (("schema", SCHEMA_VERSION), *names)
    content_type = "" if short else CONTENT_TYPE[row.kind]
    return Message(topics.event(row.kind), payload, content_type, properties=names, alias=short)
