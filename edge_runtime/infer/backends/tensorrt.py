"""TensorRT: an engine that was built and gated on this very device, run from one thread that owns CUDA.

Takes an engine only with a sidecar that says so (`engine_file.py`); it builds nothing and never replaces one
precision by another. One code path for TensorRT 10.3 to 11.x. Not run on a GPU yet: names are checked against the
real bindings, the order of calls against a stand-in that enforces CUDA's rules; `device/verify.sh` does the rest.

An inference: input to the device, the captured graph (or the engine's own launch), outputs back, an event. Where host
and device share their memory (a Jetson) nothing is copied. Each slot has its own buffers, its own execution context
and its own graph; they share one stream, so an inference's time is its own and not that of the one before it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from traceback import clear_frames
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError, ConfigError, EdgeError, EngineError, GateError, first_line
from edge_runtime.infer.backends.contract import Ledger, Slot, check_input, fix_shape
from edge_runtime.infer.backends.cuda import Buffer, Device, DeviceFacts, open_device, probe
from edge_runtime.infer.backends.engine_file import PRECISIONS, Engine, engines_home, find_engine, key_for
from edge_runtime.infer.model import Model, Precision, shipped_models

SLOTS = 2  # one runs, one is written or read; activations are held once for each
INSTALL = (
    "on a Jetson: apt-get install python3-libnvinfer, and a virtual environment with --system-site-packages"
)

_LOG = logging.getLogger("edge_runtime.tensorrt")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Lane:
    """One slot's side of the device. Touched on the owner thread only."""

    context: Any  # IExecutionContext
    inputs: list[Buffer]
    outputs: list[Buffer]
    start: Any  # events: around the inference, and after its outputs
    end: Any
    done: Any
    graph: Any = None  # None: launched anew each time


@dataclass(slots=True, eq=False)
class _Held:
    """What was opened so far, so that closing works from any point of opening."""

    device: Device | None = None
    logger: Any = None
    runtime: Any = None
    engine: Any = None
    lanes: list[_Lane] = field(default_factory=list)


class TensorRtBackend:
    """One engine with its slots. `close` frees lanes, engine, runtime, buffers and context in that order."""

    name = "tensorrt"
    threads = 1  # of the host; the device's own are the engine's business

    def __init__(
        self,
        plan: bytes,
        model: Model,
        precision: Precision,
        *,
        trt: Any = None,
        open_device: Callable[[], Device] = open_device,
        graphs: bool = True,
        mapped: bool | None = None,
        slots: int = SLOTS,
    ) -> None:
        """Raises EngineError where TensorRT refuses `plan`, BackendError for all else.

        `trt` is TensorRT's module, imported when it is not given: after `probe` has found a GPU. `mapped` memory is
        the default where host and device share theirs; `graphs` are used where the binding has them.
        """
        self.device = "a GPU that is not open yet"
        self.precision: Precision = precision
        self._trt = trt if trt is not None else import_tensorrt()
        self._held = _Held()
        self._pending: dict[int, Future[None]] = {}
        self._ledger = Ledger([])
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="cuda-owner")
        try:
            made = self._on_owner(lambda: self._open(plan, model, open_device, graphs, mapped, slots))
        except BaseException:
            self.close()
            raise
        self._ledger = Ledger(made)

    # ---------------------------------------------------------------- the contract, on the caller's thread

    @property
    def slots(self) -> Sequence[Slot]:
        return self._ledger.slots

    def acquire(self) -> Slot:
        return self._ledger.acquire()

    def submit(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "lent", "running")
        lane = self._held.lanes[slot.index]
        self._pending[slot.index] = self._owner.submit(self._run, lambda: self._enqueue(lane))

    def wait(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "running", "done")
        lane = self._held.lanes[slot.index]
        self._pending.pop(slot.index).result()
        slot.infer_ms = self._on_owner(lambda: self._finish(lane))

    def release(self, slot: Slot, /) -> None:
        self._ledger.release(slot)

    def close(self) -> None:
        if self._ledger.closed:
            return
        self._ledger.closed = True
        for slot in self._ledger.slots:  # their memory goes: nobody shall read what is no longer there
            slot.input, slot.outputs = np.empty(0, slot.input.dtype), {}
        try:
            self._owner.submit(self._teardown).result()
        finally:
            self._owner.shutdown()

    def used_bytes(self) -> int:
        """Device memory in use by all processes: for watching that it stays flat."""
        return self._on_owner(lambda: self._device.used_bytes())

    @property
    def captured(self) -> bool:
        """Whether inferences are replayed from a captured graph."""
        return bool(self._held.lanes) and all(lane.graph is not None for lane in self._held.lanes)

    # ---------------------------------------------------------------- on the owner thread

    @property
    def _device(self) -> Device:
        if self._held.device is None:
            raise BackendError("backend: closed; open it again")
        return self._held.device

    def _on_owner(self, task: Callable[[], T]) -> T:
        """What `task` gives, run on the owner thread under the context."""
        if self._ledger.closed:
            raise BackendError("backend: closed; open it again")
        return self._owner.submit(self._run, task).result()

    def _run(self, task: Callable[[], T]) -> T:
        with _as_backend_error():
            if self._held.device is None:
                return task()  # opening: there is no context yet
            with self._held.device.current():
                return task()

    def _open(
        self,
        plan: bytes,
        model: Model,
        open_device: Callable[[], Device],
        graphs: bool,
        mapped: bool | None,
        slots: int,
    ) -> list[Slot]:
        trt, held = self._trt, self._held
        device = held.device = open_device()
        with device.current():
            try:
                held.logger = make_logger(trt)
                held.runtime = trt.Runtime(held.logger)
                held.engine = held.runtime.deserialize_cuda_engine(plan)
                if held.engine is None:
                    raise EngineError(
                        f"{model.manifest.name}: TensorRT {trt.__version__} refuses this engine{why(held.logger)}; "
                        f"{compile_hint(model)}"
                    )
                shared = device.integrated if mapped is None else mapped
                made = [self._make_slot(index, model, shared) for index in range(slots)]
                for lane in held.lanes:
                    self._warm_up(lane, graphs and device.can_capture)
            except BaseException as exc:
                _let_go(exc)  # here, on this thread and under the context
                raise
        how = ["zero-copy" if shared else "copied", "graph replay" if self.captured else "no graph replay"]
        self.device = f"{device.name}, TensorRT {trt.__version__}, {', '.join([device.binding, *how])}"
        return made

    def _make_slot(self, index: int, model: Model, mapped: bool) -> Slot:
        trt, engine, device = self._trt, self._held.engine, self._device
        context = engine.create_execution_context()
        if context is None:
            raise EngineError(
                f"{model.manifest.name}: no execution context {index + 1} on this device{why(self._held.logger)}"
            )
        lane = _Lane(context, [], [], *(device.event() for _ in range(3)))
        self._held.lanes.append(lane)
        named: dict[str, NDArray[Any]] = {}
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            shape = tuple(int(axis) for axis in engine.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            if is_input:
                _check_input(name, shape, dtype, bool(lane.inputs), model)
            elif min(shape, default=1) < 1:
                raise EngineError(
                    f"{model.home}: output {name!r} of the engine is {list(shape)}, want a fixed shape"
                )
            buffer = device.buffer(shape, dtype, mapped)
            if not context.set_tensor_address(name, buffer.address):
                raise EngineError(f"{model.home}: TensorRT takes no address for {name!r}")
            if is_input:
                lane.inputs.append(buffer)
            else:
                lane.outputs.append(buffer)
                named[name] = buffer.host
        if not lane.inputs:
            raise EngineError(f"{model.home}: the engine has no input")
        return Slot(index, lane.inputs[0].host, named)

    def _warm_up(self, lane: _Lane, graphs: bool) -> None:
        """One inference, which TensorRT wants before any capture; then the graph, if there can be one."""
        self._enqueue(lane)
        self._finish(lane)
        if graphs:
            stream = self._device.stream
            lane.graph = self._device.capture(lambda: bool(lane.context.execute_async_v3(stream)))
            if lane.graph is None:
                _LOG.warning("the engine cannot be captured as a CUDA graph; each inference is launched anew")

    def _enqueue(self, lane: _Lane) -> None:
        device = self._device
        for buffer in lane.inputs:
            device.upload(buffer)
        device.record(lane.start)
        if lane.graph is not None:
            device.launch(lane.graph)
        elif not lane.context.execute_async_v3(device.stream):
            raise BackendError(f"TensorRT: the inference could not be queued{why(self._held.logger)}")
        device.record(lane.end)
        for buffer in lane.outputs:
            device.download(buffer)
        device.record(lane.done)

    def _finish(self, lane: _Lane) -> float:
        """Milliseconds of the inference itself, once its outputs are there."""
        self._device.wait(lane.done)
        return self._device.elapsed_ms(lane.start, lane.end)

    def _teardown(self) -> None:
        """Frees what is held in the one order that CUDA allows. What a broken device refuses is logged, not raised:
        the caller is on its way out, often because of that very fault.
        """
        held, self._held = self._held, _Held()
        if held.device is None:
            return
        try:
            with _as_backend_error(), held.device.current():
                self._free_tensorrt(held, held.device)
            with _as_backend_error():
                held.device.close()
        except BackendError as exc:
            _LOG.warning("closing: %s", exc)

    @staticmethod
    def _free_tensorrt(held: _Held, device: Device) -> None:
        try:
            device.synchronize()  # nothing may be freed while the device still uses it
            for lane in held.lanes:
                if lane.graph is not None:
                    device.forget(lane.graph)
        finally:
            for (
                lane
            ) in held.lanes:  # emptied, not only dropped: an exception's traceback may hold the lane itself
                lane.context = lane.graph = lane.start = lane.end = lane.done = None
            held.lanes.clear()  # execution contexts before their engine, the engine before its runtime
            held.engine = None
            held.runtime = None
            held.logger = None


@contextmanager
def _as_backend_error() -> Iterator[None]:
    """TensorRT's binding raises whatever pybind makes of a C++ failure: here it gets our name."""
    try:
        yield
    except EdgeError:
        raise
    except (
        Exception
    ) as exc:  # TypeError for a null object, RuntimeError, MemoryError: no common base but this
        raise BackendError(f"TensorRT: {first_line(exc)}") from exc


def _let_go(exc: BaseException | None) -> None:
    """Empties the frames of a failed opening: TensorRT's objects in them would outlive the context they need."""
    while exc is not None:
        clear_frames(exc.__traceback__)
        exc = exc.__cause__ or exc.__context__


def _check_input(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], second: bool, model: Model) -> None:
    """Raises EngineError or BackendError where the engine's input is not the manifest's."""
    where, spec = str(model.home), model.manifest.input
    if second:
        raise EngineError(f"{where}: the engine has several inputs, want one picture")
    if dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
        raise EngineError(f"{where}: the engine's input is {dtype}, want uint8 or float32")
    if min(shape, default=0) < 1:
        raise EngineError(f"{where}: the engine's input is {list(shape)}, want a fixed shape")
    check_input(spec, name, dtype, where)
    if fix_shape(shape, spec.grid_hw, where, spec.channels) != shape:
        raise EngineError(f"{where}: the engine's input is {list(shape)}, not model.toml's")


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that writes into Python's logging. Its class is made late, for TensorRT is not everywhere."""
    faults = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Log(trt.ILogger):  # type: ignore[misc]  # TensorRT is typed as Any
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)  # for the message of a failure

        def log(self, severity: Any, message: str) -> None:
            if severity in faults:
                self.errors.append(" ".join(message.split()))
            _LOG.debug(
                "%s", message
            )  # a fault is raised and told once; its warnings are about its own business

    return Log()


def why(logger: Any) -> str:
    """The last fault that TensorRT logged, as the end of a message."""
    return f": {logger.errors[-1]}" if logger is not None and logger.errors else ""


def import_tensorrt() -> Any:
    """TensorRT's module. Raises ConfigError with the fix where it is missing."""
    try:
        return import_module("tensorrt")
    except ImportError as exc:
        raise ConfigError(f"TensorRT cannot be imported ({first_line(exc)}); {INSTALL}") from exc


def compile_hint(model: Model) -> str:
    """The command that makes an engine of this model."""
    known = shipped_models().get(model.manifest.name) == model.home
    return f"run edge-runtime compile {model.manifest.name if known else model.home}"


def stored_engine(model: Model, precision: str, gpu: DeviceFacts, version: str) -> Engine:
    """The engine of `model` for this device; for `auto` the one that `compile` chose. Nothing is imported.

    Raises EngineError (missing, of another key, refused by the gate) or ConfigError (no such precision).
    """
    offers = tuple(offer for offer in PRECISIONS if offer in model.manifest.tensorrt)
    if not offers:
        model.tensorrt_graph("int8")  # raises with the way to get one
    if precision != "auto" and precision not in offers:
        raise ConfigError(
            f"--precision {precision}: backend tensorrt runs {model.manifest.name} as {' or '.join(offers)}"
        )
    refusals: list[str] = []
    for offer in offers:
        if precision in ("auto", offer):
            try:
                engine = find_engine(engines_home(), key_for(model, offer, gpu, version))
            except (EngineError, GateError) as exc:
                refusals.append(str(exc))
                continue
            if precision == offer or engine.sidecar.chosen:
                return engine
            refusals.append(f"{engine.path}: was not the one chosen on this device")
    raise EngineError(f"{refusals[0]}; {compile_hint(model)}")


def has_engine(model: Model, precision: str) -> bool:
    """Whether `auto` may mean TensorRT: a GPU, the library, and an engine that passed its gate for both."""
    if not model.manifest.tensorrt or find_spec("tensorrt") is None:
        return False
    gpu = probe().gpu
    if gpu is None:
        return False
    try:
        stored_engine(model, precision, gpu, str(import_tensorrt().__version__))
    except (EngineError, ConfigError):
        return False
    return True


def load(model: Model, precision: str, threads: int) -> TensorRtBackend:
    """The stored engine of `model`, open. Raises ConfigError or BackendError, EngineError among them."""
    found = probe()
    if found.gpu is None:
        raise BackendError(f"backend tensorrt: {found.reason}; edge-runtime doctor says what to do")
    trt = import_tensorrt()
    engine = stored_engine(model, precision, found.gpu, str(trt.__version__))
    try:
        plan = engine.plan()
    except EngineError as exc:
        raise EngineError(f"{exc}; {compile_hint(model)}") from exc
    return TensorRtBackend(plan, model, engine.key.precision, trt=trt)
