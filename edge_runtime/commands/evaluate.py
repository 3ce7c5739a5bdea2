"""`edge-runtime evaluate`: a model against labelled images, through the same pipeline that runs on the
device.

The folder holds `images/`, `masks/` (same stem, .png, above 127 is foreground) and `meta.csv`. Dice is at
source resolution over all images, withheld or not; so is `hc_mm`, the circumference that would have been
shown. `hc_reported` is over those that were.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime import clock
from edge_runtime.build.agreement import dice
from edge_runtime.build.precision import open_gated
from edge_runtime.codes import SEVERITY, Clock, Kind, MeasurementName, Status
from edge_runtime.errors import ConfigError
from edge_runtime.frames.meta_csv import MetaTable
from edge_runtime.frames.source import open_source
from edge_runtime.infer.model import load_model
from edge_runtime.measure.anatomy import labels_of, measured_values
from edge_runtime.measure.fetal_head import head_circumference_mm
from edge_runtime.measure.profile import read_profile
from edge_runtime.pictures import full_mask, read_truth, whole_mask
from edge_runtime.pipeline import Pipeline, Result, build_pipeline
from edge_runtime.reporting import maker_for, model_used
from edge_runtime.sync.journal import Stamp
from edge_runtime.types import BadFrame, Frame, Mask, ProfileUsed, encode

WARM_UP = 3
MOST_HC_MM = 1000.0  # a circumference beyond it is in another unit, or none


class DiceScores(msgspec.Struct, frozen=True):
    mean: float | None
    median: float | None
    p5: float | None
    per_class: dict[str, float]  # means


class LengthErrors(msgspec.Struct, frozen=True):
    """Of the circumference, mm, over all images with a mask, a spacing and a published value."""

    mae: float
    bias: float
    p95_abs: float
    max_abs: float
    images: int


class Reported(msgspec.Struct, frozen=True):
    """Of the circumferences that were shown."""

    mae: float | None
    coverage: float | None  # share of published values inside the interval
    interval_width_mm: float | None
    images: int


class ValueErrors(msgspec.Struct, frozen=True):
    """Of one measurement against that of the true mask, over all images, in percent of the true value."""

    mean_abs_percent: float
    median_abs_percent: float
    bias_percent: float
    images: int


class Latency(msgspec.Struct, frozen=True, omit_defaults=True):
    p50: float
    p99: float | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What `evaluate --json` prints."""

    model: str
    sha256: str
    precision: str
    backend: str
    threads: int
    images: int
    withheld: int
    withheld_reasons: dict[str, int]
    dice: DiceScores
    latency_ms: Latency  # from a frame in memory to its finding
    infer_ms: Latency
    fps: float
    values: dict[str, ValueErrors]  # by measurement
    hc_mm: LengthErrors | None = None
    hc_reported: Reported | None = None
    profile: ProfileUsed | None = None


@dataclass(slots=True)
class Scores:
    """Filled image by image."""

    anatomy: str
    dice: list[float] = field(default_factory=list)
    by_class: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # errors as shares
    hc_error: list[float] = field(default_factory=list)
    shown: list[tuple[float, bool, float]] = field(default_factory=list)  # error, covered, width
    latency_ms: list[float] = field(default_factory=list)
    infer_ms: list[float] = field(default_factory=list)
    withheld: int = 0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, result: Result, truth: NDArray[np.uint8], hc_mm: float | None) -> None:
        frame, mask = result.frame, result.mask
        assert isinstance(frame, Frame)
        names = mask.names if mask is not None else ()
        found = full_mask(mask, frame.size_hw) if mask is not None else np.zeros_like(truth)
        scores = [dice(found == value, truth == value) for value in range(1, max(1, len(names)) + 1)]
        self.dice.append(float(np.mean(scores)))
        for name, score in zip(names, scores, strict=False):
            self.by_class[name].append(score)
        if result.found is not None:
            self._add_values(result.found, truth, frame)
        if result.status is Status.WITHHELD:
            self.withheld += 1
            for reason in result.reasons:
                if SEVERITY[reason] is Status.WITHHELD:
                    self.reasons[reason.value] += 1
        if hc_mm is not None and result.found is not None and frame.spacing is not None:
            measured = head_circumference_mm(result.found, frame.spacing)
            self.hc_error.append(np.nan if measured is None else measured - hc_mm)
            self._add_shown(result, hc_mm)

    def _add_values(self, found: Mask, truth: NDArray[np.uint8], frame: Frame) -> None:
        true = measured_values(self.anatomy, whole_mask(truth, found.names), frame.spacing)
        for name, value in measured_values(self.anatomy, found, frame.spacing).items():
            if true.get(name):
                self.values[name].append(value / true[name] - 1)

    def _add_shown(self, result: Result, hc_mm: float) -> None:
        for measurement in result.measurements:
            if measurement.name is MeasurementName.HEAD_CIRCUMFERENCE and measurement.value is not None:
                low, high = measurement.interval or (np.nan, np.nan)
                self.shown.append((abs(measurement.value - hc_mm), low <= hc_mm <= high, high - low))


def evaluate(
    model: str,
    data: Path,
    subjects: Path | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    profile: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Runs every image that has a mask; `progress` gets a line after each. Raises ConfigError where the folder is not as described above."""
    loaded = load_model(model)
    site = None if profile is None else read_profile(profile)
    if site is not None:
        site.require_model(loaded.manifest.name, loaded.sha256)
    pipeline = build_pipeline(loaded, open_gated(loaded, backend, precision, threads), profile=site)
    anatomy = loaded.manifest.anatomy
    scores, latency = Scores(anatomy), _Latency(pipeline)
    try:
        for frame, row in labelled(data, subjects):
            result, total_ms = latency.of(frame)
            truth = read_truth(data / "masks" / f"{Path(frame.origin.name).stem}.png", labels_of(anatomy))
            if truth.shape != frame.pixels.shape:
                raise ConfigError(
                    f"{data}: mask of {frame.origin.name} is {truth.shape}, its image {frame.pixels.shape}"
                )
            scores.latency_ms.append(total_ms)
            scores.infer_ms.append(result.stages_ms["infer"])
            scores.add(
                result, truth, published_hc_mm(row, frame.origin.name) if anatomy == "fetal_head" else None
            )
            if progress is not None:
                progress(f"{len(scores.dice)} images, Dice {np.mean(scores.dice):.4f}")
        return _evaluation(pipeline, scores)
    finally:
        pipeline.close()


def labelled(data: Path, subjects: Path | None) -> Iterator[tuple[Frame, dict[str, str]]]:
    """Each image of `data` that has a mask, with its row of meta.csv."""
    for needed in ("images", "masks"):
        if not (data / needed).is_dir():
            raise ConfigError(f"--data {data}: has no folder {needed}/; want images/, masks/ and meta.csv")
    rows = read_meta(data / "meta.csv")
    wanted = None if subjects is None else read_subjects(subjects)
    found = 0
    with open_source(f"folder:{data / 'images'}") as source:
        for frame in source.frames():
            if isinstance(frame, BadFrame):
                raise ConfigError(str(frame.error))
            row = rows.get(Path(frame.origin.name).name, {})
            if wanted is not None and not frame.origin.listed_in(wanted):
                continue
            if (data / "masks" / f"{Path(frame.origin.name).stem}.png").is_file():
                found += 1
                yield frame, row
    if not found:
        raise ConfigError(f"--data {data}: no image with a mask of the same stem")


def read_meta(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a meta.csv by the name of their file; none where there is no such table."""
    if not path.is_file():
        return {}
    return {Path(file).name: row for file, row in MetaTable.read(path).rows.items()}


def read_subjects(path: Path) -> set[str]:
    """The subjects in a text file, one to a line. Raises ConfigError."""
    try:
        return set(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"--subjects {path}: cannot be read; want a text file with one subject to a line"
        ) from exc


class _Latency:
    """Times a frame in memory to its encoded finding, after a few frames of warm-up."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._maker = maker_for(pipeline, pseudonym=lambda text: text)
        self._stamp = Stamp("evaluate", "0", clock.boot_id(), 1, clock.utc_now(), Clock.UNSYNCED, 0)
        self._warm = False

    def of(self, frame: Frame) -> tuple[Result, float]:
        for _ in range(0 if self._warm else WARM_UP):
            self._pipeline.step(frame)
        self._warm = True
        start_ns = clock.monotonic_ns()
        result = self._pipeline.step(frame)
        encode(self._maker.finding(result, self._stamp, "evaluate", Kind.FRAME))
        return result, (clock.monotonic_ns() - start_ns) / 1e6


def published_hc_mm(row: dict[str, str], name: str) -> float | None:
    """The published circumference; None where the table is blank. Raises ConfigError for what no head can have."""
    text = (row.get("hc_mm") or "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 < value <= MOST_HC_MM:  # also refuses NaN
        raise ConfigError(f"meta.csv: hc_mm of {name} is {text!r}, want millimetres or nothing")
    return value


def _evaluation(pipeline: Pipeline, scores: Scores) -> Evaluation:
    used = model_used(pipeline)
    values = np.array(scores.dice)
    errors = np.array([error for error in scores.hc_error if np.isfinite(error)])
    shown = np.array(scores.shown, dtype=float).reshape(-1, 3)
    return Evaluation(
        model=used.name,
        sha256=used.sha256,
        precision=used.precision,
        backend=used.backend,
        threads=pipeline.backend.threads,
        images=len(values),
        withheld=scores.withheld,
        withheld_reasons=dict(sorted(scores.reasons.items())),
        dice=DiceScores(
            float(values.mean()),
            float(np.median(values)),
            float(np.percentile(values, 5)),
            {name: float(np.mean(of)) for name, of in scores.by_class.items()},
        ),
        latency_ms=Latency(_percentile(scores.latency_ms, 50), _percentile(scores.latency_ms, 99)),
        infer_ms=Latency(_percentile(scores.infer_ms, 50)),
        fps=1000 * len(values) / sum(scores.latency_ms),
        values={name: _value_errors(np.array(of)) for name, of in scores.values.items()},
        hc_mm=None
        if not len(errors)
        else LengthErrors(
            float(np.abs(errors).mean()),
            float(errors.mean()),
            float(np.percentile(np.abs(errors), 95)),
            float(np.abs(errors).max()),
            len(errors),
        ),
        hc_reported=None if not len(errors) else _reported(shown),
        profile=pipeline.profile,
    )


def _value_errors(shares: NDArray[np.float64]) -> ValueErrors:
    percent = 100 * shares
    return ValueErrors(
        float(np.abs(percent).mean()), float(np.median(np.abs(percent))), float(percent.mean()), len(percent)
    )


def _reported(shown: NDArray[np.float64]) -> Reported:
    if not len(shown):
        return Reported(None, None, None, 0)
    error, covered, width = (float(mean) for mean in shown.mean(axis=0))
    return Reported(error, covered, width, len(shown))


def _percentile(values: list[float], q: float) -> float:
    return float(np.percentile(values, q))


def lines(report: Evaluation) -> list[str]:
    """The evaluation for a person."""
    out = [
        f"{report.model} ({report.sha256[:12]}), {report.precision} on {report.backend}, {report.threads} thread(s): "
        f"{report.images} images, {report.withheld} withheld",
        f"Dice mean {report.dice.mean:.4f}, median {report.dice.median:.4f}, 5th percentile {report.dice.p5:.4f}",
    ]
    if report.hc_mm is not None:
        error = report.hc_mm
        out.append(
            f"head circumference: mean absolute error {error.mae:.2f} mm, bias {error.bias:+.2f}, "
            f"95 % below {error.p95_abs:.2f}, worst {error.max_abs:.2f} ({error.images} images)"
        )
    else:
        out += [
            f"{name}: median error {error.median_abs_percent:.2f} %, mean {error.mean_abs_percent:.2f} %, bias {error.bias_percent:+.2f} %"
            for name, error in report.values.items()
        ]
    if report.hc_reported is not None and report.hc_reported.mae is not None:
        shown = report.hc_reported
        out.append(
            f"reported: {shown.images} images, mean absolute error {shown.mae:.2f} mm, "
            f"{100 * (shown.coverage or 0):.0f} % inside the interval, {shown.interval_width_mm:.1f} mm wide"
        )
    out.append(
        f"frame to finding p50 {report.latency_ms.p50:.2f} ms, p99 {report.latency_ms.p99:.2f} ms, "
        f"inference p50 {report.infer_ms.p50:.2f} ms"
    )
    return [*out, "Research use only. Not a medical device."]
