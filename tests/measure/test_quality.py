"""Each thing that spoils a picture raises its reason and its hint; the real images raise none."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest

from edge_runtime.codes import Hint, Reason, SourceKind, SpacingSource
from edge_runtime.infer.preprocess import fit_region, resize_grey
from edge_runtime.measure.quality import FreezeWatch, Limits, judge
from edge_runtime.types import Box, Frame, Origin, Spacing
from tests.measure.drawn import ellipse_cells, geometry, mask_of
from tests.real import DATA, needs_data

WHERE = geometry()
ULTRASOUND = Limits(modality=("US",), min_presence=0.5, min_confidence=0.9)
HEAD = ellipse_cells(WHERE, (400, 270), (36, 28), 0.2, (0.15, 0.15))


def speckle():
    """A picture with the sharpness and brightness of a fetal head's."""
    random = np.random.default_rng(1)
    fine = cv2.GaussianBlur(random.rayleigh(40, WHERE.grid_hw).astype(np.float32), (0, 0), 0.8)
    slow = cv2.GaussianBlur(random.normal(0, 1, WHERE.grid_hw).astype(np.float32), (0, 0), 20)
    return np.clip(fine + slow / slow.std() * 25, 0, 245).astype(np.uint8)


GOOD = speckle()


def frame(modality="US", coloured=0.0, spacing=True, content="abc", index=0):
    return Frame(
        pixels=np.zeros((540, 800), np.uint8),
        index=index,
        captured_ns=0,
        origin=Origin(SourceKind.MEMORY, "test", modality=modality),
        frame_id=f"{index}.{content}",
        spacing=Spacing(0.15, 0.15, SpacingSource.OPERATOR) if spacing else None,
        coloured=coloured,
    )


def mask(inside=HEAD, **more):
    return mask_of(WHERE, inside, **more)


def test_a_good_frame_has_a_high_score_and_no_reason():
    verdict = judge(GOOD, mask(), frame(), ULTRASOUND)
    assert (verdict.reasons, verdict.hint) == ((), Hint.NONE)
    assert verdict.score >= 90


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_blank_frame_is_no_signal(level):
    verdict = judge(np.full(WHERE.grid_hw, level, np.uint8), mask(), frame(), ULTRASOUND)
    assert (verdict.score, verdict.hint, verdict.reasons) == (0, Hint.NO_SIGNAL, (Reason.BLANK,))


def test_one_bright_word_on_black_is_blank():
    text = np.zeros(WHERE.grid_hw, np.uint8)
    cv2.putText(text, "NO SIGNAL", (100, 100), cv2.FONT_HERSHEY_PLAIN, 0.8, 255)
    assert judge(text, None, frame(), ULTRASOUND).reasons == (Reason.BLANK,)


SPOILT = {
    "blurred": (cv2.GaussianBlur(GOOD, (0, 0), 3), Reason.BLURRED, Hint.HOLD_STILL),
    "dragged": (cv2.blur(GOOD, (15, 15)), Reason.BLURRED, Hint.HOLD_STILL),
    "saturated": (np.clip(GOOD * 4.0, 0, 255).astype(np.uint8), Reason.SATURATED, Hint.REDUCE_GAIN),
    "dark": ((GOOD * 0.16).astype(np.uint8), Reason.LOW_GAIN, Hint.INCREASE_GAIN),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_picture_says_what_to_do(name):
    grid, reason, hint = SPOILT[name]
    verdict = judge(grid, mask(), frame(), ULTRASOUND)
    assert reason in verdict.reasons and verdict.hint is hint
    assert verdict.score < 50


def test_a_probe_in_the_air_asks_for_gel():
    grid = np.zeros(WHERE.grid_hw, np.uint8)
    grid[:24] = GOOD[:24]
    verdict = judge(grid, None, frame(), ULTRASOUND)
    assert verdict.hint is Hint.ADD_GEL and verdict.score < 50


def test_colour_doppler_is_refused_with_the_switch_to_turn():
    verdict = judge(GOOD, mask(), frame(coloured=0.05), ULTRASOUND)
    assert (verdict.reasons, verdict.hint) == ((Reason.COLOUR_IMAGE,), Hint.TURN_COLOUR_OFF)
    assert judge(GOOD, mask(), frame(coloured=0.01), ULTRASOUND).reasons == ()


@pytest.mark.parametrize("modality, refused", [("XA", True), ("US", False), (None, False)])
def test_another_modality_is_refused_where_the_file_says_it(modality, refused):
    verdict = judge(GOOD, mask(), frame(modality=modality), ULTRASOUND)
    assert (Reason.MODALITY_MISMATCH in verdict.reasons) is refused
    assert (verdict.score == 0) is refused


def test_a_foreign_image_and_an_unsure_mask_are_refused():
    foreign = judge(GOOD, mask(presence=0.4), frame(), ULTRASOUND)
    unsure = judge(GOOD, mask(confidence=0.85), frame(), ULTRASOUND)
    assert foreign.reasons == (Reason.FOREIGN_IMAGE,)
    assert unsure.reasons == (Reason.LOW_CONFIDENCE,)
    assert foreign.hint is unsure.hint is Hint.FIND_STRUCTURE


def test_at_its_limit_a_word_still_counts():
    assert judge(GOOD, mask(presence=0.5, confidence=0.9), frame(), ULTRASOUND).reasons == ()


def test_nothing_found_is_said():
    verdict = judge(GOOD, mask(np.zeros_like(HEAD), confidence=0.0), frame(), ULTRASOUND)
    assert verdict.reasons == (Reason.STRUCTURE_NOT_FOUND,)
    assert (verdict.score, verdict.hint) == (0, Hint.FIND_STRUCTURE)


def test_one_label_of_two_that_is_missing_is_not_low_confidence():
    two = mask_of(WHERE, HEAD, np.zeros_like(HEAD), names=("lung_right", "lung_left"))
    object.__setattr__(two, "confidence", (0.98, 0.0))
    assert judge(GOOD, two, frame(), ULTRASOUND).reasons == ()


def test_a_structure_at_the_edge_is_to_be_centred():
    beside = ellipse_cells(WHERE, (60, 270), (20, 15), 0.0, (0.15, 0.15))
    assert judge(GOOD, mask(beside), frame(), ULTRASOUND).hint is Hint.CENTER_STRUCTURE


def test_on_a_good_picture_the_hint_is_what_is_left_to_do():
    to_confirm = Limits(modality=("US",), plane_to_confirm=True)
    assert judge(GOOD, mask(), frame(spacing=False), to_confirm).hint is Hint.CONFIRM_PLANE
    assert judge(GOOD, mask(), frame(spacing=False), ULTRASOUND).hint is Hint.CALIBRATE_SPACING
    assert judge(GOOD, mask(), frame(), ULTRASOUND).hint is Hint.NONE


def test_padding_beside_a_letterboxed_picture_does_not_count():
    where = geometry((600, 400))
    grid = np.zeros(where.grid_hw, np.uint8)
    content = where.content
    grid[:, content.x0 : content.x1] = GOOD[:, content.x0 : content.x1]
    head = ellipse_cells(where, (200, 300), (20, 15), 0.0, (0.15, 0.15))
    assert judge(grid, mask_of(where, head), frame(), ULTRASOUND).reasons == ()


def test_a_live_source_that_repeats_itself_is_frozen():
    watch = FreezeWatch(hold=5)
    seen = [watch.see(frame(content="same", index=index)) for index in range(7)]
    assert seen == [False] * 4 + [True] * 3
    assert not watch.see(frame(content="other", index=8))
    assert judge(GOOD, mask(), frame(), ULTRASOUND, frozen=True).reasons == (Reason.FROZEN,)


def on_grid(image, grid_hw=(192, 288)):
    where = fit_region(Box(0, 0, image.shape[1], image.shape[0]), grid_hw, "letterbox")
    content = where.content
    grid = np.zeros(grid_hw, np.uint8)
    resize_grey(image, grid[content.y0 : content.y1, content.x0 : content.x1])
    return grid, where


@needs_data
@pytest.mark.parametrize("name, every", [("fetal_head", 4), ("carotid", 8), ("lungs", 3)])
def test_no_real_image_is_called_spoilt(name, every):
    limits = Limits(modality=("CR", "DX") if name == "lungs" else ("US",))
    scores, wrong = [], []
    with (DATA / name / "meta.csv").open() as file:
        rows = list(csv.DictReader(file))[::every]
    for row in rows:
        image = cv2.imread(str(DATA / name / "images" / row["file"]), cv2.IMREAD_GRAYSCALE)
        grid, where = on_grid(image)
        middle = np.zeros(where.grid_hw, bool)
        middle[80:110, 120:170] = True
        verdict = judge(grid, mask_of(where, middle), frame(limits.modality[0]), limits)
        scores.append(verdict.score)
        if verdict.reasons:
            wrong.append((row["file"], verdict.reasons))
    print(f"{name}: {len(rows)} images, score 1st percentile {np.percentile(scores, 1):.0f}, spoilt {wrong}")
    assert wrong == []
    assert np.percentile(scores, 5) >= 70


@needs_data
def test_a_real_head_out_of_focus_is_called_blurred():
    with (DATA / "fetal_head" / "meta.csv").open() as file:
        rows = list(csv.DictReader(file))[::40]
    for row in rows:
        image = cv2.imread(str(DATA / "fetal_head" / "images" / row["file"]), cv2.IMREAD_GRAYSCALE)
        grid, where = on_grid(cv2.GaussianBlur(image, (0, 0), 5))
        verdict = judge(grid, mask_of(where, HEAD), frame(), ULTRASOUND)
        assert Reason.BLURRED in verdict.reasons, row["file"]
