"""The TensorRT backend as its callers see it: the contract of all backends, engines it takes and engines it refuses.

The device and TensorRT are stand-ins that compute (`cuda_double.py`); files, keys and the pipeline are real.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import BackendError, ConfigError, EngineError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends import tensorrt
from edge_runtime.infer.backends.contract import infer_once
from edge_runtime.infer.backends.cuda import DeviceFacts, probe
from edge_runtime.infer.backends.engine_file import (
    Sidecar,
    Verdict,
    engines_home,
    key_for,
    plan_path,
    sidecar_path,
)
from edge_runtime.infer.backends.table import choose_backend, open_backend
from edge_runtime.infer.backends.tensorrt import TensorRtBackend, stored_engine
from edge_runtime.infer.model import Model, load_model
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame
from tests.infer.cuda_double import Gpu, tensorrt_of

ORIN = DeviceFacts("Orin", "8.7", 8, "12.6", True)
THOR = DeviceFacts("Thor", "11.0", 20, "13.0", True)
TENSORRT = "10.3.0"


@pytest.fixture
def backend() -> Iterator[TensorRtBackend]:
    gpu = Gpu()
    opened = TensorRtBackend(
        b"plan", load_model("fetal_head"), "fp16", trt=tensorrt_of(gpu), open_device=gpu.opened
    )
    yield opened
    opened.close()
    assert gpu.broken == []


def noise(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (1, 1, 192, 288), dtype=np.uint8)


def test_it_has_two_slots_that_share_no_memory(backend: TensorRtBackend) -> None:
    arrays = [array for slot in backend.slots for array in (slot.input, *slot.outputs.values())]
    assert len(backend.slots) == 2
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :])


def test_a_slot_belongs_to_one_caller_at_a_time(backend: TensorRtBackend) -> None:
    slots = [backend.acquire() for _ in backend.slots]
    with pytest.raises(BackendError, match="all 2 slots are lent"):
        backend.acquire()
    with pytest.raises(BackendError, match="must be running"):
        backend.wait(slots[0])
    backend.submit(slots[0])
    with pytest.raises(BackendError, match="cannot be released"):
        backend.release(slots[0])
    backend.wait(slots[0])


def test_a_tensor_of_another_shape_is_refused(backend: TensorRtBackend) -> None:
    with pytest.raises(BackendError, match="model input: want"):
        infer_once(backend, np.zeros((1, 1, 10, 10), np.uint8))
    assert infer_once(backend, noise())


def test_after_closing_nothing_can_be_read_from_freed_memory(backend: TensorRtBackend) -> None:
    slot = backend.slots[0]
    backend.close()
    assert slot.input.size == 0
    assert slot.outputs == {}
    with pytest.raises(BackendError, match="closed"):
        backend.acquire()
    with pytest.raises(BackendError, match="closed"):
        backend.used_bytes()


def test_what_runs_is_said(backend: TensorRtBackend) -> None:
    assert backend.precision == "fp16"
    assert backend.device == "Double, TensorRT 10.3.0, double, copied, graph replay"


def test_the_pipeline_reads_a_frame_through_it(backend: TensorRtBackend) -> None:
    with open_source("phantom:fetal_head?hc_mm=240&frames=1&seed=3") as source:
        frame = next(frame for frame in source.frames() if isinstance(frame, Frame))
    pipeline = build_pipeline(load_model("fetal_head"), backend)
    result = pipeline.step(frame)
    assert result.mask is not None
    assert 0.99 <= result.mask.confidence[0] <= 1.0  # of a network whose probabilities are 0 and 1
    assert result.mask.presence == 1.0


def test_an_input_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text('name = "other"\n[input]\nname = "picture"\n')
    gpu = Gpu()
    with pytest.raises(BackendError, match="model.toml says input 'picture', the graph's is 'image'"):
        TensorRtBackend(
            b"plan", load_model(str(tmp_path)), "fp16", trt=tensorrt_of(gpu), open_device=gpu.opened
        )
    assert gpu.closed


# ---------------------------------------------------------------- engines in the cache


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A bundle with graphs for TensorRT, and an empty cache."""
    monkeypatch.setenv("EDGE_RUNTIME_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "bundle"
    home.mkdir()
    lines = ['name = "tiny"', "[tensorrt]"]
    for precision in ("fp16", "int8"):
        (home / f"model.{precision}.onnx").write_bytes(f"a graph in {precision}".encode())
        lines.append(f'{precision} = {{ file = "model.{precision}.onnx" }}')
    (home / "model.toml").write_text("\n".join(lines) + "\n")
    return load_model(str(home))


def store(
    model: Model, precision: Any, gpu: DeviceFacts = ORIN, *, passed: bool = True, chosen: bool = True
) -> Path:
    """An engine as `compile` leaves it."""
    key = key_for(model, precision, gpu, TENSORRT)
    plan = plan_path(engines_home(), key)
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(b"plan of " + precision.encode())
    sidecar = Sidecar(
        model="tiny",
        key=key,
        plan_sha256=hashlib.sha256(plan.read_bytes()).hexdigest(),
        plan_bytes=plan.stat().st_size,
        built_at="2026-01-01T00:00:00Z",
        build_s=1.0,
        gate=Verdict(passed, "mean Dice 0.4, want 0.985", 32),
        chosen=chosen,
    )
    sidecar_path(plan).write_bytes(msgspec.json.encode(sidecar))
    return plan


def test_auto_takes_the_engine_that_compile_chose(model: Model) -> None:
    store(model, "int8", chosen=False)
    store(model, "fp16")
    assert stored_engine(model, "auto", ORIN, TENSORRT).key.precision == "fp16"
    assert stored_engine(model, "int8", ORIN, TENSORRT).plan() == b"plan of int8"


def test_without_an_engine_the_way_to_get_one_is_said(model: Model) -> None:
    with pytest.raises(EngineError, match=f"run edge-runtime compile {model.home}"):
        stored_engine(model, "auto", ORIN, TENSORRT)


def test_an_engine_that_the_gate_refused_is_never_taken(model: Model) -> None:
    store(model, "int8", passed=False)
    for asked in ("auto", "int8"):
        with pytest.raises(EngineError, match="the gate refused this engine: mean Dice 0.4"):
            stored_engine(model, asked, ORIN, TENSORRT)


@pytest.mark.parametrize(
    ("gpu", "version"),
    [
        (THOR, TENSORRT),
        (ORIN, "10.16.2"),
        (DeviceFacts("Orin", "8.7", 16, "12.6", True), TENSORRT),
        (DeviceFacts("Orin", "8.7", 8, "13.2", True), TENSORRT),
    ],
    ids=["another device", "another TensorRT", "more SMs", "another driver"],
)
def test_an_engine_of_another_key_is_not_taken(gpu: DeviceFacts, version: str, model: Model) -> None:
    store(model, "int8")
    with pytest.raises(EngineError, match="there is no engine for this model on this device"):
        stored_engine(model, "int8", gpu, version)


def test_a_sidecar_under_another_keys_name_is_not_believed(model: Model) -> None:
    plan = store(model, "int8", THOR)
    other = plan_path(engines_home(), key_for(model, "int8", ORIN, TENSORRT))
    plan.rename(other)
    sidecar_path(plan).rename(sidecar_path(other))
    with pytest.raises(EngineError, match="is of another model, TensorRT, driver or device"):
        stored_engine(model, "int8", ORIN, TENSORRT)


def test_another_manifest_is_another_engine(model: Model) -> None:
    store(model, "int8")
    (model.home / "model.toml").write_text(
        (model.home / "model.toml").read_text() + "\n[gate]\nmin_frames = 40\n"
    )
    with pytest.raises(EngineError, match="there is no engine"):
        stored_engine(load_model(str(model.home)), "int8", ORIN, TENSORRT)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "empty"])
def test_a_damaged_plan_is_refused(damage: str, model: Model) -> None:
    plan = store(model, "int8")
    if damage == "gone":
        plan.unlink()
    else:
        plan.write_bytes({"cut": b"plan of", "changed": b"plan of xxx8", "empty": b""}[damage])
    with pytest.raises(EngineError, match="is damaged|is missing"):
        stored_engine(model, "int8", ORIN, TENSORRT).plan()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff\xfe", b'{"schema": 99}'])
def test_a_damaged_sidecar_is_refused_in_one_line(content: bytes, model: Model) -> None:
    sidecar_path(store(model, "int8")).write_bytes(content)
    with pytest.raises(EngineError, match="is damaged") as caught:
        stored_engine(model, "int8", ORIN, TENSORRT)
    assert "\n" not in str(caught.value)


def test_a_precision_that_tensorrt_does_not_run_is_a_wrong_flag(model: Model) -> None:
    with pytest.raises(ConfigError, match="runs tiny as int8 or fp16"):
        stored_engine(model, "fp32", ORIN, TENSORRT)


def test_a_model_without_graphs_for_tensorrt_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text('name = "bare"\n')
    with pytest.raises(ConfigError, match="edge-runtime quantize makes one"):
        stored_engine(load_model(str(tmp_path)), "auto", ORIN, TENSORRT)


def test_auto_means_tensorrt_only_with_a_gpu_the_library_and_an_engine(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(model, "int8")
    found = [probe()]
    monkeypatch.setattr(tensorrt, "probe", lambda: found[0])
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: object())
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda: tensorrt_of(Gpu()))
    assert not tensorrt.has_engine(model, "auto") or found[0].gpu is not None
    found[0] = type(found[0])(ORIN, "Orin")
    assert tensorrt.has_engine(model, "auto")
    assert tensorrt.has_engine(model, "int8")
    assert not tensorrt.has_engine(model, "fp16")
    assert not tensorrt.has_engine(model, "fp32")
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    assert not tensorrt.has_engine(model, "auto")


@pytest.mark.skipif(probe().gpu is not None, reason="this machine has a GPU")
def test_without_a_gpu_auto_is_a_cpu_backend_and_tensorrt_says_what_is_missing(model: Model) -> None:
    assert choose_backend("auto", model) in ("openvino", "onnxruntime")
    with pytest.raises((BackendError, ConfigError), match="doctor"):
        open_backend(model, "tensorrt")
