"""Rules on the graph as a whole: version, types, shapes and operators, quantized or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, defs

from edge_runtime.build.lint.layers import CONVOLUTIONS, DQ, FIRST_CHANNELS, Q, layers, quantized, type_name
from edge_runtime.build.lint.rule import Found
from edge_runtime.build.view import STANDARD, View, label

if TYPE_CHECKING:
    from onnx import NodeProto

OLDEST_OPSET, OLDEST_QDQ, NEWEST_OPSET = 9, 13, 20
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INT64 = (TensorProto.INT64, TensorProto.UINT64)
INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
ARITHMETIC = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "MatMul",
    "Pow",
    "Min",
    "Max",
    "Sum",
    "ReduceSum",
    "ReduceMax",
    "ReduceMean",
)
GRANULE, FEWEST_CHANNELS = 32, 16
LISTED = 5


def onnx_checker(view: View) -> Iterator[Found]:
    try:
        onnx.checker.check_model(view.model, full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as exc:
        told = " ".join(str(exc).split("==> Context")[0].split())
        name = view.model.graph.name or "graph"
        yield Found(
            name, f"is not valid ONNX: {told}", "export it again, or mend what the ONNX checker names"
        )


def opset(view: View) -> Iterator[Found]:
    oldest = OLDEST_QDQ if quantized(view) else OLDEST_OPSET
    if not oldest <= view.opset <= NEWEST_OPSET:
        yield Found(
            view.model.graph.name or "graph",
            f"has opset {view.opset}, wanted {oldest} to {NEWEST_OPSET}, which TensorRT 10.3 reads too",
            "export with opset_version=19, or convert with onnx.version_converter.convert_version(model, 19)",
        )


def static_shapes(view: View) -> Iterator[Found]:
    for value in view.inputs:
        shape = view.shapes.get(value.name)
        if shape is None or None in shape or 0 in shape:
            text = "x".join("?" if size is None else str(size) for size in shape or ()) or "unknown"
            yield Found(
                value.name,
                f"input has the shape {text}, wanted every size fixed",
                "export without dynamic_axes, or fix the sizes with onnxruntime.tools.make_dynamic_shape_fixed",
            )


def float64(view: View) -> Iterator[Found]:
    for tensor, kind in view.types.items():
        if kind == TensorProto.DOUBLE:
            yield Found(
                tensor,
                "is float64, wanted FP16 or FP32: TensorRT has no float64 and narrows it without asking",
                "export the model after model.float()",
            )


def int64(view: View) -> Iterator[Found]:
    for value in (*view.inputs, *view.outputs):
        if value.type.tensor_type.elem_type in INT64:
            yield Found(
                value.name,
                "is an int64 input or output, wanted int32 or uint8: eight bytes for each pixel",
                "Cast it inside the network (labels to uint8 through int32)",
            )
    for node in view.of_type(*ARITHMETIC):
        wide = [name for name in node.input if view.types.get(name) in INT64]
        if wide and node.output[0] not in view.constants:
            yield Found(
                label(node),
                f"computes in int64 ({wide[0]}), wanted int32 or float",
                "Cast to int32 before it; weights of float type stay float",
            )


def finite_constants(view: View) -> Iterator[Found]:
    scales = {name for node in view.of_type(Q, DQ) for name in node.input[1:2]}  # have a rule of their own
    for name, tensor in view.initializers.items():
        if tensor.data_type not in FLOATS or name in scales or (value := view.constant(name)) is None:
            continue
        wrong = int(value.size - np.count_nonzero(np.isfinite(value)))
        if wrong:
            yield Found(
                name,
                f"{wrong} of {value.size} values are not finite, wanted numbers that {type_name(tensor.data_type)} holds",
                "look for an overflow of FP16 (above 65504), and leave its layer in FP32",
            )


def mixed_types(view: View) -> Iterator[Found]:
    for node in view.nodes:
        kinds = _float_inputs(view, node)
        if len(set(kinds.values())) > 1:
            text = " and ".join(f"{name} {type_name(kind)}" for name, kind in kinds.items())
            yield Found(
                label(node),
                f"reads {text}, wanted one type: a strongly typed network converts nothing by itself",
                "insert a Cast, or convert the whole graph to FP16 with the inputs and outputs kept",
            )


def uint8_inside(view: View) -> Iterator[Found]:
    """A Cast may read uint8, and write it where the network ends; nothing else may touch it."""
    for node in view.nodes:
        if node.op_type in (Q, DQ, "Identity") or all(name in view.constants for name in node.output):
            continue
        reads = [name for name in node.input if view.types.get(name) == TensorProto.UINT8]
        makes = [name for name in node.output if view.types.get(name) == TensorProto.UINT8]
        if reads and node.op_type != "Cast":
            tensor, wanted = reads[0], "a Cast to float as the first node behind a uint8 input"
        elif makes and (node.op_type != "Cast" or not view.is_output(makes[0])):
            tensor, wanted = makes[0], "uint8 only as an input, or from a last Cast as an output"
        else:
            continue
        yield Found(
            label(node),
            f"{node.op_type} works on the uint8 tensor {tensor}, wanted {wanted}",
            "Cast to FP16 or int32 first and to uint8 last",
        )


def one_input(view: View) -> Iterator[Found]:
    if len(view.inputs) != 1:
        names = ", ".join(value.name for value in view.inputs) or "none"
        yield Found(
            view.model.graph.name or "graph",
            f"has {len(view.inputs)} inputs ({names}), wanted one image",
            "make the other inputs constants before exporting",
        )


def foreign_operators(view: View) -> Iterator[Found]:
    for node in view.nodes:
        if node.domain not in STANDARD and not any(node is known for known in view.opaque):
            yield Found(
                label(node),
                f"is {node.domain}::{node.op_type}, wanted an operator of ONNX itself",
                "save without graph optimization (it fuses into onnxruntime's own operators), with Q/DQ of opset 19",
            )


def integer_operators(view: View) -> Iterator[Found]:
    for node in view.of_type(*INTEGER_OPERATORS):
        yield Found(
            label(node),
            f"is {node.op_type}, which TensorRT refuses, wanted Q and DQ around a float operator",
            "quantize with quant_format=QuantFormat.QDQ of quantize_static",
        )


def opaque_nodes(view: View) -> Iterator[Found]:
    for node in view.opaque:
        yield Found(
            label(node),
            f"{node.op_type} has a body of its own, which no rule looks into",
            "inline it (onnx.inliner.inline_local_functions), or export without control flow",
        )


def fp32_rest(view: View) -> Iterator[Found]:
    if not quantized(view):
        return
    wide = [
        node
        for node in view.of_type(*CONVOLUTIONS, "Gemm", "MatMul", "Add", "Resize", "Relu")
        if _is_fp32(view, node)
    ]
    if wide:
        yield Found(
            label(wide[0]),
            f"computes in FP32 beside int8, as do {len(wide) - 1} more nodes, wanted FP16: a strongly typed network runs "
            "what the graph says",
            "convert the rest and the scales to FP16 (modelopt's high_precision_dtype='fp16', or `edge-runtime quantize`)",
        )


def channel_multiples(view: View) -> Iterator[Found]:
    if found := _convolutions(view, lambda inside, outside: bool(inside % GRANULE or outside % GRANULE)):
        yield Found(
            found[0][0],
            f"{_told(found)}, wanted multiples of {GRANULE}: the vectors of int8 kernels stay partly empty",
            "compare the engine's time with FP16's, or train with wider layers",
        )


def few_channels(view: View) -> Iterator[Found]:
    if found := _convolutions(view, lambda inside, outside: min(inside, outside) < FEWEST_CHANNELS):
        yield Found(
            found[0][0],
            f"{_told(found)}, wanted at least {FEWEST_CHANNELS}: they wait for memory, not for arithmetic",
            "keep these layers in FP16 (nodes_to_exclude of quantize_static, calibration.keep_fp16 of model.toml)",
        )


def _convolutions(view: View, chosen: Callable[[int, int], bool]) -> list[tuple[str, tuple[int, int]]]:
    """Quantized convolutions with such channels (in, out); the first one is a rule of its own."""
    return [
        (label(layer.node), layer.channels)
        for layer in layers(view)
        if layer.int8 and layer.channels and layer.channels[0] > FIRST_CHANNELS and chosen(*layer.channels)
    ]


def _told(found: list[tuple[str, tuple[int, int]]]) -> str:
    each = ", ".join(f"{name} {inside}->{outside}" for name, (inside, outside) in found[:LISTED])
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"channels of quantized convolutions: {each}{more}"


def _is_fp32(view: View, node: NodeProto) -> bool:
    return view.types.get(node.output[0]) == TensorProto.FLOAT and node.output[0] not in view.constants


def _float_inputs(view: View, node: NodeProto) -> dict[str, int]:
    """The float inputs that ONNX's schema wants of one type -> their types."""
    if node.domain not in STANDARD or not defs.has(node.op_type):
        return {}
    try:
        schema = defs.get_schema(node.op_type, max(view.opset, 1))
    except defs.SchemaError:
        return {}
    groups: dict[str, dict[str, int]] = {}
    for position, name in enumerate(node.input):
        parameter = schema.inputs[min(position, len(schema.inputs) - 1)]
        kind = view.types.get(name)
        if kind in FLOATS and "(" not in parameter.type_str:
            groups.setdefault(parameter.type_str, {})[name] = kind
    return next((group for group in groups.values() if len(set(group.values())) > 1), {})
