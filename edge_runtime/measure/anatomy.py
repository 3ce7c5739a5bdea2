"""Which anatomy is measured by which module: the table, and the one call the pipeline makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import Reason
from edge_runtime.errors import ConfigError
from edge_runtime.measure.ellipse import Fit
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Acquisition, Mask, Measurement, Spacing, Unit

Measure = Callable[[Mask, "Spacing | None", "Reason | None", MeasureSettings], tuple[Measurement, ...]]
MeasureFits = Callable[
    [Mask, "Spacing | None", "Reason | None", MeasureSettings, "Sequence[Fit | None]"],
    tuple[Measurement, ...],
]
Check = Callable[[Mask, "NDArray[np.uint8]", "tuple[Reason, ...]", MeasureSettings], "Acquisition | None"]
RawValues = Callable[[Mask, "Spacing | None"], dict[str, float]]

ELLIPTIC = ("fetal_head", "vessel")  # measured by the moment ellipse of one part
AREA_SHARE = "area_share"  # among the raw values of every anatomy; no measurement, never in a finding
_UNITS: dict[str, Unit] = {  # those that are no millimetres
    AREA_SHARE: "1",
    "cephalic_index": "%",
    "gestational_age": "d",
    "lumen_area": "mm2",
    "lung_area_right": "cm2",
    "lung_area_left": "cm2",
    "lung_area_ratio": "1",
}

# Each module has `measure`, `raw_values` and `LABELS`, the label names it wants in a mask.
_ANATOMIES = {
    "fetal_head": "edge_runtime.measure.fetal_head",
    "vessel": "edge_runtime.measure.vessel",
    "lungs": "edge_runtime.measure.lungs",
    "mask_only": "edge_runtime.measure.mask_only",
}

_ACQUISITIONS = {"lungs": "edge_runtime.measure.acquisition"}  # `check`


def measure(
    anatomy: str,
    mask: Mask,
    spacing: Spacing | None,
    spacing_reason: Reason | None,
    settings: MeasureSettings,
    fits: Sequence[Fit | None] | None = None,
) -> tuple[Measurement, ...]:
    """The measurements of `anatomy` in `mask`; the frame's own reasons come later (`findings.assemble`).

    `fits` are the ellipses of an elliptic anatomy's parts where they were made already (`ellipse.fits_of`).
    """
    if fits is not None:
        return cast(MeasureFits, measurer(anatomy))(mask, spacing, spacing_reason, settings, fits)
    return measurer(anatomy)(mask, spacing, spacing_reason, settings)


def raw_values(anatomy: str, mask: Mask, spacing: Spacing | None) -> dict[str, float]:
    """Every value of `anatomy` in `mask` by its measurement's name, whether or not it may be shown.

    For comparing two masks of one frame, never for showing: nothing is withheld here. Units are those of
    `measure`; without a spacing lengths and areas are in source pixels, their names end in `_px`. A value
    that cannot be had, as of an empty mask, is left out; `area_share`, the labels' share of the picture's
    part of the grid, is always there.
    """
    height, width = mask.geometry.content.size_hw
    share = float(np.count_nonzero(mask.labels) / (height * width))
    return {**measured_values(anatomy, mask, spacing), AREA_SHARE: share}


def measured_values(anatomy: str, mask: Mask, spacing: Spacing | None) -> dict[str, float]:
    """`raw_values` without the share of the picture: what may be held against a truth."""
    return cast(RawValues, import_module(_module(anatomy)).raw_values)(mask, spacing)


def acquisition(
    anatomy: str,
    mask: Mask,
    picture: NDArray[np.uint8],
    frame_reasons: tuple[Reason, ...],
    settings: MeasureSettings,
) -> Acquisition | None:
    """How `picture`, (h, w) on the model's grid, was taken; None for an anatomy without such a check."""
    checks = _ACQUISITIONS.get(anatomy)
    return None if checks is None else _check(checks)(mask, picture, frame_reasons, settings)


@cache
def _check(module: str) -> Check:
    return cast(Check, import_module(module).check)


def unit_of(name: str) -> Unit:
    """The unit of a raw value."""
    if name.endswith("_px"):
        return "{pixel}2" if "_area" in name else "{pixel}"
    return _UNITS.get(name, "mm")


@cache
def measurer(anatomy: str) -> Measure:
    """The function that measures `anatomy`. Raises ConfigError for one that is not in the table."""
    return cast(Measure, import_module(_module(anatomy)).measure)


def labels_of(anatomy: str) -> tuple[str, ...]:
    """The label names `anatomy` needs in a model's mask; () where any will do."""
    return cast("tuple[str, ...]", import_module(_module(anatomy)).LABELS)


def _module(anatomy: str) -> str:
    if anatomy not in _ANATOMIES:
        raise ConfigError(f"anatomy {anatomy!r}: unknown, choose one of {sorted(_ANATOMIES)}")
    return _ANATOMIES[anatomy]
