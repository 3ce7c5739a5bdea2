"""TensorRT's FP16 graph in a form that every onnxruntime computes right, for judging it where there is no GPU.

onnxruntime 1.23, the newest for Python 3.10, cuts the digits off where QuantizeLinear of FP16 should round (1.9
becomes 1); 1.31 rounds. So each quantizer gets its input and scale as float32, with the same values. The graph that
is shipped stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.build.graph import set_nodes
from edge_runtime.build.view import View

if TYPE_CHECKING:
    import onnx


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose quantizers compute in float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    view = View.of(model)
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        scale = view.constant(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is not None and scale.dtype == np.float16:
            wide, wide_scale = f"{node.output[0]}_wide", f"{node.output[0]}_wide_scale"
            nodes.append(helper.make_node("Cast", [node.input[0]], [wide], name=wide, to=TensorProto.FLOAT))
            made.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), wide_scale))
            node.input[0], node.input[1] = wide, wide_scale
        nodes.append(node)
    set_nodes(made.graph, nodes)
    return made
