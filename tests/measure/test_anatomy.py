"""Every row of the anatomy table leads somewhere."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.measure import anatomy
from edge_runtime.measure.settings import MeasureSettings
from tests.measure.drawn import geometry, mask_of


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
