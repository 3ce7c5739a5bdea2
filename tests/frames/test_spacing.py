"""Where millimetres come from: each rule by its name, each refusal by its code."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.codes import SEVERITY, Reason, SpacingSource, Status
from edge_runtime.errors import ConfigError
from edge_runtime.frames.spacing import (
    Resolved,
    SpacingTags,
    UltrasoundRegion,
    from_meta_csv,
    prefer,
    resolve,
    with_operator,
    without_operator,
)
from edge_runtime.types import Box, Spacing

SIZE = (480, 640)
REAL = UltrasoundRegion(20, 30, 619, 459, 1, 3, 3, -0.02, 0.03)


def us(*regions: UltrasoundRegion) -> SpacingTags:
    return SpacingTags(modality="US", regions=regions)


def region(**changes: object) -> UltrasoundRegion:
    fields = {name: getattr(REAL, name) for name in UltrasoundRegion.__slots__}
    return UltrasoundRegion(**{**fields, **changes})


def test_a_region_in_centimetres_gives_millimetres_and_where_the_picture_is() -> None:
    found = resolve(us(REAL), SIZE)
    assert found == Resolved(Spacing(0.3, 0.2, SpacingSource.ULTRASOUND_REGION), None, Box(20, 30, 620, 460))


def test_a_region_without_units_does_not_hide_the_real_one_it_encloses() -> None:
    outer = region(x0=0, y0=0, x1=639, y1=479, spatial_format=0, unit_x=0, unit_y=0)
    assert resolve(us(outer, REAL), SIZE) == resolve(us(REAL), SIZE)
    assert resolve(us(outer, REAL), SIZE, 1).reason is Reason.SPACING_REGION_WITHOUT_UNITS
    assert resolve(us(outer, REAL), SIZE, 2) == resolve(us(REAL), SIZE)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (us(region(x1=640)), Reason.SPACING_REGION_OUTSIDE_IMAGE),
        (us(region(y1=480)), Reason.SPACING_REGION_OUTSIDE_IMAGE),
        (us(region(x0=-1)), Reason.SPACING_REGION_OUTSIDE_IMAGE),
        (us(region(x1=20)), Reason.SPACING_REGION_OUTSIDE_IMAGE),
        (us(region(unit_x=4)), Reason.SPACING_REGION_WITHOUT_UNITS),  # 4 = seconds: M-mode
        (us(region(spatial_format=3)), Reason.SPACING_REGION_WITHOUT_UNITS),  # spectral
        (us(REAL, REAL), Reason.SPACING_SEVERAL_REGIONS),
        (us(region(delta_x=0.0)), Reason.SPACING_ZERO),
        (us(region(delta_y=math.nan)), Reason.SPACING_IMPLAUSIBLE),
        (us(region(delta_y=12.0)), Reason.SPACING_IMPLAUSIBLE),
        (SpacingTags(modality="US"), Reason.SPACING_MISSING),
        (SpacingTags(modality="US", pixel_spacing=(0.3, 0.3)), Reason.SPACING_MISSING),
        (SpacingTags(modality="CR", pixel_spacing=(0.0, 0.0)), Reason.SPACING_ZERO),
        (SpacingTags(modality="CR", pixel_spacing=(-0.1, 0.1)), Reason.SPACING_IMPLAUSIBLE),
        (SpacingTags(modality="CR", pixel_spacing=(0.1, 100.0)), Reason.SPACING_IMPLAUSIBLE),
        (SpacingTags(modality="CR", pixel_spacing=(0.1, 0.9)), Reason.SPACING_IMPLAUSIBLE),
        (SpacingTags(modality="DX", imager_spacing=(math.nan, 0.1)), Reason.SPACING_IMPLAUSIBLE),
        (SpacingTags(), Reason.SPACING_MISSING),
    ],
)
def test_what_cannot_be_true_gives_no_millimetre_and_says_why(tags: SpacingTags, reason: Reason) -> None:
    found = resolve(tags, SIZE)
    assert found.spacing is None and found.reason is reason
    assert SEVERITY[reason] is not Status.USABLE


X = SpacingTags(modality="DX", pixel_spacing=(0.2, 0.2), imager_spacing=(0.22, 0.22))


@pytest.mark.parametrize(
    ("tags", "row_mm", "source", "reason"),
    [
        (SpacingTags("DX", (), (0.2, 0.2), "FIDUCIAL"), 0.2, SpacingSource.PIXEL_SPACING_FIDUCIAL, None),
        (SpacingTags("DX", (), (0.2, 0.2), "GEOMETRY"), 0.2, SpacingSource.PIXEL_SPACING_GEOMETRY, None),
        (
            SpacingTags("DX", imager_spacing=(0.22, 0.22), magnification=1.1),
            0.2,
            SpacingSource.IMAGER_CORRECTED,
            None,
        ),
        (
            SpacingTags("DX", imager_spacing=(0.2, 0.2)),
            0.2,
            SpacingSource.DETECTOR_PLANE,
            Reason.SPACING_AT_DETECTOR,
        ),
        (
            SpacingTags("DX", (), (0.2, 0.2), None, (0.2, 0.2)),
            0.2,
            SpacingSource.DETECTOR_PLANE,
            Reason.SPACING_AT_DETECTOR,
        ),
        (X, 0.2, SpacingSource.PIXEL_SPACING_UNKNOWN, Reason.SPACING_CALIBRATION_UNKNOWN),
        (
            SpacingTags("CR", (), (0.168, 0.168)),
            0.168,
            SpacingSource.PIXEL_SPACING_UNKNOWN,
            Reason.SPACING_CALIBRATION_UNKNOWN,
        ),
        (SpacingTags("US", (), (0.2, 0.2), "FIDUCIAL"), 0.2, SpacingSource.PIXEL_SPACING_FIDUCIAL, None),
    ],
)
def test_each_rule_of_projection_x_ray_carries_its_name(
    tags: SpacingTags, row_mm: float, source: SpacingSource, reason: Reason | None
) -> None:
    found = resolve(tags, SIZE)
    assert found.spacing is not None
    assert found.spacing.row_mm == pytest.approx(row_mm)
    assert (found.spacing.source, found.reason) == (source, reason)


def test_a_magnification_that_cannot_be_true_is_not_used() -> None:
    found = resolve(SpacingTags("DX", imager_spacing=(0.2, 0.2), magnification=11.0), SIZE)
    assert found.reason is Reason.SPACING_AT_DETECTOR


def test_a_region_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match="--region 2: the file has 1"):
        resolve(us(REAL), SIZE, 2)


OPERATOR = Spacing(0.3, 0.2, SpacingSource.OPERATOR)


@given(st.floats(0.97, 1.03))
def test_an_operator_may_differ_from_the_file_by_two_percent_and_no_more(factor: float) -> None:
    given_spacing = Spacing(0.3 * factor, 0.2, SpacingSource.OPERATOR)
    found = resolve(us(REAL), SIZE)
    if abs(factor - 1) < 0.0199:
        assert with_operator(found, given_spacing, False, "x.dcm").spacing == given_spacing
    elif abs(factor - 1) > 0.0201:
        with pytest.raises(ConfigError, match="contradicts"):
            with_operator(found, given_spacing, False, "x.dcm")


def test_an_operators_spacing_is_never_better_than_caution_and_keeps_the_region() -> None:
    found = with_operator(resolve(us(REAL), SIZE), OPERATOR, False, "x.dcm")
    assert found == Resolved(OPERATOR, Reason.SPACING_OPERATOR, Box(20, 30, 620, 460))
    forced = with_operator(found, Spacing(1, 1, SpacingSource.OPERATOR), True, "x.dcm")
    assert forced.spacing is not None and forced.spacing.row_mm == 1
    assert SEVERITY[Reason.SPACING_OPERATOR] is Status.CAUTION


def test_the_operators_spacing_is_said_to_be_dropped_unless_the_files_own_wants_caution() -> None:
    changed = Reason.SPACING_GEOMETRY_CHANGED
    own, missing = resolve(us(REAL), SIZE), Resolved(None, Reason.SPACING_MISSING)
    detector = resolve(SpacingTags("DX", imager_spacing=(0.2, 0.2)), SIZE)
    assert without_operator(missing, None) == missing
    assert without_operator(missing, OPERATOR) == Resolved(None, changed)
    assert without_operator(own, OPERATOR) == Resolved(own.spacing, changed, own.region)
    assert without_operator(detector, OPERATOR) == detector
    assert SEVERITY[changed] is Status.CAUTION


def test_an_operators_spacing_fills_in_where_the_file_is_refused() -> None:
    found = with_operator(resolve(us(region(x1=640)), SIZE), OPERATOR, False, "x.dcm")
    assert found.spacing == OPERATOR


def test_an_absurd_operators_spacing_is_refused_even_when_forced() -> None:
    with pytest.raises(ConfigError, match="not plausible"):
        with_operator(Resolved(None), Spacing(9.0, 9.0, SpacingSource.OPERATOR), True, "x.dcm")


@pytest.mark.parametrize(
    ("row_mm", "col_mm", "reason"),
    [
        (0.1, 0.2, None),
        (None, 0.2, Reason.SPACING_MISSING),
        (0.0, 0.0, Reason.SPACING_ZERO),
        (-0.1, 0.1, Reason.SPACING_IMPLAUSIBLE),
        (math.nan, 0.1, Reason.SPACING_IMPLAUSIBLE),
        (math.inf, 0.1, Reason.SPACING_IMPLAUSIBLE),
    ],
)
def test_a_table_is_judged_like_a_tag(
    row_mm: float | None, col_mm: float | None, reason: Reason | None
) -> None:
    found = from_meta_csv(row_mm, col_mm)
    assert found.reason is reason and (found.spacing is None) == (reason is not None)


def test_tags_come_before_the_table_and_the_table_before_nothing() -> None:
    table = from_meta_csv(0.1, 0.1)
    tags = resolve(us(REAL), SIZE)
    refused = resolve(us(region(x1=640)), SIZE)
    assert prefer(tags, table) == tags
    assert prefer(refused, table).spacing == table.spacing
    assert prefer(refused, from_meta_csv(None, None)) == refused


@given(
    st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True)),
    st.sampled_from(["US", "CR", "XA", None]),
    st.sampled_from([None, "FIDUCIAL", "GEOMETRY", "nonsense"]),
)
def test_no_tag_whatever_it_says_gives_an_absurd_millimetre(
    pair: tuple[float, float], modality: str | None, calibration: str | None
) -> None:
    tags = SpacingTags(modality, pixel_spacing=pair, calibration=calibration, imager_spacing=pair)
    found = resolve(tags, SIZE)
    assert (found.spacing is None) or all(0.01 <= value <= 3 for value in pair)
    assert found.spacing is not None or found.reason is not None
