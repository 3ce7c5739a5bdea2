"""Cross-validation for a card: `python -m models.training.folds carotid`.

Trains the recipe once a fold on all other subjects, whatever their split, and judges each network on those it did not
see. Resumes after any fold. Nothing of it ships but the numbers: DIR/folds.json, and where the recipe says `refit`,
everything that is told of the network which ships.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.files import write_whole
from models.training.command import GOES_ON, add_training, parser_of, positive, told_in_a_line, use_threads
from models.training.data import data_root, fold_subjects, own_items
from models.training.evaluate import REFERENCE, Case, cases_of, pipeline_of
from models.training.export import export_onnx, read_weights
from models.training.recipe import Recipe, SplitSpec, fold_home, read_recipe
from models.training.report import ENDPOINTS, EVERYTHING
from models.training.statistics import UNLIMITED, describe
from models.training.train import train


def cross_validate(recipe: Recipe, out: Path, steps: int, workers: int) -> None:
    """Writes folds.json in `out`, and the networks beside it. Raises EdgeError."""
    root, endpoint = data_root(), ENDPOINTS[recipe.anatomy]
    training = msgspec.structs.replace(recipe.training, steps=steps)
    folds = fold_subjects(recipe, root)
    for number, held in enumerate(folds):
        splits, home = SplitSpec(tune=held, conformal=(), test=()), fold_home(out, number)
        fold = msgspec.structs.replace(recipe, splits=splits, training=training)
        if not _trained(fold, home / "weights.pt"):
            train(fold, home, workers)
        export_onnx(fold, home / "weights.pt", home / "model.onnx")
    each: list[list[Case]] = []
    everyone = own_items(recipe, root)
    for number, held in enumerate(folds):
        items = [item for item in everyone if item.subject in held]
        with closing(pipeline_of(recipe, fold_home(out, number) / "model.onnx", REFERENCE)) as pipeline:
            each.append(cases_of(recipe, root, {REFERENCE: pipeline}, items)[REFERENCE])
    everything = [case for cases in each for case in cases]
    found = {
        "steps": steps,
        "each": [describe(cases, endpoint.value, EVERYTHING, UNLIMITED) for cases in each],
        "all": describe(everything, endpoint.value, endpoint.bands, UNLIMITED),
    }
    write_whole(out / "folds.json", json.dumps(found, indent=1).encode())


def _trained(fold: Recipe, weights: Path) -> bool:
    """Whether a fold's weights are there. Raises ConfigError for those of a shorter or a longer training."""
    if not weights.is_file():
        return False
    _, steps = read_weights(fold, weights)
    if steps != fold.training.steps:
        raise ConfigError(
            f"{weights}: was trained for {steps} batches, not {fold.training.steps}; remove its folder to train it again, "
            f"or say --steps {steps}"
        )
    return True


def main() -> None:
    parser = parser_of("folds", __doc__)
    add_training(parser)
    parser.add_argument("--steps", type=positive, help="batches of each fold; default: the recipe's")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    with told_in_a_line(GOES_ON):
        recipe = read_recipe(arguments.recipe)
        steps = arguments.steps or recipe.training.fold_steps
        cross_validate(recipe, arguments.out or Path("build") / recipe.name, steps, arguments.workers)


if __name__ == "__main__":
    main()
