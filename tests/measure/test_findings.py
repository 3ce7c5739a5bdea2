"""Frame reasons on measurements, the status, and masks as records and back."""

from __future__ import annotations

import hashlib
import itertools

import msgspec
import numpy as np
import pytest

from edge_runtime.codes import Reason, SpacingSource, Status
from edge_runtime.measure import fetal_head
from edge_runtime.measure.findings import assemble, mask_from, mask_records
from edge_runtime.measure.rle import decode_counts
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.measure.values import withhold
from edge_runtime.types import Spacing, encode
from tests.measure.drawn import ellipse_cells, geometry, mask_of

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


def test_a_mask_record_carries_the_pixels_their_digest_and_the_way_back():
    where = geometry((600, 500))
    head = ellipse_cells(where, (250, 300), (30, 24), 0.4, (0.15, 0.15))
    (record,) = mask_records(mask_of(where, head))
    assert (record.label, record.encoding, record.size_hw) == ("head", "coco_rle", (192, 288))
    assert (decode_counts(record.data, record.size_hw) == head).all()
    assert record.sha256 == hashlib.sha256(np.packbits(head).tobytes()).hexdigest()
    assert (record.geometry.step_x, record.geometry.offset_x) == (where.step_x, where.offset_x)


def test_each_label_has_its_own_record():
    where = geometry()
    one, two = (ellipse_cells(where, (x, 270), (20, 15), 0.0, (0.15, 0.15)) for x in (200, 600))
    records = mask_records(mask_of(where, one, two, names=("lung_right", "lung_left")))
    assert [record.label for record in records] == ["lung_right", "lung_left"]
    assert (decode_counts(records[1].data, (192, 288)) == two).all()


def test_a_mask_comes_back_from_its_records_and_none_from_what_holds_no_pixels():
    where = geometry((600, 500))
    head = ellipse_cells(where, (250, 300), (30, 24), 0.4, (0.15, 0.15))
    records = mask_records(mask_of(where, head))
    back = mask_from(records)
    assert (back.labels == head).all()
    assert back.geometry.to_image(np.array([[3.0, 4.0]])) == pytest.approx(
        where.to_image(np.array([[3.0, 4.0]]))
    )
    assert mask_from(()) is None
    assert mask_from([msgspec.structs.replace(records[0], data=None)]) is None
