"""A vessel in cross-section: the area and the diameters of its lumen.

The mask's label is `lumen`. The diameters are the axes of the moment ellipse, so a cut that is not square to
the vessel reads long in the major one; the minor one is the caliper's. Without a spacing all are in source
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.codes import MeasurementName, Reason
from edge_runtime.measure.ellipse import Ellipse, Fit, border_contact, fit_of, moment_ellipse
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.measure.values import Scale, measured, part_reasons, scale_of
from edge_runtime.types import Mask, Measurement, Spacing, Unit

LABELS = ("lumen",)

DIAMETER_RANGE_MM = (0.5, 40.0)  # from a small artery to an aneurysm: outside it the spacing is wrong
MAX_BORDER_SHARE = 0.06  # of the circumference, as for a head (measure/fetal_head.py)

_AREA = "pixel-count-area"
_MAJOR = "moment-ellipse-major-axis"
_MINOR = "moment-ellipse-minor-axis"


def measure(
    mask: Mask,
    spacing: Spacing | None,
    spacing_reason: Reason | None,
    settings: MeasureSettings,
    fits: Sequence[Fit | None] | None = None,
) -> tuple[Measurement, ...]:
    """Lumen area (mm2) and its major and minor diameter (mm), or the same in source pixels under their own
    names; `fits` is the ellipse of `mask` if it was made already.
    """
    scale = scale_of(mask.geometry, spacing, spacing_reason, settings)
    lumen = mask.of("lumen")
    fit = fit_of(lumen) if fits is None else fits[mask.names.index("lumen")]
    reasons, ellipse = [*part_reasons(mask, "lumen", settings), *scale.length], None
    if fit is None:
        reasons.append(Reason.STRUCTURE_NOT_FOUND)
    else:
        ellipse = fit.moments.ellipse(scale.cell)
        if (
            border_contact(lumen, mask.geometry.content, scale.cell)
            > MAX_BORDER_SHARE * ellipse.circumference
        ):
            reasons.append(Reason.CUT_BY_BORDER)
        if fit.overlap < settings.min_ellipse_iou:
            reasons.append(Reason.SHAPE_NOT_ELLIPTIC)
        low, high = DIAMETER_RANGE_MM
        if scale.used is not None and not (low <= 2 * ellipse.semi_minor and 2 * ellipse.semi_major <= high):
            reasons.append(Reason.OUT_OF_RANGE)
    return tuple(
        measured(which, value, unit, formula, scale, reasons, settings)
        for which, value, unit, formula in _values(ellipse, scale)
    )


def raw_values(mask: Mask, spacing: Spacing | None) -> dict[str, float]:
    """The values of `measure`, whether or not they may be shown; none of an empty mask."""
    scale = scale_of(mask.geometry, spacing, None, MeasureSettings())
    values = _values(moment_ellipse(mask.of("lumen"), scale.cell), scale)
    return {name.value: value for name, value, _, _ in values if value is not None}


def _values(
    ellipse: Ellipse | None, scale: Scale
) -> tuple[tuple[MeasurementName, float | None, Unit, str], ...]:
    """Name, value, unit and formula of each measurement."""
    area = major = minor = None
    if ellipse is not None:
        area, major, minor = ellipse.area, 2 * ellipse.semi_major, 2 * ellipse.semi_minor
    name = MeasurementName
    if scale.used is not None:
        return (
            (name.LUMEN_AREA, area, "mm2", _AREA),
            (name.LUMEN_DIAMETER_MAJOR, major, "mm", _MAJOR),
            (name.LUMEN_DIAMETER_MINOR, minor, "mm", _MINOR),
        )
    return (
        (name.LUMEN_AREA_PX, area, "{pixel}2", _AREA),
        (name.LUMEN_DIAMETER_MAJOR_PX, major, "{pixel}", _MAJOR),
        (name.LUMEN_DIAMETER_MINOR_PX, minor, "{pixel}", _MINOR),
    )
