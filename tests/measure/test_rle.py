"""The run-length code against what pycocotools writes, and there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.measure.rle import coco_counts, decode_counts


# `counts` that pycocotools 2.0 gives for these masks.
@pytest.mark.parametrize(
    "mask, counts",
    [
        (np.zeros((4, 5), bool), "d0"),
        (np.ones((4, 5), bool), "0d0"),
        (np.eye(4, dtype=bool), "01400000"),
        (np.pad(np.ones((110, 170), bool), ((40, 42), (60, 58))), "XY;^3b2" + "0" * 337 + "hj:"),
    ],
)
def test_the_run_length_code_is_coco_s(mask, counts):
    assert coco_counts(mask) == counts


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_the_run_length_code_decodes_to_the_mask(mask):
    assert (by_the_letter(coco_counts(mask), mask.shape) == mask).all()
    assert (decode_counts(coco_counts(mask), mask.shape) == mask).all()


@given(st.integers(1, 60), st.integers(1, 400))
def test_long_runs_decode_too(first, second):
    mask = np.zeros((23, 41), bool)
    mask.T.flat[first : first + second] = True
    assert (by_the_letter(coco_counts(mask), mask.shape) == mask).all()
    assert (decode_counts(coco_counts(mask), mask.shape) == mask).all()


def by_the_letter(counts: str, size_hw: tuple[int, int]) -> np.ndarray:
    """rleFrString and rleDecode of cocoapi's maskApi.c, by the letter."""
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            group = ord(counts[position]) - 48
            value |= (group & 0x1F) << shift
            more = bool(group & 0x20)
            position, shift = position + 1, shift + 5
            if not more and group & 0x10:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size_hw[::-1]).T
