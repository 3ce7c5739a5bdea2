"""Trains the fetal head model: `python -m models.training.train --out DIR [--seconds S] [--epochs N]`.

Two CPU cores and half an hour are enough. Stops and resumes at any epoch from DIR/checkpoint.pt; the shipped
weights are the moving average, in DIR/weights.pt.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, IterableDataset

from edge_runtime.clock import monotonic_ns
from models.training import augment
from models.training.data import Stored, data_root, echoes, heads, load, negatives, phantoms
from models.training.network import HeadNet, Output

BATCH = 16
NEGATIVE_SHARE = 0.3
# How often each class of what is no head is shown, relative to the others.
NEGATIVE_MIX = {
    "abdomen": 6.0,
    "thorax": 5.0,
    "echo": 2.5,
    "femur": 2.0,
    "cervix": 2.0,
    "other": 2.0,
    "carotid": 2.0,
    "lungs": 1.5,
    "phantom_empty": 1.0,
    "beside": 3.0,
    "replaced": 4.0,
    "nothing": 2.5,
}


class Examples(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless batches-to-be: image, mask and presence; seeded by (seed, epoch)."""

    def __init__(self, stored: list[Stored], seed: int, epoch: int, count: int) -> None:
        self.heads = [item for item in stored if item.kind in ("head", "phantom")]
        self.others: dict[str, list[Stored]] = {}
        for item in stored:
            if item.kind not in ("head", "phantom"):
                self.others.setdefault(item.kind, []).append(item)
        self.seed, self.epoch, self.count = seed, epoch, count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        kinds = [
            kind for kind in NEGATIVE_MIX if kind in self.others or kind in ("beside", "replaced", "nothing")
        ]
        weights = np.array([NEGATIVE_MIX[kind] for kind in kinds])
        order = rng.permutation(len(self.heads))
        drawn = 0
        for _ in range(self.count):
            if rng.random() < NEGATIVE_SHARE:
                example = self._negative(str(rng.choice(kinds, p=weights / weights.sum())), rng)
            else:
                item = self.heads[order[drawn % len(order)]]
                drawn += 1
                example = augment.head(item, self._foreign(rng) if rng.random() < 0.25 else None, rng)
            yield (
                torch.from_numpy(example.image)[None],
                torch.from_numpy(example.mask)[None],
                torch.tensor([example.presence]),
            )

    def _negative(self, kind: str, rng: np.random.Generator) -> augment.Example:
        some_head = self.heads[int(rng.integers(len(self.heads)))]
        if kind == "beside":
            return augment.beside(some_head, rng)
        if kind == "replaced":
            return augment.replaced(some_head, self._foreign(rng), rng)
        if kind == "nothing":
            return augment.nothing(rng)
        pool = self.others[kind]
        other = self._foreign(rng) if rng.random() < 0.25 else None
        return augment.negative(pool[int(rng.integers(len(pool)))], other, rng)

    def _foreign(self, rng: np.random.Generator) -> Stored:
        kinds = [kind for kind in self.others if kind not in ("lungs", "phantom_empty")]
        pool = self.others[str(rng.choice(kinds))]
        return pool[int(rng.integers(len(pool)))]


def loss_of(output: Output, mask: Tensor, presence: Tensor) -> dict[str, Tensor]:
    """Parts of the loss, each a scalar; `mask` (n, 1, h, w) in 0 to 1."""
    logits = output.mask.float()
    probability = torch.sigmoid(logits)
    weight = 1 + 3 * (_widest(mask) + _widest(-mask))  # 4 within 4 cells of the border
    cross = F.binary_cross_entropy_with_logits(logits, mask, weight, reduction="none").mean((1, 2, 3))
    overlap = (probability * mask).sum((1, 2, 3))
    dice = 1 - (2 * overlap + 20) / (probability.square().sum((1, 2, 3)) + mask.square().sum((1, 2, 3)) + 20)
    is_head = (mask.amax((1, 2, 3)) > 0.5).float()
    size = (circumference(probability) / circumference(mask).clamp_min(1) - 1).abs().clamp_max(0.5) * is_head
    return {
        "cross": cross.mean(),
        "dice": dice.mean(),
        "size": size.mean(),
        "presence": F.binary_cross_entropy_with_logits(output.presence.float(), presence),
    }


def _widest(values: Tensor) -> Tensor:
    """The largest value within 4 cells, (n, 1, h, w)."""
    return F.max_pool2d(F.max_pool2d(values, (9, 1), 1, (4, 0)), (1, 9), 1, (0, 4))


def circumference(weight: Tensor) -> Tensor:
    """Ramanujan's circumference, in cells, of the second-moment ellipse of weights (n, 1, h, w); (n,)."""
    _, _, height, width = weight.shape
    y = torch.arange(height, dtype=torch.float32, device=weight.device)
    x = torch.arange(width, dtype=torch.float32, device=weight.device)
    total = weight.sum((1, 2, 3)) + 1e-3
    rows, columns = weight.sum((1, 3)), weight.sum((1, 2))
    my, mx = (rows @ y) / total, (columns @ x) / total
    vy = (rows * (y - my[:, None]).square()).sum(1) / total + 1 / 12
    vx = (columns * (x - mx[:, None]).square()).sum(1) / total + 1 / 12
    vxy = torch.einsum("nhw,h,w->n", weight[:, 0], y, x) / total - mx * my
    spread = torch.sqrt((vx - vy).square() / 4 + vxy.square() + 1e-4)
    middle = (vx + vy) / 2
    a, b = 2 * torch.sqrt(middle + spread), 2 * torch.sqrt((middle - spread).clamp_min(0.1))
    h = ((a - b) / (a + b)).square()
    return math.pi * (a + b) * (1 + 3 * h / (10 + torch.sqrt(4 - 3 * h)))


def load_training(root: Path) -> list[Stored]:
    """All stored images of the train splits, and a few drawn ones."""
    items = [item for item in heads(root) + negatives(root) if item.split == "train"]
    stored = load(items) + echoes(root) + phantoms()
    print("train:", dict(Counter(item.kind for item in stored)), flush=True)
    return stored


def train(out: Path, seconds: float, epochs: int, seed: int, rate: float) -> None:
    """Trains for `epochs` or `seconds`, whichever ends first; the schedule follows it. Writes weights.pt."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    stored = load_training(data_root())
    network = HeadNet().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    count = round(sum(item.kind in ("head", "phantom") for item in stored) / (1 - NEGATIVE_SHARE))
    epoch, spent, checkpoint = 0, 0.0, out / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, spent = state["epoch"], state["spent"]
    while epoch < epochs and spent < seconds:
        begun = monotonic_ns()
        examples = Examples(stored, seed, epoch, count)
        parts: Counter[str] = Counter()
        loader = DataLoader(examples, BATCH, num_workers=1, prefetch_factor=6, drop_last=True)
        for step, batch in enumerate(loader, 1):
            elapsed = spent + (monotonic_ns() - begun) / 1e9
            done = min(1.0, max((epoch + step * BATCH / count) / epochs, elapsed / seconds))
            for group in optimizer.param_groups:
                group["lr"] = rate * one_cycle(done)
            values = _step(network, optimizer, batch)
            parts.update(values)
            if not math.isfinite(sum(values.values())):
                raise SystemExit(f"train: loss is not finite in epoch {epoch}, batch {step}: {values}")
            _follow(average, network, decay=min(0.998, (1 + 46 * epoch) / (10 + 46 * epoch)))
        epoch += 1
        spent += (monotonic_ns() - begun) / 1e9
        means = {name: round(value / step, 4) for name, value in parts.items()}
        print(
            json.dumps({"epoch": epoch, "seconds": round(spent), "done": round(done, 3), **means}), flush=True
        )
        state = {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "epoch": epoch,
            "spent": spent,
        }
        torch.save({**state, "optimizer": optimizer.state_dict()}, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        about = {"seconds": spent, "limit": seconds, "epochs": epoch, "seed": seed}
        torch.save({"network": average.state_dict(), **about}, out / "weights.pt")


def one_cycle(done: float) -> float:
    """Share of the peak learning rate when `done` (0 to 1) of the training is over."""
    warm = 0.08
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) + 1e-3


def _step(network: HeadNet, optimizer: torch.optim.Optimizer, batch: list[Tensor]) -> dict[str, float]:
    image, mask, presence = batch
    grey = image.to(torch.float32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(grey)
    parts = loss_of(output, mask.to(torch.float32) / 255, presence)
    total = parts["cross"] + parts["dice"] + parts["size"] + 0.3 * parts["presence"]
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimizer.step()
    return {name: float(value.detach()) for name, value in parts.items()}


@torch.no_grad()
def _follow(average: HeadNet, network: HeadNet, decay: float) -> None:
    for mine, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(new, 1 - decay)
        else:
            mine.copy_(new)


def main() -> None:
    parser = argparse.ArgumentParser(prog="models.training.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/fetal_head"))
    parser.add_argument("--seconds", type=float, default=2000)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)  # before its first use: the worker is a fork, and a fork of OpenCV's threads hangs
    train(arguments.out, arguments.seconds, arguments.epochs, arguments.seed, arguments.rate)


if __name__ == "__main__":
    main()
