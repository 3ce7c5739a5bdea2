"""Whole, valid records with as little said as possible: each test names only what it is about."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.clock import uuid7
from edge_runtime.codes import (
    Clock,
    Hint,
    Kind,
    MeasurementName,
    Priority,
    Reason,
    SourceKind,
    SpacingSource,
    Status,
)
from edge_runtime.records import Telemetry
from edge_runtime.sync.journal import Journal, Stamp
from edge_runtime.sync.masks import add_finding
from edge_runtime.types import (
    SCHEMA_VERSION,
    Code,
    ExamEvent,
    Finding,
    GeometryUsed,
    MaskRecord,
    Measurement,
    ModelUsed,
    Quality,
    SourceUsed,
    SpacingUsed,
    Timing,
    encode,
)

STAMP = Stamp("dev-1", "e1", "boot", 7, "2026-01-01T00:00:00.000Z", Clock.NTP, 1)

_SPACING = SpacingUsed(row_mm=0.15, col_mm=0.15, source=SpacingSource.PHANTOM)
_DIGEST = "0123456789abcdef" * 4


def _measured(
    name: MeasurementName, value: float, unit: Any, half: float, code: str | None = None
) -> Measurement:
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        interval=(value - half, value + half),
        status=Status.CAUTION,
        reasons=(Reason.PLANE_UNCONFIRMED,),
        spacing=_SPACING if unit == "mm" else None,
        formula="ramanujan2-moment-ellipse",
        code=Code(system="http://loinc.org", value=code) if code else None,
    )


def finding(stamp: Stamp, **over: Any) -> Finding:
    """A fetal-head finding of a phantom frame: three lengths and an index, as a real run reports them."""
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "finding_id": uuid7(),
        "revision": 1,
        "supersedes": None,
        "kind": Kind.FRAME,
        "device_id": stamp.device_id,
        "seq": stamp.seq,
        "epoch": stamp.epoch,
        "boot_id": stamp.boot_id,
        "exam_id": "exam-1",
        "model": ModelUsed(
            name="fetal_head",
            version="1",
            sha256=_DIGEST,
            artifact_sha256=_DIGEST[::-1],
            precision="fp32",
            backend="null",
        ),
        "source": SourceUsed(
            kind=SourceKind.PHANTOM,
            study_uid_pseudonym="5e7cbb2f3c0d9e41a6b8d2f0",
            frame_ids=(f"{stamp.seq}.9f86d081",),
            name="phantom:fetal_head",
        ),
        "created_at": stamp.created_at,
        "clock": stamp.clock,
        "monotonic_ns": stamp.monotonic_ns,
        "measurements": (
            _measured(MeasurementName.HEAD_CIRCUMFERENCE, 250.3, "mm", 4.1, "11984-2"),
            _measured(MeasurementName.BIPARIETAL_DIAMETER, 70.1, "mm", 1.9, "11820-8"),
            _measured(MeasurementName.OCCIPITOFRONTAL_DIAMETER, 88.2, "mm", 2.4),
            _measured(MeasurementName.CEPHALIC_INDEX, 79.5, "%", 2.0),
        ),
        "confidence": 0.97,
        "quality": Quality(score=88, hint=Hint.CONFIRM_PLANE),
        "status": Status.CAUTION,
        "reasons": (Reason.PLANE_UNCONFIRMED,),
        "priority": Priority.ROUTINE,
        "masks": (
            MaskRecord(
                label="head",
                encoding="coco_rle",
                size_hw=(192, 288),
                sha256=_DIGEST,
                geometry=GeometryUsed(step_x=2.8, step_y=2.8, offset_x=0.0, offset_y=0.0),
                data="Pn2K5" * 60,
            ),
        ),
        "timing": Timing(age_ms=9.5, stages_ms={"preprocess": 0.3, "infer": 1.5, "measure": 0.4}),
    }
    return Finding(**{**fields, **over})


def event(stamp: Stamp, **over: Any) -> ExamEvent:
    """The start of an exam."""
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "event_id": uuid7(),
        "event": "exam_started",
        "device_id": stamp.device_id,
        "seq": stamp.seq,
        "epoch": stamp.epoch,
        "boot_id": stamp.boot_id,
        "exam_id": "exam-1",
        "created_at": stamp.created_at,
        "clock": stamp.clock,
        "monotonic_ns": stamp.monotonic_ns,
    }
    return ExamEvent(**{**fields, **over})


def telemetry(stamp: Stamp, **over: Any) -> Telemetry:
    """What a short run did."""
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "record_id": uuid7(),
        "device_id": stamp.device_id,
        "seq": stamp.seq,
        "epoch": stamp.epoch,
        "exam_id": None,
        "created_at": stamp.created_at,
        "clock": stamp.clock,
        "model": finding(stamp).model,
        "seconds": 2.5,
        "offered": 75,
        "processed": 75,
        "dropped": 0,
        "findings": 75,
        "withheld": 3,
        "bad_frames": 0,
        "reasons": {Reason.PLANE_UNCONFIRMED: 75},
        "fps": 30.1,
        "age_ms": {"p50": 4.2, "p99": 9.8},
        "free_mb": 12_000,
        "ended": True,
    }
    return Telemetry(**{**fields, **over})


def report(journal: Journal, count: int, **over: Any) -> list[Finding]:
    """Reports `count` findings in one batch; they count as reported once this has returned."""
    made = []
    with journal.batch() as batch:
        for _ in range(count):
            record = finding(batch.stamp(), **over)
            batch.add(record, encode(record))
            made.append(record)
    return made


def with_masks(journal: Journal, count: int) -> list[int]:
    """Reports findings, each in a batch with its mask of 2 kB; the findings' numbers."""
    numbers = []
    for _ in range(count):
        with journal.batch() as batch:
            made = finding(batch.stamp())
            masks = (msgspec.structs.replace(made.masks[0], data="Pn2K5" * 400),)
            numbers.append(made.seq)
            add_finding(batch, msgspec.structs.replace(made, masks=masks))
    return numbers
