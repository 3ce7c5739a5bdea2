"""What a selftest shows to a model, by anatomy, and what must come of it. Drawn by the phantom source of the product.

A new anatomy is one row of `PHANTOMS`. Knows no backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_runtime import clock
from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import FrameError
from edge_runtime.frames.phantom import parse_spec, render
from edge_runtime.frames.source import frame_id, open_source
from edge_runtime.infer.model import Manifest
from edge_runtime.types import BadFrame, Frame, Origin

SCHEME = "phantom:"


@dataclass(frozen=True, slots=True)
class Phantoms:
    """One anatomy's."""

    drawn: str  # a structure, in a few frames
    empty: str  # the same tissue without it
    tolerance: Mapping[str, float]  # by measurement, as a share of the truth


PHANTOMS = {
    "fetal_head": Phantoms(
        drawn="fetal_head?hc_mm=250&seed=1&frames=2&width=400&height=270",
        empty="fetal_head?empty=1&seed=201&frames=1&width=300&height=210",
        tolerance={"head_circumference": 0.03},
    ),
    "vessel": Phantoms(
        drawn="carotid?lumen_mm=6.5&seed=1&frames=2&width=320&height=340",
        empty="carotid?empty=1&seed=2&frames=1&width=320&height=340",
        tolerance={"lumen_area": 0.10, "lumen_diameter_major": 0.08, "lumen_diameter_minor": 0.08},
    ),
    "lungs": Phantoms(
        drawn="lungs?chest_mm=290&seed=1&frames=2&width=308&height=252",
        empty="lungs?empty=1&seed=2&frames=1&width=308&height=252",
        tolerance={"lung_area_right": 0.10, "lung_area_left": 0.10, "lung_width": 0.05},
    ),
}
PATTERNS = {
    "noise": "noise?seed=211&frames=1&width=320&height=240",
    "text": "text?seed=213&frames=1&width=320&height=240",
}
BLACK_HW = (240, 320)


@dataclass(frozen=True, slots=True)
class Case:
    """One frame with its truth."""

    what: str  # in words
    frame: Frame
    known: Mapping[str, float] | None  # true values by measurement; None: no number may come of it


def tolerances(manifest: Manifest) -> dict[str, float]:
    """By measurement, as a share of the truth: the model's own, else its anatomy's."""
    phantoms = PHANTOMS.get(manifest.anatomy)
    return {**(phantoms.tolerance if phantoms else {}), **manifest.selftest.relative}


def cases(anatomy: str, modality: str | None) -> list[Case]:
    """The frames for a model, structures first, the first of all once more at the end.

    A test pattern claims to be of the model's modality: it must be refused for what it shows. Raises FrameError
    where the source does not give what it announces.
    """
    found: list[Case] = []
    phantoms = PHANTOMS.get(anatomy)
    if phantoms is not None:
        spec = parse_spec(phantoms.drawn)
        for index, frame in enumerate(_drawn(phantoms.drawn)):
            _, truth = render(spec, index)
            assert truth is not None, "a row draws a structure"
            found.append(Case(f"phantom {index + 1}", frame, truth.values))
        found += [Case("empty phantom", frame, None) for frame in _drawn(phantoms.empty)]
    for what, text in PATTERNS.items():
        for frame in _drawn(text):
            origin = replace(frame.origin, modality=modality)
            found.append(Case(what, replace(frame, origin=origin), None))
    found.append(Case("black picture", _black(modality), None))
    again = replace(found[0], what=f"{found[0].what}, again")
    return [*found, again]


def _drawn(text: str) -> list[Frame]:
    frames: list[Frame] = []
    with open_source(f"{SCHEME}{text}", fps=0) as source:
        for frame in source.frames():
            if isinstance(frame, BadFrame):
                raise frame.error
            frames.append(frame)
        wanted = source.length
    spec = parse_spec(text)
    if len(frames) != wanted or any(frame.size_hw != (spec.height, spec.width) for frame in frames):
        came = f"{len(frames)} of {sorted({frame.size_hw for frame in frames})}"
        raise FrameError(
            f"{SCHEME}{text}: wanted {wanted} frames of {(spec.height, spec.width)}, came {came}",
            Reason.FRAME_UNREADABLE,
        )
    return frames


def _black(modality: str | None) -> Frame:
    pixels = np.zeros(BLACK_HW, np.uint8)
    origin = Origin(SourceKind.PHANTOM, f"{SCHEME}black", modality)
    return Frame(pixels, 0, clock.monotonic_ns(), origin, frame_id(0, pixels))
