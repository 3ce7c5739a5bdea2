"""Results of a made-up model on made-up images: everything that a card and a manifest are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from models.training.evaluate import RUNTIMES, Case, Seen
from models.training.recipe import Recipe, SplitSpec, read_recipe
from models.training.report import ENDPOINTS, EVERYTHING, Seens, report_of
from models.training.statistics import UNLIMITED, agreement, describe

SPLITS = {"train": 40, "tune": 30, "conformal": 60, "test": 50}  # images, each a subject of its own
_MIDDLE = {
    "head_circumference": (60.0, 340.0),
    "lumen_area_px": (9e3, 14e3),
    "lung_area_right": (150.0, 260.0),
}


def measured_recipe(name: str) -> Recipe:
    """The shipped recipe, with the splits of the made-up images."""
    recipe = read_recipe(name)
    of = {split: tuple(_subject(recipe, split, k) for k in range(count)) for split, count in SPLITS.items()}
    del of["train"]
    return msgspec.structs.replace(
        recipe, splits=SplitSpec(**of, cross_conformal=recipe.splits.cross_conformal)
    )


def _subject(recipe: Recipe, split: str, k: int) -> str:
    return f"{split}{k:02d}.webp" if recipe.data.subject == "file" else f"{split}{k:02d}"


def results_of(recipe: Recipe, root: Path) -> dict[str, Any]:
    """As `ship` gathers them; `root` gets a folder with files of the right names."""
    _touch(recipe, root)
    cases = {name: _cases(recipe, number) for number, name in enumerate(RUNTIMES)}
    unseen = cases["openvino_fp32"]
    crossed = recipe.splits.cross_conformal
    conformal = [case for case in unseen if case.split == "conformal" or (crossed and case.split == "tune")]
    seens = Seens(unseen, conformal, cases, _foreign(recipe))
    results = report_of(recipe, root, seens)
    endpoint, reference = ENDPOINTS[recipe.anatomy], seens.cases["openvino_fp32"]
    results["agreement"]["openvino_int8"] = agreement(
        reference, _cases(recipe, 5), endpoint.value, endpoint.relative
    )
    results["training"] = {"seconds": 2400.0, "steps": 6000, "seed": 1}
    results |= {"parameters": 900_000, "size_bytes": 3_700_000, "gmac": 0.61}
    results["speed"] = {"all": {"openvino int8": 1.5}, "AVX2-VNNI at most": {"openvino int8": 2.5}}
    if recipe.anatomy == "lungs":
        results["acquisition"] = {"as it is": [99, 110], "turned by 90": [110, 110]}
    each = [describe(reference[k::5], endpoint.value, EVERYTHING, UNLIMITED) for k in range(5)]
    results["folds"] = {
        "steps": 4000,
        "each": each,
        "all": describe(reference, endpoint.value, endpoint.bands, UNLIMITED),
    }
    return results


def _cases(recipe: Recipe, seed: int) -> list[Case]:
    endpoint = ENDPOINTS[recipe.anatomy]
    rng = np.random.default_rng(3)
    stray = np.random.default_rng(seed)
    found = []
    for split in ("tune", "conformal", "test"):
        for k in range(SPLITS[split]):
            true = {name: float(rng.uniform(*_MIDDLE.get(name, (50.0, 90.0)))) for name in endpoint.intervals}
            error = rng.normal(0, 0.02, len(true)) + stray.normal(0, 1e-4, len(true))
            values = {
                name: float(value * (1 + e)) for (name, value), e in zip(true.items(), error, strict=True)
            }
            dice = tuple(float(one) for one in rng.uniform(0.93, 0.99, len(recipe.labels)))
            fit = 1.0 if recipe.anatomy == "lungs" else float(rng.uniform(0.93, 0.99))
            what = Seen(float(rng.uniform(0.9, 1)), float(rng.uniform(0.9, 0.99)), fit, values, dice)
            row = {"tb": str(k % 2)} if recipe.anatomy == "lungs" else {}
            found.append(Case(f"{split}{k:02d}.webp", _subject(recipe, split, k), split, row, true, what))
    return found


def _foreign(recipe: Recipe) -> list[tuple[str, str, Seen]]:
    value = {ENDPOINTS[recipe.anatomy].value: 100.0}
    return [
        (kind, split, Seen(presence, 0.9, 0.95, value))
        for kind in ("abdomen", "echo")
        for split in ("train", "test")
        for presence in (0.01, 0.2, 0.97)
    ]


def _touch(recipe: Recipe, root: Path) -> None:
    folder = root / recipe.data.folder
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines = [f"file,{recipe.data.subject}" if recipe.data.subject != "file" else "file"]
    for split, count in SPLITS.items():
        for k in range(count):
            (folder / "images" / f"{split}{k:02d}.webp").touch()
            (folder / "masks" / f"{split}{k:02d}.png").touch()
            lines.append(f"{split}{k:02d}.webp,{split}{k:02d}")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
