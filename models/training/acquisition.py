"""How often the acquisition check of a chest X-ray is right, on held-out pictures turned, inverted and cut by known amounts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from edge_runtime.types import Acquisition
from models.training.data import Grey
from models.training.evaluate import REFERENCE, frame_of, labelled_frames, pipeline_of, unseen_by
from models.training.recipe import Recipe

CUT = 0.15  # of the lungs' own extent, off one edge
EDGES = ("top", "bottom", "left", "right")


def acquisition_rates(recipe: Recipe, root: Path, built: Path) -> dict[str, list[int]]:
    """By what was done to the picture: [pictures of which just that was said, pictures]."""
    rates: dict[str, list[int]] = {}
    for model, items in unseen_by(recipe, root, built):
        with closing(pipeline_of(recipe, model, REFERENCE)) as pipeline:
            for _, _, frame, labels in labelled_frames(recipe, root, items):
                for what, pixels in _variants(frame.pixels, labels):
                    found = pipeline.step(frame_of(pixels, what)).acquisition
                    count = rates.setdefault(what, [0, 0])
                    count[0] += _said(found, what)
                    count[1] += 1
    return rates


def _variants(pixels: Grey, labels: Grey) -> Iterator[tuple[str, Grey]]:
    yield "as it is", pixels
    for quarter in (1, 2, 3):
        yield f"turned by {90 * quarter}", np.rot90(pixels, -quarter).copy()
    yield "inverted", np.asarray(255 - pixels, np.uint8)
    rows, columns = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
    top, bottom = rows[0] + round(CUT * np.ptp(rows)), rows[-1] - round(CUT * np.ptp(rows))
    left, right = columns[0] + round(CUT * np.ptp(columns)), columns[-1] - round(CUT * np.ptp(columns))
    cut = (pixels[top:], pixels[:bottom], pixels[:, left:], pixels[:, :right])
    yield from ((f"cut at the {edge}", part.copy()) for edge, part in zip(EDGES, cut, strict=True))


def _said(found: Acquisition | None, what: str) -> bool:
    """Whether the check says of a picture what was done to it, and nothing else that is not there."""
    if found is None:
        return False
    if what.startswith("turned"):
        return found.rotation_deg == int(what.rpartition(" ")[2])
    if what == "inverted":
        return found.inverted is True
    upright = found.rotation_deg == 0 and not found.inverted
    if what.startswith("cut"):
        return upright and what.rpartition(" ")[2] in found.clipped_edges
    return upright and found.both_lungs and not found.clipped_edges
