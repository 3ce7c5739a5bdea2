"""A stand-in for a GPU and for TensorRT that computes, and that holds its caller to CUDA's rules.

Work is queued and done only when somebody waits, as on a device: who reads too early reads what was there before. A
rule that is broken is written into `Gpu.broken` and raised. The network it runs: labels are 1 where the grey is above
127, the sums follow from that, presence is 1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_runtime.infer.backends.cuda import Buffer
from edge_runtime.infer.postprocess import COLUMNS, LABELS, ROWS, TOTAL

GRID_HW = (192, 288)
STREAM = 7


class RuleBrokenError(Exception):
    """A call that CUDA would answer with an error, a wrong result or the end of the process."""


@dataclass(eq=False)
class Graph:
    """What was captured."""

    work: list[Callable[[], None]]
    context: Any
    alive: bool = True


@dataclass(eq=False)
class Event:
    recorded: bool = False
    passed: bool = False


@dataclass(eq=False)
class Gpu:
    """The device: its memory, its queue, and who may touch it. Also the `Device` that the runner is given."""

    integrated: bool = False
    can_capture: bool = True
    capture_fails: bool = False
    fails_at: str = ""  # this call gives an error of the driver, which is no broken rule
    name: str = "Double"
    binding: str = "double"
    stream_handle: int = STREAM
    broken: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    memory: dict[int, NDArray[Any]] = field(default_factory=dict)  # by device address
    queue: list[tuple[str, Any, Callable[[], None]]] = field(default_factory=list)
    capturing: list[Callable[[], None]] | None = None
    captured_context: Any = None
    graphs: list[Graph] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)  # TensorRT's objects
    depth: int = 0
    owner: int | None = None
    closed: bool = False
    launched: int = 0

    def rule(self, kept: bool, text: str) -> None:
        if not kept:
            self.broken.append(text)
            raise RuleBrokenError(text)

    def enter(self, call: str) -> None:
        """Every call: on the owner's thread, under the context, before the end."""
        self.calls.append(call)
        self.rule(not self.closed, f"{call} after close")
        self.rule(threading.get_ident() == self.owner, f"{call} on another thread than the owner's")
        self.rule(self.depth > 0, f"{call} without the context")
        if call == self.fails_at:
            raise RuntimeError(f"{call}: the device fell off the bus")

    # ---------------------------------------------------------------- Device

    def opened(self) -> Gpu:
        self.owner = threading.get_ident()
        return self

    @contextmanager
    def current(self) -> Iterator[None]:
        self.rule(not self.closed, "context pushed after close")
        self.rule(threading.get_ident() == self.owner, "context pushed on another thread than the owner's")
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    @property
    def stream(self) -> int:
        return self.stream_handle

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike, mapped: bool) -> Buffer:
        self.enter("buffer")
        host = np.zeros(shape, dtype)
        address = 0x1000 * (len(self.memory) + 1)
        self.memory[address] = host if mapped else np.zeros(shape, dtype)
        return Buffer(host, address, mapped)

    def upload(self, buffer: Buffer) -> None:
        self.enter("upload")
        if not buffer.mapped:
            self._queue("upload", buffer, lambda: np.copyto(self.memory[buffer.address], buffer.host))

    def download(self, buffer: Buffer) -> None:
        self.enter("download")
        if not buffer.mapped:
            self._queue("download", buffer, lambda: np.copyto(buffer.host, self.memory[buffer.address]))

    def event(self) -> Event:
        self.enter("event")
        return Event()

    def record(self, event: Event) -> None:
        self.enter("record")
        event.recorded, event.passed = True, False
        self._queue("record", event, lambda: setattr(event, "passed", True))

    def wait(self, event: Event) -> None:
        self.enter("wait")
        self.rule(event.recorded, "waiting for an event that was never recorded")
        while not event.passed:
            self._step()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        self.enter("elapsed_ms")
        self.rule(start.passed and end.passed, "the time between events that have not passed yet")
        return 1.25

    def synchronize(self) -> None:
        self.enter("synchronize")
        self.rule(self.capturing is None, "synchronize while the stream is captured")
        while self.queue:
            self._step()

    def capture(self, enqueue: Callable[[], bool]) -> Graph | None:
        self.enter("capture")
        self.capturing = []
        try:
            queued = enqueue()
        finally:
            work, self.capturing = self.capturing or [], None
        if self.capture_fails or not queued:
            return None
        self.graphs.append(Graph(work, self.captured_context))
        return self.graphs[-1]

    def launch(self, graph: Graph) -> None:
        self.enter("launch")
        self.rule(graph.alive, "a graph launched after it was destroyed")
        self.launched += 1
        for work in graph.work:
            self._queue("graph", graph, work)

    def forget(self, graph: Graph) -> None:
        self.enter("forget")
        self.rule(not self.queue, "a graph destroyed while the device works")
        self.rule(graph.context in self.alive, "a graph destroyed after its execution context")
        graph.alive = False

    def used_bytes(self) -> int:
        self.enter("used_bytes")
        return sum(array.nbytes for array in self.memory.values())

    def close(self) -> None:
        self.calls.append("close")
        self.rule(not self.closed, "closed twice")
        self.rule(threading.get_ident() == self.owner, "closed on another thread than the owner's")
        self.rule(self.depth == 0, "the context released while it is current")
        self.rule(not self.queue, "memory freed while the device works on it")
        self.rule(not self.alive, f"the context destroyed before {', '.join(self.alive)}")
        self.rule(not any(graph.alive for graph in self.graphs), "the context destroyed before its graphs")
        self.memory.clear()
        self.closed = True

    # ---------------------------------------------------------------- the work

    def _queue(self, what: str, of: Any, work: Callable[[], None]) -> None:
        if self.capturing is not None:
            self.capturing.append(work)
        else:
            self.queue.append((what, of, work))

    def _step(self) -> None:
        self.rule(bool(self.queue), "waiting for what was never queued")
        _, _, work = self.queue.pop(0)
        work()

    def kernel(self, context: Context) -> None:
        """Queues one inference of `context`."""
        if self.capturing is not None:
            self.rule(context.warm, "captured before one plain inference")
            self.captured_context = context.label
        label, addresses = context.label, dict(context.addresses)  # the object itself is not held by its work
        self._queue("kernel", label, lambda: self._infer(label, addresses))
        context.queued = True

    def _infer(self, label: str, addresses: dict[str, int]) -> None:
        self.rule(label in self.alive, "an execution context destroyed while the device works")
        for address in addresses.values():
            self.rule(address in self.memory, "memory freed while the device works on it")
        inside = self.memory[addresses["image"]][0, 0] > 127
        p = inside.astype(np.float32)
        self.memory[addresses[LABELS]][0] = inside
        self.memory[addresses[TOTAL]][0, 0] = p.sum()
        self.memory[addresses[ROWS]][0, 0] = p.sum(axis=1)
        self.memory[addresses[COLUMNS]][0, 0] = p.sum(axis=0)
        self.memory[addresses["presence"]][0, 0] = 1


# ---------------------------------------------------------------- TensorRT's objects


class Object:
    """One of TensorRT's: made and destroyed under the context, on the owner's thread, in the right order."""

    def __init__(self, gpu: Gpu, label: str) -> None:
        gpu.enter(f"make {label}")
        self.gpu, self.label = gpu, label
        gpu.alive.append(label)

    def __del__(self) -> None:
        gpu = self.gpu
        children = {"runtime": ("engine", "context"), "engine": ("context",)}.get(self.label, ())
        if gpu.closed:
            gpu.broken.append(f"{self.label} destroyed after the context")
        elif threading.get_ident() != gpu.owner or gpu.depth == 0:
            gpu.broken.append(f"{self.label} destroyed without the context")
        if any(other.startswith(children) for other in gpu.alive if children):
            gpu.broken.append(f"{self.label} destroyed before what it made")
        gpu.calls.append(f"destroy {self.label}")
        gpu.alive.remove(self.label)


SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "image": ((1, 1, *GRID_HW), "UINT8"),
    LABELS: ((1, *GRID_HW), "UINT8"),
    TOTAL: ((1, 1), "FLOAT"),
    ROWS: ((1, 1, GRID_HW[0]), "FLOAT"),
    COLUMNS: ((1, 1, GRID_HW[1]), "FLOAT"),
    "presence": ((1, 1), "FLOAT"),
}


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Context(Object):
    """IExecutionContext."""

    def __init__(self, gpu: Gpu, number: int) -> None:
        super().__init__(gpu, f"context {number}")
        self.addresses: dict[str, int] = {}
        self.queued = False

    @property
    def warm(self) -> bool:
        """One inference is over."""
        return self.queued and not any(of == self.label for _, of, _ in self.gpu.queue)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.gpu.enter("set_tensor_address")
        self.gpu.rule(address in self.gpu.memory, "an address that is no memory of the device")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = self.gpu
        gpu.enter("execute_async_v3")
        gpu.rule(stream_handle == STREAM, "queued on the default stream")
        gpu.rule(set(self.addresses) == set(SHAPES), "queued with a tensor that has no address")
        gpu.kernel(self)
        return True


class Engine(Object):
    """ICudaEngine."""

    num_io_tensors = len(SHAPES)

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu, "engine")
        self.made = 0
        self.contexts_fit = 99

    def create_execution_context(self) -> Context | None:
        self.gpu.enter("create_execution_context")
        self.made += 1
        return Context(self.gpu, self.made) if self.made <= self.contexts_fit else None

    def get_tensor_name(self, index: int) -> str:
        return list(SHAPES)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name][0]

    def get_tensor_dtype(self, name: str) -> str:
        return SHAPES[name][1]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == "image" else Mode.OUTPUT


class Runtime(Object):
    """Takes any plan but those that begin with `bad`; one that begins with `small` has memory for one context."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu, "runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        self.gpu.enter("deserialize_cuda_engine")
        if plan.startswith(b"bad"):
            return None
        engine = Engine(self.gpu)
        engine.contexts_fit = 1 if plan.startswith(b"small") else 99
        return engine


class Logger:
    """ILogger."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def tensorrt_of(gpu: Gpu) -> Any:
    """What stands for the module `tensorrt`."""
    return SimpleNamespace(
        __version__="10.3.0",
        ILogger=Logger,
        TensorIOMode=Mode,
        Runtime=lambda logger: Runtime(gpu),
        nptype={"UINT8": np.uint8, "FLOAT": np.float32}.__getitem__,
    )
