"""Measures an exported model on the images it was not trained on, and chooses its limits and intervals.

Dice and millimetres are taken at the source's resolution and through the runtime's own preprocessing, as a
stranger would judge them. Limits are chosen on the tune split, intervals on the conformal split, both are
reported on the test split. Knows nothing about torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray

from edge_runtime.codes import SourceKind
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.preprocess import Preprocess
from edge_runtime.types import Frame, Geometry, Origin
from models.training import augment
from models.training.data import (
    GRID_HW,
    TRAINED_CINES,
    Grey,
    Item,
    data_root,
    dicom_frames,
    heads,
    negatives,
    read_grey,
)

KEEP_HEADS = 0.98  # of the tune split
COVERAGE = 0.9
SIZE_BANDS_MM = ((0.0, 97.7), (97.7, 150.0), (150.0, 220.0), (220.0, 400.0))
PHANTOMS = [(hc, seed) for hc in (90.0, 140.0, 180.0, 220.0, 260.0, 300.0, 330.0) for seed in (1, 2, 3, 7)]

Network = Callable[
    [Grey], tuple[NDArray[np.float32], float]
]  # grid (h, w) to probabilities (h, w) and presence


@dataclass(frozen=True)
class Seen:
    """What the model says about one image, on its grid."""

    presence: float
    confidence: float
    ellipse_iou: float
    axes_mm: tuple[float, float]  # long and short diameter; in source pixels where there is no spacing
    dice: float = math.nan

    @property
    def hc_mm(self) -> float:
        return circumference(*self.axes_mm)


def network_of(model: Path, runtime: str) -> Network:
    """`runtime` is openvino_fp32, openvino_bf16 or onnxruntime."""
    if runtime == "onnxruntime":
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        return lambda grid: _unpack(session.run(["mask", "presence"], {"image": grid[None, None]}))
    hint = {"openvino_fp32": "f32", "openvino_bf16": "bf16"}[runtime]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(str(model), "CPU", options).create_infer_request()

    def run(grid: Grey) -> tuple[NDArray[np.float32], float]:
        request.infer({"image": grid[None, None]})
        return _unpack([request.get_tensor(name).data for name in ("mask", "presence")])

    return run


def look(
    network: Network, image: Grey, spacing_mm: tuple[float, float] = (1.0, 1.0), truth: Grey | None = None
) -> Seen:
    """Runs one image (H, W); `spacing_mm` is (x, y), `truth` (H, W) is above 127 where the head is."""
    slot = np.zeros((1, 1, *GRID_HW), np.uint8)
    frame = Frame(image, 0, 0, Origin(SourceKind.FOLDER, "evaluation"), "0.evaluation")
    geometry = Preprocess(GRID_HW).into(frame, slot)
    probability, presence = network(slot[0, 0])
    dice = math.nan if truth is None else dice_at_source(probability, geometry, truth)
    found = probability > 0.5
    confidence = 2 * float(probability[found].sum()) / max(1e-6, float(probability.sum() + found.sum()))
    mask = cleaned(found)
    if not mask.any():
        return Seen(presence, 0.0, 0.0, (0.0, 0.0), dice)
    cell_mm = geometry.step_x * spacing_mm[0], geometry.step_y * spacing_mm[1]
    return Seen(presence, confidence, ellipse_iou(mask), ellipse_axes(mask, cell_mm), dice)


def dice_at_source(probability: NDArray[np.float32], geometry: Geometry, truth: Grey) -> float:
    """Dice of the probabilities, resized bilinearly to the source, against its mask."""
    box = geometry.content
    inside = probability[box.y0 : box.y1, box.x0 : box.x1]
    found = cv2.resize(inside, (truth.shape[1], truth.shape[0]), interpolation=cv2.INTER_LINEAR) > 0.5
    wanted = truth > 127
    return 2 * float((found & wanted).sum()) / max(1, int(found.sum()) + int(wanted.sum()))


def cleaned(found: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The largest connected part with its holes filled, 0 and 1."""
    contours, _ = cv2.findContours(found.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    mask = np.zeros(found.shape, np.uint8)
    if contours:
        cv2.drawContours(mask, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return mask


def ellipse_axes(mask: NDArray[np.uint8], cell: tuple[float, float]) -> tuple[float, float]:
    """Long and short diameter of the ellipse with the mask's second moments; `cell` is a cell's size (x, y).

    A cell is a square and not a point, which adds a twelfth of its side squared to each variance.
    """
    moments = cv2.moments(mask, binaryImage=True)
    area = moments["m00"]
    xx = (moments["mu20"] / area + 1 / 12) * cell[0] ** 2
    yy = (moments["mu02"] / area + 1 / 12) * cell[1] ** 2
    xy = moments["mu11"] / area * cell[0] * cell[1]
    spread = math.hypot((xx - yy) / 2, xy)
    return 4 * math.sqrt((xx + yy) / 2 + spread), 4 * math.sqrt(max(0.0, (xx + yy) / 2 - spread))


def circumference(long: float, short: float) -> float:
    """Ramanujan II, from two diameters."""
    a, b = long / 2, short / 2
    h = ((a - b) / (a + b)) ** 2 if a + b else 0.0
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def ellipse_iou(mask: NDArray[np.uint8]) -> float:
    """Overlap of a mask with its own moment ellipse, on the grid."""
    moments = cv2.moments(mask, binaryImage=True)
    area = moments["m00"]
    xx, yy = moments["mu20"] / area + 1 / 12, moments["mu02"] / area + 1 / 12
    xy = moments["mu11"] / area
    det = max(1e-9, xx * yy - xy * xy)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    dx, dy = x - moments["m10"] / area, y - moments["m01"] / area
    ellipse = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / det <= 4.0
    return float((ellipse & (mask > 0)).sum()) / max(1, int((ellipse | (mask > 0)).sum()))


# ---------------------------------------------------------------- what is looked at


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
    items = [item for item in heads(root) if item.split != "train"]
    networks = {name: network_of(model, name) for name in ("openvino_fp32", "openvino_bf16", "onnxruntime")}
    truths = [read_truth(item) for item in items]
    seen: dict[str, list[Seen]] = {name: [] for name in networks}
    for item, (image, mask) in zip(items, truths, strict=True):
        for name, network in networks.items():
            seen[name].append(look(network, image, item.spacing_mm or (1, 1), mask))
    fp32 = seen["openvino_fp32"]
    of = {
        split: [i for i, item in enumerate(items) if item.split == split]
        for split in ("tune", "conformal", "test")
    }
    foreign = [
        (kind, split, look(networks["openvino_fp32"], image)) for kind, split, image in foreign_frames(root)
    ]
    rule = choose_rule([fp32[i] for i in of["tune"]])
    true_axes = [
        ellipse_axes((mask > 127).astype(np.uint8), item.spacing_mm or (1, 1))
        for item, (_, mask) in zip(items, truths, strict=True)
    ]
    return {
        "size_bytes": model.stat().st_size,
        "rule": rule,
        "splits": {split: len({subject_of(items[i]) for i in of[split]}) for split in of},
        "heads": {
            split: describe([items[i] for i in of[split]], [fp32[i] for i in of[split]], rule) for split in of
        },
        "interval": intervals(items, fp32, true_axes, of, rule),
        "precision": {name: agreement(fp32, seen[name]) for name in networks if name != "openvino_fp32"},
        "foreign": foreign_rates(foreign, rule),
        "foreign_presence_alone": foreign_rates(
            foreign, {**rule, "min_confidence": 0.0, "min_ellipse_iou": 0.0}
        ),
        "phantom": phantom_errors(networks["openvino_fp32"], rule),
    }


def read_truth(item: Item) -> tuple[Grey, Grey]:
    assert item.mask is not None
    return read_grey(item.path), read_grey(item.mask)


def subject_of(item: Item) -> str:
    return item.path.stem.split("_")[0]


def shown(seen: Seen, rule: dict[str, float]) -> bool:
    """Whether a number would be shown."""
    return (
        seen.presence >= rule["min_presence"]
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


def describe(items: list[Item], seen: list[Seen], rule: dict[str, float]) -> dict[str, Any]:
    """Dice and circumference errors of one split, over all its heads, withheld or not."""
    dice = np.array([one.dice for one in seen])
    truth = np.array([item.hc_mm for item in items])
    error = np.array([one.hc_mm for one in seen]) - truth
    kept = np.array([shown(one, rule) for one in seen])
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
                    "dice": _mean(dice[inside]),
                }
            )
    return {
        "images": len(items),
        "dice": {
            "mean": _mean(dice),
            "median": float(np.median(dice)),
            "p5": float(np.percentile(dice, 5)),
            "worst": float(dice.min()),
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


def intervals(
    items: list[Item],
    seen: list[Seen],
    true_axes: list[tuple[float, float]],
    of: dict[str, list[int]],
    rule: dict[str, float],
) -> dict[str, Any]:
    """Split-conformal half-widths over the heads that are shown: shape from tune, size from conformal."""
    pairs = {
        "head_circumference": [(one.hc_mm, item.hc_mm or 0.0) for item, one in zip(items, seen, strict=True)],
        "biparietal_diameter": [(one.axes_mm[1], true[1]) for true, one in zip(true_axes, seen, strict=True)],
        "occipitofrontal_diameter": [
            (one.axes_mm[0], true[0]) for true, one in zip(true_axes, seen, strict=True)
        ],
    }
    kept = {split: [i for i in of[split] if shown(seen[i], rule)] for split in of}
    half_width, test = {}, {}
    for name, values in pairs.items():
        table = np.array(values)
        tune, conformal, held = (table[kept[split]] for split in ("tune", "conformal", "test"))
        # the error grows with the head; below the smallest tenth of the heads it does not shrink any more
        knee = float(np.quantile(tune[:, 0], 0.1))
        scale = _scale(conformal, knee)
        half_width[name] = {"absolute_mm": scale * knee, "relative": scale}
        width = scale * np.maximum(knee, held[:, 0])
        inside = np.abs(held[:, 0] - held[:, 1]) <= width
        test[name] = {
            "covered": int(inside.sum()),
            "of": len(held),
            "median_half_width_mm": float(np.median(width)),
        }
    exams = len({subject_of(items[i]) for i in kept["conformal"]})
    return {"half_width": half_width, "exams": exams, "images": len(kept["conformal"]), "test": test}


def _scale(pairs: NDArray[np.float64], knee: float) -> float:
    """The conformal quantile of |error| / max(knee, value)."""
    scores = np.sort(np.abs(pairs[:, 0] - pairs[:, 1]) / np.maximum(knee, pairs[:, 0]))
    rank = min(len(scores), math.ceil((len(scores) + 1) * COVERAGE))
    return float(scores[rank - 1])


def agreement(reference: list[Seen], other: list[Seen]) -> dict[str, Any]:
    """How far another runtime or precision is from the reference, over all heads not trained on."""
    delta = np.abs([a.hc_mm - b.hc_mm for a, b in zip(reference, other, strict=True)])
    dice = abs(
        _mean(np.array([one.dice for one in reference])) - _mean(np.array([one.dice for one in other]))
    )
    presence = max(abs(a.presence - b.presence) for a, b in zip(reference, other, strict=True))
    p99, largest = float(np.percentile(delta, 99)), float(delta.max())
    return {
        "images": len(delta),
        "dhc_p99_mm": p99,
        "dhc_max_mm": largest,
        "dice_mean": _mean(np.array([one.dice for one in other])),
        "dice_difference": dice,
        "presence_max_difference": presence,
        "accepted": p99 <= 0.5 and largest <= 1.0 and dice <= 0.001,
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


def phantom_errors(network: Network, rule: dict[str, float]) -> dict[str, Any]:
    """Percent error of the circumference on drawn heads of known size, seeds never trained on."""
    errors, kept = [], 0
    for hc_mm, seed in PHANTOMS:
        spec = PhantomSpec(hc_mm=hc_mm, seed=seed)
        for index in (0, 60):
            seen = look(network, render(spec, index)[0], (spec.pixel_mm, spec.pixel_mm))
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


def _unpack(outputs: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    return np.asarray(outputs[0])[0, 0].copy(), float(np.asarray(outputs[1]).ravel()[0])


def _logit(share: float) -> float:
    clipped = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values))
