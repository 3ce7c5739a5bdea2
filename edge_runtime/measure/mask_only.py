"""A structure that is shown and not measured."""

from __future__ import annotations

from edge_runtime.codes import Reason
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Mask, Measurement, Spacing

LABELS: tuple[str, ...] = ()


def measure(
    mask: Mask, spacing: Spacing | None, spacing_reason: Reason | None, settings: MeasureSettings
) -> tuple[Measurement, ...]:
    """Nothing: a finding of it says `no_measurement_defined`."""
    return ()


def raw_values(mask: Mask, spacing: Spacing | None) -> dict[str, float]:
    """Nothing either."""
    return {}
