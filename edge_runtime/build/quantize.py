"""From an fp32 model and real frames to a bundle: observed, placed, searched, linted, gated, written.

The order of the work is the order of this file. Nothing is written before everything has passed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.build.bundle import Contents, check_target, write_bundle
from edge_runtime.build.calibration import Calibration, read_calibration
from edge_runtime.build.cpu_graph import to_cpu
from edge_runtime.build.gate import judge
from edge_runtime.build.gate_frames import draw, gate_files, head_recipes, make_gate_set
from edge_runtime.build.gate_page import Page, Section, SensitivityRow, page_html
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.graph import read_graph, refuse_reduced
from edge_runtime.build.half import to_half
from edge_runtime.build.lint import lint
from edge_runtime.build.observe import observe
from edge_runtime.build.place import insert, layers_of, plan_of
from edge_runtime.build.readings import Reading, read_frames
from edge_runtime.build.search import Choice, Layer, choose_ranges, scales_of, sensitivity, settle
from edge_runtime.build.subpixel import with_subpixel
from edge_runtime.build.trial import Trial
from edge_runtime.build.view import View
from edge_runtime.errors import ConfigError, GateError
from edge_runtime.infer.model import Artifact, Manifest, Model
from edge_runtime.types import Frame

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, float], None]  # what is being done, and the share that is done

FEWEST_CHANNELS = 8  # of a layer's input: INT8 kernels pad to 32, so that fewer gain nothing
SEARCHED = 12  # inputs by which a range is chosen
SENSED = 48  # frames by which a layer is judged alone
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
    keep: Mapping[str, bytes] = field(
        default_factory=dict
    )  # other files of the bundle: its card, its test set


@dataclass(frozen=True, slots=True)
class Quantized:
    """What came out."""

    model: Model
    layers: tuple[Layer, ...]
    choices: tuple[Choice, ...]
    reports: tuple[GateReport, ...]  # INT8 for TensorRT, INT8 for a CPU, FP16 for TensorRT
    observed: int
    gate_frames: int
    worst: tuple[
        str, ...
    ]  # names of the held-out frames with the largest strain, for the person who has them


class LayerKept(msgspec.Struct, frozen=True):
    """A row of `scales.json`."""

    name: str
    precision: str
    tolerance_used: float | None  # with this layer alone in INT8; None: never tried
    because: str


class Scales(msgspec.Struct, frozen=True):
    """`scales.json`: what was observed, what was chosen, and why."""

    frames: tuple[str, ...]  # content hashes of the observed frames
    ranges: tuple[Choice, ...]
    layers: tuple[LayerKept, ...]


def quantize(job: Job, progress: Progress = lambda what, share: None) -> Quantized:
    """Does the job. Raises ConfigError, CalibrationError or GateError, and then has written nothing."""
    check_target(job.out)
    progress("reading the model", 0.0)
    graph = read_graph(job.model, job.manifest.input.grid_hw)
    refuse_reduced(graph, str(job.model))
    fp32 = _fp32_bytes(job.model, graph)
    graph = with_subpixel(graph)
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as scratch:
        trial = Trial(job.manifest, Path(scratch))
        return _Run(job, graph, fp32, trial, progress).all()


def _fp32_bytes(path: Path, graph: onnx.ModelProto) -> bytes:
    """The file as it came; in normal form where its weights lie in other files."""
    content = path.read_bytes()
    return graph.SerializeToString() if b"\n\x08location\x12" in content else content


class _Run:
    """One job in progress: what each step leaves to the next."""

    def __init__(
        self, job: Job, graph: onnx.ModelProto, fp32: bytes, trial: Trial, progress: Progress
    ) -> None:
        self.job, self.graph, self.fp32, self.trial, self.progress = job, graph, fp32, trial, progress
        self.gate_spec, self.name = job.manifest.gate, job.manifest.name
        self.names = self._candidates()
        self.done = 0

    def all(self) -> Quantized:
        self.read_frames()
        self.choose()
        layers, graphs, reports = self.settle()
        self.progress("writing", 0.99)
        model = write_bundle(self.job.out, self.contents(layers, graphs, reports))
        self.progress("done", 1.0)
        return Quantized(
            model,
            layers,
            self.choices,
            reports,
            len(self.calibration.inputs),
            len(self.gate_frames),
            self._worst(reports[0]),
        )

    def read_frames(self) -> None:
        """Frames to observe, frames to judge by, and what fp32 says of these. What fp32 itself withholds or finds
        nothing in is no frame of this model's: with too few others the gate refuses before anything is built.
        """
        self.progress("reading frames", 0.02)
        with closing(self.trial.pipeline(self.fp32)) as pipeline:
            self.calibration: Calibration = read_calibration(
                self.job.frames, pipeline, labels=self.job.labels, without=self.job.without
            )
            held = _unnamed(self.calibration.held_out)
            reference = read_frames(pipeline, held)
            judge(reference, reference, self.gate_spec, subject="the frames given", model=self.name).require()
            recipes = head_recipes() if self.gate_spec.phantoms else ()
            drawn = tuple(map(draw, recipes))
            self.gate_set = make_gate_set(drawn or self.calibration.held_out, pipeline, recipes)
            self.mask_output = pipeline.postprocess.mask
            self.gate_frames: tuple[Frame, ...] = _numbered((*held, *drawn))
            self.reference = read_frames(pipeline, self.gate_frames)
        self.pictured = range(len(held), len(self.gate_frames)) if drawn else range(len(held))
        self.truth = None
        if self.calibration.truth is not None:
            self.truth = (*self.calibration.truth, *(None for _ in drawn))

    def choose(self) -> None:
        """Ranges by their effect, then layers by theirs."""
        plan = plan_of(self.graph, self.names)
        self.steps = len(plan.groups) + len(self.names)
        self.progress("observing", 0.06)
        observed = observe(self.graph, list(plan.points), self.calibration.inputs)
        few = self.calibration.inputs[:: max(1, len(self.calibration.inputs) // SEARCHED)]
        self.choices = choose_ranges(self.graph, plan, observed, few, self.mask_output, self._tick)
        self.scales = scales_of(self.choices)
        every = max(1, len(self.gate_frames) // SENSED)
        frames, reference = self.gate_frames[::every], self.reference[::every]

        def alone(graph: onnx.ModelProto, name: str) -> GateReport:
            return self._judge(graph, f"{name} alone in INT8", frames, reference)

        self.layers = sensitivity(self.graph, self.names, self.scales, alone, self._tick)

    def settle(self) -> tuple[tuple[Layer, ...], dict[str, onnx.ModelProto], tuple[GateReport, ...]]:
        """The layers as they end, the graphs and the reports on them, all passed."""
        graphs: dict[str, onnx.ModelProto] = {FP16: to_half(self.graph)}
        reports: list[GateReport] = []

        def together(layers: tuple[str, ...]) -> GateReport:
            placed = insert(self.graph, plan_of(self.graph, layers), self.scales)
            graphs[INT8] = to_half(placed)
            graphs[INT8_CPU] = to_cpu(graphs[INT8])
            reports[:] = [
                self._judge(graphs[INT8], "INT8 for TensorRT, emulated by onnxruntime"),
                self._judge(graphs[INT8_CPU], "INT8 for a CPU, by onnxruntime"),
            ]
            return next((report for report in reports if not report.passed), reports[0])

        layers, _ = settle(self.layers, together, self._tick)
        reports.append(self._judge(graphs[FP16], "FP16 for TensorRT, emulated by onnxruntime"))
        reports[-1].require()
        for name in (FP16, INT8):
            _require_clean(graphs[name], name)
        return layers, graphs, tuple(reports)

    def contents(
        self, layers: tuple[Layer, ...], graphs: dict[str, onnx.ModelProto], reports: tuple[GateReport, ...]
    ) -> Contents:
        """The bundle."""
        recipe = self.job.manifest
        accepted = tuple(dict.fromkeys((*recipe.precision.accepted, "int8")))
        manifest = msgspec.structs.replace(
            recipe,
            artifacts={"fp32": Artifact(file=FP32), "int8": Artifact(file=INT8_CPU)},
            tensorrt={"fp16": Artifact(file=FP16), "int8": Artifact(file=INT8)},
            precision=msgspec.structs.replace(recipe.precision, accepted=accepted),
        )
        scales = Scales(self.calibration.observed, self.choices, tuple(map(_kept, layers)))
        page = Page(
            report=reports[0],
            sensitivity=tuple(map(_row, layers)),
            facts=self._facts(reports),
            sections=(_ranges(self.choices),),
        )
        candidate = self.trial.read(graphs[INT8].SerializeToString(), self.gate_frames)
        pictured = [[readings[at] for at in self.pictured] for readings in (self.reference, candidate)]
        files: dict[str, bytes | Path] = {
            FP32: self.fp32,
            **{name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()},
            "CARD.md": _card(manifest).encode(),
            **self.job.keep,
            "scales.json": _json(scales),
            "gate/report.json": _json(reports),
            "gate/report.html": page_html(page, *pictured).encode(),
            **gate_files(self.gate_set),
        }
        return Contents(manifest, files)

    def _candidates(self) -> tuple[str, ...]:
        """The layers that may become INT8."""
        view, kept = View.of(self.graph), set(self.job.manifest.calibration.keep_fp16)
        names = layers_of(self.graph)
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
            raise ConfigError(
                f"{self.job.model}: no convolution that INT8 could speed up; run it in fp32 or FP16"
            )
        return left

    def _judge(
        self,
        graph: onnx.ModelProto,
        subject: str,
        frames: Sequence[Frame] | None = None,
        reference: Sequence[Reading] | None = None,
    ) -> GateReport:
        """`graph` against fp32, on all gate frames with their labels, or on `frames`."""
        candidate = self.trial.read(graph.SerializeToString(), frames or self.gate_frames)
        return judge(
            reference or self.reference,
            candidate,
            self.gate_spec,
            None if frames is not None else self.truth,
            subject=subject,
            model=self.name,
        )

    def _worst(self, report: GateReport, most: int = 3) -> tuple[str, ...]:
        """Where a person finds the worst of the frames that were given."""
        given = self.calibration.held_out
        pairs = zip(self.gate_frames[: len(given)], given, strict=True)
        names = {frame.frame_id: was.origin.name for frame, was in pairs}
        return tuple(names[row.frame_id] for row in report.frames if row.frame_id in names)[:most]

    def _tick(self, what: str) -> None:
        self.done += 1
        self.progress(what, min(0.98, 0.08 + 0.85 * self.done / (self.steps + 2)))

    def _facts(self, reports: tuple[GateReport, ...]) -> tuple[tuple[str, str], ...]:
        return (
            ("frames observed", str(len(self.calibration.inputs))),
            ("frames judged", str(len(self.gate_frames))),
            *((report.subject, "accepted" if report.passed else "refused") for report in reports),
        )


def _unnamed(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames without what could name a person: a bundle travels."""
    return tuple(
        replace(
            frame, origin=replace(frame.origin, name=f"frame-{_content(frame)}", subject=None, study_uid=None)
        )
        for frame in frames
    )


def _content(frame: Frame) -> str:
    return frame.frame_id.rpartition(".")[2]


def _numbered(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames, each with an id of its own."""
    return tuple(
        replace(frame, index=index, frame_id=f"{index}.{_content(frame)}")
        for index, frame in enumerate(frames)
    )


def _json(record: object) -> bytes:
    """For a file: the same record always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1) + b"\n"


def _require_clean(graph: onnx.ModelProto, name: str) -> None:
    """Raises GateError where the linter finds an error in what was made here."""
    errors = [problem for problem in lint(graph) if problem.severity == "error"]
    if errors:
        raise GateError(f"{name}: {errors[0].code} at {errors[0].node}: {errors[0].message}")


def _kept(layer: Layer) -> LayerKept:
    return LayerKept(layer.name, "fp16" if layer.fp16_because else "int8", layer.share, layer.fp16_because)


def _row(layer: Layer) -> SensitivityRow:
    numbers = {number.name: number.value for number in layer.report.numbers}
    agreement, change = numbers["agreement_mean"], numbers[f"{layer.report.measurements[0]}_p99"]
    return SensitivityRow(
        layer=layer.name,
        agreement_loss=math.nan if agreement is None else 1 - agreement,
        value_change=math.nan if change is None else change,
        kept_fp16=bool(layer.fp16_because),
        why=layer.fp16_because,
        kind="Conv",
    )


def _ranges(choices: Sequence[Choice]) -> Section:
    """Which range each tensor got, and what each way to choose it would have cost."""
    rows = []
    for choice in choices:
        tried = ", ".join(f"{method} {error:.2g}" for method, error in choice.errors.items())
        rows.append((" = ".join(choice.tensors), choice.method, f"{choice.largest:.4g}", tried))
    return Section(
        "Ranges",
        ("tensor", "chosen by", "largest", "error of the mask, by method"),
        tuple(rows),
        "Each tensor alone in INT8; the least mean error of the mask decides.",
    )


def _card(manifest: Manifest) -> str:
    """A card that says no more than is known."""
    return (
        f"# {manifest.name} {manifest.version}\n\nQuantized from a model of your own. What it was trained on, and how "
        "accurate it is, is not known here: gate/report.html compares INT8 with your fp32 model on your frames.\n\n"
        "Research use only. Not a medical device.\n"
    )
