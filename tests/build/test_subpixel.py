"""Doubling by a convolution gives the numbers of the bilinear Resize, and only where it is that Resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.build.half import to_half
from edge_runtime.build.subpixel import with_subpixel
from tests.build.graphs import Sketch, run


def doubled(channels: int, height: int, width: int, scale: float = 2.0, **attributes: Any) -> onnx.ModelProto:
    s = Sketch((1, channels, height, width))
    scales = s.constant("scales", np.array([1, 1, scale, scale], np.float32))
    given = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", **attributes}
    return s.model(s.node("Resize", "image", "", scales, name="larger", **given))


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_pixel_is_that_of_the_resize_edges_included(
    channels: int, height: int, width: int, seed: int
) -> None:
    model = doubled(channels, height, width)
    rewritten = with_subpixel(model)
    assert kinds(rewritten) == ["Pad", "Conv", "DepthToSpace"]
    x = np.random.default_rng(seed).normal(0, 10, (1, channels, height, width)).astype(np.float32)
    np.testing.assert_allclose(run(rewritten, x), run(model, x), atol=2e-5)


def test_in_fp16_the_weights_are_exact() -> None:
    rewritten = with_subpixel(doubled(1, 4, 4))
    (weights,) = (one for one in rewritten.graph.initializer if one.name.endswith("_subpixel"))
    values = onnx.numpy_helper.to_array(weights)
    assert (values.astype(np.float16) == values).all()
    assert to_half(rewritten) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"mode": "nearest"},
        {"mode": "cubic"},
        {"coordinate_transformation_mode": "align_corners"},
        {"coordinate_transformation_mode": "asymmetric"},
        {"scale": 3.0},
        {"scale": 4.0},
        {"channels": 5},
    ],
    ids=str,
)
def test_any_other_resize_stays_what_it_is(other: dict[str, Any]) -> None:
    given = {"channels": 1, "height": 4, "width": 6, **other}
    assert kinds(with_subpixel(doubled(**given))) == ["Resize"]
