"""Imported as `tensorrt` in a rehearsal: its engines are computed by onnxruntime, on the stand-in for the driver.

So all that `compile`, `run` and `device_verify.py` do on a device can be rehearsed without one: builds, files, gates,
timings, slots and closing are real; only the numbers of a GPU are not. A plan is the graph with a mark before it.
"""

from __future__ import annotations

import ctypes
import os
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edge_runtime.build.emulate import emulated

__version__ = "10.3.0"

DRIVER = ctypes.CDLL("libcuda.so.1")
CALL = ctypes.CFUNCTYPE(None)
DRIVER.fake_call.argtypes = [ctypes.c_void_p, CALL]
MARK = b"rehearsed plan "
DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, message: str) -> None: ...


class IProgressMonitor:
    pass


class TensorIOMode(Enum):
    INPUT = 0
    OUTPUT = 1


NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
MemoryPoolType = SimpleNamespace(WORKSPACE=0)


def nptype(dtype: Any) -> Any:
    return dtype


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, logger: ILogger) -> None:
        self._network = network

    def parse(self, graph: bytes) -> bool:
        self._network.graph = graph
        return True


class BuilderConfig:
    progress_monitor: Any = None

    def set_memory_pool_limit(self, pool: int, size: int) -> None: ...

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: content or b"tactics")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return True


class Builder:
    """Its plan is the graph; with REHEARSAL_STRAYS the plan of an INT8 graph is for a network that strays."""

    def __init__(self, logger: ILogger) -> None: ...

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(graph=b"")

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def build_serialized_network(self, network: Any, config: BuilderConfig) -> bytes:
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("building", None, 2)
            config.progress_monitor.step_complete("building", 0)
            config.progress_monitor.phase_finish("building")
        strays = b"QuantizeLinear" in network.graph and "REHEARSAL_STRAYS" in os.environ
        return MARK + (b"strays " if strays else b"is true") + network.graph


class Runtime:
    def __init__(self, logger: ILogger) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if not plan.startswith(MARK):
            return None
        return Engine(plan[len(MARK) + 7 :], strays=plan[len(MARK) :].startswith(b"strays"))


class Engine:
    def __init__(self, graph: bytes, strays: bool) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        wide = emulated(onnx.load_from_string(graph)).SerializeToString()
        self.session = ort.InferenceSession(wide, options, providers=["CPUExecutionProvider"])
        self.strays = strays
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return DTYPES[self.tensors[name].type]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._call = CALL(self._infer)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        return bool(DRIVER.fake_call(stream_handle, self._call) == 0)

    def _infer(self) -> None:
        engine = self._engine
        given = {name: self._at(name).copy() for name in engine.inputs}
        if engine.strays:
            given = {name: np.roll(array, 24, axis=-1) for name, array in given.items()}
        for name, array in zip(engine.outputs, engine.session.run(None, given), strict=True):
            np.copyto(self._at(name), array)

    def _at(self, name: str) -> Any:
        """The tensor's memory on the device."""
        shape, dtype = self._engine.get_tensor_shape(name), np.dtype(self._engine.get_tensor_dtype(name))
        raw = (ctypes.c_uint8 * (int(np.prod(shape)) * dtype.itemsize)).from_address(self._addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)
