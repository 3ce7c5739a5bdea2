"""`edge-runtime compile`: TensorRT engines for this device, or the word that the graphs are fit for one.

With a GPU: builds INT8 and FP16, holds both to fp32 by the gate, times them, keeps the faster that passed.
`--validate-only` needs no GPU: linter, `onnx.checker`, a load in onnxruntime, a whole build in `tensorrt-rtx`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge_runtime import clock
from edge_runtime.build.bundle import verify_bundle
from edge_runtime.build.compiler import Progress, Validated, validate
from edge_runtime.build.engine import Choice, engine_for
from edge_runtime.build.graph import load_onnx
from edge_runtime.build.lint import lint
from edge_runtime.build.on_device import DeviceMaker, require_gpu
from edge_runtime.errors import EngineError
from edge_runtime.infer.backends.engine_file import PRECISIONS
from edge_runtime.infer.model import Model, load_model

NO_GRAPHS = "it has no graphs for TensorRT yet; edge-runtime quantize makes them"
TELL_EVERY_NS = 100_000_000  # of the progress line


class EngineLine(msgspec.Struct, frozen=True, kw_only=True):
    """The engine that was kept."""

    precision: str
    path: str
    key: str  # digest
    gate: str
    timings_ms: dict[str, float]
    power: dict[str, str]
    reason: str
    built: tuple[str, ...]  # precisions; none: all were there already
    refused: dict[str, str]  # precision -> why


class CompileReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `compile --json` prints."""

    model: str
    sha256: str
    validated: tuple[Validated, ...] = ()  # with --validate-only
    note: str | None = None
    engine: EngineLine | None = None  # without
    seconds: float


def run(
    model: str,
    validate_only: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str], None] | None = None,
) -> CompileReport:
    """Compiles `model` here, or validates it. Raises ConfigError, EngineError or GateError."""
    start_ns = clock.monotonic_ns()
    loaded = load_model(model)
    if loaded.manifest.files:
        verify_bundle(loaded)
    told = None if progress is None else _throttled(progress)
    validated: tuple[Validated, ...] = ()
    note, engine = None, None
    if validate_only:
        validated = tuple(_validate(loaded, told))
        note = None if loaded.manifest.tensorrt else NO_GRAPHS
    else:
        require_gpu(loaded)
        _refuse_by_lint(loaded)
        engine = _line(engine_for(DeviceMaker(loaded, told), say=say))
    return CompileReport(
        model=loaded.manifest.name,
        sha256=loaded.sha256,
        validated=validated,
        note=note,
        engine=engine,
        seconds=round((clock.monotonic_ns() - start_ns) / 1e9, 3),
    )


def _validate(model: Model, progress: Progress | None) -> list[Validated]:
    """Every graph that the model has, the fp32 one among them. Raises for the first that is not fit."""
    _refuse_by_lint(model)
    return [validate(model, "fp32", progress)] + [
        validate(model, each, progress) for each in PRECISIONS if each in model.manifest.tensorrt
    ]


def _refuse_by_lint(model: Model) -> None:
    """Raises EngineError for the first rule of TensorRT that one of its graphs breaks."""
    for precision in PRECISIONS:
        if precision in model.manifest.tensorrt:
            path, _ = model.tensorrt_graph(precision)
            errors = [problem for problem in lint(load_onnx(path)) if problem.severity == "error"]
            if errors:
                first, more = errors[0], len(errors) - 1
                others = f"; {more} more: edge-runtime lint {path}" if more else ""
                raise EngineError(f"{path}: {first.code}: {first.node}: {first.message}; {first.fix}{others}")


def _line(choice: Choice) -> EngineLine:
    sidecar = choice.engine.sidecar
    return EngineLine(
        precision=sidecar.key.precision,
        path=str(choice.engine.path),
        key=sidecar.key.digest(),
        gate=sidecar.gate.message,
        timings_ms=sidecar.timings_ms,
        power=sidecar.power,
        reason=sidecar.reason,
        built=choice.built,
        refused=choice.refused,
    )


def _throttled(progress: Callable[[str], None]) -> Progress:
    """TensorRT completes thousands of steps: a person needs ten lines a second."""
    last_ns = 0

    def tell(phase: str, share: float) -> None:
        nonlocal last_ns
        now_ns = clock.monotonic_ns()
        if now_ns - last_ns >= TELL_EVERY_NS:
            last_ns = now_ns
            progress(f"{share:4.0%}  {phase}")

    return tell


def lines(report: CompileReport) -> list[str]:
    """The report for a person."""
    out = []
    for one in report.validated:
        out.append(
            f"{one.precision:5} {one.file}: legal for {one.checker}, {one.onnxruntime} and {one.builder} "
            f"({one.plan_mb:.1f} MB, {one.seconds:.1f} s)"
        )
    if report.validated:
        out.append(
            f"{report.model}: types, shapes and parsing are right; speed and accuracy show on the device alone"
        )
    if report.note is not None:
        out.append(f"{report.model}: {report.note}")
    if report.engine is not None:
        engine = report.engine
        out.append(f"{report.model}: {engine.precision} runs on this device: {engine.reason}")
        out.append(f"gate: {engine.gate}")
        out += [f"{precision} is not used: {why}" for precision, why in engine.refused.items()]
        mode = (
            ", ".join(f"{name} {value}" for name, value in engine.power.items()) or "not told by this machine"
        )
        out.append(f"power: {mode}")
        out.append(f"engine: {engine.path}" + ("" if engine.built else " (was there already)"))
    return out
