"""Frames that a person calls good, as the numbers that limits and intervals are made of.

Every frame goes through the product's own pipeline. One that cannot be read ends it: a set with a hole is not
trusted. A picture that comes twice counts once. Knows no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.build.calibration import as_uri
from edge_runtime.codes import SEVERITY, Reason, Status
from edge_runtime.commands.evaluate import published_hc_mm, read_meta
from edge_runtime.errors import CalibrationError, ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.measure.anatomy import ELLIPTIC, labels_of, measured_values
from edge_runtime.measure.ellipse import own_overlap
from edge_runtime.measure.quality import GRADED, look, lowest_confidence
from edge_runtime.pictures import read_truth, whole_mask
from edge_runtime.pipeline import Pipeline, Result
from edge_runtime.types import BadFrame, Frame, Mask


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame."""

    name: str  # for people at this machine
    subject: str  # frames of one subject are kept together; a frame without one is its own
    numbers: dict[str, float]  # by the names of `quality.GRADED` and `limits.GATED`
    withheld: tuple[Reason, ...]  # why the model withholds it, with nobody's profile
    values: dict[str, float]  # by measurement, shown or not
    truth: dict[str, float] | None  # likewise, of its label


@dataclass(frozen=True, slots=True)
class Reading:
    """All of them."""

    seen: tuple[Seen, ...]
    subjects_known: bool  # False: each frame had to count as a subject of its own
    repeated: int = 0  # frames left out because their picture had come before


def read(
    frames: str, labels: Path | None, pipeline: Pipeline, progress: Callable[[str], None] | None = None
) -> Reading:
    """Every frame of a folder or a finite source URI, in order.

    Raises CalibrationError for frames and labels that cannot calibrate, ConfigError for what is no source.
    """
    uri = as_uri(frames)
    if labels is not None and not labels.is_dir():
        raise ConfigError(f"--labels {labels}: no such folder; want one .png for each frame, of its stem")
    published = _published(uri) if labels is not None else {}
    seen: list[Seen] = []
    known, count, missing = False, 0, list[str]()
    contents: set[str] = set()
    for frame in _frames(uri, frames):
        count += 1
        if frame.content_hash in contents:
            continue
        contents.add(frame.content_hash)
        if labels is not None and not _label(labels, frame).is_file():
            missing.append(_label(labels, frame).name)
        if missing:  # the rest is only counted
            continue
        subject = frame.origin.subject or frame.origin.study_uid
        known = known or subject is not None
        truth = None if labels is None else _truth(labels, frame, pipeline, published)
        seen.append(_see(frame, subject or frame.origin.name, truth, pipeline))
        if progress is not None:
            progress(f"{len(seen)} frames")
    if missing:
        raise CalibrationError(
            f"--labels {labels}: {len(missing)} of {count} frames of {frames} have no label, the first is {missing[0]}; "
            "add them or leave those frames out"
        )
    cine = len({one.subject for one in seen}) < len(seen)
    return Reading(tuple(seen), known or cine, count - len(contents))


def _frames(uri: str, frames: str) -> Iterator[Frame]:
    """The frames, each checked when it comes."""
    found = False
    with open_source(uri, fps=0) as source:
        if source.live:
            raise ConfigError(f"--frames {frames}: is live and has no end; record some frames first")
        for frame in source.frames():
            if isinstance(frame, BadFrame):
                raise CalibrationError(f"{frame.error}; a set with a hole is not trusted: mend or remove it")
            found = True
            yield frame
    if not found:
        raise CalibrationError(f"{frames}: no frame to calibrate on")


def _label(labels: Path, frame: Frame | BadFrame) -> Path:
    return labels / f"{Path(frame.origin.name).stem}.png"


def _published(uri: str) -> dict[str, float]:
    """`hc_mm` of a folder's meta.csv by the file's name, where it has one. Raises ConfigError."""
    scheme, _, place = uri.partition(":")
    homes = (Path(place), Path(place).parent) if scheme == "folder" else ()
    table = next((home / "meta.csv" for home in homes if (home / "meta.csv").is_file()), None)
    rows = {} if table is None else read_meta(table)
    found = {name: published_hc_mm(row, name) for name, row in rows.items()}
    return {name: value for name, value in found.items() if value is not None}


def _truth(labels: Path, frame: Frame, pipeline: Pipeline, published: dict[str, float]) -> dict[str, float]:
    """The true values of a frame: measured in its label, and the published circumference where there is one."""
    anatomy, path = pipeline.model.manifest.anatomy, _label(labels, frame)
    names = labels_of(anatomy)
    try:
        drawn = read_truth(path, names)
    except ConfigError as exc:
        raise CalibrationError(f"--labels: {exc}") from exc
    height, width = frame.size_hw
    if drawn.shape != frame.size_hw:
        raise CalibrationError(
            f"{path}: {drawn.shape[1]}x{drawn.shape[0]}, its frame is {width}x{height}; want the same size"
        )
    values = measured_values(anatomy, whole_mask(drawn, names), frame.spacing)
    if not drawn.any():
        raise CalibrationError(f"{path}: the label is empty; leave a frame without the structure out")
    known = published.get(Path(frame.origin.name).name)
    if anatomy == "fetal_head" and known is not None and frame.spacing is not None:
        values["head_circumference"] = known
    return values


def _see(frame: Frame, subject: str, truth: dict[str, float] | None, pipeline: Pipeline) -> Seen:
    """The frame through the pipeline, with the numbers that `quality.judge` looks at."""
    flight = pipeline.start(frame)
    box = flight.geometry.content
    picture = look(pipeline.preprocess.grey(flight.slot.input)[box.y0 : box.y1, box.x0 : box.x1])
    result = pipeline.finish(flight)
    numbers = {name: float(getattr(picture, name)) for name in GRADED}
    values: dict[str, float] = {}
    if result.found is not None:  # what was measured: `mask` may be the ellipses that are shown in its place
        numbers |= _gate_numbers(result.found, pipeline.model.manifest.anatomy)
        values = measured_values(pipeline.model.manifest.anatomy, result.found, frame.spacing)
    return Seen(
        f"{frame.origin.name} frame {frame.index}", subject, numbers, _withheld(result), values, truth
    )


def _withheld(result: Result) -> tuple[Reason, ...]:
    if result.status is not Status.WITHHELD:
        return ()
    doubts = (reason for reason in result.reasons if SEVERITY[reason] is Status.WITHHELD)
    return tuple(reason for reason in doubts if reason is not Reason.NO_MEASUREMENT_DEFINED)


def models_own(pipeline: Pipeline) -> dict[str, float]:
    """What the model itself asks for, by the names of `limits.GATED`."""
    return {
        "presence": pipeline.limits.min_presence,
        "confidence": pipeline.limits.min_confidence,
        "ellipse_iou": pipeline.settings.min_ellipse_iou,
    }


def _gate_numbers(mask: Mask, anatomy: str) -> dict[str, float]:
    """What the limits of a model are held against, by the names of `limits.GATED`."""
    numbers = {"presence": mask.presence, "confidence": lowest_confidence(mask)}
    if anatomy in ELLIPTIC:
        numbers["ellipse_iou"] = own_overlap(mask.of(mask.names[0]))
    return numbers
