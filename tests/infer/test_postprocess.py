"""Model outputs to clean masks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.codes import Reason
from edge_runtime.errors import FrameError
from edge_runtime.infer.postprocess import Postprocess, activate, decide
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.types import Box

GEOMETRY = fit_region(Box(0, 0, 8, 8), (8, 8), "letterbox")
HEAD = Postprocess("mask", "none", ("head",), None, keep_largest=True)


def read(
    probabilities: NDArray[np.float32], post: Postprocess = HEAD
) -> tuple[NDArray[np.uint8], float, float]:
    mask = post.read({"mask": probabilities[None]}, GEOMETRY)
    return mask.labels, mask.confidence[0], mask.discarded[0]


def plane(*ones: tuple[slice, slice]) -> NDArray[np.float32]:
    picture = np.zeros((1, 8, 8), np.float32)
    for rows, columns in ones:
        picture[0, rows, columns] = 1
    return picture


def test_the_largest_part_stays_and_the_rest_is_told() -> None:
    labels, _, discarded = read(plane((slice(0, 4), slice(0, 4)), (slice(6, 8), slice(6, 8))))
    assert labels.sum() == 16
    assert discarded == pytest.approx(4 / 20)


def test_holes_are_filled() -> None:
    ring = plane((slice(1, 6), slice(1, 6)))
    ring[0, 3, 3] = 0
    labels, _, discarded = read(ring)
    assert labels.sum() == 25
    assert discarded == 0


def test_confidence_is_the_soft_dice_of_the_probabilities_with_their_own_decision() -> None:
    picture = np.full((1, 8, 8), 0.2, np.float32)
    picture[0, 2:6, 2:6] = 0.8
    _, confidence, _ = read(picture)
    assert confidence == pytest.approx(2 * 16 * 0.8 / (16 * 0.8 + 48 * 0.2 + 16))


def test_nothing_found_is_an_empty_mask_without_confidence() -> None:
    labels, confidence, discarded = read(plane())
    assert (labels.sum(), confidence, discarded) == (0, 0.0, 0.0)


def test_nothing_is_found_in_the_padding() -> None:
    narrow = fit_region(Box(0, 0, 4, 8), (8, 8), "letterbox")
    mask = HEAD.read({"mask": np.ones((1, 1, 8, 8), np.float32)}, narrow)
    assert mask.labels.sum() == 8 * 4
    assert not mask.labels[:, :2].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    picture = plane()
    picture[0, 3, 3] = bad
    with pytest.raises(FrameError) as caught:
        read(picture)
    assert caught.value.reason is Reason.MODEL_OUTPUT_INVALID


def test_several_classes_are_decided_as_argmax_does() -> None:
    scores = np.random.default_rng(0).random((4, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(decide(scores), scores.argmax(axis=0))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activations_give_probabilities(activation: str) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32) * 30
    result = activate(scores, activation)
    assert ((result >= 0) & (result <= 1)).all()
    if activation == "softmax":
        np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)


def test_the_mask_is_a_copy_and_survives_the_slot() -> None:
    picture = plane((slice(0, 4), slice(0, 4)))[None]
    mask = HEAD.read({"mask": picture}, GEOMETRY)
    picture[:] = 0
    assert mask.labels.sum() == 16


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_scores_far_from_zero_are_probabilities_without_a_warning(activation: str) -> None:
    scores = np.full((1 if activation == "sigmoid" else 2, 8, 8), -500, np.float32)
    scores[-1, 2:6, 2:6] = 500
    labels, confidence, _ = read(scores, Postprocess("mask", activation, ("head",), None, keep_largest=True))
    assert labels.sum() == 16
    assert confidence == pytest.approx(1.0 if activation == "sigmoid" else 32 / (16 + 48 / 2 + 16))


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_scores_that_are_not_finite_are_refused_whatever_is_applied_to_them(
    activation: str, odd: float
) -> None:
    scores = plane((slice(2, 6), slice(2, 6)))
    scores[0, 3, 3] = odd
    scores[0, 4, 4] = -odd
    with pytest.raises(FrameError, match="not finite"):
        read(scores, Postprocess("mask", activation, ("head",), None, keep_largest=True))


LUNGS = Postprocess("mask", "none", ("head",), "presence", True, rotation="rotation", polarity="polarity")


def said(
    rotation: tuple[float, ...] = (0.1, 0.7, 0.1, 0.1), polarity: float = 0.25
) -> dict[str, NDArray[np.float32]]:
    return {
        "mask": plane((slice(0, 4), slice(0, 4)))[None],
        "presence": np.array([[0.75]], np.float32),
        "rotation": np.array([rotation], np.float32),
        "polarity": np.array([[polarity]], np.float32),
    }


def test_the_models_words_on_rotation_and_polarity_are_kept_with_the_mask() -> None:
    outputs = said()
    mask = LUNGS.read(outputs, GEOMETRY)
    for array in outputs.values():
        array[:] = 0  # the slot is used again
    assert mask.rotation == pytest.approx((0.1, 0.7, 0.1, 0.1))
    assert (mask.inverted, mask.presence) == (0.25, 0.75)
    plain = HEAD.read(said(), GEOMETRY)
    assert (plain.rotation, plain.inverted) == (None, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_words_that_are_not_finite_are_refused(bad: float) -> None:
    for outputs in (said(rotation=(bad, 0, 0, 0)), said(polarity=bad)):
        with pytest.raises(FrameError, match="not finite"):
            LUNGS.read(outputs, GEOMETRY)
