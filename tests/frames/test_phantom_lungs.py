"""The drawn chest X-ray: lungs of exactly known area, turned, inverted and cut as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.codes import SpacingSource
from edge_runtime.frames.phantom import LabelledTruth, parse_spec, render
from edge_runtime.frames.source import open_source
from edge_runtime.types import Frame

SIZES = [(616, 504), (504, 616), (280, 252)]


def drawn(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Pixels, labels and known values."""
    pixels, truth = render(parse_spec(f"lungs?{text}"), 0)
    assert isinstance(truth, LabelledTruth)
    return pixels, truth.mask(pixels.shape), truth.values


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.floats(120, 380), st.integers(0, 2**32 - 1), st.sampled_from(SIZES))
def test_the_mask_measures_what_the_truth_says(chest_mm: float, seed: int, size: tuple[int, int]) -> None:
    text = f"chest_mm={chest_mm}&seed={seed}&width={size[0]}&height={size[1]}"
    pixels, labels, values = drawn(text)
    pixel_mm = parse_spec(f"lungs?{text}").pixel_mm
    assert pixels.shape == labels.shape == size[::-1]
    assert not labels[[0, -1]].any() and not labels[:, [0, -1]].any()
    right, left = (np.count_nonzero(labels == label) * pixel_mm**2 / 100 for label in (1, 2))
    assert right == pytest.approx(values["lung_area_right"], rel=0.01)
    assert left == pytest.approx(values["lung_area_left"], rel=0.01)
    assert right / left == pytest.approx(values["lung_area_ratio"], rel=0.02)
    extent = [np.ptp(np.flatnonzero(row)) + 1 for row in labels if row.any()]
    assert max(extent) * pixel_mm == pytest.approx(values["lung_width"], abs=2 * pixel_mm)
    assert values["lung_width"] == chest_mm


def test_the_right_lung_is_on_the_left_of_the_picture_and_both_are_dark() -> None:
    for seed in range(1, 9):
        pixels, labels, values = drawn(f"seed={seed}")
        columns = np.arange(labels.shape[1])[None, :]
        assert (columns * (labels == 1)).sum() / (labels == 1).sum() < labels.shape[1] / 2
        assert (columns * (labels == 2)).sum() / (labels == 2).sum() > labels.shape[1] / 2
        assert 0.6 < values["lung_area_ratio"] < 1.8
        lungs = pixels[labels > 0].mean()
        rows = np.flatnonzero((labels > 0).any(axis=1))
        middle = pixels[rows[0] : rows[-1], labels.shape[1] // 2 - 8 : labels.shape[1] // 2 + 8]
        assert middle.mean() > lungs + 40


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turning_turns_picture_and_labels_clockwise_and_no_size(degrees: int) -> None:
    upright, labels, values = drawn("seed=3")
    pixels, turned, same = drawn(f"seed=3&rotate={degrees}")
    assert (pixels == np.rot90(upright, -degrees // 90)).all()
    assert (turned == np.rot90(labels, -degrees // 90)).all()
    assert same == values


def test_inverted_grey_makes_bone_dark_and_moves_nothing() -> None:
    pixels, labels, values = drawn("seed=5")
    inverted, same, known = drawn("seed=5&invert=1")
    assert (inverted == 255 - pixels).all()
    assert (labels == same).all() and known == values


@pytest.mark.parametrize(
    ("clip", "label", "edge"),
    [("right", 1, np.s_[:, 0]), ("left", 2, np.s_[:, -1]), ("top", 1, np.s_[0]), ("bottom", 2, np.s_[-1])],
)
def test_a_clipped_chest_runs_over_that_border_and_has_no_known_size(
    clip: str, label: int, edge: tuple[slice | int, ...]
) -> None:
    whole = np.count_nonzero(drawn("seed=2")[1] == label)
    _, labels, values = drawn(f"seed=2&clip={clip}")
    assert np.count_nonzero(labels[edge] == label) > 20
    assert 0.2 * whole < np.count_nonzero(labels == label) < 0.95 * whole
    assert values == {}


def test_without_a_chest_there_is_a_picture_and_no_truth() -> None:
    for seed in range(1, 7):
        pixels, truth = render(parse_spec(f"lungs?empty=1&seed={seed}"), 0)
        assert truth is None and pixels.std() > 20


def test_every_frame_is_another_exposure_of_the_same_chest() -> None:
    spec = parse_spec("lungs?seed=6")
    first, second = (render(spec, index)[0].astype(int) for index in (0, 1))
    assert (first != second).mean() > 0.3
    assert np.abs(first - second).mean() < 12
    assert (render(spec, 0)[0] == first).all()


def test_labels_are_given_at_the_pictures_own_size_only() -> None:
    _, truth = render(parse_spec("lungs"), 0)
    assert truth is not None
    with pytest.raises(ValueError, match="504"):
        truth.mask((100, 100))


def test_as_a_source_it_is_radiography_with_the_phantoms_spacing() -> None:
    with open_source("phantom:lungs?frames=1&rotate=90") as source:
        (frame,) = source.frames()
    assert isinstance(frame, Frame)
    assert frame.origin.modality == "DX" and frame.pixels.shape == (616, 504)
    assert frame.spacing is not None and frame.spacing.source is SpacingSource.PHANTOM
