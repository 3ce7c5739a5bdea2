"""Draws moving pictures of exactly known structures: a fetal head, a carotid artery, a chest.

`phantom:fetal_head?hc_mm=250&seed=1`. A URI always gives the same bytes on one machine. `spec` reads it, `head`,
`vessel` and `chest` draw, `ultrasound` holds what every B-mode picture shares, `truth` says what is known,
`patterns` are pictures without anatomy. Knows nothing of models; of measuring only the names of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.frames.phantom.chest import ChestScene
from edge_runtime.frames.phantom.head import HeadScene
from edge_runtime.frames.phantom.patterns import noise, text
from edge_runtime.frames.phantom.spec import ANATOMICAL, CEPHALIC_INDEX, PATTERNS, PhantomSpec, parse_spec
from edge_runtime.frames.phantom.truth import Ellipse, LabelledTruth, Truth, semi_axes
from edge_runtime.frames.phantom.vessel import VesselScene

__all__ = [
    "ANATOMICAL",
    "CEPHALIC_INDEX",
    "PATTERNS",
    "Ellipse",
    "LabelledTruth",
    "PhantomSpec",
    "Truth",
    "parse_spec",
    "render",
    "semi_axes",
]


class Scene(Protocol):
    """One phantom, prepared once."""

    def render(self, index: int) -> tuple[NDArray[np.uint8], Truth | None]:
        """Frame `index`, (H, W) uint8, and what is known of it."""


_SCENES: dict[str, Callable[[PhantomSpec], Scene]] = {
    "fetal_head": HeadScene,
    "carotid": VesselScene,
    "lungs": ChestScene,
}


def render(spec: PhantomSpec, index: int) -> tuple[NDArray[np.uint8], Truth | None]:
    """Frame `index` as (H, W) uint8 and its truth, None where there is nothing to measure.

    The array is new and the caller's. The first frame of a spec costs more: its scene is made and kept.
    """
    if spec.pattern == "noise":
        return noise(spec, index), None
    if spec.pattern == "text":
        return text(spec, index), None
    return _scene(replace(spec, frames=1)).render(index)


@lru_cache(maxsize=4)
def _scene(spec: PhantomSpec) -> Scene:
    return _SCENES[spec.pattern](spec)
