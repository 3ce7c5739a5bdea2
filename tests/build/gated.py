"""Frames, readings and harmful models for the gate's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np

from edge_runtime.build.readings import Reading, read_frames
from edge_runtime.codes import Reason, SourceKind, SpacingSource, Status
from edge_runtime.frames.phantom import parse_spec, render
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import GateSpec, Tolerance, load_model
from edge_runtime.measure.anatomy import raw_values
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame, Mask, Origin, Spacing
from tests.measure.drawn import ellipse_cells, geometry, mask_of

SPEC = GateSpec(
    min_frames=32,
    measurement={
        "head_circumference": Tolerance(mean=0.05, p99=0.5, max=1.0),
        "area_share": Tolerance(mean=0.01, p99=0.03, max=0.05, relative=True),
    },
)
HEADS = tuple(f"fetal_head?hc_mm={100 + 25 * seed}&seed={seed}&frames=5" for seed in range(1, 8))
EMPTY = "fetal_head?empty=1&frames=2"
ORIGIN = Origin(SourceKind.MEMORY, "memory", "US")

Change = Callable[[dict[str, Any]], None]


@cache
def phantom_frames() -> tuple[Frame, ...]:
    """35 heads of seven sizes and two frames without a head, numbered through."""
    drawn = [frame for uri in (*HEADS, EMPTY) for frame in open_source(f"phantom:{uri}").frames()]
    return tuple(
        replace(frame, index=at, frame_id=f"{at}.{frame.content_hash}") for at, frame in enumerate(drawn)
    )


@cache
def phantom_truth() -> tuple[np.ndarray | None, ...]:
    """The drawn ellipse of each of `phantom_frames`, None where there is no head."""
    truth: list[np.ndarray | None] = []
    for uri in (*HEADS, EMPTY):
        spec = parse_spec(uri)
        for index in range(spec.frames):
            pixels, head = render(spec, index)
            truth.append(None if head is None else head.mask(pixels.shape))
    return tuple(truth)


class ChangedBackend:
    """A backend whose answers are changed before anybody reads them: a model that went wrong."""

    def __init__(self, backend: Backend, change: Change) -> None:
        self._backend, self._change = backend, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def wait(self, slot: Any) -> None:
        self._backend.wait(slot)
        self._change(slot.outputs)


def read(
    frames: Sequence[Frame],
    backend: str = "onnxruntime",
    precision: str = "fp32",
    threads: int = 1,
    change: Change | None = None,
) -> list[Reading]:
    """What the shipped model makes of the frames, in the product's own pipeline."""
    model = load_model("fetal_head")
    opened: Any = open_backend(model, backend, precision, threads)
    pipeline = build_pipeline(model, opened if change is None else ChangedBackend(opened, change))
    try:
        return read_frames(pipeline, frames)
    finally:
        pipeline.close()


# ---------------------------------------------------------------- models that went wrong


def dilated(outputs: dict[str, Any]) -> None:
    outputs["mask"][0, 0] = cv2.dilate(outputs["mask"][0, 0], np.ones((3, 3), np.uint8))


def shifted_far(outputs: dict[str, Any]) -> None:
    outputs["mask"][...] = np.roll(outputs["mask"], 3, axis=3)


def bolder(outputs: dict[str, Any]) -> None:
    """As if the threshold had been 0.2."""
    outputs["mask"][outputs["mask"] > 0.2] = 1.0


def nothing(outputs: dict[str, Any]) -> None:
    outputs["mask"][...] = 0


def not_a_number(outputs: dict[str, Any]) -> None:
    outputs["mask"][0, 0, 5, 5] = np.nan


def unsure(outputs: dict[str, Any]) -> None:
    outputs["presence"][...] = 0.1


def sees_heads_everywhere(outputs: dict[str, Any]) -> None:
    if outputs["mask"].max() < 0.5:
        cv2.ellipse(outputs["mask"][0, 0], ((140.0, 95.0), (130.0, 100.0), 0.0), 1.0, -1)
        outputs["presence"][...] = 1.0


# ---------------------------------------------------------------- readings without a model


def reading_of(mask: Mask, index: int, anatomy: str, spacing: Spacing | None, **over: Any) -> Reading:
    pixels = np.full((540, 800), index % 256, np.uint8)
    frame = Frame(pixels, index, 0, ORIGIN, f"{index}.{index:04x}", spacing=spacing)
    fields: dict[str, Any] = {
        "frame_id": frame.frame_id,
        "name": f"frame {index}",
        "frame": frame,
        "mask": mask,
        "status": Status.CAUTION,
        "values": raw_values(anatomy, mask, spacing),
        "reasons": (Reason.PLANE_UNCONFIRMED,),
    }
    return Reading(**{**fields, **over})


@lru_cache(maxsize=128)
def head(index: int, *, moved: float = 0.0, grown: float = 0.0, spaced: bool = True) -> Reading:
    """A head of its own size in each frame, drawn, not found; `moved` and `grown` in source pixels. Kept, so not
    to be written to.
    """
    where = geometry()
    long = 150 + 4 * (index % 20) + grown
    cells = ellipse_cells(where, (400 + moved, 270), (long, 0.78 * long), 0.3 * index)
    spacing = Spacing(0.2, 0.2, SpacingSource.PHANTOM) if spaced else None
    made = reading_of(mask_of(where, cells), index, "fetal_head", spacing)
    assert made.mask is not None
    made.mask.labels.setflags(write=False)
    made.frame.pixels.setflags(write=False)
    return made


def heads(count: int, **over: Any) -> list[Reading]:
    return [head(index, **over) for index in range(count)]
