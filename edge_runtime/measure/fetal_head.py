"""The fetal head in its standard plane: circumference, diameters, cephalic index and gestational age.

The mask's label `head` is the head with the outer edge of its skull, as in HC18. An ellipse cannot tell the
plane: every cut of an egg is an ellipse. So every length is `caution` until a person has confirmed the plane,
and until then no gestational age is offered. Never a due date, a percentile or a z-score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import MeasurementName, Reason
from edge_runtime.measure import growth
from edge_runtime.measure.ellipse import Ellipse, Fit, border_contact, fit_of, moment_ellipse
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.measure.values import LOINC, Scale, measured, part_reasons, scale_of, told
from edge_runtime.types import Code, Mask, Measurement, Spacing, Unit

LABELS = ("head",)

HC_RANGE_MM = (40.0, 400.0)
BPD_RANGE_MM = (12.0, 110.0)
CI_RANGE = (55.0, 100.0)
CI_TYPICAL = (70.0, 86.0)  # 2 SD, Hadlock 1981

# A head that touches the border over less than this share of its circumference loses at most 0.2 % of that.
# 5 of the 760 heads of HC18 touch at all, one of them further (7.5 %): its circumference is 0.8 % short.
MAX_BORDER_SHARE = 0.06

HC_CODE = Code(system=LOINC, value="11984-2")  # Fetal head circumference US; the method is the formula
BPD_CODE = Code(system=LOINC, value="11852-1")  # Fetal biparietal diameter outer to outer US

_CIRCUMFERENCE = "ramanujan2-moment-ellipse"
_BPD = "moment-ellipse-minor-axis-outer-outer"
_OFD = "moment-ellipse-major-axis-outer-outer"
_INDEX = "100-bpd-per-ofd"
_AGE = "intergrowth2016-hc"


def measure(
    mask: Mask,
    spacing: Spacing | None,
    spacing_reason: Reason | None,
    settings: MeasureSettings,
    fits: Sequence[Fit | None] | None = None,
) -> tuple[Measurement, ...]:
    """HC, BPD, OFD (mm, or source pixels under their own names), cephalic index (%) and, once a person has
    confirmed the plane, gestational age (d).

    `mask` holds one cleaned part called `head`, `fits` its ellipse if it was made already. A value that may not be
    shown is withheld with its reasons.
    """
    scale = scale_of(mask.geometry, spacing, spacing_reason, settings)
    head = mask.of("head")
    fit = fit_of(head) if fits is None else fits[mask.names.index("head")]
    shape, ellipse = [*part_reasons(mask, "head", settings)], None
    if fit is None:
        shape.append(Reason.STRUCTURE_NOT_FOUND)
    else:
        ellipse = fit.moments.ellipse(scale.cell)
        shape += _shape_reasons(ellipse, fit.overlap, head, mask, scale, settings)
    if not settings.plane_confirmed:
        shape.append(Reason.PLANE_UNCONFIRMED)
    values = _values(ellipse, scale, shape, settings)
    age = _age(values[0], scale) if settings.plane_confirmed else None
    return tuple(values) if age is None else (*values, age)


def head_circumference_mm(mask: Mask, spacing: Spacing) -> float | None:
    """The circumference whether or not it may be shown, for evaluation; None for an empty mask."""
    ellipse = moment_ellipse(mask.of("head"), mask.geometry.cell_mm(spacing))
    return None if ellipse is None else ellipse.circumference


def raw_values(mask: Mask, spacing: Spacing | None) -> dict[str, float]:
    """The lengths and the index of `measure`, whether or not they may be shown; none of an empty mask."""
    scale = scale_of(mask.geometry, spacing, None, MeasureSettings())
    ellipse = moment_ellipse(mask.of("head"), scale.cell)
    if ellipse is None:
        return {}
    values = _values(ellipse, scale, [], MeasureSettings())
    return {one.name.value: one.value for one in values if one.value is not None}


def _values(
    ellipse: Ellipse | None, scale: Scale, shape: list[Reason], settings: MeasureSettings
) -> list[Measurement]:
    a, b = (None, None) if ellipse is None else (2 * ellipse.semi_major, 2 * ellipse.semi_minor)
    around = None if ellipse is None else ellipse.circumference
    index = None if a is None or b is None else 100 * b / a
    name = MeasurementName
    lengths: tuple[tuple[MeasurementName, float | None, str, Code | None], ...]
    unit: Unit
    if scale.used is not None:
        unit = "mm"
        lengths = (
            (name.HEAD_CIRCUMFERENCE, around, _CIRCUMFERENCE, HC_CODE),
            (name.BIPARIETAL_DIAMETER, b, _BPD, BPD_CODE),
            (name.OCCIPITOFRONTAL_DIAMETER, a, _OFD, None),
        )
    else:
        unit = "{pixel}"
        lengths = (
            (name.HEAD_CIRCUMFERENCE_PX, around, _CIRCUMFERENCE, None),
            (name.BIPARIETAL_DIAMETER_PX, b, _BPD, None),
            (name.OCCIPITOFRONTAL_DIAMETER_PX, a, _OFD, None),
        )
    found = [
        measured(which, value, unit, formula, scale, (*shape, *scale.length), settings, code)
        for which, value, formula, code in lengths
    ]
    found.append(measured(name.CEPHALIC_INDEX, index, "%", _INDEX, scale, (*shape, *scale.ratio), settings))
    return found


def _shape_reasons(
    ellipse: Ellipse,
    overlap: float,
    head: NDArray[np.bool_],
    mask: Mask,
    scale: Scale,
    settings: MeasureSettings,
) -> list[Reason]:
    reasons = []
    around = ellipse.circumference
    if border_contact(head, mask.geometry.content, scale.cell) > MAX_BORDER_SHARE * around:
        reasons.append(Reason.CUT_BY_BORDER)
    if overlap < settings.min_ellipse_iou:
        reasons.append(Reason.SHAPE_NOT_ELLIPTIC)
    index = 100 * ellipse.semi_minor / ellipse.semi_major
    ranges = [(index, CI_RANGE)]
    if scale.used is not None:
        ranges += [(around, HC_RANGE_MM), (2 * ellipse.semi_minor, BPD_RANGE_MM)]
    if not all(low <= value <= high for value, (low, high) in ranges):
        reasons.append(Reason.OUT_OF_RANGE)
    elif not CI_TYPICAL[0] <= index <= CI_TYPICAL[1]:
        reasons.append(Reason.ATYPICAL_RATIO)
    return reasons


def _age(circumference: Measurement, scale: Scale) -> Measurement | None:
    """Gestational age of a head in a confirmed plane; None where the chart cannot give one (`growth.age_of`).

    An age that is withheld is left out: it would make the whole finding withheld, whose lengths stand.
    """
    if circumference.value is None or scale.used is None:
        return None
    age = growth.age_of(circumference.value, circumference.interval)
    if isinstance(age, Reason):
        return None
    return Measurement(
        name=MeasurementName.GESTATIONAL_AGE,
        value=told(age.days, "d"),
        unit="d",
        interval=(told(age.interval_days[0], "d"), told(age.interval_days[1], "d")),
        status=circumference.status,
        reasons=circumference.reasons,
        spacing=scale.used,
        formula=_AGE,
    )
