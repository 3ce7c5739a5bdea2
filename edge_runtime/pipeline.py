"""The main job: a frame goes in, a measured result comes out. The file to read first.

`Pipeline.step` is the whole of it for one frame; `start` and `finish` are its halves, so that the next
frame is prepared while the last is computed. `stream.py` runs it over a source; `reporting.py` makes
results into findings on disk. The pipeline itself knows no files, no threads and no network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime import clock
from edge_runtime.codes import Hint, Reason, Status
from edge_runtime.errors import ConfigError, FrameError
from edge_runtime.infer.backends.contract import Backend, Slot
from edge_runtime.infer.model import IntervalSpec, Manifest, Model
from edge_runtime.infer.postprocess import Postprocess, postprocess_for
from edge_runtime.infer.preprocess import Preprocess, preprocess_for
from edge_runtime.measure.acquisition import hint_of, reasons_of
from edge_runtime.measure.anatomy import ELLIPTIC, acquisition, labels_of, measure
from edge_runtime.measure.cover import covered
from edge_runtime.measure.drawing import is_drawn
from edge_runtime.measure.ellipse import Fit, fits_of, outlined
from edge_runtime.measure.findings import assemble
from edge_runtime.measure.profile import Profile
from edge_runtime.measure.quality import FreezeWatch, Limits, Verdict, judge, spoilt
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.telemetry import StageClock
from edge_runtime.types import Acquisition, BadFrame, Frame, Geometry, Mask, Measurement, ProfileUsed


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one frame after the pipeline."""

    frame: Frame | BadFrame
    mask: Mask | None  # None when the frame or the model's answer could not be used
    found: Mask | None  # the cleaned mask that was measured; `mask` itself unless that shows ellipses
    measurements: tuple[Measurement, ...]
    status: Status
    reasons: tuple[Reason, ...]
    verdict: Verdict
    age_ms: float  # from `captured_ns` to now
    stages_ms: dict[str, float]
    error: FrameError | None = None
    acquisition: Acquisition | None = None  # how an X-ray was taken; None for other anatomies


@dataclass(slots=True)
class InFlight:
    """A frame whose inference was started."""

    frame: Frame
    slot: Slot
    geometry: Geometry
    stages: StageClock


@dataclass(slots=True)
class Pipeline:
    """A model on a backend with all that is needed to measure what it finds. One thread calls it."""

    model: Model
    backend: Backend
    settings: MeasureSettings
    limits: Limits
    artifact_sha256: str
    freeze_watch: FreezeWatch | None = None  # for a paced stream: equal stills in a folder are not frozen
    profile: ProfileUsed | None = None  # of the site, where one was applied
    preprocess: Preprocess = field(init=False)
    postprocess: Postprocess = field(init=False)

    def __post_init__(self) -> None:
        self.preprocess = preprocess_for(self.model, self.backend)
        self.postprocess = postprocess_for(self.model, self.backend)
        cv2.setNumThreads(1)  # the backend's threads are the ones that pay

    def step(self, frame: Frame) -> Result:
        """One frame through all stages."""
        return self.finish(self.start(frame))

    def start(self, frame: Frame) -> InFlight:
        """Prepares the frame in a free slot and starts the inference."""
        stages = StageClock()
        slot = self.backend.acquire()
        try:
            with stages.stage("preprocess"):
                geometry = self.preprocess.into(frame, slot.input)
        except BaseException:
            self.backend.release(slot)
            raise
        self.backend.submit(slot)
        return InFlight(frame, slot, geometry, stages)

    def finish(self, flight: InFlight) -> Result:
        """Waits for the inference, then decides, measures and judges. The slot is free afterwards."""
        frame, slot, stages = flight.frame, flight.slot, flight.stages
        try:
            with stages.stage("wait"):
                self.backend.wait(slot)
            stages.stages_ms["infer"] = slot.infer_ms
            with stages.stage("postprocess"):
                found = self.postprocess.read(slot.outputs, flight.geometry)
            with stages.stage("measure"):
                anatomy = self.model.manifest.anatomy
                fits = fits_of(found) if anatomy in ELLIPTIC else None
                measured = measure(anatomy, found, frame.spacing, frame.spacing_reason, self.settings, fits)
                frozen = self.freeze_watch is not None and self.freeze_watch.see(frame)
                grey = self.preprocess.grey(slot.input)
                verdict = judge(grey, found, frame, self.limits, frozen)
                taken = acquisition(anatomy, found, grey, verdict.reasons, self.settings)
                if taken is not None:
                    verdict = spoilt(verdict, reasons_of(taken), hint_of(taken))
                elif fits is not None:
                    verdict = self._ellipses_seen(verdict, found, grey, fits)
                assembled = assemble(measured, verdict.reasons)
                mask = outlined(found, fits) if self.model.manifest.output.outline == "ellipse" else found
        except FrameError as error:
            named = FrameError(f"{frame.origin.name} frame {frame.index}: {error}", error.reason)
            return unusable(frame, named, stages.stages_ms)
        finally:
            self.backend.release(slot)
        return Result(
            frame,
            mask,
            found,
            assembled.measurements,
            assembled.status,
            assembled.reasons,
            verdict,
            _age_ms(frame),
            stages.stages_ms,
            acquisition=taken,
        )

    def _ellipses_seen(
        self, verdict: Verdict, found: Mask, grey: NDArray[np.uint8], fits: tuple[Fit | None, ...]
    ) -> Verdict:
        """`verdict` after a look at the picture (h, w) where the ellipses lie."""
        if covered(found, grey):
            verdict = spoilt(verdict, (Reason.CUT_BY_BORDER,), Hint.CENTER_STRUCTURE)
        if self.limits.ultrasound and is_drawn(self.model.manifest.anatomy, found, grey, fits):
            verdict = spoilt(verdict, (Reason.DRAWN_IMAGE,), Hint.FIND_STRUCTURE)
        return verdict

    def close(self) -> None:
        self.backend.close()


def unusable(frame: Frame | BadFrame, error: FrameError, stages_ms: dict[str, float] | None = None) -> Result:
    """The withheld result of a frame that gave no answer."""
    verdict = Verdict(score=0, hint=Hint.NO_SIGNAL, reasons=(error.reason,))
    reasons, stages = (error.reason,), stages_ms or {}
    return Result(frame, None, None, (), Status.WITHHELD, reasons, verdict, _age_ms(frame), stages, error)


def _age_ms(frame: Frame | BadFrame) -> float:
    return (clock.monotonic_ns() - frame.captured_ns) / 1e6


def settings_of(manifest: Manifest, plane_confirmed: bool) -> MeasureSettings:
    """How this model's masks are measured."""
    limits, interval = manifest.limits, manifest.interval or IntervalSpec()
    return MeasureSettings(
        plane_confirmed=plane_confirmed,
        spacing_range_mm=limits.spacing_mm,
        min_ellipse_iou=limits.min_ellipse_iou,
        min_upright=limits.min_upright,
        max_inverted=limits.max_inverted,
        intervals={
            name: (half.absolute, half.relative)
            for name, half in interval.half_width.items()
            if not half.bands or half.absolute or half.relative
        },
        bands={
            name: tuple((band.up_to, band.absolute, band.relative) for band in half.bands)
            for name, half in interval.half_width.items()
            if half.bands
        },
        coverage=interval.coverage,
    )


def limits_of(manifest: Manifest, plane_confirmed: bool) -> Limits:
    """The model's contract: what a frame must be for its word to count."""
    return Limits(
        modality=manifest.modality,
        body_part=manifest.body_part,
        view_position=manifest.view_position,
        min_size_px=manifest.limits.min_size_px,
        max_aspect=manifest.limits.max_aspect,
        min_presence=manifest.limits.min_presence,
        min_confidence=manifest.limits.min_confidence,
        plane_to_confirm=manifest.anatomy == "fetal_head" and not plane_confirmed,
    )


def build_pipeline(
    model: Model, backend: Backend, *, plane_confirmed: bool = False, profile: Profile | None = None
) -> Pipeline:
    """A pipeline of a loaded model. Owns `backend`: `Pipeline.close` closes it.

    Raises ConfigError for labels that the model's anatomy does not measure, for ellipses
    where it measures none, and for a profile of another model.
    """
    manifest = model.manifest
    wanted, labels = labels_of(manifest.anatomy), manifest.output.labels or ()
    if wanted and set(wanted) - set(labels):
        raise ConfigError(
            f"model {manifest.name}: anatomy {manifest.anatomy} needs the labels {wanted}, [output] has {labels}"
        )
    if manifest.output.outline == "ellipse" and manifest.anatomy not in ELLIPTIC:
        raise ConfigError(
            f'model {manifest.name}: [output] outline = "ellipse" wants an anatomy of {ELLIPTIC}, got {manifest.anatomy}'
        )
    limits = limits_of(manifest, plane_confirmed)
    if backend.name == "tensorrt" and backend.precision in ("fp16", "int8"):
        _, digest = model.tensorrt_graph(backend.precision)
    else:
        _, digest = model.artifact(backend.precision)
    settings = settings_of(manifest, plane_confirmed)
    if profile is None:
        return Pipeline(model, backend, settings, limits, digest)
    profile.require_model(manifest.name, model.sha256)
    settings, limits = profile.on_settings(settings), profile.on_limits(limits)
    return Pipeline(model, backend, settings, limits, digest, profile=profile.used)
