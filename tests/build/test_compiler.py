"""One code path builds for every TensorRT; here it runs through tensorrt-rtx, which needs no GPU."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.build.compiler import build_plan, decided_graph, validate, validate_graph
from edge_runtime.commands import compile as command
from edge_runtime.errors import ConfigError, EngineError
from edge_runtime.infer.backends.cuda import probe
from edge_runtime.infer.model import load_model, shipped_models
from tests.infer.cuda_double import Logger

rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has no wheel for this machine"
)
GRAPHS = [
    (name, precision)
    for name, home in sorted(shipped_models().items())
    for precision in ("fp32", *load_model(str(home)).manifest.tensorrt)
]
SHAPE = [1, 8, 16, 16]


def quantized(zero_type: int, *, bias: bool = False, zero: int = 0) -> bytes:
    """A convolution between Q and DQ with this type of zero point; with `bias`, an int32 one that is dequantized."""
    number = helper.tensor_dtype_to_np_dtype(zero_type)
    weights = np.random.default_rng(0).integers(-100, 100, (8, 8, 3, 3)).astype(np.int8)
    initial = {
        "scale": np.array(0.05, np.float32),
        "zero": np.array(zero, number),
        "weights": weights,
        "weight_scale": np.full(8, 0.01, np.float32),
        "weight_zero": np.zeros(8, np.int8),
        "bias_int": np.zeros(8, np.int32),
        "bias_float": np.zeros(8, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], name="stem_quantize"),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], name="stem_dequantize"),
        helper.make_node(
            "DequantizeLinear",
            ["weights", "weight_scale", "weight_zero"],
            ["w"],
            name="weights_dequantize",
            axis=0,
        ),
    ]
    if bias:
        nodes.append(
            helper.make_node(
                "DequantizeLinear", ["bias_int", "weight_scale"], ["b"], name="bias_dequantize", axis=0
            )
        )
    chosen = "b" if bias else "bias_float"
    nodes.append(helper.make_node("Conv", ["xd", "w", chosen], ["y"], name="stem", pads=[1, 1, 1, 1]))
    used = {name for node in nodes for name in node.input}
    return model_of(nodes, {name: array for name, array in initial.items() if name in used})


def model_of(nodes: list[onnx.NodeProto], initial: dict[str, Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(array, name) for name, array in initial.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(made.SerializeToString())


@rtx
@pytest.mark.parametrize(("name", "precision"), GRAPHS)
def test_every_graph_of_every_shipped_model_is_legal(name: str, precision: Any) -> None:
    found = validate(load_model(name), precision)
    assert found.plan_mb > 0.5
    assert found.builder.startswith("tensorrt-rtx 1.")
    assert Path(found.file).is_file()


@rtx
def test_a_sound_quantized_graph_is_legal() -> None:
    assert validate_graph(quantized(TensorProto.INT8), "tiny.onnx").plan_mb > 0


@rtx
@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (
            quantized(TensorProto.UINT8, zero=128),
            "tiny.onnx: TensorRT .* cannot read the graph: .*stem_quantize",
        ),
        (quantized(TensorProto.INT8, zero=3), "Non-zero zero point is not supported"),
        (quantized(TensorProto.INT8, bias=True), "has type Int32 but must have type"),
        (model_of([helper.make_node("Det", ["x"], ["y"], name="d")], {}), "tiny.onnx: onnx.checker refuses"),
        (
            model_of([helper.make_node("Bernoulli", ["x"], ["y"], name="coin")], {}),
            "tiny.onnx: TensorRT .* cannot read the graph: .*coin",
        ),
        (
            model_of([helper.make_node("Cast", ["x"], ["y"], name="wide", to=TensorProto.DOUBLE)], {}),
            "onnx.checker refuses the graph",
        ),
    ],
    ids=["uint8", "zero point", "int32 bias", "wrong shape", "no such operator", "float64"],
)
def test_a_graph_that_tensorrt_would_refuse_is_refused_here_with_the_reason(graph: bytes, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        validate_graph(graph, "tiny.onnx")
    assert "\n" not in str(caught.value)


@rtx
def test_progress_only_rises() -> None:
    told: list[float] = []
    validate(load_model("fetal_head"), "fp32", progress=lambda phase, share: told.append(share))
    assert len(told) > 20
    assert told == sorted(told)
    assert 0 < told[0] < told[-1] <= 1


@rtx
def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(EngineError, match=r"junk\.onnx: onnx.checker refuses"):
        validate_graph(b"not a graph", "junk.onnx")


def test_a_missing_validator_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ConfigError, match="pip install tensorrt-rtx"):
        validate(load_model("fetal_head"), "fp32")


def test_what_is_compiled_decides_by_itself() -> None:
    graph, path, digest = decided_graph(load_model("fetal_head"), "fp32")
    names = [value.name for value in onnx.load_model_from_string(graph).graph.output]
    assert names[0] == "decided_labels"
    assert (path, digest) == load_model("fetal_head").artifact("fp32")


# ---------------------------------------------------------------- a builder that fails


def builder_that(**gives: Any) -> Any:
    """A TensorRT whose builder gives this; everything before it works."""
    config = SimpleNamespace(
        set_memory_pool_limit=lambda pool, size: None,
        create_timing_cache=lambda content: SimpleNamespace(serialize=lambda: content + b" and more"),
        set_timing_cache=lambda cache, ignore: True,
    )
    parser = SimpleNamespace(parse=lambda graph: True, num_errors=0)
    builder = SimpleNamespace(
        create_network=lambda flags: object(), create_builder_config=lambda: config, **gives
    )
    return SimpleNamespace(
        __version__="10.3.0",
        ILogger=Logger,
        Builder=lambda logger: builder,
        OnnxParser=lambda network, logger: parser,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        MemoryPoolType=SimpleNamespace(WORKSPACE=0),
    )


def test_a_builder_that_gives_nothing_is_an_error() -> None:
    with pytest.raises(
        EngineError, match="tiny int8: TensorRT 10.3.0 cannot build the graph: it gave no reason"
    ):
        build_plan(builder_that(build_serialized_network=lambda network, config: None), b"", "tiny int8")


def test_a_builder_that_raises_is_an_error_of_one_line() -> None:
    def out_of_memory(network: Any, config: Any) -> None:
        raise MemoryError("no 2.5 GB for kernels\nand a second line")

    with pytest.raises(EngineError, match="cannot build here: no 2.5 GB for kernels$"):
        build_plan(builder_that(build_serialized_network=out_of_memory), b"", "tiny int8")


def test_what_the_builder_learned_comes_back_and_none_is_kept_where_none_was_asked_for() -> None:
    trt = builder_that(build_serialized_network=lambda network, config: b"a plan")
    assert build_plan(trt, b"", "tiny", timing_cache=b"earlier").timing_cache == b"earlier and more"
    assert build_plan(trt, b"", "tiny").timing_cache == b""


# ---------------------------------------------------------------- the command


@rtx
def test_validate_only_tells_of_every_graph() -> None:
    report = command.run("fetal_head", validate_only=True)
    assert {one.precision for one in report.validated} == {
        "fp32",
        *load_model("fetal_head").manifest.tensorrt,
    }
    assert report.engine is None
    assert "legal for onnx" in command.lines(report)[0]


@rtx
def test_a_model_without_graphs_for_tensorrt_is_told_how_to_get_them(tmp_path: Path) -> None:
    path, _ = load_model("fetal_head").artifact("fp32")
    (tmp_path / "model.onnx").write_bytes(path.read_bytes())
    (tmp_path / "model.toml").write_text('name = "bare"\n[output]\nmask = "mask"\n')
    assert "edge-runtime quantize makes them" in (command.run(str(tmp_path), validate_only=True).note or "")


@pytest.mark.skipif(probe().gpu is not None, reason="this machine has a GPU")
def test_without_a_gpu_compiling_says_what_was_looked_for_and_what_to_do() -> None:
    with pytest.raises(
        EngineError, match="no GPU here: .*run edge-runtime compile fetal_head on the device"
    ) as caught:
        command.run("fetal_head")
    assert "--validate-only" in str(caught.value)
    assert "\n" not in str(caught.value)
