"""Lung areas, ratio and chest width from boxes of known size on an anisotropic grid."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.codes import MeasurementName as Name
from edge_runtime.codes import Reason, SpacingSource, Status
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.measure import lungs
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Box, Spacing
from tests.measure.drawn import mask_of

GRID = (192, 192)
WHERE = fit_region(Box(0, 0, 512, 512), GRID, "letterbox")
SPACING = Spacing(0.8, 0.7, SpacingSource.META_CSV)
CELL_MM = (0.8 * 512 / 192, 0.7 * 512 / 192)
SETTINGS = MeasureSettings(
    intervals=dict.fromkeys(
        ("lung_area_right", "lung_area_left", "lung_area_ratio", "lung_width"), (1.0, 0.05)
    )
)


def box(rows, columns):
    part = np.zeros(GRID, bool)
    part[rows, columns] = True
    return part


RIGHT = box(slice(30, 150), slice(30, 85))  # the patient's right is the picture's left
LEFT = box(slice(30, 140), slice(105, 160))


def chest(right=RIGHT, left=LEFT):
    return mask_of(WHERE, right, left, names=("lung_right", "lung_left"))


def by_name(found):
    return {m.name: m for m in found}


def test_areas_ratio_and_width_of_known_lungs():
    found = by_name(lungs.measure(chest(), SPACING, None, SETTINGS))
    cell_cm2 = CELL_MM[0] * CELL_MM[1] / 100
    assert found[Name.LUNG_AREA_RIGHT].value == pytest.approx(120 * 55 * cell_cm2, abs=0.006)
    assert found[Name.LUNG_AREA_LEFT].value == pytest.approx(110 * 55 * cell_cm2, abs=0.006)
    assert found[Name.LUNG_AREA_RATIO].value == pytest.approx(120 / 110, abs=0.006)
    assert found[Name.LUNG_WIDTH].value == pytest.approx(
        130 * CELL_MM[1], abs=0.006
    )  # both outer edges count
    assert [m.unit for m in found.values()] == ["cm2", "cm2", "mm", "1"]
    assert {m.status for m in found.values()} == {Status.USABLE}


def test_the_width_is_of_one_row_not_of_the_bounding_box():
    low_left = box(slice(151, 180), slice(105, 185))  # reaches far out, below the right lung
    found = by_name(lungs.measure(chest(left=LEFT | low_left), SPACING, None, SETTINGS))
    assert found[Name.LUNG_WIDTH].value == pytest.approx(130 * CELL_MM[1], abs=0.006)


def test_a_chest_too_narrow_for_an_adult_is_withheld_since_its_scale_cannot_be_true():
    shrunk = Spacing(0.4, 0.35, SpacingSource.META_CSV)  # half of the truth, as in a file that kept its tag
    found = by_name(lungs.measure(chest(), shrunk, None, SETTINGS))
    for measurement in found.values():
        assert measurement.value is None
        assert Reason.OUT_OF_RANGE in measurement.reasons


def test_without_a_spacing_only_the_ratio_has_its_name():
    found = by_name(lungs.measure(chest(), None, Reason.SPACING_ZERO, SETTINGS))
    assert list(found) == [
        Name.LUNG_AREA_RIGHT_PX,
        Name.LUNG_AREA_LEFT_PX,
        Name.LUNG_WIDTH_PX,
        Name.LUNG_AREA_RATIO,
    ]
    assert found[Name.LUNG_WIDTH_PX].value == pytest.approx(130 * 512 / 192, abs=0.006)
    assert Reason.SPACING_ZERO in found[Name.LUNG_WIDTH_PX].reasons
    assert found[Name.LUNG_AREA_RATIO].reasons == ()  # the pixels' shape cancels


def test_millimetres_at_the_detector_are_caution_and_the_ratio_is_not():
    found = by_name(lungs.measure(chest(), SPACING, Reason.SPACING_AT_DETECTOR, SETTINGS))
    assert found[Name.LUNG_AREA_LEFT].reasons == (Reason.SPACING_AT_DETECTOR,)
    assert found[Name.LUNG_WIDTH].status is Status.CAUTION
    assert found[Name.LUNG_AREA_RATIO].status is Status.USABLE


NOTHING = np.zeros(GRID, bool)


@pytest.mark.parametrize(
    "mask, reason",
    [
        (chest(left=NOTHING), Reason.LUNG_MISSING),
        (chest(right=NOTHING), Reason.LUNG_MISSING),
        (chest(NOTHING, NOTHING), Reason.STRUCTURE_NOT_FOUND),
        (chest(right=box(slice(30, 150), slice(0, 85))), Reason.CUT_BY_BORDER),
        (chest(left=box(slice(30, 60), slice(105, 160))), Reason.OUT_OF_RANGE),  # right 4 times the left
    ],
)
def test_a_chest_that_is_not_all_there_is_withheld(mask, reason):
    found = lungs.measure(mask, SPACING, None, SETTINGS)
    assert all(m.value is None and reason in m.reasons for m in found)
