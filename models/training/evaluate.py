"""Measures an exported model on the images it was not trained on, and chooses its limits and intervals.

Masks, ellipses, Dice and intervals are those of the runtime itself, run without limits: `edge-runtime
evaluate` gives the same numbers again. Limits are chosen on the tune split, intervals on the conformal split,
both are reported on the test split. Knows nothing about torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.agreement import dice
from edge_runtime.codes import MeasurementName, SourceKind, SpacingSource
from edge_runtime.commands.evaluate import labelled
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.infer.backends.openvino import OpenVinoBackend
from edge_runtime.infer.model import Artifact, Manifest, Model, OutputSpec, Precision
from edge_runtime.measure.ellipse import Ellipse, moment_ellipse, overlap
from edge_runtime.measure.fetal_head import LABELS
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.pictures import full_mask, read_truth
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame, Origin, Spacing
from models.training import augment
from models.training.data import TRAINED_CINES, Grey, data_root, dicom_frames, negatives, read_grey, split_of

KEEP_HEADS = 0.98  # of the tune split
COVERAGE = 0.9
SIZE_BANDS_MM = ((0.0, 97.7), (97.7, 150.0), (150.0, 220.0), (220.0, 400.0))
PHANTOMS = [(hc, seed) for hc in (90.0, 140.0, 180.0, 220.0, 260.0, 300.0, 330.0) for seed in (1, 2, 3, 7)]
RUNTIMES: dict[str, tuple[type[OpenVinoBackend | OnnxRuntimeBackend], Precision]] = {
    "openvino_fp32": (OpenVinoBackend, "fp32"),
    "openvino_bf16": (OpenVinoBackend, "bf16"),
    "onnxruntime": (OnnxRuntimeBackend, "fp32"),
}

HC = MeasurementName.HEAD_CIRCUMFERENCE.value
CI = MeasurementName.CEPHALIC_INDEX.value


@dataclass(frozen=True)
class Head:
    """A head that was not trained on, and what is true of it."""

    subject: str
    split: str  # tune, conformal or test
    values: dict[str, float]  # by measurement name: the published circumference, the mask's own diameters


@dataclass(frozen=True)
class Seen:
    """What the model says about one image, shown or not."""

    presence: float
    confidence: float
    ellipse_iou: float
    values: dict[str, float]  # by measurement name, in mm or source pixels and %; nan where nothing was found
    dice: float = math.nan

    @property
    def hc_mm(self) -> float:
        return self.values[HC]


Pair = tuple[Head, Seen]


def pipeline_of(model: Path, runtime: str) -> Pipeline:
    """The runtime's own pipeline for an ONNX file that has no limits yet; `runtime` is a row of `RUNTIMES`."""
    manifest = Manifest(
        name="fetal_head",
        anatomy="fetal_head",
        artifacts={"fp32": Artifact(file=model.name)},
        output=OutputSpec(mask="mask", labels=LABELS, presence="presence"),
    )
    kind, precision = RUNTIMES[runtime]
    unlimited = Model(home=model.parent, manifest=manifest, sha256="")
    return build_pipeline(unlimited, kind(model, unlimited, precision, 1))


def look(pipeline: Pipeline, frame: Frame, truth: NDArray[np.uint8] | None = None) -> Seen:
    """Runs one image; `truth` (H, W) is 1 where the head is."""
    mask = pipeline.step(frame).mask
    if mask is None:
        raise SystemExit(f"evaluate: the model gave no mask for {frame.origin.name}; do not ship it")
    score = math.nan if truth is None else dice(full_mask(mask, frame.size_hw) == 1, truth == 1)
    head, way = mask.of("head"), mask.geometry
    cell = (way.step_y, way.step_x) if frame.spacing is None else way.cell_mm(frame.spacing)
    ellipse = moment_ellipse(head, cell)
    fits = 0.0 if ellipse is None else overlap(ellipse, head)
    return Seen(mask.presence, mask.confidence[0], fits, values_of(ellipse), score)


def values_of(ellipse: Ellipse | None) -> dict[str, float]:
    """The measurements of an ellipse that have an interval, by name; nan for none."""
    around, a, b = (
        (math.nan,) * 3
        if ellipse is None
        else (ellipse.circumference, 2 * ellipse.semi_major, 2 * ellipse.semi_minor)
    )
    name = MeasurementName
    return {
        HC: around,
        name.BIPARIETAL_DIAMETER.value: b,
        name.OCCIPITOFRONTAL_DIAMETER.value: a,
        CI: 100 * b / a,
    }


def frame_of(pixels: Grey, name: str, pixel_mm: float | None = None) -> Frame:
    """An image (H, W) as the runtime gets it."""
    spacing = None if pixel_mm is None else Spacing(pixel_mm, pixel_mm, SpacingSource.PHANTOM)
    return Frame(pixels, 0, 0, Origin(SourceKind.FOLDER, name), "0.evaluation", spacing=spacing)


# ---------------------------------------------------------------- what is looked at


def held_out_heads(root: Path) -> Iterator[tuple[Head, Frame, NDArray[np.uint8]]]:
    """Every head outside the train split with its image and its mask (H, W), read as the runtime reads them."""
    for frame, row in labelled(root / "fetal_head", None):
        split = split_of(row["subject"])
        if split == "train":
            continue
        truth = read_truth(root / "fetal_head" / "masks" / f"{Path(frame.origin.name).stem}.png", LABELS)
        assert frame.spacing is not None
        ellipse = moment_ellipse(truth == 1, (frame.spacing.row_mm, frame.spacing.col_mm))
        yield Head(row["subject"], split, {**values_of(ellipse), HC: float(row["hc_mm"])}), frame, truth


def foreign_frames(root: Path) -> Iterator[tuple[str, str, Grey]]:
    """(class, train or test, image) of everything that is no head in a measuring plane."""
    for item in negatives(root):
        yield item.kind, item.split, read_grey(item.path)
    for path in sorted((root / "dicom").glob("*.dcm")):
        for grey in dicom_frames(path):
            yield f"dicom {path.stem}", "train" if path.stem in TRAINED_CINES else "test", grey
    rng = np.random.default_rng(2**31)
    for _ in range(100):
        yield "test patterns", "train", augment.nothing(rng).image
    for pattern in ("noise", "text"):
        for index in range(20):
            yield f"phantom {pattern}", "test", render(PhantomSpec(pattern=pattern, seed=5), index)[0]
    for seed in range(1, 21):
        yield "phantom without a head", "test", render(PhantomSpec(seed=seed, empty=1), 0)[0]


# ---------------------------------------------------------------- what is reported


def evaluate(model: Path) -> dict[str, Any]:
    """Everything the card and the manifest say, as JSON."""
    root = data_root()
    pipelines = {name: pipeline_of(model, name) for name in RUNTIMES}
    all_heads: list[Head] = []
    seen: dict[str, list[Seen]] = {name: [] for name in pipelines}
    for head, frame, truth in held_out_heads(root):
        all_heads.append(head)
        for name, pipeline in pipelines.items():
            seen[name].append(look(pipeline, frame, truth))
    reference = pipelines["openvino_fp32"]
    pairs: dict[str, list[Pair]] = {"tune": [], "conformal": [], "test": []}
    for pair in zip(all_heads, seen["openvino_fp32"], strict=True):
        pairs[pair[0].split].append(pair)
    foreign = [
        (kind, split, look(reference, frame_of(image, kind))) for kind, split, image in foreign_frames(root)
    ]
    rule = choose_rule([one for _, one in pairs["tune"]])
    results = {
        "size_bytes": model.stat().st_size,
        "rule": rule,
        "splits": {split: len({head.subject for head, _ in of}) for split, of in pairs.items()},
        "heads": {split: describe(of, rule) for split, of in pairs.items()},
        "interval": intervals({split: [p for p in of if shown(p[1], rule)] for split, of in pairs.items()}),
        "precision": {
            name: agreement(seen["openvino_fp32"], seen[name])
            for name in pipelines
            if name != "openvino_fp32"
        },
        "foreign": foreign_rates(foreign, rule),
        "foreign_presence_alone": foreign_rates(
            foreign, {**rule, "min_confidence": 0.0, "min_ellipse_iou": 0.0}
        ),
        "phantom": phantom_errors(reference, rule),
    }
    for pipeline in pipelines.values():
        pipeline.close()
    return results


def shown(seen: Seen, rule: dict[str, float]) -> bool:
    """Whether a number would be shown: there is one, and no limit of `rule` withholds it."""
    return (
        not math.isnan(seen.hc_mm)
        and seen.presence >= rule["min_presence"]
        and seen.confidence >= rule["min_confidence"]
        and seen.ellipse_iou >= rule["min_ellipse_iou"]
    )


def choose_rule(tune: list[Seen]) -> dict[str, float]:
    """Limits under which the tune heads stay, each a little below what its lowest heads have.

    The allowance of 1 - KEEP_HEADS goes to the presence output; the other two keep every head it keeps.
    """
    presences = sorted(seen.presence for seen in tune)
    lowest = presences[int((1 - KEEP_HEADS) * len(presences))]
    kept = [seen for seen in tune if seen.presence >= lowest]
    limit = 1 / (1 + math.exp(-(_logit(lowest) - 0.7)))  # half the odds: a tune split is small
    return {
        "min_presence": math.floor(1000 * min(0.9, limit)) / 1000,
        "min_confidence": math.floor(1000 * (min(seen.confidence for seen in kept) - 0.01)) / 1000,
        "min_ellipse_iou": math.floor(1000 * (min(seen.ellipse_iou for seen in kept) - 0.01)) / 1000,
    }


def describe(pairs: list[Pair], rule: dict[str, float]) -> dict[str, Any]:
    """Dice and circumference errors of one split, over all its heads, withheld or not."""
    scores = np.array([one.dice for _, one in pairs])
    truth = np.array([head.values[HC] for head, _ in pairs])
    error = np.array([one.hc_mm for _, one in pairs]) - truth
    kept = np.array([shown(one, rule) for _, one in pairs])
    rng = np.random.default_rng(0)
    means = np.abs(error)[rng.integers(0, len(error), (2000, len(error)))].mean(1)
    bands = []
    for low, high in SIZE_BANDS_MM:
        inside = (truth >= low) & (truth < high)
        if inside.any():
            share = 100 * np.abs(error[inside]) / truth[inside]
            bands.append(
                {
                    "from": low,
                    "to": high,
                    "images": int(inside.sum()),
                    "mae_mm": _mean(np.abs(error[inside])),
                    "mae_percent": _mean(share),
                    "dice": _mean(scores[inside]),
                }
            )
    return {
        "images": len(pairs),
        "dice": {
            "mean": _mean(scores),
            "median": float(np.median(scores)),
            "p5": float(np.percentile(scores, 5)),
            "worst": float(scores.min()),
        },
        "hc_mm": {
            "mae": _mean(np.abs(error)),
            "mae_interval": [float(v) for v in np.percentile(means, (2.5, 97.5))],
            "sd": float(error.std()),
            "bias": _mean(error),
            "p95": float(np.percentile(np.abs(error), 95)),
            "max": float(np.abs(error).max()),
            "mae_shown": _mean(np.abs(error[kept])),
            "max_shown": float(np.abs(error[kept]).max()),
        },
        "bands": bands,
        "withheld": int((~kept).sum()),
    }


def intervals(shown_pairs: dict[str, list[Pair]]) -> dict[str, Any]:
    """Split-conformal half-widths from the heads that are shown: shape from tune, size from conformal."""
    half_width, test = {}, {}
    for name in values_of(None):
        tune, conformal, held = (
            np.array([(one.values[name], head.values[name]) for head, one in shown_pairs[split]])
            for split in ("tune", "conformal", "test")
        )
        absolute, relative = half_width_of(tune, conformal, grows=name != CI)
        half_width[name] = {"absolute": absolute, "relative": relative}
        rule = MeasureSettings(intervals={name: (absolute, relative)})
        found = np.array([rule.interval(MeasurementName(name), value) for value in held[:, 0]])
        inside = (found[:, 0] <= held[:, 1]) & (held[:, 1] <= found[:, 1])
        test[name] = {
            "covered": int(inside.sum()),
            "of": len(held),
            "median_half_width": float(np.median(found[:, 1] - found[:, 0])) / 2,
        }
    conformal_heads = [head for head, _ in shown_pairs["conformal"]]
    exams = len({head.subject for head in conformal_heads})
    return {"half_width": half_width, "exams": exams, "images": len(conformal_heads), "test": test}


def half_width_of(
    tune: NDArray[np.float64], conformal: NDArray[np.float64], grows: bool
) -> tuple[float, float]:
    """(in the value's own unit, as a share of the value) from rows of (value, true value), rounded up.

    The error of a length `grows` with the head; below the smallest tenth of the heads it does not shrink any
    more. That of a ratio of two lengths does neither.
    """
    error = np.abs(conformal[:, 0] - conformal[:, 1])
    if not grows:
        return math.ceil(100 * _conformal_quantile(error)) / 100, 0.0
    knee = float(np.quantile(tune[:, 0], 0.1))
    relative = _conformal_quantile(error / np.maximum(knee, conformal[:, 0]))
    return math.ceil(100 * knee * relative) / 100, math.ceil(10_000 * relative) / 10_000


def _conformal_quantile(scores: NDArray[np.float64]) -> float:
    """The score that COVERAGE of new ones stay below, as far as these tell."""
    rank = min(len(scores), math.ceil((len(scores) + 1) * COVERAGE))
    return float(np.sort(scores)[rank - 1])


def agreement(reference: list[Seen], other: list[Seen]) -> dict[str, Any]:
    """How far another runtime or precision is from the reference, over all heads not trained on."""
    delta = np.abs([a.hc_mm - b.hc_mm for a, b in zip(reference, other, strict=True)])
    apart = abs(
        _mean(np.array([one.dice for one in reference])) - _mean(np.array([one.dice for one in other]))
    )
    presence = max(abs(a.presence - b.presence) for a, b in zip(reference, other, strict=True))
    p99, largest = float(np.percentile(delta, 99)), float(delta.max())
    return {
        "images": len(delta),
        "dhc_p99_mm": p99,
        "dhc_max_mm": largest,
        "dice_mean": _mean(np.array([one.dice for one in other])),
        "dice_difference": apart,
        "presence_max_difference": presence,
        "accepted": p99 <= 0.5 and largest <= 1.0 and apart <= 0.001,
    }


def foreign_rates(
    foreign: list[tuple[str, str, Seen]], rule: dict[str, float]
) -> dict[str, dict[str, list[int]]]:
    """Per class and split: [images for which a number would be shown, images]."""
    rates: dict[str, dict[str, list[int]]] = {}
    for kind, split, seen in foreign:
        count = rates.setdefault(kind, {}).setdefault(split, [0, 0])
        count[0] += shown(seen, rule)
        count[1] += 1
    return rates


def phantom_errors(pipeline: Pipeline, rule: dict[str, float]) -> dict[str, Any]:
    """Percent error of the circumference on drawn heads of known size, seeds never trained on."""
    errors, kept = [], 0
    for hc_mm, seed in PHANTOMS:
        spec = PhantomSpec(hc_mm=hc_mm, seed=seed)
        for index in (0, 60):
            seen = look(pipeline, frame_of(render(spec, index)[0], "phantom", spec.pixel_mm))
            errors.append(100 * (seen.hc_mm - hc_mm) / hc_mm)
            kept += shown(seen, rule)
    absolute = np.abs(errors)
    return {
        "images": len(errors),
        "shown": kept,
        "mean_abs_percent": _mean(absolute),
        "max_abs_percent": float(absolute.max()),
        "bias_percent": _mean(np.array(errors)),
    }


def _logit(share: float) -> float:
    clipped = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values))
