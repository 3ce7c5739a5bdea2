"""One value with its unit, interval, status and reasons: how every anatomy makes and refuses a measurement.

Knows what a spacing permits and in which order reasons stand; knows no anatomy and no formula.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from edge_runtime.codes import MeasurementName, Reason, Status, status_of
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Code, Geometry, Mask, Measurement, Spacing, SpacingUsed, Unit

LOINC = "http://loinc.org"

_ORDER = {reason: position for position, reason in enumerate(Reason)}


def told(value: float, unit: Unit) -> float:
    """`value` to two places (ten micrometres), a ratio to four: further digits say nothing and cost the link."""
    return round(value, 4 if unit == "1" else 2)


def in_order(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """`reasons`, each once, in the order of `codes.Reason`: the same set always gives the same bytes."""
    return tuple(sorted(set(reasons), key=_ORDER.__getitem__))


@dataclass(frozen=True, slots=True)
class Scale:
    """What one grid cell is worth, in millimetres or else in pixels of the source image."""

    cell: tuple[float, float]  # (row, column)
    used: SpacingUsed | None  # None: `cell` is in source pixels
    length: tuple[Reason, ...]  # what it does to a length or an area
    ratio: tuple[Reason, ...]  # what it does to a ratio of lengths, which needs the pixels' shape only


def scale_of(
    geometry: Geometry, spacing: Spacing | None, spacing_reason: Reason | None, settings: MeasureSettings
) -> Scale:
    """The scale of a grid. Without a spacing: source pixels taken as square, which is said in the reasons."""
    if spacing is None:
        return Scale(
            cell=(geometry.step_y, geometry.step_x),
            used=None,
            length=(spacing_reason or Reason.SPACING_MISSING, Reason.PIXEL_ASPECT_ASSUMED),
            ratio=(Reason.PIXEL_ASPECT_ASSUMED,),
        )
    length: tuple[Reason, ...] = () if spacing_reason is None else (spacing_reason,)
    ratio: tuple[Reason, ...] = () if spacing.row_mm == spacing.col_mm else length
    if settings.spacing_range_mm is not None:
        low, high = settings.spacing_range_mm
        if not (low <= spacing.row_mm <= high and low <= spacing.col_mm <= high):
            length += (Reason.SPACING_OUTSIDE_MODEL_RANGE,)
            ratio += (Reason.SPACING_OUTSIDE_MODEL_RANGE,)
    used = SpacingUsed(row_mm=spacing.row_mm, col_mm=spacing.col_mm, source=spacing.source)
    return Scale(cell=geometry.cell_mm(spacing), used=used, length=length, ratio=ratio)


def measured(
    name: MeasurementName,
    value: float | None,
    unit: Unit,
    formula: str,
    scale: Scale,
    reasons: Iterable[Reason],
    settings: MeasureSettings,
    code: Code | None = None,
) -> Measurement:
    """A measurement of `value` as far as `reasons` permit; None is a value that could not be had and is
    withheld.

    A value that has no calibrated interval says so. A pixel value never has one.
    """
    found = set(reasons)
    interval = None if value is None else settings.interval(name, value)
    if interval is None:
        found.add(Reason.INTERVAL_UNCALIBRATED)
    status = status_of(tuple(found))
    if value is None or status is Status.WITHHELD:
        return refused(name, unit, formula, scale, found, code)
    return Measurement(
        name=name,
        value=told(value, unit),
        unit=unit,
        interval=None if interval is None else (told(interval[0], unit), told(interval[1], unit)),
        status=status,
        reasons=in_order(found),
        spacing=scale.used,
        formula=formula,
        code=code,
    )


def refused(
    name: MeasurementName,
    unit: Unit,
    formula: str,
    scale: Scale,
    reasons: Iterable[Reason],
    code: Code | None = None,
) -> Measurement:
    """A measurement whose value is withheld for `reasons`, whatever those do to other values.

    That its interval is not calibrated is not among them: there is none to calibrate.
    """
    return Measurement(
        name=name,
        value=None,
        unit=unit,
        interval=None,
        status=Status.WITHHELD,
        reasons=in_order(set(reasons) - {Reason.INTERVAL_UNCALIBRATED}),
        spacing=scale.used,
        formula=formula,
        code=code,
    )


def withhold(measurement: Measurement, reasons: Iterable[Reason]) -> Measurement:
    """`measurement` without its value and interval, `reasons` added to its own."""
    merged = {*measurement.reasons, *reasons} - {Reason.INTERVAL_UNCALIBRATED}
    return msgspec.structs.replace(
        measurement, value=None, interval=None, status=Status.WITHHELD, reasons=in_order(merged)
    )


def part_reasons(mask: Mask, label: str, settings: MeasureSettings) -> tuple[Reason, ...]:
    """What the parts of `label` that were thrown away do to a value."""
    discarded = mask.discarded[mask.names.index(label)]
    return (Reason.SEVERAL_PARTS,) if discarded > settings.max_discarded else ()
