"""The runner keeps CUDA's rules, shown against a stand-in that enforces them; and that stand-in catches a runner that
does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BackendError, EngineError
from edge_runtime.infer.backends.contract import infer_once
from edge_runtime.infer.backends.tensorrt import TensorRtBackend, _Held, _Lane
from edge_runtime.infer.model import Model, load_model
from edge_runtime.infer.postprocess import LABELS
from tests.infer.cuda_double import Gpu, RuleBrokenError, tensorrt_of

PLAN = b"plan"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("fetal_head")


@pytest.fixture(
    params=[
        pytest.param(Gpu, id="copies and graphs"),
        pytest.param(lambda: Gpu(integrated=True), id="zero-copy"),
        pytest.param(lambda: Gpu(can_capture=False), id="no graphs, as pycuda"),
        pytest.param(lambda: Gpu(capture_fails=True), id="capture fails"),
    ]
)
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    made: Gpu = request.param()
    yield made
    assert made.broken == []


def opened(
    gpu: Gpu, model: Model, kind: type[TensorRtBackend] = TensorRtBackend, plan: bytes = PLAN, **how: Any
) -> Any:
    return kind(plan, model, "int8", trt=tensorrt_of(gpu), open_device=gpu.opened, **how)


def noise(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (1, 1, 192, 288), dtype=np.uint8)


def test_a_whole_life_keeps_every_rule(gpu: Gpu, model: Model) -> None:
    backend = opened(gpu, model)
    for seed in range(3):
        np.testing.assert_array_equal(infer_once(backend, noise(seed))[LABELS][0], noise(seed)[0, 0] > 127)
    backend.close()
    backend.close()
    assert gpu.closed
    assert gpu.calls[-1] == "close"
    order = [call for call in gpu.calls if call.startswith("destroy")]
    assert order == ["destroy context 1", "destroy context 2", "destroy engine", "destroy runtime"]


def test_slots_in_flight_together_do_not_mix(gpu: Gpu, model: Model) -> None:
    backend = opened(gpu, model)
    slots = [backend.acquire() for _ in range(2)]
    for seed, slot in enumerate(slots):
        np.copyto(slot.input, noise(seed))
        backend.submit(slot)
    for seed, slot in reversed(list(enumerate(slots))):
        backend.wait(slot)
        np.testing.assert_array_equal(slot.outputs[LABELS][0], noise(seed)[0, 0] > 127)
        assert slot.infer_ms == 1.25
        backend.release(slot)
    backend.close()


def test_closing_in_the_middle_of_an_inference_waits_for_it(gpu: Gpu, model: Model) -> None:
    backend = opened(gpu, model)
    backend.submit(backend.acquire())
    backend.close()
    assert gpu.closed


def test_calls_from_many_threads_reach_the_device_from_one(gpu: Gpu, model: Model) -> None:
    backend = opened(gpu, model)
    for seed in range(3):
        caller = threading.Thread(target=lambda seed=seed: infer_once(backend, noise(seed)))
        caller.start()
        caller.join()
    backend.close()


def test_graphs_are_replayed_where_they_can_be_captured(model: Model) -> None:
    for gpu, replayed in ((Gpu(), 2), (Gpu(can_capture=False), 0), (Gpu(capture_fails=True), 0)):
        backend = opened(gpu, model)
        assert backend.captured == bool(replayed)
        for _ in range(2):
            infer_once(backend, noise())
        assert gpu.launched == replayed
        backend.close()
        assert gpu.broken == []


@pytest.mark.parametrize("plan", [b"bad plan", b"small plan"])
def test_an_opening_that_fails_leaves_nothing_behind(gpu: Gpu, model: Model, plan: bytes) -> None:
    with pytest.raises(EngineError) as caught:
        opened(gpu, model, plan=plan)
    assert "\n" not in str(caught.value)
    assert gpu.closed  # although the exception, and with it the frames it came from, is still held here


@pytest.mark.parametrize(
    "call", ["buffer", "set_tensor_address", "event", "execute_async_v3", "wait", "capture"]
)
def test_an_opening_that_breaks_anywhere_is_one_clear_error_and_leaves_nothing_behind(
    call: str, model: Model
) -> None:
    gpu = Gpu(fails_at=call)
    with pytest.raises(BackendError, match="fell off the bus"):
        opened(gpu, model)
    assert gpu.closed
    assert gpu.broken == []


@pytest.mark.parametrize("call", ["upload", "launch", "record", "download", "wait", "elapsed_ms"])
def test_an_inference_that_fails_is_a_backend_error_and_closing_still_works(call: str, model: Model) -> None:
    gpu = Gpu()
    backend = opened(gpu, model)
    gpu.fails_at = call
    with pytest.raises(BackendError, match="fell off the bus"):
        infer_once(backend, noise())
    gpu.fails_at = ""
    infer_once(backend, noise())  # and no slot was lost
    backend.close()
    assert gpu.closed
    assert gpu.broken == []


def test_a_device_that_fails_for_good_can_still_be_closed(model: Model) -> None:
    gpu = Gpu()
    backend = opened(gpu, model)
    gpu.fails_at = "synchronize"
    backend.close()
    assert "destroy runtime" in gpu.calls


# ---------------------------------------------------------------- runners that break a rule, and are caught


class ReadsTooEarly(TensorRtBackend):
    def _finish(self, lane: _Lane) -> float:
        return self._device.elapsed_ms(lane.start, lane.end)


class CapturesCold(TensorRtBackend):
    def _warm_up(self, lane: _Lane, graphs: bool) -> None:
        lane.graph = self._device.capture(lambda: bool(lane.context.execute_async_v3(self._device.stream)))


class ClosesTheContextFirst(TensorRtBackend):
    def _teardown(self) -> None:
        held, self._held = self._held, _Held()
        assert held.device is not None
        with held.device.current():
            held.device.synchronize()
        held.device.close()


class ForgetsItsGraphs(TensorRtBackend):
    @staticmethod
    def _free_tensorrt(held: _Held, device: Any) -> None:
        device.synchronize()
        held.lanes.clear()
        held.engine = held.runtime = None


class DropsTheEngineFirst(TensorRtBackend):
    @staticmethod
    def _free_tensorrt(held: _Held, device: Any) -> None:
        device.synchronize()
        for lane in held.lanes:
            device.forget(lane.graph)
        held.engine = None
        held.lanes.clear()
        held.runtime = None


class FreesWhatIsInUse(TensorRtBackend):
    @staticmethod
    def _free_tensorrt(held: _Held, device: Any) -> None:
        for lane in held.lanes:
            device.forget(lane.graph)
        held.lanes.clear()
        held.engine = held.runtime = None


class WorksWithoutTheContext(TensorRtBackend):
    def _run(self, task: Callable[[], Any]) -> Any:
        return task()


class CallsFromTheCallersThread(TensorRtBackend):
    def submit(self, slot: Any, /) -> None:
        self._ledger.move(slot, "lent", "running")
        with self._device.current():
            self._enqueue(self._held.lanes[slot.index])


class KeepsUsingIt(TensorRtBackend):
    def close(self) -> None:
        lane, device = self._held.lanes[0], self._device
        super().close()
        self._owner_again(lambda: device.upload(lane.inputs[0]))

    def _owner_again(self, task: Callable[[], None]) -> None:
        task()


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (ReadsTooEarly, "have not passed yet"),
        (CapturesCold, "captured before one plain inference"),
        (ClosesTheContextFirst, "the context destroyed before"),
        (ForgetsItsGraphs, "before its graphs"),
        (DropsTheEngineFirst, "engine destroyed before what it made"),
        (FreesWhatIsInUse, "while the device works"),
        (WorksWithoutTheContext, "without the context"),
        (CallsFromTheCallersThread, "another thread"),
        (KeepsUsingIt, "after close"),
    ],
)
def test_a_runner_that_breaks_a_rule_is_caught(kind: type[TensorRtBackend], rule: str, model: Model) -> None:
    gpu = Gpu()
    try:
        backend = opened(gpu, model, kind)
        infer_once(backend, noise())
        backend.submit(backend.acquire())  # in flight while it is closed
        backend.close()
    except (BackendError, RuleBrokenError):
        pass
    assert any(rule in broken for broken in gpu.broken), gpu.broken


def test_the_default_stream_is_caught(model: Model) -> None:
    gpu = Gpu(stream_handle=0)
    with pytest.raises(BackendError, match="default stream"):
        opened(gpu, model)
