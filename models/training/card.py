"""Writes CARD.md from what `evaluate.py` measured. Knows no number of its own."""

from __future__ import annotations

from typing import Any


def card_of(results: dict[str, Any]) -> str:
    """The text of the card of the fetal head model."""
    return "\n".join(
        (
            _INTENDED,
            _data(results),
            _accuracy(results),
            _interval(results),
            _foreign(results),
            _agreement(results),
            _again(results),
        )
    )


def _data(results: dict[str, Any]) -> str:
    splits, test = results["splits"], results["heads"]
    counts = ", ".join(f"{name} {splits[name]} exams ({test[name]['images']} images)" for name in splits)
    return _DATA.format(counts=counts)


def _accuracy(results: dict[str, Any]) -> str:
    test = results["heads"]["test"]
    dice, hc = test["dice"], test["hc_mm"]
    low, high = hc["mae_interval"]
    errors = ["all", f"{hc['mae']:.2f} ({low:.2f} to {high:.2f})", f"{hc['sd']:.2f}", f"{hc['bias']:+.2f}"]
    errors += [f"{hc['p95']:.2f}", f"{hc['max']:.2f}"]
    bands = _table(
        ("published HC, mm", "images", "mean absolute error, mm", "%", "Dice"),
        [
            (
                f"{band['from']:g} to {band['to']:g}",
                band["images"],
                f"{band['mae_mm']:.2f}",
                f"{band['mae_percent']:.2f}",
                f"{band['dice']:.4f}",
            )
            for band in test["bands"]
        ],
    )
    phantom = results["phantom"]
    return f"""
## How accurate

On the {test["images"]} images of {results["splits"]["test"]} exams of the test split, none withheld unless
said so; Dice at the source's resolution, circumference (HC) against the published one through the exact
geometry. With HC18 in DATA (`images/`, `masks/`, `meta.csv`), the runtime gives these figures again:

    edge-runtime evaluate --model fetal_head --data DATA --subjects models/fetal_head/test_subjects.txt

They are those of OpenVINO in FP32 (`--precision fp32` where `auto` means BF16, see below).

| | mean | median | 5th percentile | worst |
|---|---|---|---|---|
| Dice | {dice["mean"]:.4f} | {dice["median"]:.4f} | {dice["p5"]:.4f} | {dice["worst"]:.4f} |

| HC error, mm | mean absolute (95 % interval) | standard deviation | bias | 95th percentile | largest |
|---|---|---|---|---|---|
| {" | ".join(errors)} |
| shown only | {hc["mae_shown"]:.2f} | | | | {hc["max_shown"]:.2f} |

{bands}

Drawn heads (`phantom:fetal_head`) of known circumference, {phantom["images"]} frames of seeds never trained
on: mean absolute error {phantom["mean_abs_percent"]:.2f} %, largest {phantom["max_abs_percent"]:.2f} %,
bias {phantom["bias_percent"]:+.2f} %; {phantom["shown"]} of {phantom["images"]} are shown. A picture that
somebody drew says nothing about patients.
"""


def _interval(results: dict[str, Any]) -> str:
    interval = results["interval"]
    rows = []
    for name, width in interval["half_width"].items():
        test = interval["test"][name]
        share = 100 * test["covered"] / test["of"]
        unit = "points" if name == "cephalic_index" else "mm"
        rows.append(
            (
                name,
                _half_width(width, unit),
                f"{test['covered']} of {test['of']} ({share:.1f} %)",
                f"{test['median_half_width']:.2f} {unit}",
            )
        )
    table = _table(("measurement", "half-width", "covered on test", "median half-width on test"), rows)
    return f"""
## Intervals

Split-conformal at {100 * 0.9:g} %, from the {interval["images"]} shown images of {interval["exams"]} exams
of the conformal split; true diameters and the true cephalic index (100 BPD / OFD, in points) are those of the
mask's moment ellipse. Images of one exam count one by one. They hold for heads like these on average: not for
each size or each scanner by itself. The floor of a length is that of the smallest tenth of the tune heads; one
fitted to the tune split was tried first, covered too few of the test split's circumferences, and was given up
for that.

{table}
"""


def _half_width(width: dict[str, float], unit: str) -> str:
    """A half-width in the value's own unit; a share of a length is in % of it."""
    if not width["relative"]:
        return f"{width['absolute']:.2f} {unit}"
    return f"max({width['absolute']:.2f} {unit}, {100 * width['relative']:.2f} %)"


def _foreign(results: dict[str, Any]) -> str:
    rule, heads = results["rule"], results["heads"]
    rows = []
    total = {"train": [0, 0], "test": [0, 0]}
    for kind, splits in results["foreign"].items():
        alone = results["foreign_presence_alone"][kind]
        cells = []
        for split in ("train", "test"):
            count = splits.get(split)
            cells.append(f"{count[0]} of {count[1]}" if count else "-")
            if count:
                total[split] = [total[split][0] + count[0], total[split][1] + count[1]]
        held = alone.get("test")
        rows.append((kind, *cells, f"{held[0]} of {held[1]}" if held else "-"))
    sums = [f"**{total[split][0]} of {total[split][1]}**" for split in ("train", "test")]
    table = _table(
        ("what is in front of the model", "trained on", "held out", "held out, by presence alone"),
        [*rows, ("**all**", *sums, "")],
    )
    test, conformal, tune = heads["test"], heads["conformal"], heads["tune"]
    return f"""
## What is no head

A number is shown only where presence is at least {rule["min_presence"]:.3f}, the Soft Dice Confidence of
the mask at least {rule["min_confidence"]:.3f} and its overlap with its own ellipse at least
{rule["min_ellipse_iou"]:.3f}: chosen on the tune split so that at least 98 % of its heads stay. Heads
withheld by it: {tune["withheld"]} of {tune["images"]} (tune), {conformal["withheld"]} of
{conformal["images"]} (conformal), **{test["withheld"]} of {test["images"]} (test)**.

Frames for which a number would be shown by these three limits alone; the runtime's other checks come on top
and are not counted:

{table}

"Trained on" says nothing about new images; "held out" are other patients, series or files, of the same
hospitals and, for the rarer classes, few. `head_wrong_plane` are heads in a plane that is wrong for
measuring: what gets through there is a head, and its number is wrong. Frames of one cine count one by one.
"""


def _agreement(results: dict[str, Any]) -> str:
    names = {"openvino_bf16": "OpenVINO, BF16 hint", "onnxruntime": "ONNX Runtime, FP32"}
    rows = [
        (
            names[name],
            f"{one['dice_mean']:.4f}",
            f"{one['dhc_p99_mm']:.3f}",
            f"{one['dhc_max_mm']:.3f}",
            f"{one['presence_max_difference']:.4f}",
            "yes" if one["accepted"] else "no",
        )
        for name, one in results["precision"].items()
    ]
    images = results["precision"]["onnxruntime"]["images"]
    table = _table(
        ("against OpenVINO FP32", "Dice", "p99 of HC, mm", "largest, mm", "presence", "accepted"), rows
    )
    return f"""
## Precisions and runtimes

Differences over the {images} heads that were not trained on. Accepted: p99 at most 0.5 mm, largest at most
1 mm, Dice within 0.001.

{table}
"""


def _again(results: dict[str, Any]) -> str:
    training = results["training"]
    limits = f"--seed {training['seed']} --seconds {training['limit']:.0f}"
    return f"""
## Size and how to make it again

{results["parameters"]:,} parameters, {results["size_bytes"] / 1e6:.1f} MB, {results["gmac"]:.2f} GMAC a
frame. Trained for {training["epochs"]} epochs in {training["seconds"] / 60:.0f} minutes on two CPU cores
shared with other work (seed {training["seed"]}), from a checkout with the `train` extra and
`EDGE_RUNTIME_DATA` set:

    python -m models.training.train --out build/fetal_head {limits}
    python -m models.training.export --weights build/fetal_head/weights.pt

The schedule follows the clock, so another machine, or a busy one, gives other weights; the spread between
repetitions was not measured. This card, `model.onnx`, `test_subjects.txt` and the recipe in `calibration/` are
written by the second command; `make quantize` makes the bundle of them.
"""


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


_INTENDED = """# fetal_head

**Research use only, not a medical device.** Outlines the fetal head in a B-mode ultrasound image of the
standard plane for head circumference and says how sure it is that the image is one.

## Intended use

Measuring head circumference (HC), biparietal and occipitofrontal diameter (outer to outer) on images that a
trained person has acquired in the standard transverse plane, with a spacing that is known, on the device,
while that person looks.

## Not to be used

* To judge whether the plane is right: any cut through a skull is an ellipse, and an oblique one reads too
  small with a perfect fit. A value is `caution` until a person confirms the plane.
* To judge whether a head is normal, or to date a pregnancy: there was no ground truth for gestational age,
  and no age was learnt.
* On images without a known spacing, for anything in millimetres; outside 0.03 to 0.5 mm per pixel; on twins
  in one image; on deformed, moulded or operated heads, of which none is known to be in the data.
* Without looking at the overlay."""

_DATA = """
## Data

* Heads: HC18, CC BY 4.0. van den Heuvel TLA, de Bruijn D, de Korte CL, van Ginneken B. Automated
  measurement of fetal head circumference using 2D ultrasound images. PLoS ONE 13(8): e0200412 (2018). 760
  images of 606 exams with filled head masks and published circumferences.
* What is no head: FETAL_PLANES_DB (Burgos-Artizzu X et al., Sci Rep 10, 10200, 2020) and African fetal
  planes (Sendra-Balcells C et al., 2023), CC BY 4.0; carotid arteries, Momot A, Mendeley Data d4xt63mgjm
  (2022), CC BY 4.0; chest X-rays of Montgomery County, a public release of the US National Library of
  Medicine (Jaeger S et al. 2014, Candemir S et al. 2014), for which no licence text was found.
* Changed: resized, warped, brightened, darkened, covered with marks, combined with one another; masks and
  values untouched.
* Drawn by `edge_runtime/frames/phantom.py`: 26 heads (5 % of the heads trained on) and 12 scenes without
  one.

Heads are split by exam with a seeded hash, never by image (`models/training/data.py`, `split_of`): 70 %
of the exams to train; {counts}.
Negatives are split by patient, series or file, 40 % held out. Heads in wrong planes were not trained on: too
few, and too like the right ones, to teach more than their hospital. Of the DICOM files one echo cine
(`us_acuson_65f`) was.

**Limits.** All heads come from stills of one centre in the Netherlands and from standard planes only. The
606 exam numbers come from 551 women, so the same woman may appear in two splits. The wrong planes and other
anatomy are few (116 images), and come from other hospitals than the heads do: a network can tell hospitals
apart. Pieces of each were put into the other's frames while training, which makes that harder and does not
rule it out."""
