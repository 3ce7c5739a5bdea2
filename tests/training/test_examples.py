"""What the network is shown: masks that follow their image, and flags that say what was done."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from models.training import looks, placement
from models.training.data import Grey, Stored, store
from models.training.examples import BAND, Example, Examples
from models.training.recipe import Recipe, VarySpec
from tests.training.drawn import LUNGS, SIZE_HW, ellipse, stored, tiny

STRANGE = ("nothing = 1.0\nbeside = 1.0", "abdomen = 1.0\nreplaced = 1.0\nbeside = 1.0\nnothing = 1.0")


def drawn(recipe: Recipe, seed: int, count: int, *kinds: str) -> list[Example]:
    """The first examples of three own pictures and one of each other kind."""
    pictures = [stored(recipe, "own", seed) for seed in range(3)]
    pictures += [stored(recipe, kind, 9) for kind in kinds]
    return list(islice(Examples(recipe, pictures, seed), count))


def varied(recipe: Recipe, **changes: object) -> Recipe:
    return msgspec.structs.replace(recipe, vary=msgspec.structs.replace(recipe.vary, **changes))


def only_own(recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(recipe, foreign=msgspec.structs.replace(recipe.foreign, share=0.0))


def only_foreign(recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(recipe, foreign=msgspec.structs.replace(recipe.foreign, share=1.0))


def centre(part: Grey) -> tuple[float, float]:
    """(x, y) of the centre of `part` (h, w), each 0 to 1."""
    moments = cv2.moments(part)
    height, width = part.shape
    return moments["m10"] / moments["m00"] / width, moments["m01"] / moments["m00"] / height


# ---------------------------------------------------------------- the same again


def test_the_same_seed_gives_the_same_examples_and_another_others(tmp_path: Path) -> None:
    recipe = varied(tiny(tmp_path, STRANGE), bend=0.3, swap_frame=0.3)
    first, again, other = (drawn(recipe, seed, 12, "abdomen") for seed in (7, 7, 8))
    for one, same in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=True))


def test_an_example_is_on_the_models_grid(tmp_path: Path) -> None:
    for one in drawn(tiny(tmp_path, STRANGE), 1, 20, "abdomen"):
        assert one.image.shape == one.masks.shape == one.band.shape == (1, 48, 64)
        assert one.image.dtype == one.masks.dtype == one.band.dtype == np.uint8


def test_each_own_picture_comes_once_a_round(tmp_path: Path) -> None:
    recipe = varied(only_own(tiny(tmp_path)), light=1.0, flip=0.0)
    greys = []
    for level in (60, 120, 180, 240):
        one = stored(recipe, "own")
        greys.append(Stored(np.full_like(one.image, level), one.masks, one.content, "own"))
    shown = [int(one.image.max()) for one in islice(Examples(recipe, greys, 3), 12)]
    assert [sorted(shown[k : k + 4]) for k in (0, 4, 8)] == [[60, 120, 180, 240]] * 3


# ---------------------------------------------------------------- masks follow


@pytest.mark.parametrize("seed", range(20))
def test_a_structure_that_is_cut_off_ends_with_its_picture_and_keeps_most_of_itself(
    tmp_path: Path, seed: int
) -> None:
    whole = stored(tiny(tmp_path), "own")
    bright = np.maximum(whole.image, 60)
    image, masks = placement.cut_off(bright, whole.masks, np.random.default_rng(seed))
    assert not (masks.max(0) > 0)[image == 0].any()
    left = int((masks > 127).sum()) / int((whole.masks > 127).sum())
    assert 0.4 < left < 1
    y, x = np.nonzero(image > 0)
    seen = masks.max(0)[y.min() : y.max() + 1, x.min() : x.max() + 1] > 127
    at_edge = (seen[0], seen[-1], seen[:, 0], seen[:, -1])
    assert any(edge.any() for edge in at_edge)


@pytest.mark.parametrize(
    "vary",
    [
        VarySpec(look="ultrasound", light=1.0),
        VarySpec(look="ultrasound", any_turn=1.0),
        VarySpec(look="ultrasound", flip=1.0, upside_down=1.0),
        VarySpec(look="ultrasound", zoom=(0.4, 2.5)),
        VarySpec(look="ultrasound", bend=1.0, any_turn=0.5),
    ],
    ids=["light", "any turn", "mirrored", "zoom", "bend"],
)
def test_a_mask_lies_where_its_image_lies(tmp_path: Path, vary: VarySpec) -> None:
    recipe, rng = tiny(tmp_path), np.random.default_rng(2)
    for seed in range(8):
        own = stored(recipe, "own", seed)
        item = Stored(own.masks[0], own.masks, own.content, "own")  # the picture is its mask
        image, masks = placement.placed(item, vary, rng, vary.light == 1.0)
        assert np.array_equal(image, masks[0])
        assert image.any()
        assert not np.array_equal(image, item.image)


def test_a_window_leaves_the_structure(tmp_path: Path) -> None:
    recipe, rng = tiny(tmp_path), np.random.default_rng(3)
    darker = 0
    for seed in range(20):
        own = stored(recipe, "own", seed)
        image = placement.windowed(own.image, own.masks, True, rng)
        inner = cv2.erode(own.masks[0], np.ones((7, 7), np.uint8)) > 0
        assert np.array_equal(image[inner], own.image[inner])
        darker += int((image != own.image).any())
    assert darker > 10


def test_mirrored_lungs_keep_their_sides(tmp_path: Path) -> None:
    recipe = varied(only_own(tiny(tmp_path, text=LUNGS)), light=1.0, flip=1.0, views=False)
    labels = np.zeros((128, 128), np.uint8)
    labels[30:100, 15:55] = 1
    labels[40:90, 70:110] = 2
    grey = np.array([0, 200, 100], np.uint8)[labels]  # the right lung is the brighter one
    for one in islice(Examples(recipe, [store(grey, labels, recipe, "own")], 1), 5):
        right, left = (part > 250 for part in one.masks)
        assert centre(one.masks[0])[0] < centre(one.masks[1])[0]  # the right one is still on the left
        assert np.median(one.image[0][right]) == 100  # and shows what lay on the other side
        assert np.median(one.image[0][left]) == 200


def test_quarter_turns_are_clockwise_and_said_and_so_is_inverted_grey(tmp_path: Path) -> None:
    recipe = varied(only_own(tiny(tmp_path, text=LUNGS)), light=1.0, flip=0.0)
    labels = np.zeros((128, 128), np.uint8)
    labels[8:30, 30:60] = 1
    labels[8:30, 70:100] = 2
    grey = np.where(labels > 0, np.uint8(250), np.uint8(80))  # both at the top
    seen: set[tuple[int, int]] = set()
    for one in islice(Examples(recipe, [store(grey, labels, recipe, "own")], 5), 150):
        turned, inverted = int(one.turned), int(one.inverted)
        seen.add((turned, inverted))
        x, y = centre(one.masks.max(0))
        edge = {"top": y, "right": 1 - x, "bottom": 1 - y, "left": x}
        assert min(edge, key=lambda name: edge[name]) == ("top", "right", "bottom", "left")[turned]
        part = one.masks.max(0) > 250
        assert np.median(one.image[0][part]) == (5 if inverted else 250)
        right_of_two = centre(one.masks[0]), centre(one.masks[1])  # the sides turn with the picture
        along = {0: right_of_two[1][0] - right_of_two[0][0], 1: right_of_two[1][1] - right_of_two[0][1]}
        sign = {0: along[0], 1: along[1], 2: -along[0], 3: -along[1]}
        assert sign[turned] > 0
    assert {turned for turned, _ in seen} == {0, 1, 2, 3}
    assert {inverted for _, inverted in seen} == {0, 1}


def test_without_views_nothing_is_turned_or_inverted(tmp_path: Path) -> None:
    assert all(one.turned == 0 and one.inverted == 0 for one in drawn(tiny(tmp_path), 2, 60))


# ---------------------------------------------------------------- what is known


def test_foreign_examples_have_empty_masks_that_are_known(tmp_path: Path) -> None:
    recipe = varied(only_foreign(tiny(tmp_path, STRANGE)), swap_frame=0.5)
    for one in drawn(recipe, 3, 60, "abdomen"):
        assert (one.known, one.presence) == (1, 0)
        assert not one.masks.any()
        assert not one.band.any()


def test_only_of_kinds_that_show_the_anatomy_is_the_mask_unknown(tmp_path: Path) -> None:
    mix = ("nothing = 1.0\nbeside = 1.0", "wrong_plane = 1.0\nnothing = 1.0")
    recipe = only_foreign(tiny(tmp_path, mix, ("share = 0.3", 'share = 0.3\npresent = ["wrong_plane"]')))
    said = [(float(one.known), float(one.presence)) for one in drawn(recipe, 3, 60, "wrong_plane")]
    assert set(said) == {(0, 1), (1, 0)}
    assert all((one.known, one.presence) == (1, 1) for one in drawn(only_own(recipe), 3, 20, "wrong_plane"))


def test_the_band_is_near_the_outline_and_nowhere_else(tmp_path: Path) -> None:
    recipe = varied(only_own(tiny(tmp_path)), light=1.0)
    for one in drawn(recipe, 4, 10):
        mask, band = one.masks[0], one.band[0]
        size = 2 * BAND + 3
        inside = cv2.erode(mask, np.ones((size, size), np.uint8)) == 255
        outside = cv2.dilate(mask, np.ones((size, size), np.uint8)) == 0
        assert not band[inside | outside].any()
        assert (band[(mask > 100) & (mask < 155)] == 255).all()


# ---------------------------------------------------------------- what cannot be drawn from


def test_a_kind_without_a_picture_is_refused(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, ("beside = 1.0", "abdomen = 1.0"))
    with pytest.raises(ConfigError, match=r"tiny.*abdomen"):
        Examples(recipe, [stored(recipe, "own")], 0)


def test_swapping_with_foreign_pictures_wants_one(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, ("beside = 1.0", "replaced = 1.0"))
    with pytest.raises(ConfigError, match=r"tiny.*replaced"):
        Examples(recipe, [stored(recipe, "own")], 0)


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("look", ["ultrasound", "xray"])
def test_a_look_is_of_the_same_size_and_leaves_the_structure_visible(look: str) -> None:
    rng = np.random.default_rng(1)
    brighter = []
    for seed in range(30):
        image, mask = ellipse(np.random.default_rng(seed))
        grey = looks.varied(image, look, 1.0, rng)
        assert (grey.shape, grey.dtype) == (SIZE_HW, np.uint8)
        brighter.append(float(grey[mask > 0].mean()) > float(grey[mask == 0].mean()))
    assert sum(brighter) >= 27


def test_pictures_of_nothing_are_of_many_kinds() -> None:
    rng = np.random.default_rng(1)
    pictures = [looks.nothing((48, 64), rng) for _ in range(60)]
    assert all((one.shape, one.dtype) == ((48, 64), np.uint8) for one in pictures)
    assert 0 < sum(not one.std() for one in pictures) < 30  # some are blank
