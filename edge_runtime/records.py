"""What the journal holds besides findings and exam events: masks, telemetry, gaps and audits.

They share the findings' sequence of numbers, so that a cloud which holds 1 to n has all there was. Knows nothing
about SQLite or MQTT.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge_runtime.codes import Clock, Reason
from edge_runtime.types import SCHEMA_VERSION, ExamEvent, Finding, ModelUsed, Record

RecordKind = Literal["finding", "event", "mask", "telemetry", "gap", "audit"]
Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class SideRecord(Record, frozen=True):
    """What each of them carries; `exam_id` is null where it belongs to none."""

    schema_version: str
    record_id: str  # UUIDv7; of a mask, the id of its finding
    device_id: str
    seq: Seq
    epoch: str
    exam_id: str | None
    created_at: str
    clock: Clock


class MaskMessage(SideRecord, frozen=True):
    """The pixels of one finding's masks; what else is known of them (grid, digest, geometry) the finding says."""

    masks: tuple[MaskPixels, ...]


class MaskPixels(Record, frozen=True):
    label: str
    data: str  # COCO RLE counts, on the finding's `masks[].size_hw`


class Telemetry(SideRecord, frozen=True):
    """What a run did since its start: how much it saw, how much it could not tell and why, and how fast it was."""

    model: ModelUsed
    seconds: float
    offered: Count
    processed: Count
    dropped: Count
    findings: Count
    withheld: Count
    bad_frames: Count
    reasons: dict[Reason, Count]  # of the findings, how often each
    fps: float
    age_ms: dict[Literal["p50", "p99"], float | None]  # of the frames when their result was there
    free_mb: Count  # on the disk of the state directory
    ended: bool  # the last one of its run


class Gap(SideRecord, frozen=True):
    """Numbers that will never come: removed unsent when the quota was full, or too old. Never of a finding or event."""

    ranges: tuple[tuple[Seq, Seq], ...]  # first and last, both included
    lost: Literal["mask", "telemetry"]
    reason: Literal["quota", "age"]


class Audit(SideRecord, frozen=True):
    """One command from the cloud, and what became of it. Refused ones are told by what could be read of them."""

    command: str | None
    outcome: Literal["done", "refused", "failed"]
    code: str  # why, of a closed list (`sync/command.py`)
    key_id: str | None  # of the key that signed it
    nonce: str | None
    times: Annotated[int, msgspec.Meta(ge=1)] = 1  # how many such, when a flood of them was counted together


AnyRecord = Finding | ExamEvent | MaskMessage | Telemetry | Gap | Audit

KIND_OF: dict[type[Record], RecordKind] = {
    Finding: "finding",
    ExamEvent: "event",
    MaskMessage: "mask",
    Telemetry: "telemetry",
    Gap: "gap",
    Audit: "audit",
}


def id_of(record: AnyRecord) -> str:
    """The id by which the cloud stores it once."""
    if isinstance(record, Finding):
        return record.finding_id
    return record.event_id if isinstance(record, ExamEvent) else record.record_id


def json_schema() -> bytes:
    """The JSON Schema of all records, as committed in docs/finding.schema.json (`make schema` writes it)."""
    _, components = msgspec.json.schema_components(tuple(KIND_OF), ref_template="#/$defs/{name}")
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"edge-runtime records, version {SCHEMA_VERSION}",
        "anyOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in KIND_OF],
        "$defs": components,
    }
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1) + b"\n"
