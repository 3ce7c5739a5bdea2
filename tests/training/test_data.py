"""The splits and what training refuses before it starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.training import data


def test_an_exam_stays_in_its_split_for_ever() -> None:
    splits = [data.split_of(subject) for subject in ("001", "004", "005", "010", "100")]
    assert splits == ["train", "tune", "test", "train", "train"]


def test_the_splits_have_about_the_shares_that_were_asked_for() -> None:
    counts = Counter(data.split_of(f"{number:03d}") for number in range(4000))
    assert set(counts) == {"train", "tune", "conformal", "test"}
    assert abs(counts["train"] / 4000 - 0.7) < 0.03
    assert all(abs(counts[split] / 4000 - 0.1) < 0.03 for split in ("tune", "conformal", "test"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one head."""
    head = tmp_path / "fetal_head"
    for name in ("images", "masks"):
        (head / name).mkdir(parents=True)
    image = np.full((60, 90), 50, np.uint8)
    mask = cv2.circle(np.zeros((60, 90), np.uint8), (45, 30), 20, 255, cv2.FILLED)
    cv2.imwrite(str(head / "images" / "7_HC.webp"), image)
    cv2.imwrite(str(head / "masks" / "7_HC.png"), mask)
    rows = "file,subject,spacing_x_mm,spacing_y_mm,hc_mm\n7_HC.webp,7,0.1,0.2,150\n"
    (head / "meta.csv").write_text(rows)
    return tmp_path


def test_a_head_is_read_with_its_mask_and_exam(folder: Path) -> None:
    (item,) = data.heads(folder)
    (stored,) = data.load([item])
    assert item.subject == "7"
    assert data.subjects(folder, data.split_of("7")) == ["7"]
    assert stored.image.shape == stored.mask.shape == data.STORE_HW
    assert item.mask is not None
    drawn = (data.read_grey(item.mask) > 127).sum()
    assert stored.mask.sum() / 255 == pytest.approx(drawn * (data.STORE_HW[0] / 60) ** 2, rel=0.01)


def test_a_missing_mask_is_named_before_training_starts(folder: Path) -> None:
    (folder / "fetal_head" / "masks" / "7_HC.png").unlink()
    with pytest.raises(SystemExit, match=r"7_HC\.png"):
        data.heads(folder)


def test_a_mask_of_another_size_is_named(folder: Path) -> None:
    cv2.imwrite(str(folder / "fetal_head" / "masks" / "7_HC.png"), np.full((30, 90), 255, np.uint8))
    with pytest.raises(SystemExit, match=r"7_HC\.png"):
        data.load(data.heads(folder))


def test_a_folder_without_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="EDGE_RUNTIME_DATA"):
        data.data_root()


@pytest.mark.data
def test_no_patient_is_on_both_sides_of_the_negatives() -> None:
    try:
        root = data.data_root()
    except SystemExit as missing:
        pytest.skip(str(missing))
    sides: dict[str, set[str]] = {}
    for item in data.negatives(root):
        if item.kind in ("abdomen", "thorax", "femur", "cervix", "other"):
            owner = item.path.name.lower().split("_plane")[0]
            sides.setdefault(owner, set()).add(item.split)
    assert sides
    assert [owner for owner, splits in sides.items() if len(splits) > 1] == []
