"""The images of a recipe: what is refused before training starts, who is on which side, how they are fitted."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from models.training import data
from models.training.recipe import Recipe, read_recipe
from tests.real import DATA, needs_data
from tests.training.drawn import LUNGS, SUBJECTS, tiny, write_heads

HEADS = Path("fetal_head")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_heads(tmp_path / "data")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny(tmp_path)


# ---------------------------------------------------------------- what is there


def test_each_image_is_found_with_its_mask_in_the_split_of_its_subject(recipe: Recipe, root: Path) -> None:
    items = data.own_items(recipe, root)
    assert len(items) == 2 * len(SUBJECTS)
    assert {item.subject: item.split for item in items} == {
        "00": "train",
        "01": "train",
        "02": "train",
        "03": "train",
        "04": "train",
        "05": "tune",
        "06": "conformal",
        "07": "test",
    }
    assert all(item.mask is not None and item.mask.stem == item.path.stem for item in items)


def drop(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def draw(name: str, mask: np.ndarray) -> Callable[[Path], None]:
    return lambda root: cv2.imwrite(str(root / name), mask)


def without_subjects(root: Path) -> None:
    table = root / HEADS / "meta.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    table.write_text("".join(f"{row[0]}\n" for row in rows))


def no_picture(root: Path) -> None:
    (root / HEADS / "images" / "00a.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (drop("fetal_head/meta.csv"), r"fetal_head/meta\.csv"),
        (drop("fetal_head/images/01b.png"), r"images/01b\.png"),
        (drop("fetal_head/masks/01b.png"), r"masks/01b\.png"),
        (without_subjects, r"meta\.csv.*subject"),
        (draw("fetal_head/masks/02a.png", np.full((72, 90), 255, np.uint8)), r"masks/02a\.png.*\(72, 90\)"),
        (draw("fetal_head/masks/02a.png", np.zeros((72, 96), np.uint8)), r"masks/02a\.png marks no head"),
        (
            draw("fetal_head/masks/02a.png", np.ones((72, 96), np.uint8)),
            r"masks/02a\.png has the value 1, want only 0",
        ),
        (no_picture, r"images/00a\.png cannot be read"),
    ],
    ids=[
        "no table",
        "no image",
        "no mask",
        "no subjects",
        "mask of another size",
        "empty mask",
        "mask with other labels",
        "no picture",
    ],
)
def test_data_that_do_not_fit_are_refused_with_the_files_name(
    recipe: Recipe, root: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(root)
    with pytest.raises(ConfigError, match=said):
        data.load_training(recipe, root)


def test_a_chest_with_one_lung_marked_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"masks/00a\.png marks no lung_left"):
        data.load_training(tiny(tmp_path, text=LUNGS), root)


def test_a_split_that_names_a_subject_nobody_has_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"test names 99.*meta\.csv"):
        data.own_items(tiny(tmp_path, ('["07"]', '["99"]')), root)


def test_a_recipe_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    root = write_heads(tmp_path / "data", ("05", "06", "07"))
    with pytest.raises(ConfigError, match=r"no subject of .*meta\.csv is left"):
        data.own_items(tiny(tmp_path), root)


def test_a_cine_that_is_not_there_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"us_none\.dcm"):
        data.echoes(tiny(tmp_path, ("share = 0.3", 'share = 0.3\ncines = ["us_none"]')), root)


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere.*EDGE_RUNTIME_DATA"):
        data.data_root()


# ---------------------------------------------------------------- who is on which side


def test_all_pictures_of_a_foreign_patient_are_on_one_side(recipe: Recipe, root: Path) -> None:
    for kind in ("abdomen", "thorax"):
        (root / "foreign" / kind).mkdir(parents=True)
        for patient in range(200):
            for plane in (1, 2):
                (root / "foreign" / kind / f"Patient{patient:05d}_Plane{plane}_1_of_2.webp").touch()
    sides: dict[str, set[str]] = {}
    for item in data.foreign_items(recipe, root):
        sides.setdefault(item.path.name.split("_")[0], set()).add(item.split)
    assert len(sides) == 200
    assert all(len(splits) == 1 for splits in sides.values())
    assert 30 < sum(splits == {"test"} for splits in sides.values()) < 70  # a quarter


@needs_data
@pytest.mark.parametrize("name", data.SETS)
def test_no_real_patient_series_or_file_is_foreign_on_both_sides(name: str) -> None:
    sides: dict[str, set[str]] = {}
    for item in data.foreign_items(read_recipe(name), DATA):
        owner = item.path.name.lower().split("_plane")[0]
        owner = owner.split("_slice")[0] if item.kind == "carotid" else owner
        sides.setdefault(f"{item.subject if item.kind in data.SETS else owner}", set()).add(item.split)
    assert {split for splits in sides.values() for split in splits} == {"train", "test"}
    assert [owner for owner, splits in sides.items() if len(splits) > 1] == []


@needs_data
@pytest.mark.parametrize("name", data.SETS)
def test_a_recipes_own_pictures_are_never_foreign(name: str) -> None:
    recipe = read_recipe(name)
    own = {item.path for item in data.own_items(recipe, DATA)}
    assert own
    assert own.isdisjoint(item.path for item in data.foreign_items(recipe, DATA))


def test_an_image_that_is_named_for_two_subjects_is_refused(recipe: Recipe, root: Path) -> None:
    with (root / "fetal_head" / "meta.csv").open("a") as table:
        table.write("00a.png,07,0.2,0.2,\n")
    with pytest.raises(ConfigError, match=r"meta\.csv: names 00a\.png 2 times"):
        data.own_items(recipe, root)


def test_a_table_that_is_none_is_refused_by_name(recipe: Recipe, root: Path) -> None:
    (root / "fetal_head" / "meta.csv").write_bytes(b"file,subject\n\xff\xfe\x00,1\n")
    with pytest.raises(ConfigError, match=r"meta\.csv: cannot be read as a table"):
        data.own_items(recipe, root)


@pytest.mark.parametrize("value", [1, 100, 128, 254])
def test_a_mask_with_another_label_is_refused_by_name(recipe: Recipe, root: Path, value: int) -> None:
    path = root / "fetal_head" / "masks" / "00b.png"
    mask = data.read_grey(path)
    mask[0, 0] = value
    cv2.imwrite(str(path), mask)
    with pytest.raises(ConfigError, match=rf"00b\.png has the value {value}, want only 0 and 255"):
        data.load_training(recipe, root)


def folded(recipe: Recipe, *folds: tuple[str, ...]) -> Recipe:
    return msgspec.structs.replace(recipe, splits=msgspec.structs.replace(recipe.splits, folds=folds))


def test_folds_hold_every_subject_once(recipe: Recipe, root: Path) -> None:
    found = data.fold_subjects(recipe, root)
    assert [len(fold) for fold in found] == [2, 2, 2, 1, 1]
    assert sorted(subject for fold in found for subject in fold) == list(SUBJECTS)


def test_folds_of_the_recipe_are_taken_as_they_are(recipe: Recipe, root: Path) -> None:
    assert data.fold_subjects(folded(recipe, SUBJECTS[:3], SUBJECTS[3:]), root) == (
        SUBJECTS[:3],
        SUBJECTS[3:],
    )


@pytest.mark.parametrize("folds", [(SUBJECTS[:3], SUBJECTS[4:]), (SUBJECTS[:4], SUBJECTS[3:])])
def test_a_subject_in_no_fold_or_in_two_is_refused(
    recipe: Recipe, root: Path, folds: tuple[tuple[str, ...], ...]
) -> None:
    with pytest.raises(ConfigError, match=r"\[splits\] folds: want 03 in just one"):
        data.fold_subjects(folded(recipe, *folds), root)


def test_an_empty_fold_is_refused(recipe: Recipe, root: Path) -> None:
    with pytest.raises(ConfigError, match="8 subjects are too few for 3 folds"):
        data.fold_subjects(folded(recipe, SUBJECTS[:3], SUBJECTS[3:], ()), root)


@pytest.mark.parametrize(("folds", "kept_out"), [((), 1), ((SUBJECTS[:4], SUBJECTS[4:]), 0)])
def test_a_refit_is_trained_on_all_but_test_and_with_folds_on_all(
    recipe: Recipe, root: Path, folds: tuple[tuple[str, ...], ...], kept_out: int
) -> None:
    refit = msgspec.structs.replace(
        recipe, splits=msgspec.structs.replace(recipe.splits, refit=True, folds=folds)
    )
    own = sum(item.own for item in data.load_training(refit, root))
    assert own == 2 * (len(SUBJECTS) - kept_out)
    assert {item.subject for item in data.measured_items(refit, root)} == {"05", "06", "07"}


@needs_data
def test_series_of_the_carotid_that_may_be_one_person_share_a_fold_and_a_split() -> None:
    recipe = read_recipe("carotid")
    folds = data.fold_subjects(recipe, DATA)
    series = sorted({item.subject for item in data.own_items(recipe, DATA)})
    assert [subject for fold in folds for subject in fold] == series  # each fold is a run of neighbours
    assert all(len({recipe.split_of(subject) for subject in fold}) == 1 for fold in folds)


# ---------------------------------------------------------------- how they are fitted


def test_a_picture_is_stored_at_twice_the_grid_with_its_masks_area(recipe: Recipe, root: Path) -> None:
    items = [item for item in data.own_items(recipe, root) if item.subject == "03"]
    for item, one in zip(items, data.load(items, recipe), strict=True):
        assert one.own
        assert one.image.shape == (96, 128)
        assert one.masks.shape == (1, 96, 128)
        assert item.mask is not None
        drawn = (data.read_grey(item.mask) > 127).sum()
        assert one.masks.sum() / 255 == pytest.approx(drawn * (96 / 72) ** 2, rel=0.02)


def test_the_two_lungs_are_stored_by_where_they_lie(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, text=LUNGS)
    mask = np.zeros((200, 200), np.uint8)
    mask[50:150, 110:180] = 255
    mask[60:140, 20:90] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    item = data.Item(tmp_path / "image.png", "own", "train", "00", tmp_path / "mask.png")
    labels = data.read_labels(item, recipe, (200, 200))
    one = data.store(mask, labels, recipe, "own")
    assert [cv2.boundingRect(part)[0] < 64 for part in one.masks] == [True, False]  # right lung, left lung


@pytest.mark.slow
@pytest.mark.parametrize("name", data.SETS)
def test_drawn_pictures_are_labelled_and_those_without_the_anatomy_are_not(name: str) -> None:
    recipe = read_recipe(name)
    recipe = msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, phantoms=2))
    drawn = data.phantoms(recipe)
    assert sorted(one.kind for one in drawn) == ["phantom", "phantom", "phantom_empty", "phantom_other"]
    for one in drawn:
        assert one.image.any()
        assert [bool(mask.any()) for mask in one.masks] == [one.kind == "phantom"] * len(recipe.labels)


@pytest.mark.slow
@needs_data
def test_every_sixth_frame_of_a_cine_is_an_echo() -> None:
    recipe = read_recipe("carotid")
    found = data.echoes(recipe, DATA)
    assert len(found) == 11  # of 65
    assert all(one.kind == "echo" and one.image.any() and not one.masks.any() for one in found)
