"""What a measurement may be told from outside: by the model's manifest, and by a person. Knows no formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from edge_runtime.codes import MeasurementName
from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSettings:
    """Limits and intervals of one model; the defaults are those of a model that was never calibrated."""

    plane_confirmed: bool = False  # a person, never the software, has judged the plane to be the standard one
    spacing_range_mm: tuple[float, float] | None = None  # pixel sizes the model was trained on; None = any
    min_ellipse_iou: float = 0.9  # below it a mask is no ellipse; calibrate it on the model's own masks
    max_discarded: float = 0.05  # share of a structure outside its largest part
    min_upright: float = 0.5  # probability below which a picture counts as turned
    max_inverted: float = 0.5  # probability above which black and white count as exchanged
    # By measurement name: half-width in the value's own unit, and as a share of the value; the larger counts.
    intervals: Mapping[str, tuple[float, float]] | None = None
    # The same by size, each led by the largest value that it is for, rising; beyond the last, `intervals` counts.
    bands: Mapping[str, tuple[tuple[float, float, float], ...]] | None = None
    scales: Mapping[str, float] | None = None  # a site's factors on these half-widths, by measurement name
    coverage: float = 0.9  # of the intervals, as calibrated

    def __post_init__(self) -> None:
        if self.spacing_range_mm is not None and not 0 < self.spacing_range_mm[0] < self.spacing_range_mm[1]:
            raise ConfigError(f"spacing_range_mm: want 0 < low < high, got {self.spacing_range_mm}")
        for name in ("min_ellipse_iou", "max_discarded", "min_upright", "max_inverted", "coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: want 0 to 1, got {getattr(self, name)}")
        for name, rule in (self.intervals or {}).items():
            _check(name, *rule)
        for name, bands in (self.bands or {}).items():
            for _, half, share in bands:
                _check(name, half, share)
            sizes = [up_to for up_to, _, _ in bands]
            if not all(low < high for low, high in pairwise((-math.inf, *sizes))):  # also refuses NaN
                raise ConfigError(f"intervals: {name}: want bands whose up_to rises, got {sizes}")

    def interval(self, name: MeasurementName, value: float) -> tuple[float, float] | None:
        """The calibrated interval around `value`; None where there is none."""
        rule = None if self.intervals is None else self.intervals.get(name.value)
        for up_to, *banded in () if self.bands is None else self.bands.get(name.value, ()):
            if value <= up_to:
                rule = banded[0], banded[1]
                break
        if rule is None:
            return None
        half = max(rule[0], rule[1] * abs(value)) * (self.scales or {}).get(name.value, 1.0)
        return value - half, value + half


def _check(name: str, half: float, share: float) -> None:
    known = {name.value for name in MeasurementName}
    if name not in known:
        raise ConfigError(f"intervals: {name!r} is no measurement, choose from {sorted(known)}")
    if not (0 <= half < math.inf and 0 <= share < 1):  # also refuses NaN
        raise ConfigError(
            f"intervals: {name}: want a half-width >= 0 and a share below 1, got {half}, {share}"
        )
