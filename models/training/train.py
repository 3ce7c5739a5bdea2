"""Trains a model by its recipe: `python -m models.training.train fetal_head --out DIR`.

A GPU is used where there is one; a CPU core or two are enough. Stops and resumes at any `EVERY`-th batch
from DIR/checkpoint.pt; the weights that ship are the moving average, in DIR/weights.pt.
"""

from __future__ import annotations

import copy
import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import torch
from torch.utils.data import DataLoader, IterableDataset

from edge_runtime.clock import monotonic_ns
from edge_runtime.errors import ConfigError, OutputError, first_line
from edge_runtime.files import write_whole
from edge_runtime.measure.anatomy import ELLIPTIC
from models.training.command import GOES_ON, add_training, parser_of, told_in_a_line, use_threads
from models.training.data import Stored, data_root, fold_subjects, load_training
from models.training.examples import Example, Examples
from models.training.export import NOT_OURS, export_onnx
from models.training.loss import Batch, loss_of
from models.training.network import Network
from models.training.recipe import MEASURED, Recipe, TrainSpec, read_recipe

EVERY = 250  # batches between two checkpoints, and lines of the log
DECAY = 0.998  # of the moving average, once it has run for a while


@dataclass
class State:
    """Everything that training changes."""

    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    taught: str  # by which recipe
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, recipe: Recipe, device: torch.device) -> State:
        torch.manual_seed(recipe.training.seed)
        spec = recipe.network
        network = Network(recipe.classes, recipe.views, spec.widths, spec.bottom)
        network = network.to(device, memory_format=torch.channels_last)
        decayed = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.training.rate, fused=True)
        return cls(network, copy.deepcopy(network).eval(), optimizer, recipe.taught)

    def resume(self, checkpoint: Path) -> None:
        """Goes on from where `save` was called. Raises ConfigError for the file of another network or recipe."""
        try:
            device = next(self.network.parameters()).device
            state = torch.load(checkpoint, weights_only=True, map_location=device)
            if state.get("taught", self.taught) != self.taught:
                raise ConfigError(
                    f"{checkpoint}: was made by another recipe than this is now, and may have seen what this one holds "
                    "out; remove it to start again, or name another --out"
                )
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
        except (*NOT_OURS, ValueError) as error:
            raise ConfigError(
                f"{checkpoint}: is no checkpoint of this recipe's network; remove it to start again, or name another --out"
            ) from error

    def save(self, checkpoint: Path) -> None:
        kept = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        told = {"step": self.step, "seconds": self.seconds, "taught": self.taught}
        _keep({**kept, **told}, checkpoint)


class Stream(IterableDataset[Example]):
    """Examples for a loader; each worker, and each start at another step, draws others."""

    def __init__(self, recipe: Recipe, stored: list[Stored], step: int) -> None:
        self.recipe, self.stored, self.step = recipe, stored, step

    def __iter__(self) -> Iterator[Example]:
        worker = torch.utils.data.get_worker_info()
        seed = (self.recipe.training.seed * 1009 + self.step) * 64 + (0 if worker is None else worker.id)
        return iter(Examples(self.recipe, self.stored, seed))


def train(recipe: Recipe, out: Path, workers: int = 0) -> Path:
    """Trains until `recipe.training.steps`; returns the file of the weights. Raises ConfigError before it starts for
    data that do not fit the recipe, and for a loss that is not finite, with the batch that caused it."""
    _require_writable(out)
    root = data_root()
    if recipe.splits.folds:
        fold_subjects(recipe, root)  # they are trained after this network: a wrong one is told now
    stored = load_training(recipe, root)
    Examples(recipe, stored, seed=0)  # refuses here, and not in a worker, what it cannot draw from
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, checkpoint = State.fresh(recipe, device), out / "checkpoint.pt"
    if checkpoint.is_file():
        state.resume(checkpoint)
    _log({"training on": dict(Counter(item.kind for item in stored)), "step": state.step})
    spec, parts, since, begun = recipe.training, Counter[str](), state.step, monotonic_ns()
    loader = DataLoader(Stream(recipe, stored, state.step), spec.batch, num_workers=workers, collate_fn=list)
    for examples in islice(loader, max(0, spec.steps - state.step)):
        parts.update(_step(state, examples, spec, recipe.anatomy in ELLIPTIC, device))
        state.step += 1
        if state.step % EVERY == 0 or state.step == spec.steps:
            state.seconds += (monotonic_ns() - begun) / 1e9
            begun = monotonic_ns()
            means = {name: round(value / (state.step - since), 4) for name, value in parts.items()}
            _log({"step": state.step, "seconds": round(state.seconds), **means})
            parts.clear()
            since = state.step
            state.save(checkpoint)
    weights = out / "weights.pt"
    about = {"seconds": state.seconds, "steps": state.step, "seed": spec.seed, "recipe": recipe.name}
    _keep({"network": state.average.state_dict(), "taught": recipe.taught, **about}, weights)
    return weights


def _require_writable(out: Path) -> None:
    """Makes `out`. Raises OutputError where nothing could be kept in it: told now, not after the first batches."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(
            f"--out {out}: cannot be written ({error.strerror}); name a folder that can"
        ) from error


def _keep(record: dict[str, object], path: Path) -> None:
    """Saves `record`, whole or not at all. Raises OutputError."""
    content = io.BytesIO()
    torch.save(record, content)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({first_line(error)}); free some space or name another --out"
        ) from error


def train_measured(recipe: Recipe, out: Path, workers: int = 0) -> None:
    """Trains the network that sets the limits and intervals of a refit, on the train split alone, and exports it below
    `out`. Raises ConfigError where the recipe has no refit."""
    if not recipe.splits.refit or recipe.splits.folds:
        raise ConfigError(f"recipe {recipe.name}: --measured wants [splits] refit without folds")
    home = out / MEASURED
    once = msgspec.structs.replace(recipe, splits=msgspec.structs.replace(recipe.splits, refit=False))
    export_onnx(once, train(once, home, workers), home / "model.onnx")


def _step(
    state: State, examples: list[Example], spec: TrainSpec, elliptic: bool, device: torch.device
) -> dict[str, float]:
    """One batch; the parts of its loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = spec.rate * one_cycle((state.step + 1) / spec.steps)
    batch = Batch(examples, device)
    grey = batch.image.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        output = state.network(grey)
    parts = loss_of(output, batch, elliptic)
    total = sum(
        (getattr(spec.loss, name) * value for name, value in parts.items()), torch.zeros((), device=device)
    )
    values = {name: float(value.detach()) for name, value in parts.items()}
    if not math.isfinite(sum(values.values())):
        shown = ", ".join(f"{example.image.mean():.0f}/{example.masks.mean():.0f}" for example in examples)
        raise ConfigError(
            f"training: the loss of batch {state.step} is not finite: {values}; mean grey and mask of its examples: {shown}"
        )
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 2.0)
    state.optimizer.step()
    _follow(state.average, state.network, decay=min(DECAY, (1 + state.step) / (10 + state.step)))
    return values


def one_cycle(done: float) -> float:
    """Share of the peak learning rate when `done` (0 to 1) of the training is over."""
    warm = 0.06
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) + 1e-3


@torch.no_grad()
def _follow(average: Network, network: Network, decay: float) -> None:
    for mine, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(new, 1 - decay)
        else:
            mine.copy_(new)


def _log(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = parser_of("train", __doc__)
    add_training(parser)
    parser.add_argument(
        "--measured",
        action="store_true",
        help="of a refit, the network that limits and intervals come from: of the train split alone",
    )
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    with told_in_a_line(GOES_ON):
        recipe = read_recipe(arguments.recipe)
        out = arguments.out or Path("build") / recipe.name
        if arguments.measured:
            train_measured(recipe, out, arguments.workers)
        else:
            train(recipe, out, arguments.workers)


if __name__ == "__main__":
    main()
