"""The frames by which a device gates an engine by itself: their pixels, and what the fp32 model says of them.

They lie in a model's directory as `gate/frames.json` and `gate/frames/*.png`. A shipped model's frames are
phantoms and also carry their recipe (`gate_phantoms.py`), so that anyone can see what was drawn. Their pixels are
kept all the same: another OpenCV or another processor draws some pixels otherwise, and drawing takes a hundred
times as long as reading.

What is kept of a frame is its region alone: text burned in beside it stays where it was. File names are not
kept. A picture of far more pixels than the model looks at is kept smaller. This module knows nothing about
tolerances, that is `gate.py`, and nothing about engines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, cast

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.readings import Reading, read_frames
from edge_runtime.codes import Reason, SourceKind, SpacingSource, Status
from edge_runtime.config import Table
from edge_runtime.errors import CalibrationError, ConfigError
from edge_runtime.files import json_bytes
from edge_runtime.frames.source import frame_id
from edge_runtime.infer.model import GATE_FRAMES, Model
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.measure.rle import coco_counts, decode_counts
from edge_runtime.pictures import picture_name
from edge_runtime.pipeline import Pipeline
from edge_runtime.types import MIN_SIDE_PX, Box, Frame, Mask, Origin, Outline, Sha256, Spacing

LEAST = 32  # frames in a set, whatever a manifest says


class StoredSpacing(Table, frozen=True):
    row_mm: float
    col_mm: float
    source: SpacingSource


class StoredMask(Table, frozen=True, omit_defaults=True):
    """A mask on the model's grid; its geometry follows from the frame's size."""

    counts: tuple[str, ...]  # COCO run-length code, one for each label
    confidence: tuple[float, ...]
    discarded: tuple[float, ...]
    presence: float
    outlines: tuple[tuple[float, float, float, float, float] | None, ...] | None = None  # x, y, xx, xy, yy
    rotation: tuple[float, ...] | None = None
    inverted: float | None = None


class StoredFrame(Table, frozen=True, kw_only=True):
    """One frame and the fp32 model's reading of it."""

    sha256: Sha256  # of the pixels, row by row
    size_hw: tuple[int, int]
    kind: SourceKind
    status: Status
    reasons: tuple[Reason, ...]
    values: dict[str, float]
    mask: StoredMask | None = None
    file: str  # a PNG of the bundle
    recipe: str | None = None  # how a phantom was drawn
    modality: str | None = None
    spacing: StoredSpacing | None = None
    spacing_reason: Reason | None = None
    coloured: float = 0.0


class FramesFile(Table, frozen=True):
    """The content of `gate/frames.json`."""

    schema_version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    fp32_sha256: Sha256  # of the graph that read the frames: a reference belongs to one graph
    grid_hw: tuple[int, int]
    labels: tuple[str, ...]
    frames: tuple[StoredFrame, ...]


@dataclass(frozen=True, slots=True)
class GateSet:
    """Frames and fp32's readings of them, in the same order."""

    frames: tuple[Frame, ...]
    reference: tuple[Reading, ...]
    fp32_sha256: str  # of the graph that read them
    recipes: tuple[str | None, ...]  # how each was drawn; None: it is no phantom


# ---------------------------------------------------------------- making a set


def make_gate_set(frames: Iterable[Frame], pipeline: Pipeline, recipes: Sequence[str] = ()) -> GateSet:
    """The set of these frames, read by `pipeline`, which must run fp32 and stays the caller's.

    The frames are cut to their regions, large ones made smaller, and numbered anew; `recipes` says how each was
    drawn, none that they are no phantoms. Raises CalibrationError where they are too few, too few of them show a
    structure, two are the same, or a value is not finite.
    """
    if pipeline.backend.precision != "fp32":
        raise CalibrationError(
            f"gate frames: read with {pipeline.backend.precision}, want fp32: it is what others are held to"
        )
    kept = tuple(_own(index, frame, pipeline) for index, frame in enumerate(frames))
    _require_distinct(kept)
    reference = tuple(read_frames(pipeline, kept))
    _require_measurable(reference, pipeline.model)
    if recipes and len(recipes) != len(kept):
        raise ValueError(f"gate frames: {len(recipes)} recipes for {len(kept)} frames")
    return GateSet(kept, reference, pipeline.artifact_sha256, tuple(recipes) or (None,) * len(kept))


def _own(index: int, frame: Frame, pipeline: Pipeline) -> Frame:
    """The frame's region as a frame of its own, free of names and no larger than it has to be."""
    box = frame.region or Box(0, 0, frame.size_hw[1], frame.size_hw[0])
    pixels, spacing = np.ascontiguousarray(frame.pixels[box.y0 : box.y1, box.x0 : box.x1]), frame.spacing
    factor = _spare(box, spacing, pipeline)
    if factor > 1:
        height, width = box.size_hw[0] // factor, box.size_hw[1] // factor
        if spacing is not None:
            row_mm, col_mm = spacing.row_mm * box.size_hw[0] / height, spacing.col_mm * box.size_hw[1] / width
            spacing = Spacing(row_mm, col_mm, spacing.source)
        pixels = cast("NDArray[np.uint8]", cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))
    return replace(
        frame,
        pixels=pixels,
        index=index,
        captured_ns=0,
        origin=Origin(frame.origin.kind, _name(index), frame.origin.modality),
        frame_id=frame_id(index, pixels),
        region=None,
        spacing=spacing,
    )


def _spare(box: Box, spacing: Spacing | None, pipeline: Pipeline) -> int:
    """By which whole number a picture can be shrunk and still have twice the cells of the model's grid.

    1 where the coarser pixels would be outside of the limits of the model.
    """
    manifest = pipeline.model.manifest
    grid_hw = pipeline.backend.slots[0].input.shape[2:]
    content_h, content_w = fit_region(box, (grid_hw[0], grid_hw[1]), manifest.input.fit).content.size_hw
    factor = min(box.size_hw[0] // content_h, box.size_hw[1] // content_w) // 2
    factor = min(factor, min(box.size_hw) // MIN_SIDE_PX)
    limit = manifest.limits.spacing_mm
    if spacing is not None and limit is not None and factor * max(spacing.row_mm, spacing.col_mm) > limit[1]:
        return 1
    return max(1, factor)


def _name(index: int) -> str:
    return f"gate_{index:03d}"


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _require_distinct(frames: Sequence[Frame]) -> None:
    if len(frames) < LEAST:
        raise CalibrationError(f"gate frames: {len(frames)} frames, want {LEAST} or more")
    seen: dict[str, int] = {}
    for frame in frames:
        first = seen.setdefault(_digest(frame.pixels), frame.index)
        if first != frame.index:
            raise CalibrationError(
                f"gate frames: frames {first} and {frame.index} are the same picture; give each once"
            )


def _require_measurable(reference: Sequence[Reading], model: Model) -> None:
    for reading in reference:
        bad = [name for name, value in reading.values.items() if not np.isfinite(value)]
        if bad:
            raise CalibrationError(f"gate frames: {reading.name}: fp32 gives no finite {', '.join(bad)}")
    showing = sum(reading.mask is not None and bool(reading.mask.labels.any()) for reading in reference)
    wanted = model.manifest.gate.min_frames
    if showing < wanted:
        raise CalibrationError(
            f"gate frames: fp32 finds a structure in {showing} of {len(reference)} frames, want {wanted}; "
            "give more frames that show it"
        )


# ---------------------------------------------------------------- as files of a bundle


def gate_files(gate_set: GateSet) -> dict[str, bytes]:
    """The set as files of a bundle: path -> content."""
    files: dict[str, bytes] = {}
    stored = []
    for frame, reading, recipe in zip(gate_set.frames, gate_set.reference, gate_set.recipes, strict=True):
        path = f"gate/frames/{_name(frame.index)}.png"
        files[path] = _png(frame.pixels)
        stored.append(_stored(frame, reading, path, recipe))
    mask = next(reading.mask for reading in gate_set.reference if reading.mask is not None)
    content = FramesFile(
        schema_version=1,
        fp32_sha256=gate_set.fp32_sha256,
        grid_hw=mask.geometry.grid_hw,
        labels=mask.names,
        frames=tuple(stored),
    )
    return {GATE_FRAMES: json_bytes(content), **files}


def _stored(frame: Frame, reading: Reading, file: str, recipe: str | None) -> StoredFrame:
    spacing = frame.spacing
    return StoredFrame(
        sha256=_digest(frame.pixels),
        size_hw=frame.size_hw,
        kind=frame.origin.kind,
        status=reading.status,
        reasons=reading.reasons,
        values=dict(reading.values),
        mask=None if reading.mask is None else _stored_mask(reading.mask),
        file=file,
        recipe=recipe,
        modality=frame.origin.modality,
        spacing=None
        if spacing is None
        else StoredSpacing(row_mm=spacing.row_mm, col_mm=spacing.col_mm, source=spacing.source),
        spacing_reason=frame.spacing_reason,
        coloured=frame.coloured,
    )


def _stored_mask(mask: Mask) -> StoredMask:
    return StoredMask(
        counts=tuple(coco_counts(mask.of(name)) for name in mask.names),
        confidence=mask.confidence,
        discarded=mask.discarded,
        presence=mask.presence,
        outlines=None
        if mask.outlines is None
        else tuple(
            None if one is None else (*one.center_xy, one.xx, one.xy, one.yy) for one in mask.outlines
        ),
        rotation=mask.rotation,
        inverted=mask.inverted,
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    done, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done  # 8-bit grey of a checked size always can be
    return bytes(content)


# ---------------------------------------------------------------- reading a set


def has_gate_set(model: Model) -> bool:
    """Whether the manifest vouches for gate frames: a file that it does not name counts for nothing."""
    return GATE_FRAMES in model.manifest.files


def load_gate_set(model: Model) -> GateSet:
    """The set in the model's directory, every file checked against the manifest.

    Raises ConfigError for a model without a set, and for files that are not what the manifest names.
    """
    where = model.home / GATE_FRAMES
    if not has_gate_set(model):
        raise ConfigError(
            f"model {model.manifest.name}: has no gate frames; edge-runtime quantize makes them"
        )
    try:
        content = msgspec.json.decode(model.named_file(GATE_FRAMES), type=FramesFile)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    if len(content.frames) < LEAST:
        raise ConfigError(f"{where}: has {len(content.frames)} frames, want {LEAST} or more")
    _, fp32 = model.artifact("fp32")
    if content.fp32_sha256 != fp32:
        raise ConfigError(
            f"{where}: was read with graph {content.fp32_sha256[:12]}, the model's is {fp32[:12]}; "
            "quantize the model again"
        )
    frames = tuple(_frame(model, index, stored) for index, stored in enumerate(content.frames))
    pairs = zip(content.frames, frames, strict=True)
    return GateSet(
        frames,
        tuple(_reading(model, content, stored, frame) for stored, frame in pairs),
        fp32,
        tuple(stored.recipe for stored in content.frames),
    )


def _frame(model: Model, index: int, stored: StoredFrame) -> Frame:
    """The frame as it was read. Raises ConfigError for other pixels."""
    where = f"{model.home / GATE_FRAMES}: frame {index}"
    coded = np.frombuffer(model.named_file(stored.file), np.uint8)
    pixels = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
    if pixels is None or pixels.shape != stored.size_hw or _digest(pixels) != stored.sha256:
        raise ConfigError(f"{where}: {stored.file} is not the picture that was read; restore the file")
    spacing = stored.spacing
    return Frame(
        pixels,
        index,
        0,
        Origin(stored.kind, _name(index), stored.modality),
        frame_id(index, pixels),
        spacing=None if spacing is None else Spacing(spacing.row_mm, spacing.col_mm, spacing.source),
        spacing_reason=stored.spacing_reason,
        coloured=stored.coloured,
    )


def _reading(model: Model, content: FramesFile, stored: StoredFrame, frame: Frame) -> Reading:
    mask = None
    if stored.mask is not None:
        labels = np.zeros(content.grid_hw, np.uint8)
        try:
            for value, counts in enumerate(stored.mask.counts, start=1):
                labels[decode_counts(counts, content.grid_hw)] = value
        except ValueError as exc:
            raise ConfigError(
                f"{model.home / GATE_FRAMES}: frame {frame.index}: not a mask of {content.grid_hw} ({exc})"
            ) from exc
        whole = Box(0, 0, frame.size_hw[1], frame.size_hw[0])
        mask = Mask(
            labels,
            content.labels,
            fit_region(whole, content.grid_hw, model.manifest.input.fit),
            stored.mask.confidence,
            stored.mask.discarded,
            stored.mask.presence,
            outlines=None
            if stored.mask.outlines is None
            else tuple(one and Outline(one[:2], *one[2:]) for one in stored.mask.outlines),
            rotation=stored.mask.rotation,
            inverted=stored.mask.inverted,
        )
    return Reading(
        frame_id=frame.frame_id,
        name=picture_name(frame),
        frame=frame,
        mask=mask,
        status=stored.status,
        values=stored.values,
        reasons=stored.reasons,
    )
