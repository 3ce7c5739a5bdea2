"""INTERGROWTH-21st: from a head circumference to an age, from an age to a z-score. Pure formulas.

Age from HC, HC and FL in mm, age in days: Papageorghiou AT et al., Ultrasound Obstet Gynecol 2016;48:719-726
(doi 10.1002/uog.15894), formulas as in the R package gigs. HC for age: Papageorghiou AT et al., Lancet
2014;384:869-879. HC and BPD there are outer to outer. Published vectors: HC 250 gives 189.8 days; HC 250 with
FL 55 gives 200.5.

An age that was computed from a head may never judge that same head: `z_score_for` wants an age of another
origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_runtime.codes import Reason
from edge_runtime.errors import ConfigError

HC_VALID_MM = (97.7, 357.0)  # 14+0 to 41+6 weeks; below it an age is had from the crown-rump length
CHART_WEEKS = (14.0, 40.0)
TERM_DAYS = 280.0
_TWO_SIDED_95 = 1.96
_LOW_WEEKS = 10.0  # the search for a lower bound goes below the chart's 14 weeks; both edges still rise there


def age_days(hc_mm: float) -> float:
    """Gestational age in days: exp(0.05970 ln(HC)^2 + 6.409e-9 HC^3 + 3.3258)."""
    return math.exp(0.05970 * math.log(hc_mm) ** 2 + 6.409e-9 * hc_mm**3 + 3.3258)


def age_days_with_femur(hc_mm: float, femur_mm: float) -> float:
    """Gestational age in days: exp(0.03243 ln(HC)^2 + 0.001644 FL ln(HC) + 3.813)."""
    log = math.log(hc_mm)
    return math.exp(0.03243 * log**2 + 0.001644 * femur_mm * log + 3.813)


def hc_mean_mm(weeks: float) -> float:
    """Mean HC at `weeks`: -28.2849 + 1.69267 GA^2 - 0.397485 GA^2 ln GA."""
    return -28.2849 + 1.69267 * weeks**2 - 0.397485 * weeks**2 * math.log(weeks)


def hc_sd_mm(weeks: float) -> float:
    """SD of HC at `weeks`: 1.98735 + 0.0136772 GA^3 - 0.00726264 GA^3 ln GA + 0.000976253 GA^3 (ln GA)^2."""
    log = math.log(weeks)
    return 1.98735 + weeks**3 * (0.0136772 - 0.00726264 * log + 0.000976253 * log**2)


def age_interval_days(hc_low_mm: float, hc_high_mm: float) -> tuple[float, float | None]:
    """The ages between which 95 of 100 fetuses with such a head are, by inverse regression.

    The lower bound solves mean + 1.96 SD = low, the upper mean - 1.96 SD = high. The upper is None where it
    would pass 40+0: term is not excluded then. Propagating the interval of the circumference would be 3 to 5
    times too narrow.
    """

    def upper_edge(weeks: float) -> float:
        return hc_mean_mm(weeks) + _TWO_SIDED_95 * hc_sd_mm(weeks)

    def lower_edge(weeks: float) -> float:
        return hc_mean_mm(weeks) - _TWO_SIDED_95 * hc_sd_mm(weeks)

    low = 7 * _solve(upper_edge, hc_low_mm)
    if lower_edge(CHART_WEEKS[1]) < hc_high_mm:
        return low, None
    return low, 7 * _solve(lower_edge, hc_high_mm)


@dataclass(frozen=True, slots=True)
class Age:
    """An age with the interval that holds 95 of 100 such heads."""

    days: float
    interval_days: tuple[float, float]


def age_of(hc_mm: float, interval_mm: tuple[float, float] | None) -> Age | Reason:
    """The age of a head whose circumference lies in `interval_mm`, or why the chart cannot give one."""
    if not HC_VALID_MM[0] <= hc_mm <= HC_VALID_MM[1]:
        return Reason.AGE_OUT_OF_VALIDITY
    low, high = age_interval_days(*(interval_mm or (hc_mm, hc_mm)))
    if high is None:
        return Reason.AGE_TERM_NOT_EXCLUDED
    return Age(age_days(hc_mm), (low, high))


def z_score(weeks: float, hc_mm: float) -> float:
    """Standard deviations of `hc_mm` from the mean at `weeks`, which must be 14 to 40."""
    if not CHART_WEEKS[0] <= weeks <= CHART_WEEKS[1]:
        raise ValueError(f"z-score: the chart runs from 14 to 40 weeks, got {weeks:g}")
    return (hc_mm - hc_mean_mm(weeks)) / hc_sd_mm(weeks)


@dataclass(frozen=True, slots=True)
class AgeReference:
    """A gestational age that does not come from the head that is measured."""

    source: Literal["lmp", "crl", "earlier_scan"]
    weeks: float

    def __post_init__(self) -> None:
        if self.source not in ("lmp", "crl", "earlier_scan"):
            raise ConfigError(
                f"ga_reference: want lmp, crl or earlier_scan, got {self.source!r}; "
                "an age from the same head is circular"
            )


def z_score_for(hc_mm: float, reference: AgeReference | None) -> float | Reason:
    """The z-score of a head at an age of another origin, or the reason why there is none."""
    if reference is None:
        return Reason.GA_NOT_INDEPENDENT
    if not CHART_WEEKS[0] <= reference.weeks <= CHART_WEEKS[1]:
        return Reason.AGE_OUT_OF_VALIDITY
    return z_score(reference.weeks, hc_mm)


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Weeks at which `rising` reaches `target`, to 1e-9, held between 10 and 40 weeks."""
    low, high = _LOW_WEEKS, CHART_WEEKS[1]
    while high - low > 1e-9:
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
