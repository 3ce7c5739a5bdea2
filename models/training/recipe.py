"""How one model is made: the schema of `recipes/NAME.toml`. Knows no network and opens no image."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.config import Table, read_toml
from edge_runtime.errors import ConfigError
from edge_runtime.measure.anatomy import labels_of
from edge_runtime.types import Fraction

HOME = Path(__file__).resolve().parent / "recipes"
MEASURED = "measured"  # below the folder of a refit: the network of the train split alone
COARSEST = 16  # pixels of the grid to a side of the network's coarsest cell
Weight = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class DataSpec(Table, frozen=True):
    """Where the labelled images are: `folder` of the data root holds images/, masks/ and meta.csv."""

    folder: str
    subject: str  # column of meta.csv that keeps what belongs together in one split
    phantoms: Annotated[int, msgspec.Meta(ge=0)] = 0  # drawn pictures of known truth beside them


class SplitSpec(Table, frozen=True):
    """Subjects by split; the rest is trained on.

    With `refit` the network that ships is trained on everything but test: limits and intervals come from a network of
    the same recipe that saw the train split alone. Of a set too small even for that, with `folds` too, the one that
    ships saw everything, and all that is told of it comes from networks that had not seen the subject's fold.

    With `cross_conformal` the intervals come from all images but test's, each as the network of its fold saw it: where the
    conformal split alone is too small (cross-conformal prediction, Vovk 2015, doi 10.1007/s10472-013-9368-4).
    """

    tune: tuple[str, ...]  # chooses limits
    conformal: tuple[str, ...]  # makes intervals
    test: tuple[str, ...]  # is only ever reported
    refit: bool = False
    cross_conformal: bool = False
    folds: tuple[tuple[str, ...], ...] = ()  # subjects of each; without: every so-many-th, for the card only


class ForeignSpec(Table, frozen=True):
    """What the model must not read, and how often it is shown while training."""

    share: Fraction  # of all examples
    mix: dict[str, Weight]  # kind -> weight among the foreign
    present: tuple[str, ...] = ()  # kinds that do show the anatomy, though without a mask
    cines: tuple[str, ...] = ()  # DICOM files trained on as `echo`


class NetworkSpec(Table, frozen=True):
    """See `network.Network`."""

    grid_hw: tuple[Count, Count]
    widths: tuple[Count, Count, Count, Count] = (16, 32, 64, 96)
    bottom: tuple[Count, ...] = (1, 2, 4, 1)


class VarySpec(Table, frozen=True):
    """How examples are varied; shares are of the examples that are varied at all."""

    look: Literal["ultrasound", "xray"]
    light: Fraction = 0.3  # share of examples that are varied only a little
    grey: Fraction = 1.0  # how far gain and contrast vary; less where the truth follows a grey level
    zoom: tuple[Weight, Weight] = (0.65, 1.6)
    turn_deg: float = 15.0  # standard deviation
    any_turn: Fraction = 0.0  # turned by any angle
    flip: Fraction = 0.5  # left and right; of two lungs the sides keep their names
    upside_down: Fraction = 0.0
    bend: Fraction = 0.0  # smoothly out of shape
    swap_frame: Fraction = 0.0  # inside the frame of a foreign picture
    window: Fraction = 0.35  # black outside a rectangle
    cut: Fraction = 0.0  # by an edge of the picture, a part of the structure beyond it
    hide: Fraction = 0.0  # with a part of the outline out of sight
    views: bool = False  # quarter turns and inverted grey, which the network then tells


class LossSpec(Table, frozen=True):
    """Weights of the parts of the loss, see `loss.loss_of`; a part that is not named has none."""

    cross: float = 0.0
    dice: float = 0.0
    size: float = 0.0
    shape: float = 0.0
    presence: float = 0.0
    view: float = 0.0


class TrainSpec(Table, frozen=True):
    """The schedule: one cycle of the learning rate over `steps` batches."""

    steps: Count
    fold_steps: Count = 4000  # batches of each fold
    batch: Count = 16
    rate: Weight = 3e-3
    seed: int = 1
    loss: LossSpec = LossSpec(cross=1.0, dice=1.0, size=1.0, presence=0.3, view=0.3)


class ShipSpec(Table, frozen=True):
    """What the manifest says besides the files: the runtime contract of the model."""

    modality: tuple[str, ...]
    view: str
    body_part: tuple[str, ...] = ()  # words of DICOM (0018,0015) accepted; empty: any
    view_position: tuple[str, ...] = ()  # words of DICOM (0018,5101)
    spacing_mm: tuple[float, float] | None = None  # per pixel of the source
    min_size_px: tuple[int, int] | None = None  # rows, columns
    outline: Literal["mask", "ellipse"] = "mask"
    tolerance: dict[str, dict[str, float | bool]] = msgspec.field(default_factory=dict)  # of the gate
    selftest: dict[str, float] = msgspec.field(default_factory=dict)  # on phantoms, as a share of the truth


class Recipe(Table, frozen=True):
    """One model."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9_-]{1,64}$")]
    version: str
    anatomy: str
    labels: tuple[str, ...]
    data: DataSpec
    splits: SplitSpec
    foreign: ForeignSpec
    network: NetworkSpec
    vary: VarySpec
    training: TrainSpec
    ship: ShipSpec

    @property
    def classes(self) -> int:
        """Channels of the mask."""
        return 1 if len(self.labels) == 1 else 1 + len(self.labels)

    @property
    def views(self) -> int:
        """Numbers of the image-level head: presence, then four quarter turns and the polarity."""
        return 6 if self.vary.views else 1

    @property
    def store_hw(self) -> tuple[int, int]:
        """Size at which images are kept: twice the grid, so that zooming has detail to show."""
        return 2 * self.network.grid_hw[0], 2 * self.network.grid_hw[1]

    @property
    def measured(self) -> tuple[str, ...]:
        """The subjects that are tuned, calibrated or tested on."""
        return (*self.splits.tune, *self.splits.conformal, *self.splits.test)

    @property
    def held_out(self) -> tuple[str, ...]:
        """The subjects that the network which ships has not seen."""
        if self.splits.refit:
            return () if self.splits.folds else self.splits.test
        return self.measured

    @property
    def taught(self) -> str:
        """A digest of all that decides what a network learns but how long: weights of another one may have seen what
        this recipe holds out."""
        training = msgspec.structs.replace(self.training, steps=1, fold_steps=1)
        parts = (self.anatomy, self.labels, self.data, sorted(self.held_out), self.foreign, self.network)
        return hashlib.sha256(msgspec.json.encode((*parts, self.vary, training))).hexdigest()

    def split_of(self, subject: str) -> str:
        """train, tune, conformal or test."""
        for split in ("tune", "conformal", "test"):
            if subject in getattr(self.splits, split):
                return split
        return "train"


def fold_home(built: Path, number: int) -> Path:
    """Where the network of a fold lies, below the folder of the recipe's own."""
    return built / f"fold_{number}"


def read_recipe(name_or_file: str) -> Recipe:
    """The recipe of this name, or in this file. Raises ConfigError for one that cannot be followed."""
    named, path = HOME / f"{name_or_file}.toml", Path(name_or_file)
    if named.is_file():
        path = named
    elif not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in HOME.glob("*.toml")))
        raise ConfigError(
            f"recipe {name_or_file}: no such name or file; choose {shipped}, or name a TOML file"
        )
    recipe = read_toml(path, Recipe)
    _require_possible(path, recipe)
    listed = Counter(recipe.measured)
    twice = sorted(subject for subject, times in listed.items() if times > 1)
    if twice:
        raise ConfigError(
            f"{path}: [splits]: {twice[0]} is named {listed[twice[0]]} times; a subject is in one split"
        )
    for split in ("tune", "conformal", "test"):
        if not getattr(recipe.splits, split):
            raise ConfigError(f"{path}: [splits] {split} is empty; name at least one subject")
    if recipe.foreign.share and not recipe.foreign.mix:
        raise ConfigError(
            f"{path}: [foreign] share is {recipe.foreign.share:g}, but [foreign.mix] names no kind"
        )
    if any(side % COARSEST for side in recipe.network.grid_hw):
        raise ConfigError(f"{path}: grid_hw {recipe.network.grid_hw}: want multiples of {COARSEST}")
    if recipe.vary.views and recipe.network.grid_hw[0] != recipe.network.grid_hw[1]:
        raise ConfigError(
            f"{path}: grid_hw {recipe.network.grid_hw}: want a square, since [vary] views turns it"
        )
    return recipe


def _require_possible(path: Path, recipe: Recipe) -> None:
    """Raises ConfigError for what would only be found out when the training is over."""
    wanted = labels_of(recipe.anatomy)
    if not wanted or recipe.labels != wanted:
        raise ConfigError(
            f"{path}: labels {list(recipe.labels)}: want {list(wanted)}, what anatomy {recipe.anatomy} measures"
        )
    ranges = {"[vary] zoom": recipe.vary.zoom, "[ship] spacing_mm": recipe.ship.spacing_mm or (1.0, 1.0)}
    for name, (low, high) in ranges.items():
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"{path}: {name} is {[low, high]}; want the smaller number first, both above 0")
    numbers = {"[training] rate": recipe.training.rate, "[vary] turn_deg": recipe.vary.turn_deg}
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ConfigError(f"{path}: {name} is {number}; want a number that is not negative")
