"""The drawn artery: a lumen of exactly known size in tissue that a linear probe could have seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.codes import SourceKind, SpacingSource
from edge_runtime.frames.phantom import Ellipse, parse_spec, render
from edge_runtime.frames.source import open_source
from edge_runtime.measure.ellipse import moment_ellipse
from edge_runtime.types import Frame

SIZES = [(700, 740), (300, 316), (640, 480)]


def drawn(text: str, index: int = 0) -> tuple[np.ndarray, Ellipse]:
    pixels, lumen = render(parse_spec(f"carotid?{text}"), index)
    assert isinstance(lumen, Ellipse)
    return pixels, lumen


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.floats(3, 14), st.integers(0, 2**32 - 1), st.sampled_from(SIZES), st.integers(0, 60))
def test_the_mask_measures_what_the_truth_says(
    lumen_mm: float, seed: int, size: tuple[int, int], index: int
) -> None:
    text = f"lumen_mm={lumen_mm}&seed={seed}&width={size[0]}&height={size[1]}"
    pixels, lumen = drawn(text, index)
    pixel_mm = parse_spec(f"carotid?{text}").pixel_mm
    mask = lumen.mask(pixels.shape)
    assert pixels.shape == size[::-1] and pixels.dtype == np.uint8
    assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
    found = moment_ellipse(mask.astype(bool), (pixel_mm, pixel_mm))
    assert found is not None
    assert found.area == pytest.approx(lumen.values["lumen_area"], rel=0.02)
    assert 2 * found.semi_major == pytest.approx(lumen.values["lumen_diameter_major"], rel=0.02)
    assert 2 * found.semi_minor == pytest.approx(lumen.values["lumen_diameter_minor"], rel=0.02)


@pytest.mark.parametrize("lumen_mm", [4.0, 6.5, 9.0])
def test_over_a_beat_the_lumen_has_the_asked_area_and_five_percent_of_pulse(lumen_mm: float) -> None:
    beat = [drawn(f"lumen_mm={lumen_mm}&fps=30&width=300&height=316", index)[1] for index in range(25)]
    diameters = [math.sqrt(4 * lumen.values["lumen_area"] / math.pi) for lumen in beat]
    assert np.mean(diameters) == pytest.approx(lumen_mm, rel=1e-3)
    assert 0.04 < np.ptp(diameters) / lumen_mm < 0.055
    aspects = [lumen.semi_minor / lumen.semi_major for lumen in beat]
    assert all(0.85 <= aspect <= 1.0 for aspect in aspects)


def test_the_lumen_is_dark_its_wall_bright_up_and_down_and_the_tissue_behind_it_enhanced() -> None:
    def grey(pixels: np.ndarray, lumen: Ellipse, across: float, down: float, half: int = 4) -> float:
        x = round(lumen.center_x + across * lumen.semi_major)
        y = round(lumen.center_y + down * lumen.semi_major)
        return float(pixels[y - half : y + half, x - half : x + half].mean())

    found = []
    for seed in range(1, 13):
        pixels, lumen = drawn(f"seed={seed}")
        far = max(grey(pixels, lumen, 0, down, 2) for down in np.linspace(0.95, 1.5, 12))
        side = np.mean(
            [grey(pixels, lumen, at, 0, 2) for at in (*np.linspace(1, 1.4, 6), *np.linspace(-1.4, -1, 6))]
        )
        beside = np.mean([grey(pixels, lumen, at, 1.7) for at in (-1.9, 1.9)])
        found.append((grey(pixels, lumen, 0, 0, 20), far, side, grey(pixels, lumen, 0, 1.7), beside))
    inside, far, side, behind, beside = np.mean(found, axis=0)
    assert inside < 12
    assert far > 2 * side > 2 * inside
    assert behind > 1.3 * beside


def test_without_an_artery_there_is_tissue_and_no_truth() -> None:
    spec = parse_spec("carotid?empty=1&seed=4")
    first, truth = render(spec, 0)
    assert truth is None and first.std() > 5
    assert (render(spec, 1)[0] != first).mean() > 0.05


def test_a_frame_is_drawn_the_same_again_and_a_seed_is_another_neck() -> None:
    first = drawn("seed=3", 7)[0]
    assert (drawn("seed=3&frames=9", 7)[0] == first).all()
    assert (drawn("seed=4", 7)[0] != first).mean() > 0.2


def test_as_a_source_it_is_ultrasound_with_the_phantoms_spacing() -> None:
    with open_source("phantom:carotid?lumen_mm=6.5&frames=2") as source:
        frames = [frame for frame in source.frames() if isinstance(frame, Frame)]
    assert len(frames) == 2
    assert {(frame.origin.kind, frame.origin.modality) for frame in frames} == {(SourceKind.PHANTOM, "US")}
    assert frames[0].spacing is not None and frames[0].spacing.source is SpacingSource.PHANTOM
