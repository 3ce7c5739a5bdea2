"""A data folder of drawn ellipses, and the small recipe that trains on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from models.training.data import Grey, Stored, store
from models.training.recipe import Recipe, read_recipe

SIZE_HW = (72, 96)
SUBJECTS = tuple(f"{number:02d}" for number in range(8))  # two images each
TINY = """
name = "tiny"
version = "0.1.0"
anatomy = "fetal_head"
labels = ["head"]

[data]
folder = "fetal_head"
subject = "subject"

[splits]
tune = ["05"]
conformal = ["06"]
test = ["07"]

[foreign]
share = 0.3

[foreign.mix]
nothing = 1.0
beside = 1.0

[network]
grid_hw = [48, 64]
widths = [4, 4, 8, 8]
bottom = [1]

[vary]
look = "ultrasound"

[training]
steps = 3
batch = 2

[ship]
modality = ["US"]
view = "a drawn ellipse"
"""
LUNGS = (
    TINY.replace('anatomy = "fetal_head"', 'anatomy = "lungs"')
    .replace('["head"]', '["lung_right", "lung_left"]')
    .replace("[48, 64]", "[64, 64]")
    .replace('look = "ultrasound"', 'look = "xray"\nviews = true')
)


def tiny(folder: Path, *changes: tuple[str, str], text: str = TINY) -> Recipe:
    """The recipe, written to `folder` with some of its text replaced, and read back."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the recipe"
        text = text.replace(old, new)
    path = folder / "tiny.toml"
    path.write_text(text)
    return read_recipe(str(path))


def ellipse(rng: np.random.Generator) -> tuple[Grey, Grey]:
    """(image, mask), each of `SIZE_HW`: a bright ellipse on dark speckle, and 255 where it is."""
    mask = np.zeros(SIZE_HW, np.uint8)
    centre = (int(rng.integers(40, 56)), int(rng.integers(30, 42)))
    cv2.ellipse(mask, centre, (int(rng.integers(16, 26)), 14), rng.uniform(0, 180), 0, 360, 255, cv2.FILLED)
    image = np.where(mask > 0, 160, 40) + rng.normal(0, 10, SIZE_HW)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_heads(root: Path, subjects: Sequence[str] = SUBJECTS) -> Path:
    """Fills root/fetal_head with two ellipses a subject; returns `root`."""
    folder, rng = root / "fetal_head", np.random.default_rng(4)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines = ["file,subject,spacing_x_mm,spacing_y_mm,hc_mm"]
    for subject in subjects:
        for take in ("a", "b"):
            image, mask = ellipse(rng)
            cv2.imwrite(str(folder / "images" / f"{subject}{take}.png"), image)
            cv2.imwrite(str(folder / "masks" / f"{subject}{take}.png"), mask)
            lines.append(f"{subject}{take}.png,{subject},0.2,0.2,")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
    return root


def stored(recipe: Recipe, kind: str, seed: int = 0) -> Stored:
    """One drawn picture on the store grid; own ones are labelled."""
    image, mask = ellipse(np.random.default_rng(seed))
    return store(image, (mask > 0).astype(np.uint8) if kind == "own" else None, recipe, kind)
