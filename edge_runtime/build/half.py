"""The float part of a graph in FP16, as a strongly typed TensorRT network wants it.

Inputs and outputs keep their types: a Cast stands behind a float32 input and before each output. Scales of Q
and DQ become FP16 too, since their type is the type of what DQ gives: valid from opset 19 on, which is the
opset of the normal form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.build.graph import set_nodes
from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    import onnx

# Inputs that stay float32 by the operator's own definition: roi and scales of Resize.
FLOAT32_INPUTS = {"Resize": (1, 2)}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` (in normal form, float32) that computes in FP16. Raises ConfigError where a constant does
    not fit.
    """
    import onnx

    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    del graph.value_info[:]
    kept = {
        name
        for node in graph.node
        for position, name in enumerate(node.input)
        if position in FLOAT32_INPUTS.get(node.op_type, ())
    }
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_as_half(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16
    _cast_ends(graph)
    onnx.checker.check_model(half, full_check=True)
    return half


def _as_half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    if values.size and float(np.abs(values).max()) > float(np.finfo(np.float16).max):
        raise ConfigError(
            f"constant {tensor.name!r} holds {float(np.abs(values).max()):.3g}, more than FP16 can; scale the model's weights"
        )
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _cast_ends(graph: onnx.GraphProto) -> None:
    """A Cast behind each float32 input and before each float32 output."""
    from onnx import TensorProto, helper

    before, after = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _rename(graph, value.name, f"{value.name}_half", outputs=False)
            before.append(
                helper.make_node(
                    "Cast",
                    [value.name],
                    [f"{value.name}_half"],
                    name=f"{value.name}_to_half",
                    to=TensorProto.FLOAT16,
                )
            )
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _rename(graph, value.name, f"{value.name}_half", outputs=True)
            after.append(
                helper.make_node(
                    "Cast",
                    [f"{value.name}_half"],
                    [value.name],
                    name=f"{value.name}_to_float",
                    to=TensorProto.FLOAT,
                )
            )
    set_nodes(graph, [*before, *graph.node, *after])


def _rename(graph: onnx.GraphProto, old: str, new: str, *, outputs: bool) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        if outputs:
            node.output[:] = [new if name == old else name for name in node.output]
