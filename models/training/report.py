"""Everything the card and the manifest of one model say, measured: the one place that knows which split is for what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.training.data import Item, measured_items, own_items
from models.training.evaluate import (
    REFERENCE,
    RUNTIMES,
    Case,
    Seen,
    cases_of,
    crossed_by,
    look_at_foreign,
    pipeline_of,
    unseen_by,
)
from models.training.recipe import Recipe
from models.training.statistics import (
    agreement,
    choose_rule,
    covered,
    describe,
    foreign_rates,
    half_widths,
    risk_coverage,
    shown,
)

Bands = tuple[tuple[float, float], ...]
EVERYTHING: Bands = ((0.0, float("inf")),)


@dataclass(frozen=True)
class Endpoint:
    """The one value of an anatomy that the card is about, and the values that get intervals."""

    value: str  # its raw name, as `measure/anatomy.py` has it
    words: str
    unit: str
    bands: Bands  # of its true value
    intervals: dict[str, bool]  # values that get an interval -> whether it is a ratio
    relative: bool  # whether a difference is told as a share of the value
    large: float  # an error that must not be shown, in `unit` or as a share

    def is_large(self, case: Case) -> bool:
        """Whether the value is too far off to be shown."""
        return abs(case.error(self.value)) > self.large * (case.true[self.value] if self.relative else 1)

    @property
    def large_is(self) -> str:
        """What a large error is, in words."""
        return f"above {100 * self.large:g} %" if self.relative else f"above {self.large:g} {self.unit}"


ENDPOINTS = {
    "fetal_head": Endpoint(
        value="head_circumference",
        words="head circumference",
        unit="mm",
        bands=((0.0, 97.7), (97.7, 150.0), (150.0, 220.0), (220.0, 400.0)),
        intervals={
            "head_circumference": False,
            "biparietal_diameter": False,
            "occipitofrontal_diameter": False,
            "cephalic_index": True,
        },
        relative=False,
        large=5.0,
    ),
    "vessel": Endpoint(
        value="lumen_area_px",
        words="lumen area",
        unit="px²",
        bands=((0.0, 11_000.0), (11_000.0, 12_500.0), (12_500.0, 1e9)),
        intervals={
            "lumen_area_px": False,
            "lumen_diameter_major_px": False,
            "lumen_diameter_minor_px": False,
        },
        relative=True,
        large=0.1,
    ),
    "lungs": Endpoint(
        value="lung_area_right",
        words="area of the right lung",
        unit="cm²",
        bands=((0.0, 185.0), (185.0, 225.0), (225.0, 1e9)),
        intervals={
            "lung_area_right": False,
            "lung_area_left": False,
            "lung_area_ratio": True,
            "lung_width": False,
        },
        relative=True,
        large=0.05,
    ),
}


@dataclass(frozen=True)
class Seens:
    """What was seen of the images outside the train split and of the foreign ones.

    `unseen` and `conformal` are told by networks that had not seen the image, in the reference runtime; all else by the
    one that ships.
    """

    unseen: list[Case]
    conformal: list[Case]  # what intervals are made of
    cases: dict[str, list[Case]]  # by runtime
    foreign: list[tuple[str, str, Seen]]


def look_at_all(recipe: Recipe, root: Path, built: Path) -> Seens:
    """Runs the exported networks in `built`. Raises ConfigError where one is missing."""
    unseen = _judged(recipe, root, unseen_by(recipe, root, built))
    if recipe.splits.cross_conformal:
        conformal = _judged(recipe, root, crossed_by(recipe, root, built))
    else:
        conformal = [case for case in unseen if case.split == "conformal"]
    with ExitStack() as opened:
        pipelines = {
            name: opened.enter_context(closing(pipeline_of(recipe, built / "model.onnx", name)))
            for name in RUNTIMES
        }
        cases = cases_of(recipe, root, pipelines, measured_items(recipe, root))
        return Seens(unseen, conformal, cases, look_at_foreign(recipe, root, pipelines[REFERENCE]))


def _judged(recipe: Recipe, root: Path, judges: Iterable[tuple[Path, list[Item]]]) -> list[Case]:
    """What each network says of its images, in the reference runtime."""
    found: list[Case] = []
    for model, items in judges:
        with closing(pipeline_of(recipe, model, REFERENCE)) as pipeline:
            found += cases_of(recipe, root, {REFERENCE: pipeline}, items)[REFERENCE]
    return found


def report_of(recipe: Recipe, root: Path, seens: Seens) -> dict[str, Any]:
    """The results, as JSON."""
    endpoint, cases = ENDPOINTS[recipe.anatomy], seens.unseen
    split = {name: [case for case in cases if case.split == name] for name in ("tune", "conformal", "test")}
    rule = choose_rule(
        [case.seen for case in split["tune"]], [seen for _, part, seen in seens.foreign if part == "train"]
    )
    calm = [case for case in seens.conformal if shown(case.seen, rule)]
    told = [case for case in split["test"] if shown(case.seen, rule)]
    described = {name: describe(of, endpoint.value, EVERYTHING, rule) for name, of in split.items()}
    return {
        "unit": endpoint.unit,
        "relative": endpoint.relative,
        "large_is": endpoint.large_is,
        "splits": _counts(recipe, root),
        "rule": rule,
        **described,
        "held_out": describe(cases, endpoint.value, endpoint.bands, rule),
        "groups": _groups(cases, endpoint, rule),
        "risk": risk_coverage(cases, endpoint.value, endpoint.is_large),
        "intervals": {
            name: _interval(calm, told, name, endpoint, ratio) for name, ratio in endpoint.intervals.items()
        },
        "conformal_images": len(calm),
        "conformal_subjects": len({case.subject for case in calm}),
        "foreign": foreign_rates(seens.foreign, rule),
        "agreement": {
            name: agreement(seens.cases[REFERENCE], other, endpoint.value, endpoint.relative)
            for name, other in seens.cases.items()
            if name != REFERENCE
        },
    }


def _interval(
    calm: Sequence[Case], told: Sequence[Case], name: str, endpoint: Endpoint, ratio: bool
) -> dict[str, Any]:
    bands = endpoint.bands if name == endpoint.value else EVERYTHING
    half = half_widths(calm, name, bands, ratio)
    return {"half": half, "test": covered(told, name, half)}


def _counts(recipe: Recipe, root: Path) -> dict[str, dict[str, int]]:
    items = own_items(recipe, root)
    return {
        split: {
            "subjects": len({item.subject for item in items if item.split == split}),
            "images": sum(item.split == split for item in items),
        }
        for split in ("train", "tune", "conformal", "test")
    }


def _groups(cases: Iterable[Case], endpoint: Endpoint, rule: dict[str, float]) -> dict[str, Any]:
    """By what meta.csv says of an image besides its name, place and size."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if "tb" in case.row:
            groups.setdefault("signs of tuberculosis" if case.row["tb"] == "1" else "none", []).append(case)
    return {name: describe(of, endpoint.value, EVERYTHING, rule) for name, of in groups.items()}


def true_and_error(cases: Iterable[Case], value: str) -> tuple[np.ndarray, np.ndarray]:
    """The true values and found minus true, each (n,), of the images in which one was found."""
    pairs = np.array([(case.true[value], case.error(value)) for case in cases if value in case.seen.values])
    return pairs[:, 0], pairs[:, 1]
