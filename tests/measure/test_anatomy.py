"""Every row of the anatomy table leads somewhere."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.codes import SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.measure import anatomy
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.measure.values import told
from edge_runtime.types import Spacing
from tests.measure.drawn import ellipse_cells, geometry, mask_of


@pytest.mark.parametrize("name", anatomy._ANATOMIES)
def test_every_anatomy_measures_an_empty_mask_without_a_number(name):
    labels = anatomy.labels_of(name) or ("thing",)
    empty = mask_of(geometry(), *(np.zeros((192, 288), bool) for _ in labels), names=labels)
    found = anatomy.measure(name, empty, None, None, MeasureSettings())
    assert all(m.value is None for m in found)
    assert bool(found) == (name != "mask_only")


def test_an_unknown_anatomy_names_the_known_ones():
    with pytest.raises(ConfigError, match="fetal_head"):
        anatomy.measurer("femur")


@pytest.mark.parametrize(
    "wrong",
    [
        {"intervals": {"head_size": (1.0, 0.0)}},
        {"intervals": {"head_circumference": (float("nan"), 0.0)}},
        {"spacing_range_mm": (0.4, 0.1)},
        {"min_ellipse_iou": 1.5},
    ],
)
def test_wrong_settings_are_refused_where_they_are_made(wrong):
    with pytest.raises(ConfigError):
        MeasureSettings(**wrong)


SHAPES = {  # for each anatomy: an ellipse for each of its labels, in source pixels of 800 x 540
    "fetal_head": [((400, 270), (150, 117))],
    "vessel": [((400, 270), (60, 55))],
    "lungs": [((250, 270), (90, 200)), ((550, 270), (85, 190))],
    "mask_only": [((400, 270), (150, 60))],
}


def drawn(name, spacing=None):
    where, labels = geometry(), anatomy.labels_of(name) or ("thing",)
    pixel_mm = (1.0, 1.0) if spacing is None else (spacing.row_mm, spacing.col_mm)
    semi = [[half * pixel_mm[1] for half in axes] for _, axes in SHAPES[name]]
    parts = [
        ellipse_cells(where, at, axes, 0.2, pixel_mm)
        for (at, _), axes in zip(SHAPES[name], semi, strict=True)
    ]
    return mask_of(where, *parts, names=labels)


@pytest.mark.parametrize("spacing", [None, Spacing(0.22, 0.2, SpacingSource.META_CSV)], ids=["px", "mm"])
@pytest.mark.parametrize("name", anatomy._ANATOMIES)
def test_raw_values_are_the_measured_values_before_they_are_rounded(name, spacing):
    mask = drawn(name, spacing)
    measured = anatomy.measure(name, mask, spacing, None, MeasureSettings())
    raw = anatomy.raw_values(name, mask, spacing)
    share = raw.pop(anatomy.AREA_SHARE)
    assert raw.keys() == {one.name.value for one in measured}
    shown = {one.name.value: one.value for one in measured if one.value is not None}
    assert shown == {
        one.name.value: told(raw[one.name.value], one.unit) for one in measured if one.value is not None
    }
    content = mask.geometry.content
    assert share == (mask.labels > 0).sum() / (content.size_hw[0] * content.size_hw[1])
    for one in measured:
        assert anatomy.unit_of(one.name.value) == one.unit


@pytest.mark.parametrize("name", ["fetal_head", "vessel"])
def test_raw_values_are_there_where_the_measured_ones_are_withheld(name):
    spacing = Spacing(5.0, 5.0, SpacingSource.META_CSV)  # a head of seven metres
    mask = drawn(name)
    assert all(one.value is None for one in anatomy.measure(name, mask, spacing, None, MeasureSettings())[:3])
    assert len(anatomy.raw_values(name, mask, spacing)) >= 4


@pytest.mark.parametrize("name", anatomy._ANATOMIES)
def test_an_empty_mask_has_no_raw_value_but_its_area(name):
    labels = anatomy.labels_of(name) or ("thing",)
    empty = mask_of(geometry(), *(np.zeros((192, 288), bool) for _ in labels), names=labels)
    assert anatomy.raw_values(name, empty, None) == {anatomy.AREA_SHARE: 0.0}


def test_one_lung_has_its_own_area_and_no_ratio():
    mask = mask_of(geometry(), drawn("lungs").of("lung_right"), names=anatomy.labels_of("lungs"))
    raw = anatomy.raw_values("lungs", mask, None)
    assert raw.keys() == {"lung_area_right_px", "lung_width_px", anatomy.AREA_SHARE}


def test_gestational_age_has_its_unit_though_no_mask_gives_it():
    assert anatomy.unit_of("gestational_age") == "d"
