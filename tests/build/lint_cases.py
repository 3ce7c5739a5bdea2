"""A small graph that breaks each of the linter's rules, and for each a twin that breaks none."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from edge_runtime.build.lint import Problem
from tests.build.qdq import CHANNELS, CRASHED, SIDE, Net

Draw = Callable[[Net, bool], None]


class Case(NamedTuple):
    draw: Draw
    code: str
    node: str  # that lint must name
    refused: str | None  # words of tensorrt-rtx's refusal; None: it builds the graph


CASES: dict[str, Case] = {}


def case(code: str, node: str, refused: str | None = None) -> Callable[[Draw], Draw]:
    """`draw(net, broken)` draws a graph that breaks this rule only, or its twin that breaks none."""

    def add(draw: Draw) -> Draw:
        CASES[draw.__name__] = Case(draw, code, node, refused)
        return draw

    return add


def drawn(name: str, *, broken: bool) -> onnx.ModelProto:
    net = Net()
    CASES[name].draw(net, broken)
    return net.model()


# ---- numbers --------------------------------------------------------------------------------------------------------


@case("Q01-zero-point", "x_q", "Non-zero zero point is not supported")
def activation_zero_point(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input(), zero=3 if broken else 0)))


@case("Q01-zero-point", "w_dq", "Non-zero zero point is not supported")
def weight_zero_point(net: Net, broken: bool) -> None:
    weights = net.weights((CHANNELS, CHANNELS, 3, 3), zero=2 if broken else 0)
    net.end(net.conv(net.pair(net.input()), weights))


@case("Q02-uint8", "w_dq", "unsupported input type of UINT8")
def uint8_weights(net: Net, broken: bool) -> None:
    weights = net.weights((CHANNELS, CHANNELS, 3, 3), dtype=np.uint8 if broken else np.int8)
    net.end(net.conv(net.pair(net.input()), weights))


@case("Q02-uint8", "x_q")  # the parser runs it as int8: values above 127 steps clip
def uint8_activations(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input(), dtype=np.uint8 if broken else np.int8)))


@case("Q02-uint8", "x_q")
def zero_point_left_out(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input(), zero=None if broken else 0)))


@case("Q03-quantized-type", "w_dq", "CHECK(dtype == W.type())")
def int4_weights(net: Net, broken: bool) -> None:
    shape = (CHANNELS, CHANNELS, 3, 3)
    if broken:
        net.opset = 21
        stored, zero = net.packed(TensorProto.INT4, shape, 1), net.packed(TensorProto.INT4, (CHANNELS,), 0)
        weights = net.dq(stored, np.full(CHANNELS, 0.1), zero=zero, axis=0, name="w_dq")
    else:
        weights = net.weights(shape)
    net.end(net.conv(net.pair(net.input()), weights))


@case("Q03-quantized-type", "x_q", "unsupported datatype")
def int16_activations(net: Net, broken: bool) -> None:
    net.opset = 21 if broken else 19
    net.end(net.conv(net.pair(net.input(), dtype=np.int16 if broken else np.int8)))


@case("Q04-bias", "b_dq", "has type Int32 but must have type")
def int32_bias(net: Net, broken: bool) -> None:
    bias = net.constant(np.zeros(CHANNELS), np.int32 if broken else None)
    if broken:
        bias = net.dq(bias, np.full(CHANNELS, 1e-3), dtype=np.int32, axis=0, name="b_dq")
    net.end(net.conv(net.pair(net.input()), bias=bias))


@case("Q04-bias", "b_dq")
def int8_bias(net: Net, broken: bool) -> None:
    bias = net.constant(np.zeros(CHANNELS), np.int8 if broken else None)
    if broken:
        bias = net.dq(bias, np.full(CHANNELS, 1e-3), axis=0, name="b_dq")
    net.end(net.conv(net.pair(net.input()), bias=bias))


@case("Q05-scale-not-constant", "x_q", CRASHED)
def computed_scale(net: Net, broken: bool) -> None:
    x = net.input()
    largest = net.node("ReduceMax", x, keepdims=0)
    scale = largest if broken else net.constant(0.02)
    if not broken:
        net.nodes.clear()
    net.end(net.conv(net.pair(x, scale)))


def scale_is(value: float) -> Draw:
    def draw(net: Net, broken: bool) -> None:
        net.end(net.conv(net.pair(net.input(), value if broken else 0.02)))

    return draw


for word, value in {"zero": 0.0, "negative": -0.02, "nan": np.nan, "below_fp16": 1e-8}.items():
    CASES[f"scale_{word}"] = Case(scale_is(value), "Q06-scale-value", "x_q", "must all be positive")
CASES["scale_infinite"] = Case(scale_is(np.inf), "Q06-scale-value", "x_q", None)
CASES["scale_subnormal"] = Case(scale_is(2e-6), "Q07-scale-underflow", "x_q", None)


@case("Q06-scale-value", "w_dq", "must all be positive")
def scale_of_an_empty_channel(net: Net, broken: bool) -> None:
    scale = np.full(CHANNELS, 0.002)
    scale[7] = 0.0 if broken else 1e-4
    net.end(net.conv(net.pair(net.input()), net.weights((CHANNELS, CHANNELS, 3, 3), scale=scale)))


@case("Q08-scale-count", "w_dq", "number of scales is not equal")
def one_scale_too_few(net: Net, broken: bool) -> None:
    scale = np.full(CHANNELS - broken, 0.002)
    net.end(net.conv(net.pair(net.input()), net.weights((CHANNELS, CHANNELS, 3, 3), scale=scale)))


@case("Q08-scale-count", "x_q", "scaleRank")
def scale_of_rank_two(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input(), [[0.02]] if broken else 0.02)))


@case("Q09-weight-axis", "w_dq")
def conv_axis(net: Net, broken: bool) -> None:
    weights = net.weights((CHANNELS, CHANNELS, 3, 3), axis=1 if broken else 0)
    net.end(net.conv(net.pair(net.input()), weights))


@case("Q09-weight-axis", "w_dq")
def gemm_axis(net: Net, broken: bool) -> None:
    weights = net.weights((CHANNELS, CHANNELS), axis=1 if broken else 0)
    product = net.node("Gemm", net.pair(net.input(shape=(4, CHANNELS))), weights, transB=1)
    net.output(net.node("Gemm", product, net.constant(np.ones((CHANNELS, 2)))), ("rows", "columns"))


@case("Q09-weight-axis", "w_dq")
def conv_transpose_axis(net: Net, broken: bool) -> None:
    weights = net.weights((CHANNELS, CHANNELS, 2, 2), axis=0 if broken else 1)
    net.end(net.node("ConvTranspose", net.pair(net.input()), weights, name="up", strides=[2, 2]))


@case("Q10-activation-per-channel", "x_q")
def activation_per_channel(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input(), np.full(CHANNELS, 0.02) if broken else 0.02)))


@case("Q11-pair-differs", "x_q_dq")
def two_halves_of_different_scale(net: Net, broken: bool) -> None:
    net.end(net.conv(net.dq(net.q(net.input()), 0.16 if broken else 0.02)))


@case("Q12-block-size", "w_dq", "blocking dimension")
def weights_in_blocks(net: Net, broken: bool) -> None:
    shape = (CHANNELS, CHANNELS, 3, 3)
    if broken:
        net.opset = 21
        scale = np.full((CHANNELS, 2, 3, 3), 0.002)
        stored = net.constant(np.ones(shape), np.int8)
        weights = net.dq(stored, scale, axis=1, block_size=16, name="w_dq")
    else:
        weights = net.weights(shape)
    net.end(net.conv(net.pair(net.input()), weights))


@case("Q13-attribute", "x_q")
def saturate(net: Net, broken: bool) -> None:
    x = net.input()
    net.end(net.conv(net.dq(net.q(x, saturate=0) if broken else net.q(x))))


# ---- placement ------------------------------------------------------------------------------------------------------


@case("P01-dangling", "x_q")
def q_without_dq(net: Net, broken: bool) -> None:
    stored = net.q(net.input())
    net.end(net.conv(net.dq(net.relu(stored) if broken else stored)))


@case("P01-dangling", "half_dq")
def dq_without_q(net: Net, broken: bool) -> None:
    x = net.input()
    stored = net.node("Cast", x, name="half", to=TensorProto.INT8) if broken else net.q(x)
    net.end(net.conv(net.dq(stored)))


@case("P16-inside-pair", "pool")
def pool_inside_a_pair(net: Net, broken: bool) -> None:
    def pool(tensor: str) -> str:
        return net.node("MaxPool", tensor, name="pool", kernel_shape=[2, 2], strides=[2, 2])

    x = net.input()
    net.end(net.conv(net.dq(pool(net.q(x))) if broken else pool(net.pair(x))))


@case("P02-float-weights", "conv")
def float_weights(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input()), net.weights((CHANNELS, CHANNELS, 3, 3), int8=not broken)))


@case("P03-float-input", "conv")
def float_input(net: Net, broken: bool) -> None:
    x = net.input()
    net.end(net.conv(x if broken else net.pair(x)))


@case("P04-before-activation", "conv_q")
def between_conv_and_relu(net: Net, broken: bool) -> None:
    y = net.conv(net.pair(net.input()))
    y = net.relu(net.pair(y)) if broken else net.relu(y)
    net.end(net.conv(net.pair(y), name="second"))


@case("P05-batch-norm", "norm")
def batch_norm(net: Net, broken: bool) -> None:
    y = net.conv(net.pair(net.input()))
    if broken:
        ones = [net.constant(np.ones(CHANNELS)) for _ in range(4)]
        y = net.node("BatchNormalization", y, *ones, name="norm")
    net.end(net.relu(y))


@case("P06-serves-nothing", "conv_q")
def output_quantized(net: Net, broken: bool) -> None:
    y = net.conv(net.pair(net.input()))
    y = net.node("Tanh", net.pair(y) if broken else y)
    net.end(y)


@case("P07-residual", "add")
def residual(net: Net, broken: bool) -> None:
    x = net.input()
    quantized = net.pair(x)
    skip = x if broken else quantized
    net.end(net.relu(net.node("Add", net.conv(quantized), skip, name="add")))


@case("P08-concat-scales", "concat")
def concat(net: Net, broken: bool) -> None:
    x = net.input()
    half = net.node("Tanh", x)
    both = net.node(
        "Concat", net.pair(x, 0.02), net.pair(half, 0.01 if broken else 0.02), name="concat", axis=1
    )
    net.end(net.conv(net.pair(both, 0.02), net.weights((CHANNELS, 2 * CHANNELS, 3, 3))))


@case("P09-scales-around", "pool")
def pool_between_scales(net: Net, broken: bool) -> None:
    x = net.pair(net.input(), 0.02)
    pooled = net.node("MaxPool", x, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    net.end(net.conv(net.pair(pooled, 0.01 if broken else 0.02)))


@case("P10-linear-resize", "resize")
def linear_resize(net: Net, broken: bool) -> None:
    x = net.pair(net.input())
    mode = {"mode": "linear"} if broken else {"mode": "nearest", "nearest_mode": "floor"}
    twice = net.constant(np.array([1, 1, 2, 2]), np.float32)
    resized = net.node("Resize", x, "", twice, name="resize", **mode)
    net.end(net.conv(net.pair(resized)))


@case("P11-conv-transpose", "up")
def conv_transpose(net: Net, broken: bool) -> None:
    x = net.relu(net.conv(net.pair(net.input())))
    weights = net.weights((CHANNELS, CHANNELS, 2, 2), int8=broken, axis=1 if broken else 0)
    net.end(net.node("ConvTranspose", net.pair(x) if broken else x, weights, name="up", strides=[2, 2]))


@case("P12-first-conv", "first")
def first_conv(net: Net, broken: bool) -> None:
    x = net.input(shape=(1, 1, SIDE, SIDE))
    weights = net.weights((CHANNELS, 1, 3, 3), int8=broken)
    net.end(net.relu(net.conv(net.pair(x) if broken else x, weights, name="first")))


@case("P13-head", "conv")
def last_conv(net: Net, broken: bool) -> None:
    y = net.conv(net.pair(net.input()))
    if broken:
        net.output(y)
    else:
        net.end(y)


@case("P13-head", "sigmoid")
def sigmoid(net: Net, broken: bool) -> None:
    y = net.pair(net.relu(net.conv(net.pair(net.input()))))
    net.end(net.conv(y, name="second"))
    if broken:
        net.output(net.node("Sigmoid", y, name="sigmoid"))


@case("P14-requantize", "x_q_dq_q")
def quantized_twice(net: Net, broken: bool) -> None:
    x = net.pair(net.input())
    net.end(net.conv(net.pair(x, 0.03) if broken else x))


@case("P15-two-scales", "x")
def one_tensor_two_scales(net: Net, broken: bool) -> None:
    x = net.input()
    one = net.conv(net.pair(x, 0.02))
    stored = net.q(x, 0.03 if broken else 0.02, name="again")
    other = net.conv(net.dq(stored, 0.03 if broken else 0.02), name="other")
    net.end(net.node("Mul", one, other))


# ---- the graph as a whole -------------------------------------------------------------------------------------------


@case("G01-onnx", "net")
def unknown_attribute(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input()), **({"colour": 1} if broken else {})))


@case("G02-opset", "net")
def opset(net: Net, broken: bool) -> None:
    net.opset = 22 if broken else 20
    net.end(net.conv(net.pair(net.input())))


@case("G03-fp16-opset", "x_q")  # tensorrt-rtx builds what onnxruntime refuses
def fp16_before_opset_19(net: Net, broken: bool) -> None:
    net.opset = 17 if broken else 19
    net.end(net.conv(net.pair(net.input())))


@case("G04-dynamic-shape", "x", "no optimization profile")
def dynamic_shape(net: Net, broken: bool) -> None:
    net.end(net.conv(net.pair(net.input(shape=("batch" if broken else 1, CHANNELS, SIDE, SIDE)))))


@case("G05-float64", "wide.out")
def float64(net: Net, broken: bool) -> None:
    x = net.input()
    if broken:
        x = net.node("Cast", x, name="wide", to=TensorProto.DOUBLE)
        x = net.node("Cast", x, name="narrow", to=TensorProto.FLOAT16)
    net.end(net.relu(x))


@case("G06-int64", "labels.out")
def int64_output(net: Net, broken: bool) -> None:
    y = net.node("ArgMax", net.input(), name="labels", axis=1)
    if broken:
        net.output(y, dtype=np.int64)
    else:
        net.output(net.node("Cast", y, to=TensorProto.INT32), dtype=np.int32)


@case("G06-int64", "count")
def int64_arithmetic(net: Net, broken: bool) -> None:
    kind, dtype = (TensorProto.INT64, np.int64) if broken else (TensorProto.INT32, np.int32)
    y = net.node("Mul", net.node("Cast", net.input(), to=kind), net.constant(2, dtype), name="count")
    net.output(net.node("Cast", y, to=TensorProto.FLOAT16))


@case("G07-mixed-types", "sum", "must have same input types")
def mixed_types(net: Net, broken: bool) -> None:
    offset = net.constant(1.0, np.float32 if broken else np.float16)
    net.end(net.node("Add", net.input(), offset, name="sum"))


@case("G07-mixed-types", "conv", "must be of same type")
def mixed_weights(net: Net, broken: bool) -> None:
    weights = net.constant(np.ones((CHANNELS, CHANNELS, 3, 3)), np.float32 if broken else np.float16)
    net.end(net.conv(net.input(), weights))


@case("G08-uint8", "turned", "UInt8")
def uint8_computes(net: Net, broken: bool) -> None:
    def turn(tensor: str) -> str:
        return net.node("Transpose", tensor, name="turned", perm=[0, 1, 3, 2])

    def to_float(tensor: str) -> str:
        return net.node("Cast", tensor, to=TensorProto.FLOAT16)

    x = net.input(dtype=np.uint8)
    net.end(to_float(turn(x)) if broken else turn(to_float(x)))


@case("G08-uint8", "bytes", "UINT8 types for intermediate tensors")
def uint8_in_the_middle(net: Net, broken: bool) -> None:
    y = net.node("Cast", net.input(), name="bytes", to=TensorProto.UINT8)
    if broken:
        net.output(net.node("Cast", net.node("Cast", y, to=TensorProto.INT32), to=TensorProto.FLOAT16))
    else:
        net.output(y, dtype=np.uint8)


@case("G09-inputs", "net")
def two_inputs(net: Net, broken: bool) -> None:
    x = net.input()
    net.end(net.node("Mul", x, net.input("gain") if broken else net.constant(2.0)))


@case("G10-int8-at-rim", "x")
def int8_input(net: Net, broken: bool) -> None:
    x = net.input(dtype=np.int8 if broken else None)
    net.end(net.conv(net.dq(x) if broken else net.pair(x)))


@case("G11-foreign-operator", "fused", "Plugin not found")
def foreign_operator(net: Net, broken: bool) -> None:
    weights = net.weights((CHANNELS, CHANNELS, 1, 1), int8=False)
    domain = {"domain": "com.microsoft"} if broken else {}
    x = net.input()
    net.end(net.node("FusedConv" if broken else "Conv", x, weights, name="fused", **domain))


@case("G12-integer-operator", "integers", "checkConvInteger")
def integer_operator(net: Net, broken: bool) -> None:
    stored = net.q(net.input())
    if broken:
        weights = net.constant(np.ones((CHANNELS, CHANNELS, 1, 1)), np.int8)
        sums = net.node("ConvInteger", stored, weights, name="integers")
        net.end(net.node("Cast", sums, to=TensorProto.FLOAT16))
    else:
        net.end(net.conv(net.dq(stored)))


@case("G13-opaque", "choice")
def control_flow(net: Net, broken: bool) -> None:
    x = net.input()
    if broken:
        branches = []
        for kind in ("Relu", "Tanh"):
            made = onnx.helper.make_tensor_value_info(kind, TensorProto.FLOAT16, (1, CHANNELS, SIDE, SIDE))
            node = onnx.helper.make_node(kind, [x], [kind])
            branches.append(onnx.helper.make_graph([node], kind, [], [made]))
        positive = net.node(
            "Greater", net.node("ReduceMax", x, keepdims=0), net.constant(0.0), name="positive"
        )
        y = net.node("If", positive, name="choice", then_branch=branches[0], else_branch=branches[1])
    else:
        y = net.relu(x)
    net.end(y)


@case("G14-not-finite", "constant_0")
def overflowed_weights(net: Net, broken: bool) -> None:
    weights = np.ones((CHANNELS, CHANNELS, 3, 3), np.float32)
    weights[0, 0] = np.inf if broken else 6e4  # what 7e4 becomes in FP16
    net.end(net.conv(net.input(), net.constant(weights)))


@case("S01-channels", "conv")
def odd_channels(net: Net, broken: bool) -> None:
    channels = 24 if broken else 32
    net.end(net.conv(net.pair(net.input()), net.weights((channels, CHANNELS, 3, 3))), channels)


@case("S02-few-channels", "conv")
def few_channels(net: Net, broken: bool) -> None:
    channels = 8 if broken else 32
    net.end(net.conv(net.pair(net.input()), net.weights((channels, CHANNELS, 3, 3))), channels)


@case("S03-fp32-rest", "conv")
def fp32_rest(net: Net, broken: bool) -> None:
    net.rest = np.dtype(np.float32 if broken else np.float16)
    net.end(net.conv(net.pair(net.input())))


# What else cannot but be wrong with a graph that breaks the rule.
ALSO = {
    "conv_transpose_axis": {"P11-conv-transpose"},
    "int16_activations": {"G02-opset"},
    "int4_weights": {"G02-opset"},
    "weights_in_blocks": {"G02-opset"},
    "fp16_before_opset_19": {
        "G01-onnx",
        "G07-mixed-types",
        "S03-fp32-rest",
    },  # ONNX takes all Q/DQ for FP32 there
    "mixed_types": {"G01-onnx"},
    "mixed_weights": {"G01-onnx"},
    "integer_operator": {"P01-dangling", "P06-serves-nothing"},
    "few_channels": {"S01-channels"},
}


def as_text(problems: tuple[Problem, ...]) -> str:
    return "\n".join(f"{problem.code} {problem.node}: {problem.message}" for problem in problems)
