"""From TensorRT's INT8 graph to the one that a CPU is fast on. Mechanical: no frame, no choice.

FP16 becomes float32 with the same values. An activation that cannot be negative becomes UINT8 with zero point
0, in the same range in steps half as wide (scale * 127 / 255), so that onnxruntime folds the ReLU into it; any
other becomes UINT8 with zero point 128 and the same scale, which is the same numbers. So no tensor differs from
TensorRT's by more than one of its quantization steps. Weights stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.build.graph import set_nodes
from edge_runtime.build.place import drop_unused
from edge_runtime.build.view import View

if TYPE_CHECKING:
    import onnx

NOT_NEGATIVE = ("Relu", "Sigmoid", "Softmax")
KEEPS_SIGN = (
    "MaxPool",
    "Resize",
    "Reshape",
    "Transpose",
    "Slice",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "QuantizeLinear",
    "DequantizeLinear",
)


def to_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The CPU graph of `model`, TensorRT's."""
    import onnx

    cpu = onnx.ModelProto()
    cpu.CopyFrom(model)
    _widen(cpu)
    _drop_casts(cpu)
    _unsigned(cpu)
    drop_unused(cpu)
    onnx.checker.check_model(cpu, full_check=True)
    return cpu


def _widen(model: onnx.ModelProto) -> None:
    """FP16 constants and casts become float32."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT


def _drop_casts(model: onnx.ModelProto) -> None:
    """Removes the casts from float32 to float32 that stood at the ends."""
    from onnx import TensorProto

    graph = model.graph
    floats = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and (node.input[0] in floats or node.output[0] in outputs):
            inner, outer = (
                (node.output[0], node.input[0])
                if node.input[0] in floats
                else node.input[:1] + node.output[:1]
            )
            renamed[inner] = outer
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    set_nodes(graph, kept)


def _unsigned(model: onnx.ModelProto) -> None:
    """Activations in UINT8."""
    from onnx import numpy_helper

    view, graph = View.of(model), model.graph
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or view.constant(node.input[0]) is not None:
            continue
        scale = view.constant(node.input[1])
        assert scale is not None  # lint has looked: scales are constants
        positive = not_negative(node.input[0], view)
        name = node.output[0]
        names = (f"{name}_cpu_scale", f"{name}_cpu_zero")
        step = np.array(scale * (127 / 255 if positive else 1), np.float32)
        zero = np.array(0 if positive else 128, np.uint8)
        graph.initializer.append(numpy_helper.from_array(step, names[0]))
        graph.initializer.append(numpy_helper.from_array(zero, names[1]))
        node.input[1:] = names
        for taker in view.consumers[name]:
            taker.input[1:] = names


def not_negative(tensor: str, view: View) -> bool:
    """Whether no element of a tensor can be below zero, by the operators above it."""
    node = view.producers.get(tensor)
    if node is None:
        return False
    if node.op_type in NOT_NEGATIVE:
        return True
    if node.op_type == "Concat":
        return all(not_negative(name, view) for name in node.input)
    return node.op_type in KEEPS_SIGN and not_negative(node.input[0], view)
