"""The phantom: exactly the head that was asked for, drawn the same way every time."""

from __future__ import annotations

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import (
    Ellipse,
    PhantomSpec,
    parse_spec,
    render,
    semi_axes,
)
from edge_runtime.frames.phantom.head import HeadScene


@given(st.floats(40, 400), st.floats(0.55, 1.0))
def test_the_semi_axes_give_back_the_circumference_by_numerical_integration(hc: float, index: float) -> None:
    long, short = semi_axes(hc, index)
    angle = np.linspace(0, 2 * math.pi, 20_001)
    length = np.hypot(np.diff(long * np.cos(angle)), np.diff(short * np.sin(angle))).sum()
    assert length == pytest.approx(hc, rel=1e-6)
    assert short / long == pytest.approx(index)


@pytest.mark.parametrize("hc_mm", [40, 97.7, 250, 400])
def test_every_frame_shows_a_head_of_exactly_the_asked_circumference(hc_mm: float) -> None:
    spec = PhantomSpec(hc_mm=hc_mm, seed=3)
    scene = HeadScene(spec)
    for index in (0, 17, 150, 299):
        head = scene.truth(index)
        assert head is not None
        assert head.circumference * spec.pixel_mm == pytest.approx(hc_mm, rel=1e-12)


def test_the_head_moves_smoothly_and_stays_in_the_picture() -> None:
    scene = HeadScene(PhantomSpec(hc_mm=400))
    heads = [scene.truth(index) for index in range(300)]
    centers = np.array([(head.center_x, head.center_y) for head in heads if head])
    assert np.ptp(centers, axis=0).min() > 2
    assert np.abs(np.diff(centers, axis=0)).max() < 1.0
    for head in heads:
        assert head is not None
        mask = head.mask((540, 800))
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()


def test_the_mask_is_the_ellipse_to_a_part_in_a_thousand() -> None:
    _, head = render(PhantomSpec(), 5)
    assert isinstance(head, Ellipse)
    assert head.mask((540, 800)).sum() == pytest.approx(math.pi * head.semi_major * head.semi_minor, rel=1e-3)


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "import hashlib; from edge_runtime.frames.phantom import *;"
        "print(hashlib.sha256(render(PhantomSpec(seed=9), 7)[0]).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in "ab"
    }
    assert len(runs) == 1


def test_a_seed_is_another_picture_and_a_frame_is_not_the_one_before() -> None:
    first = render(PhantomSpec(seed=1), 0)[0]
    assert (render(PhantomSpec(seed=2), 0)[0] != first).mean() > 0.3
    assert (render(PhantomSpec(seed=1), 1)[0] != first).mean() > 0.3
    assert (render(PhantomSpec(seed=1, frames=9), 0)[0] == first).all()


@pytest.mark.slow
def test_the_skull_is_bright_where_the_beam_meets_it_and_drops_out_at_the_sides() -> None:
    def echo(at: float) -> float:
        values = []
        for seed in range(1, 7):
            pixels, head = render(PhantomSpec(seed=seed), 0)
            assert isinstance(head, Ellipse)
            for spread in np.linspace(-0.12, 0.12, 9):
                u, v = 0.97 * math.cos(at + spread), 0.97 * math.sin(at + spread)
                cos, sin = math.cos(head.angle_rad), math.sin(head.angle_rad)
                x = head.center_x + cos * u * head.semi_major - sin * v * head.semi_minor
                y = head.center_y + sin * u * head.semi_major + cos * v * head.semi_minor
                values.append(int(pixels[round(y), round(x)]))
        return float(np.mean(values))

    top, bottom = echo(-math.pi / 2), echo(math.pi / 2)
    sides = (echo(0.0) + echo(math.pi)) / 2
    assert top > 150 and bottom > 130
    assert sides < 0.6 * min(top, bottom)


def test_speckle_widens_with_depth() -> None:
    pixels = render(PhantomSpec(seed=1, empty=1), 0)[0].astype(np.float32)

    def width(rows: slice) -> float:
        part = pixels[rows, 330:470]
        part = part - cv2.blur(part, (31, 31))
        return float((part**2).mean() / np.maximum((np.diff(part, axis=1) ** 2).mean(), 1e-9))

    assert width(slice(470, 530)) > 1.5 * width(slice(25, 85))


def test_it_is_black_outside_the_sector() -> None:
    pixels, _ = render(PhantomSpec(), 0)
    assert pixels.shape == (540, 800) and pixels.dtype == np.uint8
    assert not pixels[:40, :40].any() and not pixels[:40, -40:].any()


def test_an_empty_phantom_has_no_head_and_is_not_frozen() -> None:
    spec = parse_spec("fetal_head?empty=1")
    first, head = render(spec, 0)
    assert head is None
    assert (render(spec, 1)[0] != first).mean() > 0.05


@pytest.mark.parametrize("pattern", ["noise", "text"])
def test_a_test_pattern_is_a_picture_without_truth(pattern: str) -> None:
    pixels, head = render(parse_spec(f"{pattern}?width=320&height=240"), 2)
    assert head is None and pixels.shape == (240, 320) and pixels.std() > 5
    assert (render(parse_spec(f"{pattern}?width=320&height=240"), 2)[0] == pixels).all()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fetal_heads", "fetal_heads"),
        ("fetal_head?hc=250", "'hc'"),
        ("fetal_head?hc_mm=39", "hc_mm=39"),
        ("fetal_head?hc_mm=nan", "hc_mm=nan"),
        ("fetal_head?seed=1.5", "seed='1.5'"),
        ("fetal_head?fps=0", "fps=0"),
        ("fetal_head?frames=0", "frames=0"),
        ("fetal_head?width=1", "width=1"),
        ("fetal_head?hc_mm=400&spacing_mm=0.1", "larger spacing_mm"),
        ("fetal_head?rotate=90", "'rotate'"),
        ("carotid?hc_mm=250", "'hc_mm'"),
        ("carotid?lumen_mm=1", "lumen_mm=1"),
        ("carotid?lumen_mm=18&spacing_mm=0.05", "larger spacing_mm"),
        ("lungs?rotate=45", "rotate=45"),
        ("lungs?clip=up", "clip=up"),
        ("lungs?invert=2", "invert=2"),
        ("lungs?chest_mm=400&spacing_mm=0.2", "larger spacing_mm"),
        ("noise?width=0", "width=0"),
    ],
)
def test_a_wrong_parameter_is_named_in_one_line(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.floats(40, 400), st.integers(0, 2**32 - 1), st.sampled_from([(800, 540), (640, 480), (320, 240)]))
def test_any_asked_head_renders(hc_mm: float, seed: int, size: tuple[int, int]) -> None:
    spec = PhantomSpec(hc_mm=hc_mm, seed=seed, width=size[0], height=size[1])
    pixels, head = render(spec, 11)
    assert isinstance(head, Ellipse) and pixels.shape == size[::-1]
    assert head.circumference * spec.pixel_mm == pytest.approx(hc_mm)
