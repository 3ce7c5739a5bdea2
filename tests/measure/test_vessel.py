"""Lumen area and diameters from discs and ellipses of known size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.codes import MeasurementName as Name
from edge_runtime.codes import Reason, SpacingSource, Status
from edge_runtime.measure import vessel
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Spacing
from tests.measure.drawn import ellipse_cells, geometry, mask_of

SETTINGS = MeasureSettings(
    intervals={
        "lumen_area": (2.0, 0.05),
        "lumen_diameter_major": (0.2, 0.02),
        "lumen_diameter_minor": (0.2, 0.02),
    }
)
SPACING = Spacing(0.06, 0.06, SpacingSource.OPERATOR)


def lumen(semi_mm=(3.4, 3.0), center=(350, 370), angle=0.5):
    where = geometry((749, 709))
    return mask_of(where, ellipse_cells(where, center, semi_mm, angle, (0.06, 0.06)), names=("lumen",))


def test_a_lumen_of_known_axes_is_measured():
    area, major, minor = vessel.measure(lumen(), SPACING, None, SETTINGS)
    assert (area.name, area.unit) == (Name.LUMEN_AREA, "mm2")
    assert area.value == pytest.approx(math.pi * 3.4 * 3.0, rel=0.01)
    assert major.value == pytest.approx(6.8, rel=0.01) and major.unit == "mm"
    assert minor.value == pytest.approx(6.0, rel=0.01) and minor.unit == "mm"
    assert {m.status for m in (area, major, minor)} == {Status.USABLE}


def test_without_a_spacing_the_values_are_pixels_of_the_image():
    found = vessel.measure(lumen(), None, None, SETTINGS)
    assert [m.name for m in found] == [
        Name.LUMEN_AREA_PX,
        Name.LUMEN_DIAMETER_MAJOR_PX,
        Name.LUMEN_DIAMETER_MINOR_PX,
    ]
    assert [m.unit for m in found] == ["{pixel}2", "{pixel}", "{pixel}"]
    assert found[0].value == pytest.approx(math.pi * 3.4 * 3.0 / 0.06**2, rel=0.01)
    assert found[1].value == pytest.approx(6.8 / 0.06, rel=0.01)
    assert all(m.status is Status.CAUTION and Reason.SPACING_MISSING in m.reasons for m in found)


def test_an_operator_s_spacing_is_caution():
    found = vessel.measure(lumen(), SPACING, Reason.SPACING_OPERATOR, SETTINGS)
    assert {m.reasons for m in found} == {(Reason.SPACING_OPERATOR,)}


@pytest.mark.parametrize(
    "mask, reason",
    [
        (lumen(center=(5, 370)), Reason.CUT_BY_BORDER),
        (mask_of(geometry(), np.zeros((192, 288), bool), names=("lumen",)), Reason.STRUCTURE_NOT_FOUND),
    ],
)
def test_a_lumen_that_cannot_be_measured_is_withheld(mask, reason):
    found = vessel.measure(mask, SPACING, None, SETTINGS)
    assert all(m.value is None and reason in m.reasons for m in found)


def test_a_vessel_of_forty_millimetres_is_out_of_range():
    found = vessel.measure(lumen(), Spacing(0.5, 0.5, SpacingSource.META_CSV), None, SETTINGS)
    assert all(m.value is None and Reason.OUT_OF_RANGE in m.reasons for m in found)
