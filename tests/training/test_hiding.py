"""Hiding an outline changes the picture near it, never the truth, and nothing far from it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.training.hiding import opacified, veiled

SEEDS = range(12)


def oval(centre: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((120, 160), np.uint8)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, cv2.FILLED)
    return mask


@pytest.fixture
def chest() -> tuple[np.ndarray, np.ndarray]:
    """Two dark lungs (2, 120, 160) in a bright body."""
    lungs = np.stack([oval((45, 60), (25, 45)), oval((115, 60), (25, 45))])
    return np.where(lungs.max(0) > 0, 60, 180).astype(np.uint8), lungs


@pytest.mark.parametrize("seed", SEEDS)
def test_disease_only_brightens_and_only_at_a_lung(chest: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    image, lungs = chest
    found = opacified(image, lungs, np.random.default_rng(seed))
    far = cv2.dilate(lungs.max(0), np.ones((31, 31), np.uint8)) == 0
    assert (found >= image).all()
    assert np.array_equal(found[far], image[far])


def test_a_lung_under_disease_comes_close_to_what_lies_around_it(
    chest: tuple[np.ndarray, np.ndarray],
) -> None:
    image, lungs = chest
    inside = lungs.max(0) > 0
    brightest = [opacified(image, lungs, np.random.default_rng(seed))[inside].max() for seed in SEEDS]
    assert max(brightest) > 150


def test_a_white_picture_without_a_lung_stays_as_it_is() -> None:
    image, none = np.full((120, 160), 200, np.uint8), np.zeros((2, 120, 160), np.uint8)
    assert np.array_equal(opacified(image, none, np.random.default_rng(0)), image)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_veil_lies_on_the_outline_of_a_vessel_and_leaves_the_far_field(seed: int) -> None:
    lumen = oval((80, 60), (30, 26))
    image = np.where(lumen > 0, 10, 120).astype(np.uint8)
    found = veiled(image, lumen, np.random.default_rng(seed))
    changed = found != image
    far = cv2.dilate(lumen, np.ones((121, 121), np.uint8)) == 0
    assert changed.any() and not changed[far].any()
    near_outline = cv2.dilate(lumen, np.ones((5, 5), np.uint8)) != cv2.erode(lumen, np.ones((5, 5), np.uint8))
    assert changed[near_outline].mean() > changed.mean()


def test_a_veil_prefers_the_walls_that_lie_along_the_beam() -> None:
    lumen = oval((80, 60), (30, 30))
    image = np.where(lumen > 0, 10, 120).astype(np.uint8)
    changes = sum(
        (veiled(image, lumen, np.random.default_rng(seed)) != image).astype(int) for seed in range(60)
    )
    assert changes[60, 50] + changes[60, 110] > changes[30, 80] + changes[90, 80]


def test_nothing_is_veiled_where_there_is_no_structure() -> None:
    image = np.full((120, 160), 90, np.uint8)
    assert veiled(image, np.zeros_like(image), np.random.default_rng(0)) is image
