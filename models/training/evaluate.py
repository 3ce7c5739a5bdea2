"""What an exported model says of images: of labelled ones that it was not trained on, and of foreign ones.

Masks, measurements and Dice are those of the runtime itself, run without limits: `edge-runtime evaluate` gives the
same numbers again. Chooses nothing and sums nothing up (`statistics.py`, `report.py`). Knows nothing about torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.build.agreement import dice
from edge_runtime.codes import MeasurementName, SourceKind, SpacingSource
from edge_runtime.commands.evaluate import labelled
from edge_runtime.errors import BackendError, ConfigError
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.infer.backends.openvino import OpenVinoBackend
from edge_runtime.infer.model import Artifact, InputSpec, Manifest, Model, OutputSpec, Precision
from edge_runtime.measure.anatomy import ELLIPTIC, measured_values
from edge_runtime.measure.ellipse import own_overlap
from edge_runtime.pictures import full_mask, whole_mask
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame, Origin, Spacing
from models.training import looks
from models.training.data import (
    Grey,
    Item,
    dicom_frames,
    fold_subjects,
    foreign_items,
    measured_items,
    own_items,
    read_grey,
    read_labels,
)
from models.training.recipe import MEASURED, Recipe, fold_home

RUNTIMES: dict[str, tuple[type[OpenVinoBackend | OnnxRuntimeBackend], Precision]] = {
    "openvino_fp32": (OpenVinoBackend, "fp32"),
    "openvino_bf16": (OpenVinoBackend, "bf16"),
    "onnxruntime": (OnnxRuntimeBackend, "fp32"),
}
REFERENCE = "openvino_fp32"
OWN_DICOM = {"lungs": ("cr_chest_philips_j2k", "cr_chest_rsna", "dx_thorax_small")}  # they do show it


@dataclass(frozen=True)
class Seen:
    """What the model says about one image, shown or not."""

    presence: float
    confidence: float  # the lowest of its labels
    fit: float  # overlap of the mask with its own ellipse; 1 where that is not asked
    values: dict[str, float]  # by measurement name; none where nothing was found
    dice: tuple[float, ...] = ()  # by label


@dataclass(frozen=True)
class Case:
    """A labelled image that was not trained on, what is true of it and what was seen."""

    name: str
    subject: str
    split: str
    row: dict[str, str]  # of meta.csv
    true: dict[str, float]
    seen: Seen

    def error(self, name: str) -> float:
        """Of one value, in its own unit; nan where there is none."""
        return self.seen.values.get(name, math.nan) - self.true[name]

    def doubt(self, name: str) -> float:
        """How far off a value may be, in its own unit, by the model's own word: what the risk-coverage curve sorts by.

        The Soft Dice Confidence c is the Dice that the probabilities expect of the mask: 1 - c of the value is in
        doubt.
        """
        return (1 - self.seen.confidence) * self.seen.values[name]

    @property
    def dice(self) -> float:
        return float(np.mean(self.seen.dice))


def pipeline_of(recipe: Recipe, model: Path, runtime: str) -> Pipeline:
    """The runtime's own pipeline for an ONNX file that has no limits yet; `runtime` is a row of `RUNTIMES`."""
    manifest = Manifest(
        name=recipe.name,
        anatomy=recipe.anatomy,
        artifacts={"fp32": Artifact(file=model.name)},
        input=InputSpec(grid_hw=recipe.network.grid_hw),
        output=output_of(recipe),
    )
    kind, precision = RUNTIMES[runtime]
    unlimited = Model(home=model.parent, manifest=manifest, sha256="")
    return build_pipeline(unlimited, kind(model, unlimited, precision, 1))


def output_of(recipe: Recipe) -> OutputSpec:
    """What the outputs of an exported model are."""
    views = {"rotation": "rotation", "polarity": "polarity"} if recipe.views > 1 else {}
    return OutputSpec(
        mask="mask", labels=recipe.labels, presence="presence", outline=recipe.ship.outline, **views
    )


def look(pipeline: Pipeline, frame: Frame, truth: Grey | None = None) -> Seen:
    """Runs one image; `truth` (H, W) holds its labels. Raises BackendError for a model that gives no mask."""
    result, anatomy = pipeline.step(frame), pipeline.model.manifest.anatomy
    if result.mask is None or result.found is None:
        raise BackendError(f"evaluate: the model gave no mask for {frame.origin.name}; do not ship it")
    scores: tuple[float, ...] = ()
    if truth is not None:
        full = full_mask(result.mask, frame.size_hw)
        scores = tuple(dice(full == value, truth == value) for value in range(1, len(result.mask.names) + 1))
    fit = own_overlap(result.found.of(result.found.names[0])) if anatomy in ELLIPTIC else 1.0
    values = measured_values(anatomy, result.found, frame.spacing)
    return Seen(result.found.presence, min(result.found.confidence), fit, values, scores)


def true_values(
    recipe: Recipe, labels: Grey, spacing: Spacing | None, row: dict[str, str]
) -> dict[str, float]:
    """The measurements of the true labels (H, W); a published circumference instead of the mask's."""
    values = measured_values(recipe.anatomy, whole_mask(labels, recipe.labels), spacing)
    if row.get("hc_mm"):
        values[MeasurementName.HEAD_CIRCUMFERENCE.value] = float(row["hc_mm"])
    return values


# ---------------------------------------------------------------- what is looked at


def labelled_frames(
    recipe: Recipe, root: Path, items: Iterable[Item]
) -> Iterator[tuple[Item, dict[str, str], Frame, Grey]]:
    """Each item with its row of meta.csv, its image as the runtime reads it and its true labels (H, W)."""
    by_name = {item.path.name: item for item in items}
    for frame, row in labelled(root / recipe.data.folder, None):
        item = by_name.get(Path(frame.origin.name).name)
        if item is not None:
            yield item, row, frame, read_labels(item, recipe, frame.size_hw)


def cases_of(
    recipe: Recipe, root: Path, pipelines: dict[str, Pipeline], items: Iterable[Item]
) -> dict[str, list[Case]]:
    """The items as each pipeline sees them, in one order."""
    found: dict[str, list[Case]] = {name: [] for name in pipelines}
    for item, row, frame, truth in labelled_frames(recipe, root, items):
        true = true_values(recipe, truth, frame.spacing, row)
        for name, pipeline in pipelines.items():
            seen = look(pipeline, frame, truth)
            found[name].append(Case(item.path.name, item.subject, item.split, row, true, seen))
    return found


def unseen_by(recipe: Recipe, root: Path, built: Path) -> Iterator[tuple[Path, list[Item]]]:
    """Each network in `built` that is judged, as ONNX, with the labelled images that it is judged on: all it had not
    seen. Raises ConfigError where one of them is not there yet."""
    items, splits = measured_items(recipe, root), recipe.splits
    if splits.refit and splits.folds:
        homes = {fold_home(built, number): subjects for number, subjects in enumerate(splits.folds)}
    elif splits.refit:
        homes = {built / MEASURED: (*splits.tune, *splits.conformal), built: splits.test}
    else:
        homes = {built: recipe.measured}
    for home, subjects in homes.items():
        model = _made(home, _maker(recipe, home == built))
        yield model, [item for item in items if item.subject in subjects]


def crossed_by(recipe: Recipe, root: Path, built: Path) -> Iterator[tuple[Path, list[Item]]]:
    """Each fold's network in `built`, as ONNX, with the labelled images of its fold, those of test left out. Raises
    ConfigError where one is not there yet."""
    items = [item for item in own_items(recipe, root) if item.split != "test"]
    for number, subjects in enumerate(fold_subjects(recipe, root)):
        model = _made(fold_home(built, number), f"folds {recipe.name}")
        yield model, [item for item in items if item.subject in subjects]


def _made(home: Path, maker: str) -> Path:
    """The network in `home`. Raises ConfigError where there is none, with the command that makes it."""
    if not (home / "model.onnx").is_file():
        raise ConfigError(f"{home}/model.onnx: does not exist; run python -m models.training.{maker} first")
    return home / "model.onnx"


def _maker(recipe: Recipe, ships: bool) -> str:
    """The command that makes a network of the recipe: the one that ships, or the one it is judged by."""
    if ships:
        return f"ship {recipe.name}"
    return f"folds {recipe.name}" if recipe.splits.folds else f"train {recipe.name} --measured"


def foreign_frames(recipe: Recipe, root: Path) -> Iterator[tuple[str, str, Frame]]:
    """(class, train or test, frame) of everything that must give no number."""
    for item in foreign_items(recipe, root):
        if item.kind not in recipe.foreign.present:
            yield item.kind, item.split, frame_of(read_grey(item.path), item.kind)
    for path in sorted((root / "dicom").glob("*.dcm")):
        if path.stem in OWN_DICOM.get(recipe.name, ()):
            continue
        split = "train" if path.stem in recipe.foreign.cines else "test"
        for frame in dicom_frames(path):
            yield f"dicom {path.stem}", split, frame
    rng = np.random.default_rng(2**31)
    for _ in range(100):
        yield "test patterns", "train", frame_of(looks.nothing(recipe.network.grid_hw, rng), "test pattern")
    for pattern in ("noise", "text"):
        for index in range(20):
            drawn, _ = render(PhantomSpec(pattern=pattern, seed=5), index)
            yield f"phantom {pattern}", "test", frame_of(drawn, pattern)
    for seed in range(1, 21):
        drawn, _ = render(PhantomSpec(seed=seed, empty=1), 0)
        yield "phantom without", "test", frame_of(drawn, "tissue")


def frame_of(pixels: Grey, name: str, pixel_mm: float | None = None) -> Frame:
    """An image (H, W) as the runtime gets it."""
    spacing = None if pixel_mm is None else Spacing(pixel_mm, pixel_mm, SpacingSource.PHANTOM)
    return Frame(pixels, 0, 0, Origin(SourceKind.FOLDER, name), "0.evaluation", spacing=spacing)


def look_at_foreign(recipe: Recipe, root: Path, pipeline: Pipeline) -> list[tuple[str, str, Seen]]:
    """(class, split, what was seen) of every foreign frame."""
    return [(kind, split, look(pipeline, frame)) for kind, split, frame in foreign_frames(recipe, root)]
