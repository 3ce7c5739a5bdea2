"""Five-fold cross-validation for a card: `python -m models.training.folds fetal_head --steps 4000`.

Trains the recipe five times on four fifths of all subjects, the held-out splits included, and judges each on the
fifth it did not see. Resumes after any fold. Nothing of it ships but the numbers in DIR/folds.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import msgspec
import torch

from edge_runtime.errors import EdgeError
from models.training.data import data_root, own_items
from models.training.evaluate import REFERENCE, Case, cases_of, pipeline_of
from models.training.export import export_onnx
from models.training.recipe import Recipe, SplitSpec, read_recipe
from models.training.report import ABOUT, EVERYTHING
from models.training.statistics import describe
from models.training.train import train

FOLDS = 5
UNLIMITED = {"min_presence": 0.0, "min_confidence": 0.0, "min_ellipse_iou": 0.0}


def fold_subjects(recipe: Recipe, root: Path) -> list[tuple[str, ...]]:
    """The subjects of each fold: every fifth, or where neighbours may be one person, runs of about equal numbers of
    images."""
    items = own_items(recipe, root)
    subjects = sorted({item.subject for item in items})
    if not recipe.data.neighbours:
        return [tuple(subjects[k::FOLDS]) for k in range(FOLDS)]
    folds: list[list[str]] = [[] for _ in range(FOLDS)]
    done = 0
    for subject in subjects:
        folds[min(FOLDS - 1, FOLDS * done // len(items))].append(subject)
        done += sum(item.subject == subject for item in items)
    return [tuple(fold) for fold in folds]


def cross_validate(recipe: Recipe, out: Path, steps: int, workers: int) -> None:
    """Writes folds.json in `out`. Raises EdgeError."""
    root, about = data_root(), ABOUT[recipe.anatomy]
    training = msgspec.structs.replace(recipe.training, steps=steps)
    each: list[list[Case]] = []
    for number, held in enumerate(fold_subjects(recipe, root)):
        fold = msgspec.structs.replace(
            recipe, splits=SplitSpec(tune=held, conformal=(), test=()), training=training
        )
        home = out / f"fold_{number}"
        if not (home / "weights.pt").is_file():
            train(fold, home, workers)
        export_onnx(fold, home / "weights.pt", home / "model.onnx")
        pipeline = pipeline_of(fold, home / "model.onnx", REFERENCE)
        items = [item for item in own_items(fold, root) if item.split == "tune"]
        each.append(cases_of(fold, root, {REFERENCE: pipeline}, items)[REFERENCE])
        pipeline.close()
    everything = [case for cases in each for case in cases]
    found = {
        "steps": steps,
        "each": [describe(cases, about.value, EVERYTHING, UNLIMITED) for cases in each],
        "all": describe(everything, about.value, about.bands, UNLIMITED),
    }
    (out / "folds.json").write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="models.training.folds", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    try:
        recipe = read_recipe(arguments.recipe)
        cross_validate(
            recipe, arguments.out or Path("build") / recipe.name, arguments.steps, arguments.workers
        )
    except EdgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
