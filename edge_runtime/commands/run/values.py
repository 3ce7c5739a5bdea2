"""A measurement as a person is told it: its name, its value with unit, its interval."""

from __future__ import annotations

from edge_runtime.build.readings import shown_unit
from edge_runtime.codes import MeasurementName


def plain(name: MeasurementName) -> str:
    """In words; whether it is of pixels the unit says."""
    return name.value.removesuffix("_px").replace("_", " ")


def with_interval(value: float, interval: tuple[float, float] | None, name: MeasurementName) -> str:
    """`249.5 mm (243.7 to 255.3)`."""
    return with_unit(value, name) + (f" ({span(interval, name)})" if interval else "")


def with_unit(value: float, name: MeasurementName) -> str:
    """`249.5 mm`, `27 weeks 0 days`, `1.16`."""
    unit = "" if name is MeasurementName.GESTATIONAL_AGE else shown_unit(name.value)
    return f"{_number(value, name)} {unit}".rstrip()


def span(ends: tuple[float, float], name: MeasurementName) -> str:
    """`243.7 to 255.3`."""
    return " to ".join(_number(end, name) for end in ends)


def _number(value: float, name: MeasurementName) -> str:
    """An age in days as it is spoken of; a number without a unit is a ratio."""
    if name is MeasurementName.GESTATIONAL_AGE:
        weeks, days = divmod(round(value), 7)
        return f"{weeks} weeks {days} days"
    return f"{value:.1f}" if shown_unit(name.value) else f"{value:.2f}"
