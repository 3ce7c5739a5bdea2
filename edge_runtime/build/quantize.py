"""From an fp32 model and real frames to a bundle: observed, placed, searched, linted, gated, written.

The order of the work is the order of this file; each step takes what the ones before it made. Nothing is written
before everything has passed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.bundle import Contents, check_target, write_bundle
from edge_runtime.build.calibration import Calibration, read_calibration
from edge_runtime.build.cpu_graph import to_cpu
from edge_runtime.build.emulate import emulated
from edge_runtime.build.gate import judge
from edge_runtime.build.gate_frames import GateSet, gate_files, make_gate_set
from edge_runtime.build.gate_page import page_html
from edge_runtime.build.gate_phantoms import draw, recipes_for
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.graph import load_onnx, one_file, read_graph, refuse_reduced
from edge_runtime.build.half import to_half
from edge_runtime.build.lint import lint
from edge_runtime.build.observe import observe
from edge_runtime.build.place import Plan, insert, layers_of, plan_of
from edge_runtime.build.quantize_record import card, page_of, scales_of_job
from edge_runtime.build.readings import Reading, read_frames
from edge_runtime.build.search import ChosenRange, Layer, Tick, choose_ranges, scales_of, sensitivity, settle
from edge_runtime.build.subpixel import with_subpixel
from edge_runtime.build.trial import Trial
from edge_runtime.build.view import View
from edge_runtime.errors import CalibrationError, ConfigError, GateError
from edge_runtime.files import json_bytes
from edge_runtime.infer.backends.contract import infer_once
from edge_runtime.infer.model import Artifact, Manifest, Model
from edge_runtime.measure.anatomy import AREA_SHARE
from edge_runtime.pipeline import Pipeline
from edge_runtime.types import Frame

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, float], None]  # what is being done, and the share that is done

FEWEST_CHANNELS = 8  # of a layer's input: INT8 kernels pad to 32, so that fewer gain nothing
SEARCHED = 12  # inputs by which a range is chosen
SENSED = 48  # frames by which a layer is judged alone
ROUNDING = 0.01  # of a probability
WHOLE_FRAME = 0.9  # of a frame: more is no structure in a picture
WORST = 3  # frames named for the person who has them
FP32, FP16, INT8, INT8_CPU = "model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.cpu.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be quantized, with what, to where."""

    model: Path  # the ONNX file
    manifest: Manifest  # the recipe: what the model is, and its tolerances
    frames: str  # folder or source URI
    out: Path
    labels: Path | None = None
    without: frozenset[str] = frozenset()  # subjects of the frames that stay unseen
    keep: Mapping[str, bytes] = field(default_factory=dict)  # more files of the bundle: card, test set


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What came out."""

    model: Model
    layers: tuple[Layer, ...]
    ranges: tuple[ChosenRange, ...]
    reports: tuple[GateReport, ...]  # INT8 for TensorRT, INT8 for a CPU, FP16 for TensorRT
    observed: int  # frames
    gate_frames: int
    worst: tuple[tuple[str, str], ...]  # the given frames judged worst: the person's name of each, the page's


def quantize(job: Job, progress: Progress = lambda what, share: None) -> Quantized:
    """Does the job. Raises ConfigError, CalibrationError or GateError, and then has written nothing."""
    check_target(job.out)
    progress("reading the model", 0.0)
    graph = read_graph(job.model, job.manifest.input.grid_hw)
    refuse_reduced(graph, str(job.model))
    fp32, graph = _fp32(job.model, graph), with_subpixel(graph)
    plan = plan_of(graph, _candidates(job, graph))
    _require_half(job, graph)
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as scratch:
        trial = Trial(job.manifest, Path(scratch))
        progress("reading frames", 0.02)
        evidence = _read_evidence(job, trial, fp32)
        progress("observing", 0.06)
        tick = _ticks(progress, len(plan.groups) + len(plan.layers))
        ranges = _choose_ranges(graph, plan, evidence, tick)
        layers = _judge_layers(graph, plan, ranges, evidence, trial, tick)
        made = _settle(graph, layers, ranges, evidence, trial, tick)
        progress("writing", 0.99)
        model = write_bundle(job.out, _contents(job, fp32, ranges, made, evidence))
    progress("done", 1.0)
    return Quantized(
        model=model,
        layers=made.layers,
        ranges=ranges,
        reports=made.reports,
        observed=len(evidence.calibration.inputs),
        gate_frames=len(evidence.frames),
        worst=_worst(made.reports[0], evidence),
    )


def _fp32(path: Path, graph: onnx.ModelProto) -> bytes:
    """The file as it came; in normal form where it leaves sizes free, which a device would have to guess."""
    free = any(not axis.dim_value for axis in load_onnx(path).graph.input[0].type.tensor_type.shape.dim)
    return graph.SerializeToString(deterministic=True) if free else one_file(path)


def _candidates(job: Job, graph: onnx.ModelProto) -> tuple[str, ...]:
    """The layers that may become INT8. Raises ConfigError where there are none, or `keep_fp16` names no node."""
    view, kept = View.of(graph), set(job.manifest.calibration.keep_fp16)
    names = layers_of(graph)
    if unknown := kept - {node.name for node in view.nodes}:
        raise ConfigError(
            f"[calibration] keep_fp16: no node {sorted(unknown)[0]!r}; layers are {', '.join(names)}"
        )
    wide = [
        node.name
        for node in view.nodes
        if node.name in names and (view.shapes[node.input[0]][1] or 0) >= FEWEST_CHANNELS
    ]
    if not (left := tuple(name for name in wide if name not in kept)):
        raise ConfigError(f"{job.model}: no convolution that INT8 could speed up; run it in fp32 or FP16")
    return left


def _require_half(job: Job, graph: onnx.ModelProto) -> None:
    """Raises ConfigError for what FP16 cannot hold: now, not after the minutes of the search."""
    try:
        to_half(graph)
    except ConfigError as exc:
        raise ConfigError(f"{job.model}: {exc}") from exc


def _ticks(progress: Progress, steps: int) -> Tick:
    """Counts steps of the search; the rounds of the gate after them are not known beforehand."""
    done = count(1)
    return lambda what: progress(what, min(0.98, 0.08 + 0.85 * next(done) / (steps + 2)))


# ---------------------------------------------------------------- frames, and what fp32 says of them


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """What a candidate is made from and judged by."""

    calibration: Calibration
    gate_set: GateSet  # that the bundle takes along
    frames: tuple[Frame, ...]  # by which candidates are judged: those given and held out, then those drawn
    reference: Sequence[Reading]  # of `frames`, by fp32
    truth: tuple[NDArray[np.uint8] | None, ...] | None
    pictured: slice  # of `frames`: a shipped model's page shows no patient, its frames are drawn
    mask: str  # the output that is compared


def _read_evidence(job: Job, trial: Trial, fp32: bytes) -> _Evidence:
    """Frames to observe, frames to judge by, and what fp32 says of these.

    What fp32 itself withholds or finds nothing in is no frame of this model's: with too few others the gate refuses
    before anything is built.
    """
    spec = job.manifest.gate
    with closing(trial.pipeline(fp32, str(job.model))) as pipeline:
        calibration = read_calibration(job.frames, pipeline, labels=job.labels, without=job.without)
        _require_probabilities(job, pipeline, calibration)
        held = _unnamed(calibration.held_out)
        own = read_frames(pipeline, held)
        judge(own, own, spec, subject="the frames given", model=job.manifest.name).require()
        _require_structures(job, own)
        recipes = recipes_for(job.manifest.anatomy) if spec.phantoms else ()
        drawn = tuple(map(draw, recipes))
        frames = _numbered((*held, *drawn))
        return _Evidence(
            calibration=calibration,
            gate_set=make_gate_set(drawn or calibration.held_out, pipeline, recipes),
            frames=frames,
            reference=read_frames(pipeline, frames),
            truth=None if calibration.truth is None else (*calibration.truth, *(None for _ in drawn)),
            pictured=slice(len(held), None) if drawn else slice(len(held)),
            mask=pipeline.postprocess.mask,
        )


def _require_probabilities(job: Job, pipeline: Pipeline, calibration: Calibration) -> None:
    """Raises ConfigError where the recipe says that the graph gives probabilities and it does not."""
    scores = infer_once(pipeline.backend, calibration.inputs[0])[pipeline.postprocess.mask]
    low, high = float(scores.min()), float(scores.max())
    if job.manifest.output.activation == "none" and not -ROUNDING <= low <= high <= 1 + ROUNDING:
        raise ConfigError(
            f"{job.model}: gives scores of {low:.3g} to {high:.3g}, not probabilities; say [output] activation in the "
            f"recipe (edge-runtime inspect {job.model} --frames DIR --out mine drafts one)"
        )


def _require_structures(job: Job, readings: Sequence[Reading]) -> None:
    """Raises CalibrationError where fp32 takes whole frames for the structure: any graph would agree with that."""
    shares = [reading.values[AREA_SHARE] for reading in readings if reading.values]
    if median(shares) > WHOLE_FRAME:
        raise CalibrationError(
            f"{job.frames}: fp32 marks {median(shares):.1%} of a frame, which is no structure; are scale, mean and std in "
            f"the recipe right? (edge-runtime inspect {job.model} --frames DIR --out mine tries them)"
        )


def _unnamed(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames without what could name a person: a bundle travels."""
    return tuple(
        replace(
            frame,
            origin=replace(frame.origin, name=f"frame-{frame.content_hash}", subject=None, study_uid=None),
        )
        for frame in frames
    )


def _numbered(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames, each with an id of its own."""
    return tuple(
        replace(frame, index=index, frame_id=f"{index}.{frame.content_hash}")
        for index, frame in enumerate(frames)
    )


def _worst(report: GateReport, evidence: _Evidence) -> tuple[tuple[str, str], ...]:
    """Where a person finds the worst of the frames that were given, and how the page calls them."""
    given = evidence.calibration.held_out
    names = {
        frame.frame_id: was.origin.name
        for frame, was in zip(evidence.frames[: len(given)], given, strict=True)
    }
    given_rows = [row for row in report.frames if row.frame_id in names][:WORST]
    return tuple((names[row.frame_id], row.name) for row in given_rows)


# ---------------------------------------------------------------- ranges, layers, graphs


def _choose_ranges(
    graph: onnx.ModelProto, plan: Plan, evidence: _Evidence, tick: Tick
) -> tuple[ChosenRange, ...]:
    """The range of every tensor of the plan, by its effect on a few of the observed inputs."""
    inputs = evidence.calibration.inputs
    observed = observe(graph, list(plan.points), inputs)
    few = inputs[:: max(1, len(inputs) // SEARCHED)]
    return choose_ranges(graph, plan, observed, few, evidence.mask, tick)


def _judge_layers(
    graph: onnx.ModelProto,
    plan: Plan,
    ranges: Sequence[ChosenRange],
    evidence: _Evidence,
    trial: Trial,
    tick: Tick,
) -> tuple[Layer, ...]:
    """What each layer does alone in INT8, judged on some of the frames."""
    every = max(1, len(evidence.frames) // SENSED)
    frames, reference = evidence.frames[::every], evidence.reference[::every]

    def alone(candidate: onnx.ModelProto, name: str) -> GateReport:
        readings = trial.read(candidate.SerializeToString(), frames)
        manifest = trial.manifest
        subject = f"{name} alone in INT8"
        return judge(reference, readings, manifest.gate, subject=subject, model=manifest.name)

    return sensitivity(graph, plan.layers, scales_of(ranges), alone, tick)


@dataclass(frozen=True, slots=True)
class _Made:
    """What passed."""

    layers: tuple[Layer, ...]  # as they ended
    graphs: Mapping[str, onnx.ModelProto]  # by file name
    reports: tuple[GateReport, ...]
    readings: Sequence[Reading]  # of the first report's candidate


def _settle(
    graph: onnx.ModelProto,
    layers: tuple[Layer, ...],
    ranges: Sequence[ChosenRange],
    evidence: _Evidence,
    trial: Trial,
    tick: Tick,
) -> _Made:
    """The graphs that passed the gate and the linter on all frames. Raises GateError where none does."""
    graphs = {FP16: to_half(graph)}
    scales = scales_of(ranges)
    reports: list[GateReport] = []
    readings: list[Reading] = []

    def judged(name: str, subject: str) -> GateReport:
        found = trial.read(emulated(graphs[name]).SerializeToString(), evidence.frames)
        if name == INT8:
            readings[:] = found
        spec, model = trial.manifest.gate, trial.manifest.name
        return judge(evidence.reference, found, spec, evidence.truth, subject=subject, model=model)

    def together(names: tuple[str, ...]) -> GateReport:
        graphs[INT8] = to_half(insert(graph, plan_of(graph, names), scales))
        graphs[INT8_CPU] = to_cpu(graphs[INT8])
        reports[:] = [
            judged(INT8, "INT8 for TensorRT, emulated by onnxruntime"),
            judged(INT8_CPU, "INT8 for a CPU, by onnxruntime"),
        ]
        return next((report for report in reports if not report.passed), reports[0])

    settled, _ = settle(layers, together, tick)
    reports.append(judged(FP16, "FP16 for TensorRT, emulated by onnxruntime"))
    reports[-1].require()
    for name in (FP16, INT8):
        _require_clean(graphs[name], name)
    return _Made(settled, graphs, tuple(reports), readings)


def _require_clean(graph: onnx.ModelProto, name: str) -> None:
    """Raises GateError where the linter finds an error in what was made here."""
    errors = [problem for problem in lint(graph) if problem.severity == "error"]
    if errors:
        raise GateError(f"{name}: {errors[0].code} at {errors[0].node}: {errors[0].message}")


# ---------------------------------------------------------------- the bundle


def _contents(
    job: Job, fp32: bytes, ranges: tuple[ChosenRange, ...], made: _Made, evidence: _Evidence
) -> Contents:
    """Everything that is written."""
    recipe, calibration = job.manifest, evidence.calibration
    accepted = tuple(dict.fromkeys((*recipe.precision.accepted, "int8")))
    manifest = msgspec.structs.replace(
        recipe,
        artifacts={"fp32": Artifact(file=FP32), "int8": Artifact(file=INT8_CPU)},
        tensorrt={"fp16": Artifact(file=FP16), "int8": Artifact(file=INT8)},
        precision=msgspec.structs.replace(recipe.precision, accepted=accepted),
    )
    page = page_of(made.reports, made.layers, ranges, len(calibration.inputs))
    pictured = (evidence.reference[evidence.pictured], made.readings[evidence.pictured])
    files: dict[str, bytes | Path] = {
        FP32: fp32,
        **{name: graph.SerializeToString(deterministic=True) for name, graph in made.graphs.items()},
        "CARD.md": card(manifest).encode(),
        **job.keep,
        "scales.json": json_bytes(scales_of_job(calibration.observed, ranges, made.layers)),
        "gate/report.json": json_bytes(made.reports),
        "gate/report.html": page_html(page, *pictured).encode(),
        **gate_files(evidence.gate_set),
    }
    return Contents(manifest, files)
