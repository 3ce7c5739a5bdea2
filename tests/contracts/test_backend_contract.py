"""What every backend promises, over all of them: slots, results, refusals; and how far they agree, in
pixels and mm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import BackendError, ConfigError, FrameError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.contract import Backend, infer_once
from edge_runtime.infer.backends.table import choose_backend, open_backend
from edge_runtime.infer.model import Model, load_model
from edge_runtime.measure.fetal_head import head_circumference_mm
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame, Origin

BACKENDS = [
    "null",
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed"),
    ),
]
AGREE_PIXELS = 0.002  # share of the grid that may flip between two libraries at the same precision
AGREE_MM = 0.1


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("fetal_head")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, model: Model) -> Iterator[Backend]:
    opened = open_backend(model, request.param, "fp32")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    with open_source("phantom:fetal_head?hc_mm=240&frames=4&seed=11") as source:
        return [frame for frame in source.frames() if isinstance(frame, Frame)]


def noise(backend: Backend, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, backend.slots[0].input.shape, dtype=np.uint8)


def test_there_are_two_slots_or_more_and_none_shares_memory(backend: Backend) -> None:
    arrays = [array for slot in backend.slots for array in (slot.input, *slot.outputs.values())]
    assert len(backend.slots) >= 2
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :])


def test_the_same_frame_gives_the_same_result(backend: Backend) -> None:
    first, second = (infer_once(backend, noise(backend)) for _ in range(2))
    for name, output in first.items():
        np.testing.assert_array_equal(output, second[name])


def test_slots_in_flight_together_give_what_each_gives_alone(backend: Backend) -> None:
    alone = [infer_once(backend, noise(backend, seed)) for seed in range(2)]
    slots = [backend.acquire() for _ in range(2)]
    for seed, slot in enumerate(slots):
        np.copyto(slot.input, noise(backend, seed))
        backend.submit(slot)
    for slot, expected in zip(slots, alone, strict=True):
        backend.wait(slot)
        for name, output in slot.outputs.items():
            np.testing.assert_array_equal(output, expected[name])
        backend.release(slot)


def test_a_slot_belongs_to_one_caller_at_a_time(backend: Backend) -> None:
    slots = [backend.acquire() for _ in backend.slots]
    with pytest.raises(BackendError, match="all .* slots are lent"):
        backend.acquire()
    with pytest.raises(BackendError, match="must be running"):
        backend.wait(slots[0])
    backend.submit(slots[0])
    with pytest.raises(BackendError, match="cannot be released"):
        backend.release(slots[0])
    backend.wait(slots[0])
    for slot in slots:
        backend.release(slot)
    with pytest.raises(BackendError, match="must be lent"):
        backend.submit(slots[0])


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((1, 1, 10, 10), np.uint8),
        np.zeros((1, 1, 192, 288), np.float32),
        np.zeros((192, 288), np.uint8),
    ],
)
def test_a_tensor_of_another_shape_or_dtype_is_refused(backend: Backend, tensor: NDArray[np.generic]) -> None:
    with pytest.raises(BackendError, match="model input: want"):
        infer_once(backend, tensor)
    assert infer_once(backend, noise(backend))  # and no slot was lost


def test_a_closed_backend_is_refused_and_closing_twice_is_nothing(backend: Backend) -> None:
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.acquire()


def test_what_really_runs_is_reported(backend: Backend) -> None:
    assert backend.precision == "fp32"
    assert backend.threads == 1
    assert backend.device


def through(
    model: Model, name: str, precision: str, frames: list[Frame]
) -> tuple[list[NDArray[np.uint8]], list[float]]:
    pipeline = build_pipeline(model, open_backend(model, name, precision))
    try:
        results = [pipeline.step(frame) for frame in frames]
    finally:
        pipeline.close()
    masks = [result.found for result in results if result.found is not None]
    spacings = [frame.spacing for frame in frames if frame.spacing is not None]
    lengths = [
        head_circumference_mm(mask, spacing) or 0.0 for mask, spacing in zip(masks, spacings, strict=True)
    ]
    return [mask.labels for mask in masks], lengths


@pytest.mark.parametrize(
    "harm", ["raise ImportError('libtbb.so.12: no such file')", "raise OSError('GLIBC_2.38')"]
)
def test_a_library_that_does_not_load_is_told_in_one_line(tmp_path: Path, harm: str) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(harm)
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).resolve().parents[2])))
    command = ["run", "--model", "fetal_head", "--source", "phantom:fetal_head?frames=1"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "edge_runtime",
            *command,
            "--backend",
            "openvino",
            "--state",
            str(tmp_path / "s"),
        ],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: backend openvino: openvino is installed and cannot be loaded (")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_and_onnxruntime_agree_in_pixels_and_millimetres(model: Model, frames: list[Frame]) -> None:
    masks, lengths = through(model, "openvino", "fp32", frames)
    others, other_lengths = through(model, "onnxruntime", "fp32", frames)
    flipped = [float(np.mean(a != b)) for a, b in zip(masks, others, strict=True)]
    apart = [abs(a - b) for a, b in zip(lengths, other_lengths, strict=True)]
    assert min(lengths) > 100
    assert max(flipped) <= AGREE_PIXELS
    assert max(apart) <= AGREE_MM


def test_a_precision_that_is_not_to_be_had_is_refused_and_never_replaced(model: Model) -> None:
    with pytest.raises(ConfigError, match="--precision fp16"):
        open_backend(model, "onnxruntime", "fp16")


def test_an_unknown_or_missing_backend_is_named() -> None:
    with pytest.raises(ConfigError, match="choose one of auto, openvino, onnxruntime, null"):
        choose_backend("cuda11")
    assert choose_backend("auto") in ("openvino", "onnxruntime")


# ---------------------------------------------------------------- strangers' models


def stranger(
    folder: Path, shape: list[int | str], body: Callable[[], list[onnx.NodeProto]], out: list[int | str]
) -> Model:
    """A float model of two channels in `folder`, with a manifest of one line."""
    weights = numpy_helper.from_array(np.array([[[[-1.0]]], [[[1.0]]]], np.float32), "w")
    graph = helper.make_graph(
        body(),
        "stranger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [weights],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "model.onnx",
    )
    (folder / "model.toml").write_text('name = "stranger"\n')
    return load_model(str(folder))


def softmax_body() -> list[onnx.NodeProto]:
    return [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Softmax", ["c"], ["y"], axis=1)]


def nan_body() -> list[onnx.NodeProto]:
    return [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Sqrt", ["c"], ["y"])]


def grey(size: tuple[int, int]) -> Frame:
    pixels = np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8)
    return Frame(pixels, 0, 0, Origin(SourceKind.MEMORY, "memory"), "0.x")


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_a_strangers_softmax_model_runs_from_a_directory(name: str, tmp_path: Path) -> None:
    pipeline = _open(stranger(tmp_path, [1, 1, 64, 96], softmax_body, [1, 2, 64, 96]), name)
    result = pipeline.step(grey((64, 96)))
    assert result.mask is not None
    np.testing.assert_array_equal(result.mask.labels, grey((64, 96)).pixels > 0)
    assert result.reasons[-1] is Reason.NO_MEASUREMENT_DEFINED
    pipeline.close()


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_nan_from_a_model_withholds_the_frame_and_says_so(name: str, tmp_path: Path) -> None:
    pipeline = _open(stranger(tmp_path, [1, 1, 64, 96], nan_body, [1, 2, 64, 96]), name)
    result = pipeline.step(grey((64, 96)))
    assert result.mask is None
    assert result.reasons == (Reason.MODEL_OUTPUT_INVALID,)
    assert isinstance(result.error, FrameError)
    assert result.frame.origin.name in str(result.error)
    pipeline.close()


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_a_model_of_the_wrong_shape_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    model = stranger(tmp_path, [1, 1, "h", "w"], softmax_body, [1, 2, "h", "w"])
    with pytest.raises(BackendError, match="set \\[input\\] grid_hw"):
        open_backend(model, name)
    (tmp_path / "model.toml").write_text('name = "stranger"\n[input]\ngrid_hw = [64, 96]\n')
    _open(load_model(str(tmp_path)), name).close()


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_a_presence_of_many_numbers_is_refused(name: str, tmp_path: Path) -> None:
    stranger(tmp_path, [1, 1, 64, 96], softmax_body, [1, 2, 64, 96])
    (tmp_path / "model.toml").write_text('name = "stranger"\n[output]\npresence = "y"\n')
    with pytest.raises(BackendError, match=r"presence output 'y' is \(1, 2, 64, 96\), want \(1, 1\)"):
        _open(load_model(str(tmp_path)), name)


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_a_file_that_is_no_model_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "model.toml").write_text('name = "stranger"\n')
    with pytest.raises(BackendError) as caught:
        open_backend(load_model(str(tmp_path)), name)
    assert "\n" not in str(caught.value)
    assert "model.onnx" in str(caught.value)


def test_a_model_file_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    stranger(tmp_path, [1, 1, 64, 96], softmax_body, [1, 2, 64, 96])
    (tmp_path / "model.toml").write_text(
        f'name = "stranger"\n[artifacts.fp32]\nfile = "model.onnx"\nsha256 = "{"0" * 64}"\n'
    )
    with pytest.raises(ConfigError, match="sha256"):
        load_model(str(tmp_path)).artifact("fp32")


def _open(model: Model, name: str) -> Pipeline:
    return build_pipeline(model, open_backend(model, name))
