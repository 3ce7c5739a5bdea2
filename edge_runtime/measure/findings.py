"""Puts together what a finding says: values with the frame's reasons on them, one status, and the masks'
records.

Pure: no time, no id. The pipeline makes the `Finding` of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from edge_runtime.codes import SEVERITY, Reason, Status, status_of, worst
from edge_runtime.measure.rle import coco_counts, decode_counts
from edge_runtime.measure.values import in_order, withhold
from edge_runtime.types import Box, Geometry, GeometryUsed, Mask, MaskRecord, Measurement


@dataclass(frozen=True, slots=True)
class Assembled:
    """The part of a finding that says how far it may be relied on."""

    measurements: tuple[Measurement, ...]
    status: Status  # the worst of `measurements`; withheld without any
    reasons: tuple[Reason, ...]  # all of theirs and the frame's, each once, in the order of `codes.Reason`


def assemble(measurements: Sequence[Measurement], frame_reasons: Iterable[Reason]) -> Assembled:
    """Lays the reasons of a frame on each of its measurements.

    One that withholds, withholds them all, values and intervals gone; one of caution is added to each. What
    was never measured is withheld too: `no_measurement_defined`.
    """
    frame = in_order(frame_reasons)
    if not measurements:
        return Assembled((), Status.WITHHELD, in_order((*frame, Reason.NO_MEASUREMENT_DEFINED)))
    judged = tuple(_with(measurement, frame) for measurement in measurements)
    reasons = in_order((*frame, *(reason for measurement in judged for reason in measurement.reasons)))
    return Assembled(judged, worst({measurement.status for measurement in judged}), reasons)


def _with(measurement: Measurement, frame: tuple[Reason, ...]) -> Measurement:
    if not frame:
        return measurement
    if any(SEVERITY[reason] is Status.WITHHELD for reason in frame):
        return withhold(measurement, frame)
    return msgspec.structs.replace(
        measurement,
        status=worst({measurement.status, status_of(frame)}),
        reasons=in_order((*measurement.reasons, *frame)),
    )


def mask_records(mask: Mask) -> tuple[MaskRecord, ...]:
    """One record per label of `mask`, run-length encoded on the model's grid, with the way to image pixels.

    `sha256` is over the label's packed bits, row by row: what a replay must reproduce.
    """
    way = mask.geometry
    geometry = GeometryUsed(  # to a thousandth of a pixel over the whole grid: fewer digits cross the link
        step_x=round(way.step_x, 6),
        step_y=round(way.step_y, 6),
        offset_x=round(way.offset_x, 3),
        offset_y=round(way.offset_y, 3),
    )
    records = []
    for name in mask.names:
        inside = mask.of(name)
        records.append(
            MaskRecord(
                label=name,
                encoding="coco_rle",
                size_hw=way.grid_hw,
                sha256=hashlib.sha256(np.packbits(inside).tobytes()).hexdigest(),
                geometry=geometry,
                data=coco_counts(inside),
            )
        )
    return tuple(records)


def mask_from(records: Sequence[MaskRecord]) -> Mask | None:
    """The mask that `mask_records` wrote down, on its grid; None where a finding has none or no pixels of it.

    What a record does not carry (padding, confidence, presence) is made up: it is for looking at, not for
    measuring.
    """
    if not records or any(record.data is None or record.geometry is None for record in records):
        return None
    height, width = records[0].size_hw
    labels = np.zeros((height, width), np.uint8)
    for value, record in enumerate(records, start=1):
        labels[decode_counts(record.data or "", (height, width))] = value
    way = records[0].geometry
    assert way is not None
    geometry = Geometry(
        (height, width), Box(0, 0, width, height), way.step_x, way.step_y, way.offset_x, way.offset_y
    )
    names = tuple(record.label for record in records)
    return Mask(labels, names, geometry, (0.0,) * len(names), (0.0,) * len(names), 1.0)
