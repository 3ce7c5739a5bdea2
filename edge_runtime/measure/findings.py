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
from numpy.typing import NDArray

from edge_runtime.codes import SEVERITY, Reason, Status, status_of, worst
from edge_runtime.measure.values import in_order, withhold
from edge_runtime.types import GeometryUsed, Mask, MaskRecord, Measurement


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
    geometry = GeometryUsed(
        step_x=way.step_x, step_y=way.step_y, offset_x=way.offset_x, offset_y=way.offset_y
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


def coco_counts(inside: NDArray[np.bool_]) -> str:
    """The compressed `counts` of COCO's run-length code for `inside`, (h, w): what pycocotools reads.

    Runs go down the columns, zeros first. From the fourth on a run is written as its difference to the last
    but one, all in groups of five bits, the lowest first, bit 6 for more to come, as characters from 48 on
    (cocoapi maskApi.c, rleToString).
    """
    flat = np.concatenate(([False], inside.ravel(order="F")))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate(([0], changes, [inside.size])))
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return _five_bit_text(values)


def _five_bit_text(values: NDArray[np.int64]) -> str:
    """Each value in five-bit groups, lowest first, until the rest is only its sign."""
    groups = []
    open_ = np.ones(values.shape, bool)
    rest = values
    while open_.any():
        low = rest & 0x1F
        rest = rest >> 5
        more = np.where(low & 0x10, rest != -1, rest != 0)
        groups.append(np.where(open_, low + np.where(more, 0x20, 0) + 48, 0))
        open_ = open_ & more
    text: NDArray[np.int64] = np.stack(groups, axis=1).ravel()
    return text[text > 0].astype(np.uint8).tobytes().decode("ascii")
