"""Run as a program, with the stand-in for the driver on LD_LIBRARY_PATH: one CUDA binding through everything that an
inference needs, alone and below the TensorRT backend. Prints what happened as JSON.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

if sys.argv[1] == "pycuda":
    sys.setdlopenflags(os.RTLD_LAZY)  # it names a hundred calls of the driver that nothing here makes

from edge_runtime import clock
from edge_runtime.errors import BackendError
from edge_runtime.infer.backends.contract import infer_once
from edge_runtime.infer.backends.cuda import Device, open_device, probe
from edge_runtime.infer.backends.tensorrt import TensorRtBackend
from edge_runtime.infer.model import load_model
from tests.infer.cuda_double import Logger, Mode

LIB = ctypes.CDLL("libcuda.so.1")
LIB.fake_broken.restype = ctypes.c_char_p
LIB.fake_kernel.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t]
SIZE = 192 * 288
RUNS = 300


def state() -> dict[str, Any]:
    return {
        "broken": LIB.fake_broken().decode(),
        "blocks": LIB.fake_blocks(),
        "depth": LIB.fake_depth(),
        "captures": LIB.fake_captures(),
    }


def alone(binding: str) -> dict[str, Any]:
    """The device by itself: copies, events, a graph."""
    device = open_device(binding)
    without = (
        misuse(device) if device.can_capture else ""
    )  # pycuda answers outside of `current` in words of its own
    with device.current():
        given, gave = (device.buffer((4, 5), np.uint8, device.integrated) for _ in range(2))
        start, end, done = (device.event() for _ in range(3))

        def kernel() -> bool:
            return bool(LIB.fake_kernel(device.stream, gave.address, given.address, 20) == 0)

        given.host[...] = 1
        device.upload(given)
        device.record(start)
        kernel()
        device.record(end)
        device.download(gave)
        device.record(done)
        early = int(gave.host[0, 0])
        device.wait(done)
        late = int(gave.host[0, 0])
        spent_ms = device.elapsed_ms(start, end)
        replayed = replay(device, kernel, given, gave)
        used = device.used_bytes()
        del start, end, done
    device.close()
    return {
        "binding": device.binding,
        "name": device.name,
        "integrated": device.integrated,
        "without_context": without,
        "early": early,
        "late": late,
        "elapsed_ms": spent_ms,
        "replayed": replayed,
        "used": used,
        **state(),
    }


def misuse(device: Device) -> str:
    """What a call without the context gives; that one rule was broken on purpose."""
    try:
        device.event()
        said = "no error"
    except BackendError as exc:
        said = str(exc)
    LIB.fake_pardon()
    return said


def replay(device: Device, kernel: Any, given: Any, gave: Any) -> int | None:
    graph = device.capture(kernel)
    if graph is None:
        return None
    given.host[...] = 2
    device.upload(given)
    device.launch(graph)
    device.download(gave)
    device.synchronize()
    device.forget(graph)
    return int(gave.host[0, 0])


class Context:
    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        to, given = self.addresses["labels"], self.addresses["image"]
        return bool(LIB.fake_kernel(stream_handle, to, given, SIZE) == 0)


ENGINE = SimpleNamespace(
    num_io_tensors=2,
    create_execution_context=Context,
    get_tensor_name=lambda index: ("image", "labels")[index],
    get_tensor_shape=lambda name: (1, 1, 192, 288),
    get_tensor_dtype=lambda name: np.uint8,
    get_tensor_mode=lambda name: Mode.INPUT if name == "image" else Mode.OUTPUT,
)
TENSORRT = SimpleNamespace(
    __version__="10.3.0",
    ILogger=Logger,
    TensorIOMode=Mode,
    nptype=lambda dtype: dtype,
    Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: ENGINE),
)


def below_the_backend(binding: str) -> dict[str, Any]:
    """The whole backend on this binding."""
    backend = TensorRtBackend(
        b"plan", load_model("fetal_head"), "fp16", trt=TENSORRT, open_device=lambda: open_device(binding)
    )
    right = True
    for seed in range(4):
        grey = np.random.default_rng(seed).integers(0, 256, (1, 1, 192, 288), dtype=np.uint8)
        right = right and bool((infer_once(backend, grey)["labels"] == 255 - grey).all())
    start_ns = clock.monotonic_ns()
    for _ in range(RUNS):
        slot = backend.acquire()
        backend.submit(slot)
        backend.wait(slot)
        backend.release(slot)
    spent_us = (clock.monotonic_ns() - start_ns) / RUNS / 1e3
    said, captured, used = backend.device, backend.captured, backend.used_bytes()
    backend.close()
    return {"right": right, "device": said, "captured": captured, "used": used, "us": spent_us, **state()}


if __name__ == "__main__":
    seen = probe()
    facts = None if seen.gpu is None else dataclasses.asdict(seen.gpu)
    print(
        json.dumps({"probe": facts, "alone": alone(sys.argv[1]), "backend": below_the_backend(sys.argv[1])})
    )
