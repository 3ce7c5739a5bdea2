"""The linter on graphs that other tools made, on damaged ones, and as a command on files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_runtime.build.lint import Problem, lint
from edge_runtime.commands import lint as command
from edge_runtime.infer.model import load_model
from tests.build.lint_cases import as_text, drawn
from tests.build.qdq import CHANNELS, SIDE, Net
from tests.e2e.command import edge_runtime

# ---- graphs that others made ----------------------------------------------------------------------------------------

TENSORRT_STYLE = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
}


def small_network() -> onnx.ModelProto:
    """A float residual network: first, two inner ones, head, Sigmoid."""
    net = Net(rest=np.float32)

    def conv(x: str, inside: int, outside: int, name: str) -> str:
        weights = net.weights((outside, inside, 3, 3), int8=False)
        return net.conv(x, weights, net.constant(np.full(outside, 0.1)), name=name)

    x = net.relu(conv(net.input(shape=(1, 3, SIDE, SIDE)), 3, CHANNELS, "first"))
    y = conv(net.relu(conv(x, CHANNELS, CHANNELS, "inner")), CHANNELS, CHANNELS, "second")
    y = net.relu(net.node("Add", x, y, name="add"))
    net.output(net.node("Sigmoid", conv(y, CHANNELS, 1, "head"), name="sigmoid"), (1, 1, SIDE, SIDE))
    return net.model()


def quantized_by_onnxruntime(folder: Path, **options: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Frames(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self.frames = iter([{"x": random.random((1, 3, SIDE, SIDE), np.float32)} for _ in range(2)])

        def get_next(self) -> Any:
            return next(self.frames, None)

    onnx.save(small_network(), folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "int8.onnx", Frames(), **options)
    return onnx.load(folder / "int8.onnx")


def test_onnxruntime_with_its_defaults_breaks_tensorrts_rules(tmp_path: Path) -> None:
    problems = lint(quantized_by_onnxruntime(tmp_path))
    errors = Counter(problem.code for problem in problems if problem.severity == "error")
    assert set(errors) == {"Q01-zero-point", "Q04-bias"}
    assert errors["Q04-bias"] == 4  # each convolution's
    assert all("int32" in problem.message for problem in problems if problem.code == "Q04-bias")


def test_onnxruntime_in_tensorrts_style_still_quantizes_before_the_relu(tmp_path: Path) -> None:
    problems = lint(quantized_by_onnxruntime(tmp_path, per_channel=True, extra_options=TENSORRT_STYLE))
    assert not [problem for problem in problems if problem.severity == "error"], as_text(problems)
    between = [problem.message for problem in problems if problem.code == "P04-before-activation"]
    assert sum("between Conv" in message for message in between) == 2
    assert sum("between Add add" in message for message in between) == 1
    assert {"P12-first-conv", "P13-head", "S03-fp32-rest"} <= {problem.code for problem in problems}


def test_the_fixes_that_lint_names_make_onnxruntimes_graph_pass(tmp_path: Path) -> None:
    model = quantized_by_onnxruntime(
        tmp_path,
        per_channel=True,
        nodes_to_exclude=["first", "head", "sigmoid"],
        op_types_to_quantize=["Conv", "Add"],
        extra_options={**TENSORRT_STYLE, "OpTypesToExcludeOutputQuantization": ["Conv", "Add"]},
    )
    assert {problem.code for problem in lint(model)} == {"S03-fp32-rest"}  # the one it has no option for


def test_onnxruntimes_operator_format_is_refused(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat

    problems = lint(quantized_by_onnxruntime(tmp_path, quant_format=QuantFormat.QOperator))
    assert {"G11-foreign-operator", "G12-integer-operator"} <= {problem.code for problem in problems}


def test_the_shipped_model_passes() -> None:
    path, _ = load_model("fetal_head").artifact("fp32")
    assert not lint(onnx.load(path))


# ---- graphs that are no graphs --------------------------------------------------------------------------------------


def damaged(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model without one of its nodes, constants or node inputs, and with one tensor led back to the start."""
    for field in ("node", "initializer", "input", "output", "opset_import"):
        part = model if field == "opset_import" else model.graph
        for index in range(len(getattr(part, field))):
            copy = onnx.ModelProto.FromString(model.SerializeToString())
            del getattr(copy if field == "opset_import" else copy.graph, field)[index]
            yield copy
    for index, node in enumerate(model.graph.node):
        for position in range(len(node.input)):
            copy = onnx.ModelProto.FromString(model.SerializeToString())
            del copy.graph.node[index].input[position:]
            yield copy
            copy = onnx.ModelProto.FromString(model.SerializeToString())
            copy.graph.node[index].input[position] = model.graph.node[-1].output[0]
            yield copy


@pytest.mark.parametrize("name", ["residual", "concat", "int32_bias", "pool_inside_a_pair", "gemm_axis"])
def test_a_damaged_graph_is_reported_and_never_raises(name: str) -> None:
    reported = [bool(lint(model)) for model in damaged(drawn(name, broken=True))]
    assert len(reported) > 30
    assert sum(reported) >= 0.9 * len(reported)  # some of the damage leaves a graph that is whole


def test_names_that_are_no_text_are_reported() -> None:
    content = drawn("residual", broken=False).SerializeToString()
    damaged = onnx.load_model_from_string(content.replace(b"conv.out", b"conv\xff\xfe\xff\xff"))
    (problem,) = lint(damaged)
    assert (problem.code, problem.severity) == ("G01-onnx", "error")


def test_the_model_is_left_as_it_was() -> None:
    model = drawn("residual", broken=True)
    before = model.SerializeToString(deterministic=True)
    lint(model)
    assert model.SerializeToString(deterministic=True) == before


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_tells_node_reason_and_fix_and_fails_on_an_error(tmp_path: Path) -> None:
    onnx.save(drawn("int32_bias", broken=True), tmp_path / "bad.onnx")
    done = edge_runtime("lint", "bad.onnx", cwd=tmp_path)
    assert done.code == 1
    assert "error Q04-bias: keep the bias in float: extra_options QuantizeBias=False" in done.out
    assert "    b_dq: dequantizes the bias of conv from int32, wanted a float bias" in done.out
    assert done.out.endswith("bad.onnx: 1 error, 0 warnings\n")
    assert not done.err
    (problem,) = edge_runtime("lint", "bad.onnx", "--json", cwd=tmp_path).json["problems"]
    assert set(problem) == {"code", "severity", "node", "message", "fix"}
    assert (problem["code"], problem["severity"], problem["node"]) == ("Q04-bias", "error", "b_dq")


def test_the_command_succeeds_with_warnings_only(tmp_path: Path) -> None:
    onnx.save(drawn("residual", broken=True), tmp_path / "slow.onnx")
    report = edge_runtime("lint", "slow.onnx", "--json", cwd=tmp_path)
    assert report.code == 0
    assert (report.json["errors"], report.json["warnings"]) == (0, 1)


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04", b"\x08\x08\x12\x02hi"])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert "model.onnx" in edge_runtime("lint", "model.onnx", cwd=tmp_path).failed_in_one_line(2)


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "none.onnx" in edge_runtime("lint", "none.onnx", cwd=tmp_path).failed_in_one_line(2)
    assert str(tmp_path) in edge_runtime("lint", tmp_path, cwd=tmp_path).failed_in_one_line(2)


def test_weights_in_another_file_that_is_missing_are_named(tmp_path: Path) -> None:
    onnx.save(
        drawn("residual", broken=False),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert edge_runtime("lint", "model.onnx", "--json", cwd=tmp_path).json["problems"] == []
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in edge_runtime("lint", "model.onnx", cwd=tmp_path).failed_in_one_line(2)


def test_the_text_shows_a_rule_once_with_its_first_nodes() -> None:
    problems = tuple(
        Problem("Q01-zero-point", "error", f"q{n}", "zero point is 3", "do it") for n in range(7)
    )
    told = command.lines(command.LintReport("m.onnx", 7, 0, problems))
    assert told[0] == "error Q01-zero-point (7): do it"
    assert told[-2:] == ["    and 2 more", "m.onnx: 7 errors, 0 warnings"]
    assert len(told) == 8
