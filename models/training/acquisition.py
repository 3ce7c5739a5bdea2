"""How often the acquisition check of a chest X-ray is right, on held-out pictures turned, inverted and cut by known amounts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.types import Acquisition, Edge, Turn
from models.training.data import Grey
from models.training.evaluate import REFERENCE, frame_of, labelled_frames, pipeline_of, unseen_by
from models.training.recipe import Recipe

CUT = 0.15  # of the lungs' own extent, off one edge
TURNS: tuple[Turn, ...] = (90, 180, 270)


class Variant(NamedTuple):
    """A picture and the one thing that was done to it."""

    what: str  # in words
    pixels: Grey  # (H, W)
    turned: Turn = 0
    inverted: bool = False
    cut: Edge | None = None


def acquisition_rates(recipe: Recipe, root: Path, built: Path) -> dict[str, list[int]]:
    """By what was done to the picture: [pictures of which just that was said, pictures]."""
    rates: dict[str, list[int]] = {}
    for model, items in unseen_by(recipe, root, built):
        with closing(pipeline_of(recipe, model, REFERENCE)) as pipeline:
            for _, _, frame, labels in labelled_frames(recipe, root, items):
                for variant in variants(frame.pixels, labels):
                    found = pipeline.step(frame_of(variant.pixels, variant.what)).acquisition
                    count = rates.setdefault(variant.what, [0, 0])
                    count[0] += found is not None and is_said(found, variant)
                    count[1] += 1
    return rates


def variants(pixels: Grey, labels: Grey) -> Iterator[Variant]:
    """A picture (H, W) as it is, turned, inverted, and cut through the lungs that `labels` (H, W) marks."""
    yield Variant("as it is", pixels)
    for turn in TURNS:
        yield Variant(f"turned by {turn}", np.rot90(pixels, -turn // 90).copy(), turned=turn)
    yield Variant("inverted", np.asarray(255 - pixels, np.uint8), inverted=True)
    rows, columns = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
    top, bottom = rows[0] + round(CUT * np.ptp(rows)), rows[-1] - round(CUT * np.ptp(rows))
    left, right = columns[0] + round(CUT * np.ptp(columns)), columns[-1] - round(CUT * np.ptp(columns))
    parts: dict[Edge, Grey] = {
        "top": pixels[top:],
        "bottom": pixels[:bottom],
        "left": pixels[:, left:],
        "right": pixels[:, :right],
    }
    for edge, part in parts.items():
        yield Variant(f"cut at the {edge}", part.copy(), cut=edge)


def is_said(found: Acquisition, variant: Variant) -> bool:
    """Whether the check says what was done to a picture; of one that was not turned or inverted, that it is not."""
    if variant.turned:
        return found.rotation_deg == variant.turned
    if variant.inverted:
        return found.inverted is True
    upright = found.rotation_deg == 0 and not found.inverted
    if variant.cut is not None:
        return upright and variant.cut in found.clipped_edges
    return upright and found.both_lungs and not found.clipped_edges
