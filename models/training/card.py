"""Writes a model's CARD.md: what people wrote (`cards/NAME.md`), then what was measured. Knows no number of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.measure.conformal import rank
from models.training.acquisition import CUT
from models.training.recipe import Recipe
from models.training.report import ENDPOINTS
from models.training.statistics import COVERAGE, KEEP

WRITTEN = Path(__file__).resolve().parent / "cards"


def card_of(recipe: Recipe, results: dict[str, Any]) -> str:
    """The text of the card."""
    parts = [
        (WRITTEN / f"{recipe.name}.md").read_text().rstrip("\n"),
        _splits(recipe, results),
        _accuracy(recipe, results),
        _folds(recipe, results),
        _bands(recipe, results),
        _acquisition(results),
        _intervals(recipe, results),
        _confidence(recipe, results),
        _foreign(results),
        _precision(results),
        _speed(results),
        _again(recipe, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _splits(recipe: Recipe, results: dict[str, Any]) -> str:
    counts = results["splits"]
    rows = [
        (split, counts[split]["subjects"], counts[split]["images"])
        for split in ("train", "tune", "conformal", "test")
        if counts[split]["subjects"]
    ]
    return f"""## Splits

By subject (`{recipe.data.subject}` of meta.csv), never by image; lists in `models/training/recipes/{recipe.name}.toml`.
Tune chose the limits below which nothing is shown, {_interval_makers(recipe)}, test was only ever reported.{_refit(recipe)}

{table(("split", "subjects", "images"), rows)}"""


def _interval_makers(recipe: Recipe) -> str:
    if recipe.splits.cross_conformal:
        return "five folds of all but test made the intervals"
    return "conformal made the intervals"


def _refit(recipe: Recipe) -> str:
    if not recipe.splits.refit:
        return ""
    if recipe.splits.folds:
        return """

There are too few subjects to leave any out: the network that ships was trained on all of them. What is told of it
below was measured on networks trained in the same way for a shorter time, each without the subjects of its fold, on
just those subjects."""
    if recipe.splits.cross_conformal:
        return """

The network that ships was trained on train, tune and conformal. What tune and conformal say below, the limits among
it, was measured on a network trained in the same way on train alone; what test says, on the one that ships. The
intervals are those of the folds' networks, each asked of the subjects that it had not seen (cross-conformal): trained
for a shorter time, they make intervals rather too wide than too narrow."""
    return """

The network that ships was trained on train, tune and conformal. What tune and conformal say below, the limits and the
intervals among it, was measured on a network trained in the same way on train alone; what test says, on the one that
ships."""


def _accuracy(recipe: Recipe, results: dict[str, Any]) -> str:
    test, unit, name = results["test"], results["unit"], ENDPOINTS[recipe.anatomy].words
    worst = [(row["name"], f"{row['dice']:.4f}", f"{row['error']:+.2f} {unit}") for row in test["worst"]]
    return f"""## How accurate

On the {test["images"]} images of the test split, withheld or not ({test["withheld"]} would be, in {test["nothing"]} nothing was found); Dice at the source's
resolution, the {name} against the truth through the exact geometry, in the precision that ships (INT8) where it
says so below and in FP32 here.{_runtime_again(recipe)}

{table(("Dice", "mean", "median", "5th percentile", "worst"), _dice_rows(recipe, test))}

{table((name, "", "95 % interval (bootstrap over images)"), _error_rows(test, unit))}

All {results["held_out"]["images"]} images of tune, conformal and test, each as it was judged:

![Bland-Altman](bland_altman.png)

The ten images of lowest Dice, by name (no picture of a patient is in this repository):

{table(("image", "Dice", f"error of the {name}"), worst)}"""


def _runtime_again(recipe: Recipe) -> str:
    if not recipe.held_out:
        return ""
    return f""" With the images in DATA the runtime gives these figures again:

    edge-runtime evaluate --model {recipe.name} --data DATA --subjects models/{recipe.name}/test_subjects.txt --precision fp32"""


def _dice_rows(recipe: Recipe, test: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [("all labels", *(f"{test['dice'][key]:.4f}" for key in ("mean", "median", "p5", "worst")))]
    if len(recipe.labels) > 1:
        means = zip(recipe.labels, test["per_label"], strict=True)
        rows += [(label, f"{mean:.4f}", "", "", "") for label, mean in means]
    return rows


def _error_rows(test: dict[str, Any], unit: str) -> list[tuple[str, str, str]]:
    error, shown = test["error"], test["shown"]

    def interval(name: str, form: str) -> str:
        low, high = error[f"{name}_interval"]
        return f"{low:{form}} to {high:{form}}"

    return [
        ("mean absolute error", f"{error['mae']:.2f} {unit}", interval("mae", ".2f")),
        ("median absolute error", f"{error['median_percent']:.2f} %", interval("median_percent", ".2f")),
        ("bias", f"{error['bias']:+.2f} {unit}", interval("bias", "+.2f")),
        ("95th percentile", f"{error['p95']:.2f} {unit}", ""),
        ("largest", f"{error['max']:.2f} {unit}", ""),
        ("largest that is shown", f"{shown.get('max', 0.0):.2f} {unit}", ""),
    ]


def _folds(recipe: Recipe, results: dict[str, Any]) -> str:
    folds = results.get("folds")
    if not folds:
        return ""
    unit, named = results["unit"], [*enumerate(folds["each"], start=1), ("**all**", folds["all"])]
    rows = [
        (
            name,
            one["images"],
            f"{one['dice']['mean']:.4f}",
            f"{one['dice']['p5']:.4f}",
            f"{one['error']['mae']:.2f}",
            f"{one['error']['bias']:+.2f}",
        )
        for name, one in named
    ]
    return f"""### Five folds

The recipe trained once a fold on all subjects of the others ({folds["steps"]} batches each, where the shipped weights
had {results["training"]["steps"]}), each judged on the subjects it had not seen: every labelled image once. The spread
between the folds is what another hospital's or evening's pictures may be expected to differ by, at the least.

{table(("fold", "images", "Dice", "5th percentile", f"mean absolute error, {unit}", "bias"), rows)}"""


def _bands(recipe: Recipe, results: dict[str, Any]) -> str:
    unit = results["unit"]
    rows = [
        (
            _range(band["from"], band["to"], unit),
            band["images"],
            f"{band['dice']:.4f}",
            f"{band['mae']:.2f}",
            f"{band['mean_percent']:.2f}",
            f"{band['bias_percent']:+.2f}",
        )
        for band in results["held_out"]["bands"]
    ]
    text = f"""### By size

All {results["held_out"]["images"]} images of tune, conformal and test: a band of the test
split alone holds too few.

{table((ENDPOINTS[recipe.anatomy].words, "images", "Dice", f"mean absolute error, {unit}", "%", "bias, %"), rows)}"""
    groups = [
        (group, one["images"], f"{one['dice']['mean']:.4f}", f"{one['error']['mean_percent']:.2f}")
        for group, one in results.get("groups", {}).items()
    ]
    if groups:
        text += f"\n\n### By group\n\n{table(('group', 'images', 'Dice', 'mean absolute error, %'), groups)}"
    return text


def _range(low: float, high: float, unit: str) -> str:
    if low <= 0:
        return f"below {high:g} {unit}"
    return f"{low:g} {unit} and more" if high >= 1e9 else f"{low:g} to {high:g} {unit}"


def _acquisition(results: dict[str, Any]) -> str:
    rates = results.get("acquisition")
    if not rates:
        return ""
    rows = [(what, f"{right} of {of}") for what, (right, of) in rates.items()]
    return f"""## The acquisition check

On the pictures of tune, conformal and test, as they are and changed by known amounts: turned clockwise, inverted, or
with {100 * CUT:.0f} % of the lungs' extent cut off at an edge of the image. Counted is what was said of just that; of pictures as
they are, that both lungs are in view, upright and not inverted, and no edge clipped (some of them are: lungs touch the
border in about one in fourteen by their true masks).

{table(("picture", "said rightly"), rows)}"""


def _intervals(recipe: Recipe, results: dict[str, Any]) -> str:
    rows, crossed = [], recipe.splits.cross_conformal
    for name, one in results["intervals"].items():
        width = "; ".join(_width(band, last=band is one["half"][-1]) for band in one["half"])
        low, high = one["test"]["interval"]
        rows.append(
            (
                name,
                width,
                f"{one['test']['covered']} of {one['test']['of']}",
                f"{low:.2f} to {high:.2f}",
                f"{one['test']['median_width']:.3g}",
            )
        )
    return f"""## Intervals

{"Cross" if crossed else "Split"}-conformal at {100 * COVERAGE:.0f} %, from the {results["conformal_images"]} shown images of {"all but test" if crossed else "the conformal split"}, by size where
there were enough. Images of one subject count one by one. They hold for pictures like these on average: not for each
scanner by itself. The last two columns are of the test split: the share inside with its exact binomial 95 %
interval, and the median width of the whole interval.{_widest(results["conformal_images"])}

{table(("measurement", "half-width", "inside on test", "95 %", "median width"), rows)}"""


def _widest(images: int) -> str:
    """Why a few images make an interval wide, where it is the largest error that makes it."""
    if rank(images, COVERAGE) < images:
        return ""
    return f""" With {images} images a width is
the largest of their errors: one picture sets it, and one whose outline is far off, as of a lung that disease hides, makes
every interval of that measurement as wide. It says how little is known, not how large errors usually are."""


def _width(band: dict[str, float], last: bool) -> str:
    text = f"{100 * band['relative']:.2f} %" if band["relative"] else f"{band['absolute']:.3g}"
    return text if last else f"{text} up to {band['up_to']:g}"


def _confidence(recipe: Recipe, results: dict[str, Any]) -> str:
    risk, unit = results["risk"], results["unit"]
    return f"""## When it is unsure

Images sorted by (1 - Soft Dice Confidence) times the value, which is what the model itself doubts: the area under the
risk-coverage curve of the {ENDPOINTS[recipe.anatomy].words} is {risk["aurc"]:.3f} {unit} on the images that were not trained
on; the best possible order would give {risk["aurc_ideal"]:.3f}, no order {risk["aurc_without"]:.3f}. Of the
{risk["large"]} errors {results["large_is"]}, {risk["large_in_last_tenth"]} are among the tenth of the images with the
most doubt.

![Risk and coverage](risk_coverage.png)"""


def _foreign(results: dict[str, Any]) -> str:
    rule, rows, total = results["rule"], [], {"train": [0, 0], "test": [0, 0]}
    for kind, splits in results["foreign"].items():
        cells = []
        for split in ("train", "test"):
            count = splits.get(split)
            cells.append(f"{count[0]} of {count[1]}" if count else "-")
            if count:
                total[split] = [total[split][0] + count[0], total[split][1] + count[1]]
        rows.append((kind, *cells))
    rows.append(("**all**", *(f"**{total[split][0]} of {total[split][1]}**" for split in ("train", "test"))))
    withheld = ", ".join(
        f"{results[split]['withheld']} of {results[split]['images']} ({split})"
        for split in ("tune", "conformal", "test")
    )
    fit = (
        f", and its overlap with its own ellipse {rule['min_ellipse_iou']:.3f}"
        if rule["min_ellipse_iou"]
        else ""
    )
    return f"""## Foreign pictures

A number is shown only where presence is at least {rule["min_presence"]:.3f} and the Soft Dice Confidence of the mask at
least {rule["min_confidence"]:.3f}{fit}: chosen on the tune split so that at least {100 * KEEP:.0f} % of its images stay.
Own images withheld by it: {withheld}.

Frames for which a number would be shown by these limits alone; the runtime's other checks come on top:

{table(("what is in front of the model", "trained on", "held out"), rows)}

"Trained on" says nothing about new images; "held out" are other patients, series or files, of the same hospitals and,
for the rarer classes, few. Frames of one cine count one by one."""


def _precision(results: dict[str, Any]) -> str:
    rows = [
        (
            name.replace("_", " "),
            f"{one['dice']:.4f}",
            f"{one['mean']:.4f}",
            f"{one['p99']:.4f}",
            f"{one['max']:.4f}",
            f"{one['presence']:.4f}",
        )
        for name, one in results["agreement"].items()
    ]
    unit = "share of the value" if results["relative"] else results["unit"]
    return f"""## Precisions and runtimes

Differences of the network that ships from OpenVINO FP32 over the images of tune, conformal and test, in {unit}.

{table(("", "Dice", "mean", "99th percentile", "largest", "presence"), rows)}"""


def _speed(results: dict[str, Any]) -> str:
    speed = results.get("speed")
    if not speed:
        return ""
    rows = [(isa, name, f"{ms:.2f}") for isa, one in speed.items() for name, ms in one.items()]
    return f"""## Speed

Milliseconds of one inference on one core, input already in place; medians of interleaved rounds on a shared x86
server core (`python benchmarks/precisions.py`).

{table(("instructions", "runtime and precision", "ms"), rows)}"""


def _again(recipe: Recipe, results: dict[str, Any]) -> str:
    training, splits, judge = results["training"], recipe.splits, ""
    if splits.folds:
        judge = f"\n    python -m models.training.folds {recipe.name}"
    elif splits.refit:
        judge = f"\n    python -m models.training.train {recipe.name} --measured"
    return f"""## Size and how to make it again

{results["parameters"]:,} parameters, {results["size_bytes"] / 1e6:.1f} MB in FP32, {results["gmac"]:.2f} GMAC a frame at
{recipe.network.grid_hw[0]} x {recipe.network.grid_hw[1]}. Trained for {training["steps"]} batches of {recipe.training.batch} in
{training["seconds"] / 60:.0f} minutes on one CPU core of a shared machine (seed {training["seed"]}); from a checkout with the
`train` extra and `EDGE_RUNTIME_DATA` set:

    python -m models.training.train {recipe.name}{judge}
    python -m models.training.ship {recipe.name}"""


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [tuple(head), ("---",) * len(head), *map(tuple, rows)]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
