"""Which anatomy is measured by which module: the table, and the one call the pipeline makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import cast

from edge_runtime.codes import Reason
from edge_runtime.errors import ConfigError
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Mask, Measurement, Spacing

Measure = Callable[[Mask, "Spacing | None", "Reason | None", MeasureSettings], tuple[Measurement, ...]]

# Each module has `measure` and `LABELS`, the label names it wants in a mask.
_ANATOMIES = {
    "fetal_head": "edge_runtime.measure.fetal_head",
    "vessel": "edge_runtime.measure.vessel",
    "lungs": "edge_runtime.measure.lungs",
    "mask_only": "edge_runtime.measure.mask_only",
}


def measure(
    anatomy: str,
    mask: Mask,
    spacing: Spacing | None,
    spacing_reason: Reason | None,
    settings: MeasureSettings,
) -> tuple[Measurement, ...]:
    """The measurements of `anatomy` in `mask`; the frame's own reasons come later (`findings.assemble`)."""
    return measurer(anatomy)(mask, spacing, spacing_reason, settings)


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
