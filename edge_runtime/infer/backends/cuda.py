"""CUDA through one small protocol, `Device`, and its two implementations: cuda-python's bindings and pycuda.

Only what an inference needs: the primary context (the one TensorRT uses), one stream, events, memory that the
host and the device share or that is copied, and graph replay where the binding has it. Knows neither models nor
TensorRT.

The rules that the rest keeps: every call but `probe` comes from one owner thread, inside `with device.current()`;
nothing is kept pushed between calls, so no context is left on a stack when the process ends; `close` comes last,
after everything of TensorRT is gone.

Both implementations run in the suite against a stand-in for the driver library that enforces CUDA's rules, and
nothing here has run on a GPU yet: `device/verify.sh` is what does.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_runtime.errors import BackendError, first_line

LIBRARY = "libcuda.so.1"
BINDING_VARIABLE = "EDGE_RUNTIME_CUDA"  # cuda or pycuda: which binding, where both are installed
NAME_BYTES = 256

# cuDeviceGetAttribute's numbers (cuda.h, CUdevice_attribute)
SM_COUNT, INTEGRATED, CC_MAJOR, CC_MINOR = 16, 18, 75, 76


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What identifies a GPU for an engine's key."""

    name: str
    compute_capability: str  # "8.7"
    sm_count: int
    driver: str  # CUDA version of the driver, "12.6"
    integrated: bool  # host and device share their memory


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether there is a GPU; `reason` says why not, or which."""

    gpu: DeviceFacts | None
    reason: str


def probe(library: str = LIBRARY) -> Probe:
    """Looks for a GPU through the driver alone: no context, no binding, no TensorRT object. Never raises.

    TensorRT ends the process where it is asked without a driver, so this always comes first.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return Probe(None, f"{library} cannot be loaded: no NVIDIA driver on this machine")
    try:
        return _probe_driver(driver)
    except AttributeError as exc:
        return Probe(None, f"{library} is not a CUDA driver: {exc}")


def _probe_driver(driver: Any) -> Probe:
    status = driver.cuInit(0)
    if status != 0:
        return Probe(None, f"the NVIDIA driver does not start (cuInit gave error {status})")
    count, version, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return Probe(None, "the NVIDIA driver sees no GPU")
    name = ctypes.create_string_buffer(NAME_BYTES)
    found = [
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDriverGetVersion(ctypes.byref(version)),
        driver.cuDeviceGetName(name, NAME_BYTES, device),
    ]
    values = []
    for attribute in (SM_COUNT, INTEGRATED, CC_MAJOR, CC_MINOR):
        value = ctypes.c_int()
        found.append(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        values.append(value.value)
    if any(found):
        return Probe(None, f"the NVIDIA driver does not describe its GPU (error {max(found)})")
    sm_count, integrated, major, minor = values
    facts = DeviceFacts(
        name.value.decode(errors="replace"),
        f"{major}.{minor}",
        sm_count,
        f"{version.value // 1000}.{version.value % 1000 // 10}",
        bool(integrated),
    )
    return Probe(facts, f"{facts.name}, compute capability {facts.compute_capability}, CUDA {facts.driver}")


@dataclass(slots=True, eq=False)
class Buffer:
    """Memory of one tensor as the host writes or reads it, and where the device finds it."""

    host: NDArray[Any]  # page-locked; void after the device's `close`
    address: int  # of the device
    mapped: bool  # both are the same memory: nothing is copied


class Device(Protocol):
    """One GPU. All calls come from one thread, inside `current()`; vendor errors come out as BackendError."""

    binding: str
    can_capture: bool
    name: str
    integrated: bool  # host and device share their memory

    def current(self) -> AbstractContextManager[None]:
        """The primary context on the calling thread, for the length of a `with`."""

    @property
    def stream(self) -> int:
        """The one stream that everything is queued on, as TensorRT takes it; never the default one."""

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike, mapped: bool) -> Buffer: ...

    def upload(self, buffer: Buffer) -> None:
        """Queues the copy from the host; nothing to do for mapped memory."""

    def download(self, buffer: Buffer) -> None:
        """Queues the copy to the host; nothing to do for mapped memory."""

    def event(self) -> Any: ...

    def record(self, event: Any) -> None: ...

    def wait(self, event: Any) -> None:
        """Blocks, other Python threads running, until the stream has passed `event`."""

    def elapsed_ms(self, start: Any, end: Any) -> float: ...

    def synchronize(self) -> None:
        """Blocks until the stream is empty."""

    def capture(self, enqueue: Callable[[], bool]) -> Any | None:
        """What `enqueue` queues, as a graph to be launched; None when it cannot be captured."""

    def launch(self, graph: Any) -> None: ...

    def forget(self, graph: Any) -> None:
        """Destroys a graph: before the execution context it came from."""

    def used_bytes(self) -> int:
        """Device memory in use, by all processes."""

    def close(self) -> None:
        """Frees all that was made here, the context last. Outside of `current()`, on the same thread."""


def open_device(binding: str | None = None) -> Device:
    """The first GPU through `binding`, else $EDGE_RUNTIME_CUDA, else the one that is installed, cuda-python's first.

    Raises BackendError with what was tried. On the thread that will own it.
    """
    wanted = binding or os.environ.get(BINDING_VARIABLE) or ""
    makers: dict[str, Callable[[], Device]] = {"cuda": CudaPythonDevice, "pycuda": PycudaDevice}
    if wanted and wanted not in makers:
        raise BackendError(f"{BINDING_VARIABLE}={wanted}: unknown, choose cuda or pycuda")
    missing = []
    for name, make in makers.items():
        if wanted in ("", name):
            try:
                return make()
            except ImportError as exc:
                missing.append(f"{name}: {first_line(exc)}")
    raise BackendError(
        f"no CUDA binding can be imported ({'; '.join(missing)}); edge-runtime doctor says how to get one"
    )


class CudaPythonDevice:
    """NVIDIA's cuda-python: `cuda.bindings.driver`, and `cuda.cuda` as it was before 12.6. Has graphs."""

    binding = "cuda-python"
    can_capture = True

    def __init__(self) -> None:
        self._cu = _driver_module()
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", 0)
        self.name = _text(self._call("cuDeviceGetName", NAME_BYTES, self._device))
        shared = self._cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED
        self.integrated = bool(self._call("cuDeviceGetAttribute", shared, self._device))
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._host: list[int] = []
        self._memory: list[Any] = []
        self._events: list[Any] = []
        with self.current():
            self._stream = self._call("cuStreamCreate", self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING.value)

    def _call(self, function: str, *arguments: Any) -> Any:
        """What a driver call gives besides its status. Raises BackendError for any status but success."""
        status, *results = self._ask(function, *arguments)
        if status != self._cu.CUresult.CUDA_SUCCESS:
            raise BackendError(f"CUDA: {function} gave {getattr(status, 'name', status)}")
        return (results[0] if len(results) == 1 else results) if results else None

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Status and results of a driver call. Raises BackendError where the driver is missing or lacks it."""
        try:
            return getattr(self._cu, function)(*arguments)
        except RuntimeError as exc:  # the binding's own word for a library or a function that is not there
            raise BackendError(f"CUDA: {function}: {first_line(exc)}") from exc

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    @property
    def stream(self) -> int:
        return int(self._stream)

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike, mapped: bool) -> Buffer:
        kind = np.dtype(dtype)
        size = max(1, int(np.prod(shape)) * kind.itemsize)
        flags = self._cu.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0
        pointer = int(self._call("cuMemHostAlloc", size, flags))
        self._host.append(pointer)
        raw = (ctypes.c_uint8 * size).from_address(pointer)
        host = np.frombuffer(memoryview(raw), kind, count=int(np.prod(shape))).reshape(shape)
        host[...] = 0
        if mapped:
            return Buffer(host, int(self._call("cuMemHostGetDevicePointer", pointer, 0)), True)
        memory = self._call("cuMemAlloc", size)
        self._memory.append(memory)
        return Buffer(host, int(memory), False)

    def upload(self, buffer: Buffer) -> None:
        if not buffer.mapped:
            host = buffer.host
            self._call("cuMemcpyHtoDAsync", buffer.address, host.ctypes.data, host.nbytes, self._stream)

    def download(self, buffer: Buffer) -> None:
        if not buffer.mapped:
            host = buffer.host
            self._call("cuMemcpyDtoHAsync", host.ctypes.data, buffer.address, host.nbytes, self._stream)

    def event(self) -> Any:
        made = self._call("cuEventCreate", 0)
        self._events.append(made)
        return made

    def record(self, event: Any) -> None:
        self._call("cuEventRecord", event, self._stream)

    def wait(self, event: Any) -> None:
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(self._call("cuEventElapsedTime", start, end))

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], bool]) -> Any | None:
        mode = self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        queued = False
        try:
            queued = enqueue()
        finally:
            status, captured = self._cu.cuStreamEndCapture(
                self._stream
            )  # always: else the stream stays captured
        if status != self._cu.CUresult.CUDA_SUCCESS:
            return None
        try:
            return self._call("cuGraphInstantiate", captured, 0) if queued else None
        except BackendError:
            return None
        finally:
            self._call("cuGraphDestroy", captured)

    def launch(self, graph: Any) -> None:
        self._call("cuGraphLaunch", graph, self._stream)

    def forget(self, graph: Any) -> None:
        self._call("cuGraphExecDestroy", graph)

    def used_bytes(self) -> int:
        free, total = self._call("cuMemGetInfo")
        return int(total) - int(free)

    def close(self) -> None:
        with self.current():
            self.synchronize()
            for event in self._events:
                self._call("cuEventDestroy", event)
            self._call("cuStreamDestroy", self._stream)
            for memory in self._memory:
                self._call("cuMemFree", memory)
            for pointer in self._host:
                self._call("cuMemFreeHost", pointer)
        self._events, self._memory, self._host = [], [], []
        self._call("cuDevicePrimaryCtxRelease", self._device)


class PycudaDevice:
    """pycuda: built on the device itself. Has no graphs, so every inference is queued anew."""

    binding = "pycuda"
    can_capture = False

    def __init__(self) -> None:
        self._cu = import_module("pycuda.driver")  # never pycuda.autoinit: it makes a context of its own
        try:
            self._cu.init()
            device = self._cu.Device(0)
            self.name = str(device.name())
            self.integrated = bool(device.get_attribute(self._cu.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()
        except self._cu.Error as exc:
            raise BackendError(f"CUDA: {exc}") from exc
        self._host: list[Any] = []
        self._memory: list[Any] = []
        with self.current():
            self._stream = self._cu.Stream()

    @contextmanager
    def current(self) -> Iterator[None]:
        try:
            self._context.push()
            try:
                yield
            finally:
                self._cu.Context.pop()
        except self._cu.Error as exc:
            raise BackendError(f"CUDA: {exc}") from exc

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike, mapped: bool) -> Buffer:
        flags = self._cu.host_alloc_flags.DEVICEMAP if mapped else 0
        host: NDArray[Any] = self._cu.pagelocked_empty(shape, np.dtype(dtype), mem_flags=flags)
        host[...] = 0
        allocation: Any = host.base
        self._host.append(allocation)
        if mapped:
            return Buffer(host, int(allocation.get_device_pointer()), True)
        memory = self._cu.mem_alloc(max(1, host.nbytes))
        self._memory.append(memory)
        return Buffer(host, int(memory), False)

    def upload(self, buffer: Buffer) -> None:
        if not buffer.mapped:
            self._cu.memcpy_htod_async(buffer.address, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        if not buffer.mapped:
            self._cu.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)

    def event(self) -> Any:
        return self._cu.Event()

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def wait(self, event: Any) -> None:
        event.synchronize()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(start.time_till(end))

    def synchronize(self) -> None:
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], bool]) -> Any | None:
        return None

    def launch(self, graph: Any) -> None:
        raise BackendError("CUDA: pycuda has no graphs")

    def forget(self, graph: Any) -> None:
        raise BackendError("CUDA: pycuda has no graphs")

    def used_bytes(self) -> int:
        free, total = self._cu.mem_get_info()
        return int(total) - int(free)

    def close(self) -> None:
        with self.current():
            self._stream.synchronize()
            self._stream = None
            for allocation in (*self._memory, *self._host):
                allocation.free()
        self._memory, self._host = [], []
        try:
            self._context.detach()
        except self._cu.Error as exc:
            raise BackendError(f"CUDA: {exc}") from exc
        # pycuda pushes what it detaches, and takes it for popped with that; of a primary context it is not
        ctypes.CDLL(LIBRARY).cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _text(name: bytes) -> str:
    """A C string in a buffer of fixed length."""
    return name.split(b"\0", 1)[0].decode(errors="replace")


def _driver_module() -> Any:
    """cuda-python's driver module under whichever of its two names. Raises ImportError."""
    try:
        return import_module("cuda.bindings.driver")
    except ImportError:
        return import_module("cuda.cuda")
