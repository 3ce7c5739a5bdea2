"""From cases to numbers: limits, errors, intervals, risk and coverage. Pure: knows no model and no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.measure.conformal import exact_range, rank
from models.training.evaluate import Case, Seen

KEEP = 0.96  # of the tune split's own images
COVERAGE = 0.9
FEWEST_IN_BAND = 19  # of a split-conformal band: below it the 90 % rank is the largest of a few
WORST = 10
# A rule that withholds nothing.
UNLIMITED = {"min_presence": 0.0, "min_confidence": 0.0, "min_ellipse_iou": 0.0}
Floats = NDArray[np.float64]


# ---------------------------------------------------------------- what is shown


def choose_rule(tune: Sequence[Seen], foreign: Sequence[Seen]) -> dict[str, float]:
    """Limits under which the tune images stay, each a little below what its lowest have.

    The allowance of 1 - KEEP goes to presence, which is then raised as far as half way (in log odds) to the lowest
    kept image where foreign pictures of the train split lie between; the other limits keep every image it keeps.
    """
    presences = sorted(seen.presence for seen in tune)
    lowest = presences[int((1 - KEEP) * len(presences))]
    kept = [seen for seen in tune if seen.presence >= lowest]
    strange = max((seen.presence for seen in foreign), default=0.0)
    middle = (logit(lowest) + min(logit(lowest), logit(strange))) / 2
    limit = 1 / (1 + math.exp(-max(middle, logit(lowest) - 1.5)))
    fit = min(seen.fit for seen in kept)
    return {
        "min_presence": math.floor(1000 * min(0.95, limit)) / 1000,
        "min_confidence": math.floor(1000 * (min(seen.confidence for seen in kept) - 0.01)) / 1000,
        "min_ellipse_iou": 0.0 if fit == 1.0 else math.floor(1000 * (fit - 0.01)) / 1000,  # 1: not asked
    }


def shown(seen: Seen, rule: dict[str, float]) -> bool:
    """Whether a number would be shown: there is one, and no limit of `rule` withholds it."""
    return (
        bool(seen.values)
        and seen.presence >= rule["min_presence"]
        and seen.confidence >= rule["min_confidence"]
        and seen.fit >= rule["min_ellipse_iou"]
    )


def foreign_rates(
    seen: Sequence[tuple[str, str, Seen]], rule: dict[str, float]
) -> dict[str, dict[str, list[int]]]:
    """Per class and split: [images for which a number would be shown, images]."""
    rates: dict[str, dict[str, list[int]]] = {}
    for kind, split, one in seen:
        count = rates.setdefault(kind, {}).setdefault(split, [0, 0])
        count[0] += shown(one, rule)
        count[1] += 1
    return rates


# ---------------------------------------------------------------- how far off


def describe(
    cases: Sequence[Case], primary: str, bands: Sequence[tuple[float, float]], rule: dict[str, float]
) -> dict[str, Any]:
    """Dice and the errors of `primary` over all cases, withheld or not, and by size band of its true value.

    Where nothing was found there is no error: those cases count in Dice, and as `nothing`.
    """
    scores = np.array([case.dice for case in cases])
    true = np.array([case.true[primary] for case in cases])
    error = np.array([case.error(primary) for case in cases])
    kept = np.array([shown(case.seen, rule) for case in cases])
    return {
        "images": len(cases),
        "dice": dice_of(scores),
        "per_label": [
            float(np.mean([case.seen.dice[k] for case in cases])) for k in range(len(cases[0].seen.dice))
        ],
        "nothing": int(np.isnan(error).sum()),
        "error": {**errors_of(error, true), **bootstrap(error, true)},
        "shown": errors_of(error[kept], true[kept]),
        "withheld": int((~kept).sum()),
        "bands": [
            {
                "from": low,
                "to": high,
                "images": int(inside.sum()),
                "dice": float(scores[inside].mean()),
                **errors_of(error[inside], true[inside]),
            }
            for low, high in bands
            if (inside := (true >= low) & (true < high)).any()
        ],
        "worst": [
            {"name": case.name, "dice": case.dice, "error": case.error(primary), "true": case.true[primary]}
            for case in sorted(cases, key=lambda case: case.dice)[:WORST]
        ],
    }


def dice_of(scores: Floats) -> dict[str, float]:
    return {
        "mean": float(scores.mean()),
        "median": float(np.median(scores)),
        "p5": float(np.percentile(scores, 5)),
        "worst": float(scores.min()),
    }


def errors_of(error: Floats, true: Floats) -> dict[str, float]:
    """Of a value, absolute in its own unit and in percent of the true one; where there is one."""
    error, true = _found(error, true)
    if not len(error):
        return {}
    absolute, share = np.abs(error), 100 * np.abs(error) / true
    return {
        "mae": float(absolute.mean()),
        "bias": float(error.mean()),
        "sd": float(error.std()),
        "p95": float(np.percentile(absolute, 95)),
        "max": float(absolute.max()),
        "mean_percent": float(share.mean()),
        "median_percent": float(np.median(share)),
        "bias_percent": float((100 * error / true).mean()),
    }


def _found(error: Floats, true: Floats) -> tuple[Floats, Floats]:
    there = np.isfinite(error)
    return error[there], true[there]


def bootstrap(error: Floats, true: Floats, rounds: int = 2000) -> dict[str, list[float]]:
    """95 % intervals of the mean absolute error, the bias and the median percent error, over images."""
    error, true = _found(error, true)
    drawn = np.random.default_rng(0).integers(0, len(error), (rounds, len(error)))
    share = 100 * np.abs(error) / true
    return {
        "mae_interval": _middle(np.abs(error)[drawn].mean(1)),
        "bias_interval": _middle(error[drawn].mean(1)),
        "median_percent_interval": _middle(np.median(share[drawn], axis=1)),
    }


def _middle(values: Floats) -> list[float]:
    return [float(value) for value in np.percentile(values, (2.5, 97.5))]


# ---------------------------------------------------------------- how sure


def risk_coverage(cases: Sequence[Case], primary: str, large: Callable[[Case], bool]) -> dict[str, Any]:
    """Mean absolute error of the `k` images of least doubt, k rising; the area under it; and of the errors that
    are `large`, the share among the tenth of images of most doubt. Images in which nothing was found give no value
    to withhold."""
    ordered = sorted(
        (case for case in cases if primary in case.seen.values), key=lambda case: case.doubt(primary)
    )
    error = np.abs([case.error(primary) for case in ordered])
    risk = np.cumsum(error) / np.arange(1, len(error) + 1)
    ideal = np.cumsum(np.sort(error)) / np.arange(1, len(error) + 1)
    tenth = math.ceil(0.1 * len(ordered))
    far = [case for case in ordered if large(case)]
    caught = sum(large(case) for case in ordered[len(ordered) - tenth :])
    return {
        "aurc": float(risk.mean()),
        "aurc_ideal": float(ideal.mean()),
        "aurc_without": float(error.mean()),
        "curve": [
            [(k + 1) / len(risk), float(risk[k])] for k in range(0, len(risk), max(1, len(risk) // 40))
        ],
        "large": len(far),
        "large_in_last_tenth": caught,
    }


def half_widths(
    cases: Sequence[Case], name: str, bands: Sequence[tuple[float, float]], ratio: bool
) -> list[dict[str, float]]:
    """Split-conformal half-widths of one value by band of the value that is shown: [{up_to, absolute, relative}].

    Neighbouring bands with too few images are joined. Errors of a length or an area grow with it and are taken as a
    share of it; those of a ratio do not.
    """
    joined: list[tuple[float, list[Case]]] = []
    waiting: list[Case] = []
    for low, high in bands:
        waiting += [case for case in cases if low <= case.seen.values.get(name, math.nan) < high]
        if len(waiting) >= FEWEST_IN_BAND:
            joined.append((high, waiting))
            waiting = []
    if waiting and joined:
        joined[-1] = (bands[-1][1], joined[-1][1] + waiting)
    elif waiting:
        joined.append((bands[-1][1], waiting))
    found = []
    for up_to, inside in joined:
        error = np.array([abs(case.error(name)) for case in inside])
        if ratio:
            found.append({"up_to": up_to, "absolute": _up(conformal_quantile(error), 4), "relative": 0.0})
        else:
            value = np.array([case.seen.values[name] for case in inside])
            found.append(
                {"up_to": up_to, "absolute": 0.0, "relative": _up(conformal_quantile(error / value), 4)}
            )
    return found


def conformal_quantile(scores: Floats) -> float:
    """The score that COVERAGE of new ones stay below, as far as these tell: rank ceil((n + 1) COVERAGE)."""
    return float(np.sort(scores)[min(len(scores), rank(len(scores), COVERAGE)) - 1])


def covered(cases: Sequence[Case], name: str, half: list[dict[str, float]]) -> dict[str, Any]:
    """How many true values lie in their interval, with the exact binomial 95 % interval of the share."""
    inside, widths = 0, []
    for case in cases:
        value = case.seen.values[name]
        band = next((one for one in half if value <= one["up_to"]), half[-1])
        width = max(band["absolute"], band["relative"] * value)
        widths.append(2 * width)
        inside += abs(case.error(name)) <= width
    low, high = exact_range(inside / len(cases), len(cases))
    return {
        "covered": inside,
        "of": len(cases),
        "interval": [low, high],
        "median_width": float(np.median(widths)),
    }


def agreement(
    reference: Sequence[Case], other: Sequence[Case], primary: str, relative: bool
) -> dict[str, Any]:
    """How far another runtime or precision is from the reference, in the value's unit or its share."""
    delta = np.abs(
        [
            a.seen.values.get(primary, math.nan) - b.seen.values.get(primary, math.nan)
            for a, b in zip(reference, other, strict=True)
        ]
    )
    if relative:
        delta = delta / np.array([case.true[primary] for case in reference])
    return {
        "images": len(delta),
        "mean": float(np.nanmean(delta)),
        "p99": float(np.nanpercentile(delta, 99)),
        "max": float(np.nanmax(delta)),
        "dice": float(np.mean([case.dice for case in other])),
        "dice_difference": abs(
            float(np.mean([a.dice - b.dice for a, b in zip(reference, other, strict=True)]))
        ),
        "presence": max(
            abs(a.seen.presence - b.seen.presence) for a, b in zip(reference, other, strict=True)
        ),
    }


def logit(share: float) -> float:
    clipped = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))


def _up(value: float, digits: int) -> float:
    return math.ceil(10**digits * value) / 10**digits
