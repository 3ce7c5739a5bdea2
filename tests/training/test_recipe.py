"""What a recipe may say, and what the shipped ones do."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.measure.anatomy import labels_of
from models.training.card import WRITTEN
from models.training.data import foreign_items, own_items
from models.training.examples import MADE
from models.training.recipe import HOME, Recipe, read_recipe
from models.training.report import ENDPOINTS
from tests.real import DATA, needs_data
from tests.training.drawn import tiny

SHIPPED = sorted(path.stem for path in HOME.glob("*.toml"))
by_recipe = pytest.mark.parametrize("name", SHIPPED)


def test_three_recipes_ship() -> None:
    assert SHIPPED == ["carotid", "fetal_head", "lungs"]


@by_recipe
def test_a_shipped_recipe_reads_and_everything_written_about_its_anatomy_is_there(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.labels == labels_of(recipe.anatomy)
    assert recipe.anatomy in ENDPOINTS
    assert (WRITTEN / f"{name}.md").read_text().startswith(f"# {name}\n")


@needs_data
@by_recipe
def test_no_subject_of_a_shipped_recipe_is_in_two_splits(name: str) -> None:
    recipe = read_recipe(name)
    splits: dict[str, set[str]] = {}
    for item in own_items(recipe, DATA):
        splits.setdefault(item.subject, set()).add(item.split)
    trained = set() if recipe.splits.folds else {"train"}
    assert {split for of in splits.values() for split in of} == {"tune", "conformal", "test"} | trained
    assert [subject for subject, of in splits.items() if len(of) > 1] == []


@needs_data
@by_recipe
def test_every_kind_that_a_shipped_recipe_names_has_pictures_to_train_on(name: str) -> None:
    recipe = read_recipe(name)
    there = {item.kind for item in foreign_items(recipe, DATA) if item.split == "train"}
    assert all((DATA / "dicom" / f"{cine}.dcm").is_file() for cine in recipe.foreign.cines)
    there |= {"echo"} if recipe.foreign.cines else set()
    assert set(recipe.foreign.mix) - there - {*MADE, "phantom_empty", "phantom_other"} == set()
    assert recipe.data.phantoms >= 2


def test_a_recipe_in_a_file_is_read_from_there(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    assert (recipe.name, recipe.classes, recipe.views, recipe.store_hw) == ("tiny", 1, 1, (96, 128))
    assert [recipe.split_of(subject) for subject in ("00", "05", "06", "07")] == [
        "train",
        "tune",
        "conformal",
        "test",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('test = ["07"]', 'test = ["05"]', r"tiny\.toml.*05 is named 2 times"),
        ('test = ["07"]', 'test = ["07", "07"]', r"tiny\.toml.*07 is named 2 times"),
        ('test = ["07"]', "test = []", r"tiny\.toml.*test is empty"),
        ("[48, 64]", "[48, 60]", r"tiny\.toml.*multiples of 16"),
        ('look = "ultrasound"', 'look = "ultrasound"\nviews = true', r"tiny\.toml.*square"),
        ('look = "ultrasound"', 'look = "mri"', r"tiny\.toml.*vary\.look"),
        ("nothing = 1.0\nbeside = 1.0", "", r"tiny\.toml.*names no kind"),
        ("beside = 1.0", "beside = 0.0", r"tiny\.toml.*foreign\.mix"),
        ("steps = 3", "stepps = 3", r"tiny\.toml.*stepps"),
        ("steps = 3", "steps = 3\nloss = { dise = 1.0 }", r"tiny\.toml.*dise"),
        ("share = 0.3", "share = 1.3", r"tiny\.toml.*foreign\.share"),
        ("[48, 64]", "[0, 64]", r"tiny\.toml.*grid_hw"),
        ("steps = 3", "steps = 0", r"tiny\.toml.*training\.steps"),
        ("batch = 2", "batch = 0", r"tiny\.toml.*training\.batch"),
        ("batch = 2", "batch = 2\nrate = nan", r"tiny\.toml.*rate"),
        ("batch = 2", "batch = 2\nrate = inf", r"tiny\.toml.*rate"),
        ('look = "ultrasound"', 'look = "ultrasound"\nzoom = [1.5, 0.5]', r"tiny\.toml.*zoom"),
        ('look = "ultrasound"', 'look = "ultrasound"\nturn_deg = nan', r"tiny\.toml.*turn_deg"),
        ('view = "a drawn ellipse"', 'view = ""\nspacing_mm = [0.5, 0.1]', r"tiny\.toml.*spacing_mm"),
        ('labels = ["head"]', 'labels = ["skull"]', r"tiny\.toml.*'head'"),
        ('anatomy = "fetal_head"', 'anatomy = "mask_only"', r"tiny\.toml.*mask_only"),
        ('anatomy = "fetal_head"', 'anatomy = "liver"', r"anatomy 'liver': unknown"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_by_name(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny(tmp_path, (old, new))


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"fetal_hed: .*carotid, fetal_head, lungs"):
        read_recipe("fetal_hed")


def test_a_part_of_the_loss_that_is_not_named_has_no_weight(tmp_path: Path) -> None:
    def weights(recipe: Recipe) -> tuple[float, float]:
        return recipe.training.loss.dice, recipe.training.loss.presence

    assert weights(tiny(tmp_path)) == (1.0, 0.3)
    assert weights(tiny(tmp_path, ("steps = 3", "steps = 3\nloss = { dice = 2.0 }"))) == (2.0, 0.0)
