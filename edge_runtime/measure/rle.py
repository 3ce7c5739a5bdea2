"""COCO's run-length code, there and back: how a mask stands in a finding. Knows nothing about findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coco_counts(inside: NDArray[np.bool_]) -> str:
    """The compressed `counts` of COCO's run-length code for `inside`, (h, w): what pycocotools reads.

    Runs go down the columns, zeros first. From the fourth on a run is written as its difference to the last
    but one, all in groups of five bits, the lowest first, bit 6 for more to come, as characters from 48 on
    (cocoapi maskApi.c, rleToString).
    """
    flat = np.concatenate(([False], inside.ravel(order="F")))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate(([0], changes, [inside.size])))
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return _five_bit_text(values)


def _five_bit_text(values: NDArray[np.int64]) -> str:
    """Each value in five-bit groups, lowest first, until the rest is only its sign."""
    groups = []
    open_ = np.ones(values.shape, bool)
    rest = values
    while open_.any():
        low = rest & 0x1F
        rest = rest >> 5
        more = np.where(low & 0x10, rest != -1, rest != 0)
        groups.append(np.where(open_, low + np.where(more, 0x20, 0) + 48, 0))
        open_ = open_ & more
    text: NDArray[np.int64] = np.stack(groups, axis=1).ravel()
    return text[text > 0].astype(np.uint8).tobytes().decode("ascii")


def decode_counts(text: str, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The inside of COCO's compressed `counts`, (h, w): what `coco_counts` was given."""
    runs: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        group = code - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(size_hw, order="F")
