"""Makes engines on the device itself: TensorRT builds, the runtime's own backend opens, its own pipeline gates.

Nothing here has run on a GPU yet; `device/verify.sh` runs all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from edge_runtime.build import jetson
from edge_runtime.build.compiler import Built, Progress, build_plan, decided_graph
from edge_runtime.build.engine import time_interleaved, timing_cache_path, write_atomic
from edge_runtime.build.gate import judge
from edge_runtime.build.gate_frames import load_gate_set
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.readings import read_frames
from edge_runtime.errors import EngineError
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.backends.cuda import DeviceFacts, probe
from edge_runtime.infer.backends.engine_file import (
    PRECISIONS,
    EngineKey,
    EnginePrecision,
    engines_home,
    key_for,
)
from edge_runtime.infer.backends.tensorrt import TensorRtBackend, compile_hint, import_tensorrt
from edge_runtime.infer.model import Model
from edge_runtime.pipeline import build_pipeline


def require_gpu(model: Model) -> DeviceFacts:
    """The GPU's facts. Raises EngineError, in one line that says what was looked for and what to do."""
    found = probe()
    if found.gpu is None:
        raise EngineError(
            f"compile: no GPU here: {found.reason}; {compile_hint(model)} on the device itself, or add "
            f"--validate-only to check the graphs without one"
        )
    return found.gpu


class DeviceMaker:
    """Engines of one model on the GPU of this machine."""

    def __init__(self, model: Model, progress: Progress | None = None, home: Path | None = None) -> None:
        """Raises EngineError without a GPU, ConfigError without TensorRT or without the model's graphs or frames."""
        self.model = model.manifest.name
        self._model, self._progress = model, progress
        self._gpu = require_gpu(model)
        self._trt = import_tensorrt()
        self._home = engines_home() if home is None else home
        self.precisions = tuple(each for each in PRECISIONS if each in model.manifest.tensorrt)
        if not self.precisions:
            model.tensorrt_graph("int8")  # raises, with the way to get one
        self._gate_set = load_gate_set(model)

    def key(self, precision: EnginePrecision) -> EngineKey:
        return key_for(self._model, precision, self._gpu, str(self._trt.__version__))

    def build(self, precision: EnginePrecision) -> Built:
        graph, _, _ = decided_graph(self._model, precision)
        cache = timing_cache_path(self._home, self._gpu, str(self._trt.__version__), jetson.power_state())
        known = cache.read_bytes() if cache.is_file() else b""
        where = f"{self.model} {precision}"
        built = build_plan(self._trt, graph, where, timing_cache=known, progress=self._progress)
        write_atomic(cache, built.timing_cache)
        return built

    def check(self, precision: EnginePrecision, plan: bytes) -> None:
        self._open(precision, plan, slots=1).close()

    def gate(self, precision: EnginePrecision, plan: bytes) -> GateReport:
        pipeline = build_pipeline(self._model, self._open(precision, plan))
        try:
            readings = read_frames(pipeline, self._gate_set.frames)
        finally:
            pipeline.close()
        return judge(
            self._gate_set.reference,
            readings,
            self._model.manifest.gate,
            subject=f"{precision} on {self._gpu.name}",
            model=self.model,
        )

    def time(self, plans: Mapping[EnginePrecision, bytes]) -> dict[str, float]:
        with ExitStack() as stack:
            runs: dict[str, Callable[[], float]] = {}
            for precision, plan in plans.items():
                backend = self._open(precision, plan)
                stack.callback(backend.close)
                runs[precision] = inference_of(backend)
            return time_interleaved(runs)

    def power(self) -> dict[str, str]:
        return jetson.power_state()

    def _open(self, precision: EnginePrecision, plan: bytes, slots: int = 2) -> TensorRtBackend:
        return TensorRtBackend(plan, self._model, precision, trt=self._trt, slots=slots)


def inference_of(backend: Backend, seed: int = 0) -> Callable[[], float]:
    """A function that runs one inference on speckle and gives its milliseconds on the device."""
    speckle = np.random.default_rng(seed).integers(0, 256, backend.slots[0].input.shape, dtype=np.uint8)

    def run() -> float:
        slot = backend.acquire()
        try:
            np.copyto(slot.input, speckle, casting="unsafe")
            backend.submit(slot)
            backend.wait(slot)
            return float(slot.infer_ms)
        finally:
            backend.release(slot)

    return run
