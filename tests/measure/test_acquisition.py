"""The acquisition check: drawn lungs at every edge, turned, inverted, missing; and the real X-rays by their masks."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.codes import SEVERITY, Hint, Reason, Status
from edge_runtime.infer.preprocess import fit_region, resize_grey
from edge_runtime.measure.acquisition import LABELS, NOT_A_CHEST, check, hint_of, reasons_of, visible
from edge_runtime.measure.anatomy import acquisition
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.pictures import read_truth
from edge_runtime.types import Box, Mask
from tests.measure.drawn import mask_of
from tests.real import DATA, needs_data

GRID = (256, 256)
WHERE = fit_region(Box(0, 0, 512, 512), GRID, "letterbox")
SETTINGS = MeasureSettings()
UPRIGHT = (0.97, 0.01, 0.01, 0.01)
GREY = np.random.default_rng(0).integers(60, 180, GRID, dtype=np.uint8)


def lung(center, axes=(35, 70)):
    part = np.zeros(GRID, np.uint8)
    cv2.ellipse(part, center, axes, 0, 0, 360, 1, -1)
    return part.astype(bool)


RIGHT, LEFT = lung((80, 120)), lung((175, 120))
NOTHING = np.zeros(GRID, bool)


def chest(right=RIGHT, left=LEFT, rotation=UPRIGHT, inverted=0.02, where=WHERE):
    return replace(mask_of(where, right, left, names=LABELS), rotation=rotation, inverted=inverted)


def banded(edge, cells, grey=0):
    picture = GREY.copy()
    picture[
        {
            "top": np.s_[:cells],
            "bottom": np.s_[-cells:],
            "left": np.s_[:, :cells],
            "right": np.s_[:, -cells:],
        }[edge]
    ] = grey
    return picture


def test_two_whole_lungs_upright_in_their_polarity_are_ok():
    found = check(chest(), GREY, (), SETTINGS)
    assert found.ok and found.both_lungs
    assert (found.missing, found.clipped_edges, found.rotation_deg, found.inverted) == ((), (), 0, False)
    assert (reasons_of(found), hint_of(found)) == ((), Hint.NONE)


@pytest.mark.parametrize(
    "turned, degrees, reason",
    [
        ((0.1, 0.8, 0.05, 0.05), 90, Reason.ROTATED_90),
        ((0.1, 0.05, 0.8, 0.05), 180, Reason.ROTATED_180),
        ((0.1, 0.05, 0.05, 0.8), 270, Reason.ROTATED_270),
        ((0.49, 0.0, 0.01, 0.5), 270, Reason.ROTATED_270),
    ],
)
def test_a_turned_picture_is_refused_and_says_how_far(turned, degrees, reason):
    found = check(chest(rotation=turned), GREY, (), SETTINGS)
    assert (found.rotation_deg, found.ok) == (degrees, False)
    assert reason in reasons_of(found)
    assert hint_of(found) is Hint.ROTATE_IMAGE


def test_a_picture_less_surely_upright_than_the_model_asks_for_counts_as_turned():
    unsure = chest(rotation=(0.8, 0.15, 0.05, 0.0))
    assert check(unsure, GREY, (), SETTINGS).rotation_deg == 0
    assert check(unsure, GREY, (), MeasureSettings(min_upright=0.9)).rotation_deg == 90


def test_inverted_polarity_is_refused():
    found = check(chest(inverted=0.9), GREY, (), SETTINGS)
    assert (found.inverted, found.ok) == (True, False)
    assert (reasons_of(found), hint_of(found)) == ((Reason.INVERTED_POLARITY,), Hint.CHECK_POLARITY)
    assert check(chest(inverted=0.3), GREY, (), MeasureSettings(max_inverted=0.2)).inverted


@pytest.mark.parametrize(
    "right, left, missing",
    [
        (NOTHING, LEFT, ("right",)),
        (RIGHT, NOTHING, ("left",)),
        (NOTHING, NOTHING, ("right", "left")),
        (RIGHT, lung((175, 120), (6, 6)), ("left",)),  # a scrap is no lung
    ],
)
def test_a_missing_lung_is_named_by_the_patients_side(right, left, missing):
    found = check(chest(right, left), GREY, (), SETTINGS)
    assert (found.missing, found.both_lungs, found.ok) == (missing, False, False)
    assert hint_of(found) is Hint.INCLUDE_BOTH_LUNGS
    names = {"right": Reason.LUNG_RIGHT_MISSING, "left": Reason.LUNG_LEFT_MISSING}
    assert reasons_of(found) == tuple(names[side] for side in missing)


EDGES = {
    "top": (lung((80, 55)), LEFT, Reason.CLIPPED_TOP_EDGE, Hint.INCLUDE_TOP_EDGE),
    "bottom": (lung((80, 200)), LEFT, Reason.CLIPPED_BOTTOM_EDGE, Hint.INCLUDE_BOTTOM_EDGE),
    "left": (lung((20, 120)), LEFT, Reason.CLIPPED_LEFT_EDGE, Hint.INCLUDE_LEFT_EDGE),
    "right": (RIGHT, lung((240, 120)), Reason.CLIPPED_RIGHT_EDGE, Hint.INCLUDE_RIGHT_EDGE),
}


@pytest.mark.parametrize("edge", EDGES)
def test_a_lung_beyond_an_edge_of_the_image_is_clipped_there(edge):
    right, left, reason, hint = EDGES[edge]
    found = check(chest(right, left), GREY, (), SETTINGS)
    assert (found.clipped_edges, found.ok) == ((edge,), False)
    assert (reasons_of(found), hint_of(found)) == ((reason,), hint)


@pytest.mark.parametrize("short", [1, 2, 3])
@pytest.mark.parametrize("edge", EDGES)
def test_a_lung_that_a_network_ends_just_before_the_edge_that_cuts_it_is_clipped(edge, short):
    """It draws what it knows: a lung that is round below, a row or two above the end of the picture."""
    right, left, reason, _ = EDGES[edge]
    seen = {
        "top": np.s_[:short],
        "bottom": np.s_[-short:],
        "left": np.s_[:, :short],
        "right": np.s_[:, -short:],
    }
    right, left = (part.copy() for part in (right, left))
    right[seen[edge]] = left[seen[edge]] = False
    found = check(chest(right, left), GREY, (), SETTINGS)
    assert (found.clipped_edges, reasons_of(found)) == ((edge,), (reason,))


COLLIMATED = {"top": 60, "bottom": 256 - 180, "left": 50, "right": 256 - 200}


@pytest.mark.parametrize("grey", [0, 255])
@pytest.mark.parametrize("edge", COLLIMATED)
def test_a_lung_beyond_a_collimated_border_is_clipped_there(edge, grey):
    cells = COLLIMATED[edge]
    picture = banded(edge, cells, grey)
    kept = picture != grey
    found = check(chest(RIGHT & kept, LEFT & kept), picture, (), SETTINGS)
    assert found.clipped_edges == (edge,)
    assert check(chest(RIGHT & kept, LEFT & kept), GREY, (), SETTINGS).clipped_edges == ()


@pytest.mark.parametrize("edge", COLLIMATED)
def test_a_band_with_a_marker_in_it_is_still_a_band(edge):
    cells = 30
    picture = banded(edge, cells)
    box = visible(picture, WHERE.content)
    assert (
        box
        == {
            "top": Box(0, 30, 256, 256),
            "bottom": Box(0, 0, 256, 226),
            "left": Box(30, 0, 256, 256),
            "right": Box(0, 0, 226, 256),
        }[edge]
    )
    picture[5:15, 5:15] = 255
    picture[-15:-5, -15:-5] = 255
    assert visible(picture, WHERE.content) == box


def test_lungs_near_a_band_but_not_at_it_are_whole():
    assert check(chest(), banded("left", 38), (), SETTINGS).ok
    assert check(chest(), banded("top", 40, 255), (), SETTINGS).ok


def test_padding_beside_a_picture_is_no_collimation():
    tall = fit_region(Box(0, 0, 300, 512), GRID, "letterbox")
    edge = tall.content.x0
    part = NOTHING.copy()
    part[60:180, edge : edge + 50] = True
    picture = np.where(np.arange(256) >= edge, GREY, 0).astype(np.uint8)
    found = check(chest(part, lung((170, 120), (20, 60)), where=tall), picture, (), SETTINGS)
    assert found.clipped_edges == ("left",)


def test_a_picture_that_is_all_band_has_none():
    assert visible(np.zeros(GRID, np.uint8), WHERE.content) == WHERE.content


@pytest.mark.parametrize("reason", sorted(NOT_A_CHEST))
def test_what_is_no_chest_is_not_checked_at_all(reason):
    assert check(chest(), GREY, (reason,), SETTINGS) is None


def test_a_chest_that_may_not_be_measured_is_never_ok():
    found = check(chest(), GREY, (Reason.LOW_CONFIDENCE,), SETTINGS)
    assert found.both_lungs and not found.ok
    assert check(chest(), GREY, (Reason.SATURATED,), SETTINGS).ok  # caution only


def test_what_was_not_checked_is_never_ok():
    found = check(chest(rotation=None), GREY, (), SETTINGS)
    assert (found.rotation_deg, found.ok) == (None, False)
    found = check(chest(inverted=None), GREY, (), SETTINGS)
    assert (found.inverted, found.ok) == (None, False)


def test_each_of_its_reasons_withholds():
    found = check(chest(NOTHING, NOTHING, (0, 0, 1, 0), 1.0), GREY, (), SETTINGS)
    clipped = [EDGES[edge][2] for edge in EDGES]
    assert all(SEVERITY[reason] is Status.WITHHELD for reason in (*reasons_of(found), *clipped))


def test_only_lungs_have_an_acquisition():
    assert acquisition("fetal_head", chest(), GREY, (), SETTINGS) is None
    assert acquisition("lungs", chest(), GREY, (), SETTINGS).ok


# ---------------------------------------------------------------- the real X-rays, by their true masks


def on_grid(pixels: np.ndarray, truth: np.ndarray) -> tuple[Mask, np.ndarray]:
    height, width = truth.shape
    where = fit_region(Box(0, 0, width, height), GRID, "letterbox")
    content, grid = where.content, np.zeros(GRID, np.uint8)
    seen = np.s_[content.y0 : content.y1, content.x0 : content.x1]
    resize_grey(pixels, grid[seen])
    parts = []
    for value in (1, 2):
        share = cv2.resize(
            (truth == value).astype(np.float32), grid[seen].shape[::-1], interpolation=cv2.INTER_AREA
        )
        part = np.zeros(GRID, bool)
        part[seen] = share > 0.5
        parts.append(part)
    return chest(*parts, where=where), grid


@needs_data
def test_real_whole_chests_pass_and_cut_ones_do_not():
    """9 of 110 lie at an edge. Cut by a tenth of the lungs' extent, every one is clipped at that edge."""
    folder, whole, cut = DATA / "lungs", 0, dict.fromkeys(EDGES, 0)
    with (folder / "meta.csv").open(newline="") as table:
        names = [row["file"] for row in csv.DictReader(table)]
    for name in names:
        pixels = cv2.imread(str(folder / "images" / name), cv2.IMREAD_GRAYSCALE)
        truth = read_truth(folder / "masks" / f"{Path(name).stem}.png", LABELS)
        whole += check(*on_grid(pixels, truth), (), SETTINGS).ok
        rows, columns = np.nonzero(truth)
        top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
        high, wide = (bottom - top) // 10, (right - left) // 10
        kept = {
            "top": np.s_[top + high :],
            "bottom": np.s_[: bottom - high],
            "left": np.s_[:, left + wide :],
            "right": np.s_[:, : right - wide],
        }
        for edge, place in kept.items():
            found = check(*on_grid(np.ascontiguousarray(pixels[place]), truth[place]), (), SETTINGS)
            cut[edge] += edge in found.clipped_edges
    print(f"{whole} of {len(names)} whole; clipped at {cut}")
    assert whole >= 0.9 * len(names)
    assert all(count == len(names) for count in cut.values())
