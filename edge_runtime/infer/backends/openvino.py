"""OpenVINO on a CPU: the fastest way to run these models without a GPU.

The precision is always set and then asked back: left alone, OpenVINO takes bf16 where AMX exists, and where
bf16 is only emulated it is 4 times slower than f32 (measured, `docs/decisions.md`). Requests queue inside
the library, so that with two slots in flight the processor goes from one frame to the next without waiting
for Python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from edge_runtime.errors import BackendError
from edge_runtime.infer.backends.contract import Ledger, Slot, check_input, fix_shape, make_slots
from edge_runtime.infer.backends.table import accepted_precision
from edge_runtime.infer.model import Model, Precision

SLOTS = 3  # one runs, one waits behind it, one is read or written
_HINT = {
    "fp32": "f32",
    "int8": "f32",
    "bf16": "bf16",
    "fp16": "f16",
}  # int8 is in the graph; the rest of it stays f32
_RAN: dict[str, Precision] = {
    "f32": "fp32",
    "float": "fp32",
    "float32": "fp32",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "f16": "fp16",
}


class OpenVinoBackend:
    name = "openvino"

    def __init__(self, onnx: Path, model: Model, precision: Precision, threads: int) -> None:
        self.threads = threads
        core = ov.Core()
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        try:
            graph = _read_onnx(onnx)
            shape = _fix_input(graph, model)
            compiled = core.compile_model(
                graph,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": _HINT[precision],
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "ENABLE_CPU_PINNING": False,
                },
            )
            dtype = np.dtype(compiled.input(0).element_type.to_dtype())
            check_input(model.manifest.input, graph.input(0).any_name, dtype, str(model.home))
            # a compiled graph's tensors also answer to the names of what was fused into them
            names = [output.any_name for output in graph.outputs]
            outputs = dict(zip(names, _output_shapes(compiled, model), strict=True))
        except BackendError:
            raise
        except Exception as exc:
            raise BackendError(f"{onnx}: OpenVINO cannot load it: {_last_line(exc)}") from exc
        ran = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self.precision: Precision = "int8" if precision == "int8" else _RAN.get(ran, precision)
        if self.precision != precision:
            raise BackendError(
                f"{onnx}: asked OpenVINO for {precision}, it runs {ran}; choose --precision fp32"
            )
        self._ledger = Ledger(make_slots(SLOTS, shape, dtype, outputs))
        self._requests = [_bind(compiled, names, slot) for slot in self._ledger.slots]

    @property
    def slots(self) -> Sequence[Slot]:
        return self._ledger.slots

    def acquire(self) -> Slot:
        return self._ledger.acquire()

    def submit(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "lent", "running")
        self._requests[slot.index].start_async()

    def wait(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "running", "done")
        request = self._requests[slot.index]
        try:
            request.wait()
        except RuntimeError as exc:
            raise BackendError(f"OpenVINO: the inference failed: {_last_line(exc)}") from exc
        slot.infer_ms = request.latency

    def release(self, slot: Slot, /) -> None:
        self._ledger.release(slot)

    def close(self) -> None:
        if self._ledger.closed:
            return
        self._ledger.closed = True
        for request in self._requests:
            request.wait()
        self._requests.clear()


def _read_onnx(path: Path) -> Any:
    """The graph, by the ONNX frontend alone: left to guess, OpenVINO asks others, which chatter on stderr."""
    frontend = ov.frontend.FrontEndManager().load_by_framework("onnx")
    return frontend.convert(frontend.load(str(path)))


def _fix_input(graph: Any, model: Model) -> tuple[int, int, int, int]:
    """The static input shape, set on `graph`. A float or uint8 picture is all that is taken."""
    where = str(model.home)
    if len(graph.inputs) != 1:
        raise BackendError(f"{where}: the model has {len(graph.inputs)} inputs, want one picture")
    partial = graph.input(0).partial_shape
    if partial.rank.is_dynamic:
        raise BackendError(f"{where}: the model's input has no rank, want [1, 1 or 3, height, width]")
    axes = [axis.get_length() if axis.is_static else None for axis in partial]
    shape = fix_shape(axes, model.manifest.input.grid_hw, where, model.manifest.input.channels)
    if partial.is_dynamic:
        graph.reshape(list(shape))
    if graph.input(0).element_type.to_dtype() not in (np.uint8, np.float32):
        raise BackendError(
            f"{where}: the model's input is {graph.input(0).element_type}, want uint8 or float32"
        )
    return shape


def _output_shapes(compiled: Any, model: Model) -> list[tuple[int, ...]]:
    for output in compiled.outputs:
        if output.element_type.to_dtype() != np.float32 or output.partial_shape.is_dynamic:
            raise BackendError(
                f"{model.home}: output {output.any_name!r} is {output.element_type} {output.partial_shape}, want float32 of a fixed shape"
            )
    return [tuple(output.shape) for output in compiled.outputs]


def _bind(compiled: Any, names: Sequence[str], slot: Slot) -> Any:
    """A request that reads and writes the slot's own memory."""
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(slot.input, shared_memory=True))
    for index, name in enumerate(names):
        request.set_output_tensor(index, ov.Tensor(slot.outputs[name], shared_memory=True))
    return request


def runs_bf16_natively() -> bool:
    """Whether this processor multiplies bf16 itself, and oneDNN was not told to leave that unused."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower() not in (
        "",
        "all",
        "default",
        "avx512_core_amx",
        "avx512_core_bf16",
    ):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _last_line(exc: Exception) -> str:
    """The line of an OpenVINO message that says what is wrong: the last one with words in it."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__


def offers(model: Model) -> tuple[Precision, ...]:
    """What this processor runs `model` in; where nothing is measured, the first that is accepted is taken."""
    own: tuple[Precision, ...] = ("bf16", "fp32") if runs_bf16_natively() else ("fp32",)
    return (*own, "int8") if "int8" in model.manifest.artifacts else own


def load(model: Model, precision: str, threads: int) -> OpenVinoBackend:
    """`model` in `precision` (or `auto`) on `threads` threads. Raises ConfigError or BackendError."""
    chosen = accepted_precision(model, precision, offers(model), "openvino")
    path, _ = model.artifact(chosen)
    return OpenVinoBackend(path, model, chosen, threads)
