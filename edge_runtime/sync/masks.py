"""A finding and its masks' pixels, apart in the journal and on the wire, together for people.

The pixels go into a record of their own, which is sent last and may give way when the quota is full; all else that is
known of a mask stays in the finding. Knows nothing about SQLite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, pairwise

import msgspec

from edge_runtime.records import MaskMessage, MaskPixels
from edge_runtime.sync.batch import Batch
from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.types import Finding, encode


def add_finding(batch: Batch, finding: Finding) -> None:
    """Adds a finding made with the last stamp, and right after it the pixels of its masks, if it has any."""
    bare = tuple(msgspec.structs.replace(mask, data=None) for mask in finding.masks)
    record = msgspec.structs.replace(finding, masks=bare)
    batch.add(record, encode(record))
    pixels = tuple(
        MaskPixels(label=mask.label, data=mask.data) for mask in finding.masks if mask.data is not None
    )
    if not pixels:
        return
    message = MaskMessage(
        **batch.stamp().head(), record_id=finding.finding_id, exam_id=finding.exam_id, masks=pixels
    )
    batch.add(message, encode(message))


def as_reported(rows: Iterable[OutboxRow]) -> Iterator[OutboxRow]:
    """The records in order without masks; a finding with its masks' pixels in it again where the next row has them."""
    for row, after in pairwise(chain(rows, (None,))):
        assert row is not None, "only the last of the pairs is none"
        if row.kind == "mask":
            continue
        whole = row.kind == "finding" and after is not None and (after.kind, after.id) == ("mask", row.id)
        yield replace(row, body=_joined(row.body, after.body)) if whole and after is not None else row


def _joined(body: bytes, pixels: bytes) -> bytes:
    finding = msgspec.json.decode(body, type=Finding)
    data = {mask.label: mask.data for mask in msgspec.json.decode(pixels, type=MaskMessage).masks}
    masks = tuple(msgspec.structs.replace(mask, data=data.get(mask.label)) for mask in finding.masks)
    return encode(msgspec.structs.replace(finding, masks=masks))
