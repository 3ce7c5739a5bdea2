"""Frame reasons on measurements, the status, and the run-length code against what pycocotools writes."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from drawn import ellipse_cells, geometry, mask_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.codes import Reason, SpacingSource, Status
from edge_runtime.measure import fetal_head
from edge_runtime.measure.findings import assemble, coco_counts, mask_records
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.measure.values import withhold
from edge_runtime.types import Spacing, encode

NAMES = ("head_circumference", "biparietal_diameter", "occipitofrontal_diameter", "cephalic_index")
SETTINGS = MeasureSettings(plane_confirmed=True, intervals=dict.fromkeys(NAMES, (2.0, 0.0)))


def measured():
    where = geometry()
    mask = mask_of(where, ellipse_cells(where, (400, 270), (36, 28), 0.2, (0.15, 0.15)))
    return fetal_head.measure(mask, Spacing(0.15, 0.15, SpacingSource.META_CSV), None, SETTINGS)


def test_a_clean_frame_leaves_the_measurements_as_they_are():
    done = assemble(measured(), ())
    assert done.measurements == measured()
    assert (done.status, done.reasons) == (Status.USABLE, ())


def test_a_reason_of_caution_is_added_to_every_value():
    done = assemble(measured(), (Reason.LOW_GAIN, Reason.BLURRED))
    assert done.status is Status.CAUTION
    assert done.reasons == (Reason.BLURRED, Reason.LOW_GAIN)
    assert all(m.value is not None and m.reasons == done.reasons for m in done.measurements)


def test_a_withholding_frame_withholds_every_value_and_interval():
    done = assemble(measured(), (Reason.BLURRED, Reason.FOREIGN_IMAGE))
    assert done.status is Status.WITHHELD
    assert done.reasons == (Reason.BLURRED, Reason.FOREIGN_IMAGE)
    for m in done.measurements:
        assert (m.value, m.interval, m.status) == (None, None, Status.WITHHELD)


def test_the_status_is_the_worst_of_the_measurements():
    first, *others = measured()
    done = assemble([withhold(first, [Reason.OUT_OF_RANGE]), *others], (Reason.SATURATED,))
    assert done.status is Status.WITHHELD
    assert done.reasons == (Reason.SATURATED, Reason.OUT_OF_RANGE)
    assert done.measurements[1].status is Status.CAUTION


def test_no_measurement_is_withheld_and_says_so():
    done = assemble((), (Reason.BLURRED,))
    assert (done.status, done.reasons) == (Status.WITHHELD, (Reason.BLURRED, Reason.NO_MEASUREMENT_DEFINED))


def test_the_order_of_the_reasons_does_not_change_the_bytes():
    reasons = (Reason.LOW_GAIN, Reason.BLURRED, Reason.COLOUR_IMAGE)
    lines = {
        b"".join(encode(m) for m in assemble(measured(), order).measurements)
        for order in itertools.permutations(reasons)
    }
    assert len(lines) == 1


# `counts` that pycocotools 2.0 gives for these masks.
@pytest.mark.parametrize(
    "mask, counts",
    [
        (np.zeros((4, 5), bool), "d0"),
        (np.ones((4, 5), bool), "0d0"),
        (np.eye(4, dtype=bool), "01400000"),
        (np.pad(np.ones((110, 170), bool), ((40, 42), (60, 58))), "XY;^3b2" + "0" * 337 + "hj:"),
    ],
)
def test_the_run_length_code_is_coco_s(mask, counts):
    assert coco_counts(mask) == counts


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_the_run_length_code_decodes_to_the_mask(mask):
    assert (decoded(coco_counts(mask), mask.shape) == mask).all()


@given(st.integers(1, 60), st.integers(1, 400))
def test_long_runs_decode_too(first, second):
    mask = np.zeros((23, 41), bool)
    mask.T.flat[first : first + second] = True
    assert (decoded(coco_counts(mask), mask.shape) == mask).all()


def test_a_mask_record_carries_the_pixels_their_digest_and_the_way_back():
    where = geometry((600, 500))
    head = ellipse_cells(where, (250, 300), (30, 24), 0.4, (0.15, 0.15))
    (record,) = mask_records(mask_of(where, head))
    assert (record.label, record.encoding, record.size_hw) == ("head", "coco_rle", (192, 288))
    assert (decoded(record.data, record.size_hw) == head).all()
    assert record.sha256 == hashlib.sha256(np.packbits(head).tobytes()).hexdigest()
    assert (record.geometry.step_x, record.geometry.offset_x) == (where.step_x, where.offset_x)


def test_each_label_has_its_own_record():
    where = geometry()
    one, two = (ellipse_cells(where, (x, 270), (20, 15), 0.0, (0.15, 0.15)) for x in (200, 600))
    records = mask_records(mask_of(where, one, two, names=("lung_right", "lung_left")))
    assert [record.label for record in records] == ["lung_right", "lung_left"]
    assert (decoded(records[1].data, (192, 288)) == two).all()


def decoded(counts: str, size_hw: tuple[int, int]) -> np.ndarray:
    """rleFrString and rleDecode of cocoapi's maskApi.c, by the letter."""
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            group = ord(counts[position]) - 48
            value |= (group & 0x1F) << shift
            more = bool(group & 0x20)
            position, shift = position + 1, shift + 5
            if not more and group & 0x10:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size_hw[::-1]).T
