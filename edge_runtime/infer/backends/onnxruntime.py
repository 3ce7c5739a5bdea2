"""onnxruntime on a CPU: runs everywhere the package installs; the reference that the others are compared
with.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_runtime import clock
from edge_runtime.errors import BackendError, first_line
from edge_runtime.infer.backends.contract import Ledger, Slot, check_input, fix_shape, make_slots
from edge_runtime.infer.backends.table import accepted_precision
from edge_runtime.infer.model import Model, Precision

SLOTS = 3
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OnnxRuntimeBackend:
    """One worker thread runs the submitted slots in order; onnxruntime lets the interpreter go while it
    computes.
    """

    name = "onnxruntime"

    def __init__(self, onnx: Path, model: Model, precision: Precision, threads: int) -> None:
        self.precision: Precision = precision
        self.threads = threads
        self.device = platform.processor() or platform.machine()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, and told once
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = load_graph(str(onnx), options)
            shape, dtype = _input_of(self._session, model)
            check_input(model.manifest.input, self._session.get_inputs()[0].name, dtype, str(model.home))
            outputs = _output_shapes(self._session, shape, dtype)
        except BackendError:
            raise
        except Exception as exc:
            raise BackendError(f"{onnx}: onnxruntime cannot load it: {first_line(exc)}") from exc
        self._ledger = Ledger(make_slots(SLOTS, shape, dtype, outputs))
        self._bindings = [self._bind(slot) for slot in self._ledger.slots]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")
        self._running: dict[int, Future[float]] = {}

    @property
    def slots(self) -> Sequence[Slot]:
        return self._ledger.slots

    def acquire(self) -> Slot:
        return self._ledger.acquire()

    def submit(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "lent", "running")
        self._running[slot.index] = self._worker.submit(self._run, slot.index)

    def wait(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "running", "done")
        try:
            slot.infer_ms = self._running.pop(slot.index).result()
        except Exception as exc:
            raise BackendError(f"onnxruntime: the inference failed: {first_line(exc)}") from exc

    def release(self, slot: Slot, /) -> None:
        self._ledger.release(slot)

    def close(self) -> None:
        self._ledger.closed = True
        self._worker.shutdown()

    def _run(self, index: int) -> float:
        """One inference in the worker thread, and its milliseconds."""
        start_ns = clock.monotonic_ns()
        self._session.run_with_iobinding(self._bindings[index])
        return (clock.monotonic_ns() - start_ns) / 1e6

    def _bind(self, slot: Slot) -> Any:
        """A binding to the slot's own memory: nothing is copied in or out."""
        binding = self._session.io_binding()
        name = self._session.get_inputs()[0].name
        binding.bind_input(name, "cpu", 0, slot.input.dtype, slot.input.shape, slot.input.ctypes.data)
        for output, array in slot.outputs.items():
            binding.bind_output(output, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding


def load_graph(graph: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """The graph, a file or its content, on the CPU. Raises what onnxruntime raises.

    onnxruntime fuses a Concat between Q and DQ of FP16 into a kernel that it does not have, and then refuses its
    own work: such a graph, which is TensorRT's, runs without what is fused for INT8.
    """
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's pybind errors have no common base
        if "QLinear" not in str(exc):
            raise
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _input_of(session: Any, model: Model) -> tuple[tuple[int, int, int, int], np.dtype[Any]]:
    where = str(model.home)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise BackendError(f"{where}: the model has {len(inputs)} inputs, want one picture")
    if inputs[0].type not in _DTYPES:
        raise BackendError(f"{where}: the model's input is {inputs[0].type}, want uint8 or float32")
    spec = model.manifest.input
    shape = fix_shape(inputs[0].shape, spec.grid_hw, where, spec.channels)
    return shape, np.dtype(_DTYPES[inputs[0].type])


def _output_shapes(session: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, tuple[int, ...]]:
    """Found by running once: a graph may leave its output axes free."""
    results = session.run(None, {session.get_inputs()[0].name: np.zeros(shape, dtype)})
    named = dict(zip((output.name for output in session.get_outputs()), results, strict=True))
    for name, result in named.items():
        if result.dtype != np.float32:
            raise BackendError(f"onnxruntime: output {name!r} is {result.dtype}, want float32")
    return {name: result.shape for name, result in named.items()}


def offers(model: Model) -> tuple[Precision, ...]:
    """What onnxruntime runs `model` in; where nothing is measured, the first that is accepted is taken."""
    return ("fp32", "int8") if "int8" in model.manifest.artifacts else ("fp32",)


def load(model: Model, precision: str, threads: int) -> OnnxRuntimeBackend:
    """`model` on `threads` threads. Raises ConfigError or BackendError."""
    chosen = accepted_precision(model, precision, offers(model), "onnxruntime")
    path, _ = model.artifact(chosen)
    return OnnxRuntimeBackend(path, model, chosen, threads)
