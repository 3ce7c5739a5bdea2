"""From an ONNX graph to a plan: one code path for TensorRT 10.3 to 11.x, and for `tensorrt_rtx`, which needs no GPU.

The network is strongly typed: every precision stands in the graph, none is a flag. Names that some versions lack are
asked for by `hasattr`, never by a version. The module that builds is an argument, so that the same lines run where
there is a device and where there is none.

`validate` is the second use: it says whether a graph is legal (checker, a load in onnxruntime, a whole build in
`tensorrt_rtx`). It proves types, shapes and parsing, not speed, not accuracy, not a run on a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime import clock
from edge_runtime.build.decide import append_decision
from edge_runtime.build.graph import require_onnx
from edge_runtime.build.onnx_run import open_session
from edge_runtime.errors import ConfigError, EdgeError, EngineError, first_line
from edge_runtime.infer.backends.engine_file import WORKSPACE_BYTES
from edge_runtime.infer.backends.tensorrt import make_logger
from edge_runtime.infer.model import Model, Precision

MOST_ERRORS = 3  # told of a graph that cannot be parsed
VALIDATOR = "tensorrt_rtx"
INSTALL_VALIDATOR = "pip install tensorrt-rtx"

Progress = Callable[[str, float], None]  # what is done now, and how much of it, 0 to 1


@dataclass(frozen=True, slots=True)
class Built:
    """What a builder gave."""

    plan: bytes
    timing_cache: bytes  # empty where none was asked for
    seconds: float


class Validated(msgspec.Struct, frozen=True, kw_only=True):
    """One graph that was found legal, and what found it so."""

    precision: str
    file: str
    sha256: str
    checker: str  # versions
    onnxruntime: str
    builder: str
    plan_mb: float
    seconds: float


def build_plan(
    trt: Any,
    graph: bytes,
    where: str,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
) -> Built:
    """Builds `graph` with the module `trt`. Minutes on a small board; `progress` is called from TensorRT's threads.

    `timing_cache` is an earlier one, or empty for a new one; None builds without (`tensorrt_rtx` would ask for a GPU).
    Raises EngineError, in one line that begins with `where` and names the node.
    """
    start_ns = clock.monotonic_ns()
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            raise EngineError(
                f"{where}: TensorRT {trt.__version__} cannot read the graph: {_parse_errors(parser)}"
            )
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        cache = None
        if timing_cache is not None:
            cache = config.create_timing_cache(timing_cache)
            config.set_timing_cache(cache, False)  # a cache of another device or version is refused, not used
        monitor = (
            _monitor(trt, progress) if progress is not None and hasattr(trt, "IProgressMonitor") else None
        )
        if monitor is not None:
            config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            said = _last_error(logger)
            raise EngineError(f"{where}: TensorRT {trt.__version__} cannot build the graph: {said}")
        learned = b"" if cache is None else bytes(cache.serialize())
        plan = bytes(serialized)
    except EdgeError:
        raise
    except (
        Exception
    ) as exc:  # what pybind makes of a C++ failure: TypeError for a null builder, RuntimeError, ...
        said = _last_error(logger) if logger.errors else first_line(exc)
        raise EngineError(f"{where}: TensorRT {trt.__version__} cannot build here: {said}") from exc
    return Built(plan, learned, (clock.monotonic_ns() - start_ns) / 1e9)


def _parse_errors(parser: Any) -> str:
    """The parser's own words, each with the node it is about."""
    told = []
    for index in range(min(parser.num_errors, MOST_ERRORS)):
        error = parser.get_error(index)
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        told.append(node + " ".join(error.desc().split()))
    more = parser.num_errors - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _last_error(logger: Any) -> str:
    return logger.errors[-1] if logger.errors else "it gave no reason; see its log"


def _monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's progress as one share: phases nest, each step of a phase is worth its part of the phase above."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT is typed as Any
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, _Phase] = {}
            self._told = 0.0  # it never goes back, whatever TensorRT opens next

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = _Phase(self._phases.get(parent_phase or ""), max(1, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            phase = self._phases.get(phase_name)
            if phase is not None:
                phase.done = step + 1
                self._told = max(self._told, phase.share())
                progress(phase_name, self._told)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

    return Monitor()


@dataclass(slots=True)
class _Phase:
    parent: _Phase | None
    steps: int
    done: int = 0

    def share(self) -> float:
        """Of the whole build: what is done of the phases above, and of this one within its step of them."""
        above = 0.0 if self.parent is None else self.parent.share()
        return min(1.0, above + self.done / self.steps / self.times())

    def times(self) -> float:
        """How many phases of this size the whole has room for."""
        return 1.0 if self.parent is None else self.parent.steps * self.parent.times()


def decided_graph(model: Model, precision: Precision) -> tuple[bytes, Path, str]:
    """The graph that is compiled: the model's, with the decision appended; the model's own file and its digest.

    `fp32` is the model's first graph, which no device compiles but which can be validated. Raises ConfigError or
    EngineError.
    """
    if precision == "fp16" or precision == "int8":
        path, digest = model.tensorrt_graph(precision)
    else:
        path, digest = model.artifact("fp32")
    return append_decision(path.read_bytes(), model.manifest.output, str(path)), path, digest


def validate(model: Model, precision: Precision, progress: Progress | None = None) -> Validated:
    """Whether TensorRT will take this graph, said without a GPU. Raises EngineError, or ConfigError for what is missing."""
    graph, path, digest = decided_graph(model, precision)
    return validate_graph(graph, str(path), precision=precision, sha256=digest, progress=progress)


def validate_graph(
    graph: bytes, where: str, *, precision: str = "", sha256: str = "", progress: Progress | None = None
) -> Validated:
    """Checker, load and build of one ONNX graph as bytes. Raises as `validate` does."""
    start_ns = clock.monotonic_ns()
    onnx = require_onnx()
    trt = _import_validator()
    try:
        onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    except Exception as exc:  # onnx raises its own and protobuf's errors, with no common base
        raise EngineError(f"{where}: onnx.checker refuses the graph: {first_line(exc)}") from exc
    loaded_with = _load_in_onnxruntime(graph, where)
    built = build_plan(trt, graph, where, progress=progress)
    return Validated(
        precision=precision,
        file=where,
        sha256=sha256,
        checker=f"onnx {onnx.__version__}",
        onnxruntime=loaded_with,
        builder=f"tensorrt-rtx {trt.__version__}",
        plan_mb=round(len(built.plan) / 1e6, 3),
        seconds=round((clock.monotonic_ns() - start_ns) / 1e9, 3),
    )


def _import_validator() -> Any:
    try:
        return import_module(VALIDATOR)
    except ImportError as exc:
        raise ConfigError(
            f"--validate-only: tensorrt-rtx cannot be imported ({first_line(exc)}); {INSTALL_VALIDATOR} (x86-64)"
        ) from exc


def _load_in_onnxruntime(graph: bytes, where: str) -> str:
    import onnxruntime

    try:
        open_session(graph)
    except Exception as exc:  # onnxruntime's pybind errors have no common base
        raise EngineError(f"{where}: onnxruntime cannot load the graph: {first_line(exc)}") from exc
    return f"onnxruntime {onnxruntime.__version__}"
