"""The frames that a model is quantized with: read whole, checked, and parted into observed and held out.

There is no default set. A frame that cannot be read ends the build; none is skipped. What is held out is never
observed: the gate judges with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CalibrationError, ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.preprocess import Preprocess
from edge_runtime.pictures import read_truth
from edge_runtime.pipeline import Pipeline
from edge_runtime.types import BadFrame, Frame

SMALLEST_ZOOM = 0.5  # a frame may be enlarged to the model's grid at most twice


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the frames became."""

    inputs: tuple[NDArray[Any], ...]  # as the model's slot has them, (1, c, h, w) each
    observed: tuple[str, ...]  # content hash of each, never a name
    held_out: tuple[Frame, ...]
    truth: tuple[NDArray[np.uint8] | None, ...] | None  # of `held_out`, where there are labels


def as_uri(frames: str) -> str:
    """A source URI; a plain folder is `folder:` of it, a plain DICOM file `dicom:`."""
    path = Path(frames)
    if path.suffix.lower() in (".dcm", ".dicom") and path.is_file():
        return f"dicom:{frames}"
    return f"folder:{frames}" if ":" not in frames or path.is_dir() else frames


def read_calibration(
    frames: str, pipeline: Pipeline, *, labels: Path | None = None, without: frozenset[str] = frozenset()
) -> Calibration:
    """Reads a folder or source URI for the model of `pipeline`, leaving out the subjects `without`.

    Raises CalibrationError for what cannot calibrate this model, ConfigError for what is no source.
    """
    manifest = pipeline.model.manifest
    spec, needed = manifest.calibration, manifest.gate.min_frames
    most = spec.max_frames + max(needed + needed // 4, spec.max_frames // 3)
    chosen = _spread(_distinct(frames, pipeline, without), most)
    if len(chosen) < spec.min_frames + needed:
        raise CalibrationError(
            f"{frames}: {len(chosen)} different frames, want at least {spec.min_frames + needed} "
            f"({spec.min_frames} to observe, {needed} for the gate); take more, of several subjects"
        )
    spare = needed + needed // 4  # some frames show nothing to measure
    held = min(max(spare, len(chosen) // 4), len(chosen) - spec.min_frames)
    held_out, observed = _part(chosen, held)
    truth = (
        None
        if labels is None
        else tuple(_label(labels, frame, manifest.output.labels or ()) for frame in held_out)
    )
    if truth is not None and not any(true is not None for true in truth):
        raise CalibrationError(f"--labels {labels}: has no .png of the same stem for any frame of {frames}")
    if truth is not None and not any(true is not None and true.any() for true in truth):
        raise CalibrationError(f"--labels {labels}: every label picture is empty; give the masks of {frames}")
    tensor = pipeline.backend.slots[0].input
    return Calibration(
        tuple(_as_input(pipeline.preprocess, frame, tensor) for frame in observed),
        tuple(frame.content_hash for frame in observed),
        tuple(held_out),
        truth,
    )


def _distinct(frames: str, pipeline: Pipeline, without: frozenset[str]) -> Iterator[Frame]:
    """Each frame of the source once, checked; a repeated picture counts once."""
    seen: set[str] = set()
    with open_source(as_uri(frames), fps=0) as source:
        for frame in source.frames():
            if isinstance(frame, BadFrame):
                raise CalibrationError(f"{frame.error}; a set with a hole is not trusted: mend or remove it")
            if frame.origin.listed_in(without):
                continue
            _check(frame, pipeline)
            if (content := frame.content_hash) not in seen:
                seen.add(content)
                yield frame
    if not seen:
        raise CalibrationError(f"{frames}: no frame to calibrate on")


def _check(frame: Frame, pipeline: Pipeline) -> None:
    """Raises CalibrationError for a frame that is not what the model is for."""
    where, manifest = f"{frame.origin.name} frame {frame.index}", pipeline.model.manifest
    modality = frame.origin.modality
    if manifest.modality and modality is not None and modality not in manifest.modality:
        raise CalibrationError(
            f"{where}: modality {modality}, model {manifest.name} is for {' and '.join(manifest.modality)}; remove it"
        )
    size = frame.size_hw if frame.region is None else frame.region.size_hw
    grid = pipeline.preprocess.grid_hw
    if max(side / of for side, of in zip(size, grid, strict=True)) < SMALLEST_ZOOM:
        raise CalibrationError(
            f"{where}: {size[1]}x{size[0]}, the model's grid is {grid[1]}x{grid[0]}; frames must not be enlarged so far"
        )


def _spread(frames: Iterator[Frame], most: int) -> list[Frame]:
    """At most `most` of the frames, evenly over the set; never more than twice as many are in memory."""
    kept: list[Frame] = []
    stride = 1
    for number, frame in enumerate(frames):
        if number % stride == 0:
            kept.append(frame)
        if len(kept) == 2 * most:
            kept, stride = kept[::2], 2 * stride
    if len(kept) <= most:
        return kept
    return [kept[index * len(kept) // most] for index in range(most)]


def _part(frames: Sequence[Frame], held: int) -> tuple[list[Frame], list[Frame]]:
    """(held out, observed): `held` or a few more frames, evenly over the set, no subject in both."""
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        key = frame.origin.subject or f"{frame.origin.name} {frame.index}"
        groups.setdefault(key, []).append(frame)
    parts: tuple[list[Frame], list[Frame]] = ([], [])
    for group in groups.values():
        seen = len(parts[0]) + len(parts[1]) + len(group)
        parts[0 if len(parts[0]) < held * seen / len(frames) else 1].extend(group)
    return parts


def _as_input(preprocess: Preprocess, frame: Frame, like: NDArray[Any]) -> NDArray[Any]:
    tensor = np.zeros_like(like)
    preprocess.into(frame, tensor)
    return tensor


def _label(folder: Path, frame: Frame, names: tuple[str, ...]) -> NDArray[np.uint8] | None:
    """The label picture of a frame, at its size; None where there is none."""
    path = folder / f"{Path(frame.origin.name).stem}.png"
    if not path.is_file():
        return None
    try:
        truth = read_truth(path, names)
    except ConfigError as exc:
        raise CalibrationError(f"--labels: {exc}") from exc
    if truth.shape != frame.size_hw:
        raise CalibrationError(f"{path}: {truth.shape}, its frame is {frame.size_hw}; want the same size")
    return truth
