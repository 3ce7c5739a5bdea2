"""The images of a recipe, checked and split, each fitted once into twice the model's grid by the runtime's letterbox.

Labelled images are split by the recipe's lists of subjects; foreign ones by patient, series or file, a quarter
held out. Knows nothing about networks.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError
from edge_runtime.frames.dicom import open_dicom
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.frames.source import SourceOptions
from edge_runtime.infer.preprocess import fit_region, resize_grey
from edge_runtime.pictures import truth_of
from edge_runtime.types import Box, Frame
from models.training.recipe import Recipe

FOLDS = 5
FOREIGN_HELD_OUT = 0.25
PHANTOM_SEED = 1_000_000  # of the first drawn picture in training
SETS = {"fetal_head": "subject", "carotid": "sequence", "lungs": "file"}  # labelled folder -> its subjects
EVERY_HEAD = 4  # of the many heads, every so-many-th picture is foreign to another anatomy

Grey = NDArray[np.uint8]
Split = Literal["train", "tune", "conformal", "test"]


@dataclass(frozen=True)
class Item:
    """One image on disk with what is known of it; `mask` only where it is labelled."""

    path: Path
    kind: str  # "own", or the class of what it shows instead
    split: str  # a foreign image is in train or test only
    subject: str
    mask: Path | None = None


@dataclass(frozen=True)
class Stored:
    """One image on the store grid. `masks` (labels, h, w) is the share of each cell, 0 to 255; 0 where foreign."""

    image: Grey
    masks: Grey
    content: Box
    kind: str

    @property
    def own(self) -> bool:
        return self.kind in ("own", "phantom")


def data_root() -> Path:
    """The folder of images: EDGE_RUNTIME_DATA, else ../shared/data beside the checkout. Raises ConfigError."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("EDGE_RUNTIME_DATA", default))
    if not root.is_dir():
        raise ConfigError(f"data: {root} is no folder; set EDGE_RUNTIME_DATA to the one with the images")
    return root


# ---------------------------------------------------------------- what there is


def own_items(recipe: Recipe, root: Path) -> list[Item]:
    """Every labelled image of the recipe. Raises ConfigError that names what is missing, before anything trains."""
    folder = root / recipe.data.folder
    table = folder / "meta.csv"
    if not table.is_file():
        raise ConfigError(
            f"data: {table} does not exist; recipe {recipe.name} wants images/, masks/ and meta.csv there"
        )
    found, rows = [], rows_of(table, "file", recipe.data.subject)
    name, times = next(iter(Counter(row["file"] for row in rows).most_common(1)), ("", 0))
    if times > 1:
        raise ConfigError(f"{table}: names {name} {times} times; an image is one subject's, in one split")
    for row in rows:
        subject = row[recipe.data.subject]
        image = folder / "images" / row["file"]
        mask = (folder / "masks" / row["file"]).with_suffix(".png")
        for path in (image, mask):
            if not path.is_file():
                raise ConfigError(f"{table}: names {path}, which does not exist")
        found.append(Item(image, "own", recipe.split_of(subject), subject, mask))
    known = {item.subject for item in found}
    for split in ("tune", "conformal", "test"):
        missing = sorted(set(getattr(recipe.splits, split)) - known)
        if missing:
            raise ConfigError(
                f"recipe {recipe.name}: [splits] {split} names {missing[0]}, which {table} does not have"
            )
    if set(recipe.held_out) >= known:
        raise ConfigError(
            f"recipe {recipe.name}: no subject of {table} is left to train on; shorten [splits]"
        )
    return found


def measured_items(recipe: Recipe, root: Path) -> list[Item]:
    """The labelled images of the tune, conformal and test splits."""
    return [item for item in own_items(recipe, root) if item.split != "train"]


def rows_of(table: Path, *needed: str) -> list[dict[str, str]]:
    """The rows of a meta.csv. Raises ConfigError for one without a value in a column that is needed."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{table}: cannot be read as a table of comma-separated values") from exc
    for number, row in enumerate(rows, start=2):
        for column in needed:
            if not row.get(column):
                raise ConfigError(f"{table}: line {number} has no {column}, which every image needs")
    return rows


def fold_subjects(recipe: Recipe, root: Path) -> tuple[tuple[str, ...], ...]:
    """All subjects in folds: those of the recipe, else every `FOLDS`-th. Raises ConfigError where a subject is in no
    fold or in two, or a fold would be empty."""
    subjects = sorted({item.subject for item in own_items(recipe, root)})
    folds = recipe.splits.folds or tuple(tuple(subjects[start::FOLDS]) for start in range(FOLDS))
    if not all(folds):
        raise ConfigError(
            f"recipe {recipe.name}: {len(subjects)} subjects are too few for {len(folds)} folds"
        )
    listed = sorted(subject for fold in folds for subject in fold)
    if listed != subjects:
        odd = sorted((Counter(listed) - Counter(subjects)) + (Counter(subjects) - Counter(listed)))
        raise ConfigError(f"recipe {recipe.name}: [splits] folds: want {odd[0]} in just one of them")
    return folds


def foreign_items(recipe: Recipe, root: Path) -> list[Item]:
    """Every image on disk that is not of the recipe's own set, by class."""
    found = []
    for path in sorted((root / "foreign").glob("*/*.webp")):
        patient = re.split(r"_[Pp]lane", path.name)[0]
        found.append(Item(path, path.parent.name, foreign_split_of(patient), patient))
    for folder, column in SETS.items():
        if folder == recipe.data.folder or not (root / folder / "meta.csv").is_file():
            continue
        rows = rows_of(root / folder / "meta.csv", "file", column)
        for row in rows[:: EVERY_HEAD if folder == "fetal_head" else 1]:
            path, owner = root / folder / "images" / row["file"], row[column]
            found.append(Item(path, folder, foreign_split_of(owner), owner))
    return found


def foreign_split_of(owner: str) -> Split:
    """train or test for the patient, series or file that a foreign image comes from."""
    digest = hashlib.sha256(f"foreign-2:{owner}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < FOREIGN_HELD_OUT else "train"


# ---------------------------------------------------------------- reading


def read_grey(path: Path) -> Grey:
    """An image as 8-bit grey (H, W). Raises ConfigError."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ConfigError(f"data: {path} cannot be read as an image")
    return np.asarray(image, np.uint8)


def read_labels(item: Item, recipe: Recipe, size_hw: tuple[int, ...]) -> Grey:
    """The true labels (H, W) of an item. Raises ConfigError for another size, a label that is not there, and one that
    nobody named."""
    assert item.mask is not None
    greys = read_grey(item.mask)
    _require_known(item.mask, greys)
    truth = truth_of(greys, recipe.labels)
    if truth.shape != size_hw:
        raise ConfigError(f"data: {item.mask} is {truth.shape}, its image {size_hw}")
    for value, label in enumerate(recipe.labels, start=1):
        if not (truth == value).any():
            raise ConfigError(f"data: {item.mask} marks no {label}")
    return truth


def _require_known(mask: Path, greys: Grey) -> None:
    """Raises ConfigError for a mask with more than background and foreground; which of them would be meant?"""
    levels = np.flatnonzero(np.bincount(greys.ravel(), minlength=256))
    strange = sorted(set(levels.tolist()) - {0, 255})
    if strange:
        raise ConfigError(f"data: {mask} has the value {strange[0]}, want only 0 and 255")


def store(image: Grey, labels: Grey | None, recipe: Recipe, kind: str) -> Stored:
    """Fits an image (H, W), and its labels of the same size, into the store grid."""
    box = Box(0, 0, image.shape[1], image.shape[0])
    content = fit_region(box, recipe.store_hw, "letterbox").content
    inside = (slice(content.y0, content.y1), slice(content.x0, content.x1))
    canvas = np.zeros(recipe.store_hw, np.uint8)
    masks = np.zeros((len(recipe.labels), *recipe.store_hw), np.uint8)
    resize_grey(image, canvas[inside])
    if labels is not None:
        for value, mask in enumerate(masks, start=1):
            resize_grey(np.where(labels == value, np.uint8(255), np.uint8(0)), mask[inside])
    return Stored(canvas, masks, content, kind)


def load(items: Iterable[Item], recipe: Recipe) -> list[Stored]:
    """Reads and fits `items`; a mask that is not its image's is refused by name."""
    stored = []
    for item in items:
        image = read_grey(item.path)
        labels = None if item.mask is None else read_labels(item, recipe, image.shape)
        stored.append(store(image, labels, recipe, item.kind))
    return stored


def load_training(recipe: Recipe, root: Path) -> list[Stored]:
    """All that a recipe trains on: its own train split, foreign and drawn."""
    own = [item for item in own_items(recipe, root) if item.subject not in recipe.held_out]
    foreign = [item for item in foreign_items(recipe, root) if item.split == "train"]
    return load(own + foreign, recipe) + echoes(recipe, root) + phantoms(recipe)


def dicom_frames(path: Path) -> Iterator[Frame]:
    """Every readable frame of a file, as the runtime shows it. Raises ConfigError where there is none."""
    with open_dicom(str(path), SourceOptions()) as source:
        yield from (frame for frame in source.frames() if isinstance(frame, Frame))


def echoes(recipe: Recipe, root: Path) -> list[Stored]:
    """Every sixth frame of the cines that the recipe trains on; no other DICOM file is."""
    paths = [root / "dicom" / f"{name}.dcm" for name in recipe.foreign.cines]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"recipe {recipe.name}: [foreign] cines names {path}, which does not exist")
    frames = [frame for path in paths for frame in dicom_frames(path)]
    return [store(frame.pixels, None, recipe, "echo") for frame in frames[::6]]


def phantoms(recipe: Recipe) -> list[Stored]:
    """Drawn pictures of the anatomy, of the same tissue without it and of other anatomies, of seeds that nothing else
    uses."""
    drawn, count = [], recipe.data.phantoms
    for number in range(count):
        spec = _phantom(recipe.name, number / count, PHANTOM_SEED + number)
        image, truth = render(spec, number)
        assert truth is not None
        drawn.append(store(image, truth.mask((image.shape[0], image.shape[1])), recipe, "phantom"))
    for number in range(count // 2):
        image, _ = render(PhantomSpec(recipe.name, seed=PHANTOM_SEED + 100 + number, empty=1), number)
        drawn.append(store(image, None, recipe, "phantom_empty"))
        other = [name for name in SETS if name != recipe.name][number % 2]
        image, _ = render(_phantom(other, number / count, PHANTOM_SEED + 200 + number), number)
        drawn.append(store(image, None, recipe, "phantom_other"))
    return drawn


def _phantom(pattern: str, share: float, seed: int) -> PhantomSpec:
    """A drawing of the pattern's smallest (`share` 0) to its largest structure (1)."""
    return PhantomSpec(
        pattern,
        hc_mm=60.0 + 286.0 * share,
        lumen_mm=4.5 + 5.0 * share,
        chest_mm=200.0 + 140.0 * share,
        seed=seed,
    )
