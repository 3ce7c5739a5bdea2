"""Q/DQ pairs stand where TensorRT fuses them, and the two graphs that come of it compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.build.cpu_graph import not_negative, to_cpu
from edge_runtime.build.emulate import emulated
from edge_runtime.build.half import to_half
from edge_runtime.build.lint import lint
from edge_runtime.build.observe import observe
from edge_runtime.build.place import (
    SMALLEST_SCALE,
    Plan,
    insert,
    layers_of,
    plan_of,
    quantized_weights,
    scale_for,
)
from edge_runtime.build.view import View
from edge_runtime.errors import ConfigError
from tests.build.graphs import Sketch, group_of, images, residual, run

QUANTIZED = ("first", "second", "bottom", "narrow", "last", "head")


def whole_plan(model: onnx.ModelProto) -> Plan:
    return plan_of(model, tuple(name for name in layers_of(model) if name != "stem"))


def scales(model: onnx.ModelProto, plan: Plan, spread: float = 1.0) -> dict[str, float]:
    seen = observe(model, list(plan.points), images(8))
    return {
        tensor: scale_for(spread * max(seen[name].largest for name in group_of(plan, tensor)))
        for tensor in plan.points
    }


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return residual()


@pytest.fixture(scope="module")
def placed(model: onnx.ModelProto) -> onnx.ModelProto:
    plan = whole_plan(model)
    return insert(model, plan, scales(model, plan))


def test_every_convolution_with_constant_weights_is_a_layer(model: onnx.ModelProto) -> None:
    assert layers_of(model) == ("stem", *QUANTIZED)


def test_inputs_of_layers_and_both_branches_of_a_sum_are_quantized(model: onnx.ModelProto) -> None:
    points = whole_plan(model).points
    assert points["first.relu"] == {"second", "sum", "join"}
    assert points["second"] == {"sum"}
    assert points["larger"] == {"merge"}
    assert points["sum.relu"] >= {"merge", "pool"}


def test_what_only_moves_values_has_one_scale_on_all_sides(model: onnx.ModelProto) -> None:
    plan = whole_plan(model)
    assert {"narrow", "larger"} <= group_of(plan, "larger")
    assert {"pool", "sum.relu"} <= group_of(plan, "pool")
    assert {"join", "merge.relu", "first.relu"} <= group_of(plan, "join")
    assert sum(len(group) for group in plan.groups) == len(plan.points)


def test_nothing_stands_between_a_convolution_and_its_relu(placed: onnx.ModelProto) -> None:
    view = View.of(placed)
    for node in view.of_type("Relu"):
        assert view.producers[node.input[0]].op_type in ("Conv", "Add")


def test_biases_stay_float_and_weights_have_a_scale_for_each_channel(placed: onnx.ModelProto) -> None:
    view = View.of(placed)
    for node in view.of_type("Conv"):
        assert node.input[2] in view.initializers
        if node.name == "stem":
            continue
        dequantize = view.producers[node.input[1]]
        values, scale = (view.constant(name) for name in dequantize.input[:2])
        assert values is not None and scale is not None
        assert values.dtype == np.int8
        assert scale.shape == (values.shape[0],)


def test_the_linter_finds_nothing_wrong_in_what_is_placed(placed: onnx.ModelProto) -> None:
    assert [problem for problem in lint(to_half(placed)) if problem.severity == "error"] == []


def test_a_layer_alone_leaves_the_others_as_they_are(model: onnx.ModelProto) -> None:
    plan = plan_of(model, ("bottom",))
    alone = View.of(insert(model, plan, scales(model, plan)))
    assert {"bottom"} == {
        node.name for node in alone.of_type("Conv") if alone.producers.get(node.input[1]) is not None
    }


@pytest.mark.parametrize("seed", range(5))
def test_int8_is_close_to_fp32_and_not_the_same(seed: int) -> None:
    model = residual(seed)
    plan = whole_plan(model)
    placed = insert(model, plan, scales(model, plan))
    away = [np.abs(run(model, x) - run(placed, x)).max() for x in images(3)]
    assert 0 < max(away) < 0.05


def test_a_scale_eight_times_too_large_is_far_from_fp32(model: onnx.ModelProto) -> None:
    plan = whole_plan(model)
    right = scales(model, plan)
    fine, harmful = (
        insert(model, plan, right),
        insert(
            model,
            plan,
            {**right, "last": 1.0}
            | {"join": right["join"] * 8, "merge.relu": right["join"] * 8, "first.relu": right["join"] * 8},
        ),
    )
    x = images(1)[0]
    assert np.abs(run(model, x) - run(harmful, x)).mean() > 3 * np.abs(run(model, x) - run(fine, x)).mean()


def test_half_keeps_types_at_the_ends_and_has_no_float32_inside(placed: onnx.ModelProto) -> None:
    half = to_half(placed)
    inferred = View.of(half)
    floats = {
        name
        for name, kind in inferred.types.items()
        if kind == onnx.TensorProto.FLOAT and name not in ("image", "mask")
    }
    assert floats == {"larger.scales"}
    assert np.abs(run(half, images(1)[0]) - run(placed, images(1)[0])).max() < 0.05


def test_a_constant_that_fp16_cannot_hold_is_refused() -> None:
    s = Sketch()
    s.constant("huge", np.array(1e6, np.float32))
    model = s.model(s.node("Mul", "image", "huge", name="mask"))
    with pytest.raises(ConfigError, match=r"'huge' holds 1e\+06, more than FP16"):
        to_half(model)


def test_emulation_rounds_to_the_nearest_step_on_every_onnxruntime() -> None:
    s = Sketch((1, 1, 1, 6))
    half = emulated(to_half(quantized_once(s, "Identity", 1.0)))
    x = np.array([0.4, 0.6, 1.9, -0.6, 2.5, 200.0], np.float32).reshape(1, 1, 1, 6)
    assert run(half, x).ravel().tolist() == [0, 1, 2, -1, 2, 127]


@given(
    st.floats(1e-3, 10),
    hnp.arrays(np.float32, (1, 1, 4, 4), elements=st.floats(-1e3, 1e3, width=32)),
    st.booleans(),
)
def test_a_tensor_on_a_cpu_is_within_one_step_of_tensorrts_whatever_its_values(
    step: float, x: np.ndarray, positive: bool
) -> None:
    s = Sketch((1, 1, 4, 4))
    half = to_half(quantized_once(s, "Relu" if positive else "Identity", scale_for(127 * step)))
    cpu = to_cpu(half)
    x = x.astype(np.float16).astype(np.float32)  # what FP16 cannot hold is not the quantizer's doing
    assert np.abs(run(emulated(half), x) - run(cpu, x)).max() <= scale_for(127 * step) * 1.01


def quantized_once(s: Sketch, kind: str, scale: float) -> onnx.ModelProto:
    """`kind` of the image, quantized and back."""
    between = s.node(kind, "image", name="between")
    constants = s.constant("scale", np.array(scale, np.float32)), s.constant("zero", np.array(0, np.int8))
    quantized = s.node("QuantizeLinear", between, *constants, name="quantized")
    return s.model(s.node("DequantizeLinear", quantized, *constants, name="mask"))


@pytest.mark.parametrize("seed", range(5))
def test_the_cpu_graph_and_tensorrts_give_one_result(seed: int) -> None:
    model = residual(seed)
    plan = whole_plan(model)
    step = scales(model, plan)
    half = to_half(insert(model, plan, step))
    cpu = to_cpu(half)
    half = emulated(half)
    for x in images(3, seed=7):
        assert np.abs(run(half, x) - run(cpu, x)).max() < 0.03  # of a probability
        for tensor in ("first.relu", "second", "sum.relu"):
            one, other = (probe(graph, f"{tensor}_dequantized", x) for graph in (half, cpu))
            assert np.abs(one.astype(np.float32) - other).mean() <= 0.5 * step[tensor]


def probe(model: onnx.ModelProto, tensor: str, x: np.ndarray) -> np.ndarray:
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    kind = View.of(model).types[tensor]
    wider.graph.output.insert(0, onnx.helper.make_tensor_value_info(tensor, kind, None))
    return run(wider, x)


def test_on_a_cpu_what_cannot_be_negative_is_unsigned_from_zero_and_the_rest_keeps_its_numbers(
    placed: onnx.ModelProto,
) -> None:
    half = to_half(placed)
    view, before = View.of(to_cpu(half)), View.of(half)
    assert all(kind != onnx.TensorProto.FLOAT16 for kind in view.types.values())
    for node in view.of_type("QuantizeLinear"):
        zero, scale = view.constant(node.input[2]), view.constant(node.input[1])
        (twin,) = (other for other in before.of_type("QuantizeLinear") if other.name == node.name)
        was = before.constant(twin.input[1])
        assert zero is not None and scale is not None and was is not None
        assert zero.dtype == np.uint8
        if not_negative(node.input[0], view):
            assert zero == 0 and scale == pytest.approx(float(was) * 127 / 255, rel=1e-6)
        else:
            assert zero == 128 and scale == np.float32(was)


def test_weights_of_a_dead_channel_have_a_scale_that_fp16_can_hold() -> None:
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0] = 1.0
    values, scale = quantized_weights(weights)
    assert scale[1] == SMALLEST_SCALE and not values[1].any()
    assert (values[0] * scale[0]).ravel() == pytest.approx([1, 1, 1], rel=1e-3)
