"""Small networks with known weights, made in memory: what the tests of this folder quantize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.build.place import Plan

OPSET = 19


class Sketch:
    """A graph that grows node by node; every method returns the name of the tensor it made."""

    def __init__(self, shape: Sequence[int] = (1, 1, 16, 24), seed: int = 0) -> None:
        self.shape = list(shape)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, name: str, size: int = 3, **attributes: Any) -> str:
        weights = self.random.normal(0, (inputs * size * size) ** -0.5, (outputs, inputs, size, size))
        w = self.constant(f"{name}.weight", weights.astype(np.float32))
        b = self.constant(f"{name}.bias", self.random.normal(0, 0.1, outputs).astype(np.float32))
        return self.node("Conv", x, w, b, name=name, pads=[size // 2] * 4, **attributes)

    def relu(self, x: str) -> str:
        return self.node("Relu", x, name=f"{x}.relu")

    def twice(self, x: str, name: str) -> str:
        """Nearest, twice the height and width."""
        scales = self.constant(f"{name}.scales", np.array([1, 1, 2, 2], np.float32))
        return self.node(
            "Resize",
            x,
            "",
            scales,
            name=name,
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )

    def model(self, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
        return inferred


def residual(seed: int = 0) -> onnx.ModelProto:
    """A residual network with a way down and up, every join that placement knows, and probabilities out."""
    s = Sketch(seed=seed)
    x = s.relu(s.conv("image", 1, 16, "stem", size=5))
    skip = s.relu(s.conv(x, 16, 16, "first"))
    x = s.node("Add", skip, s.conv(skip, 16, 16, "second"), name="sum")
    x = s.relu(x)
    low = s.node("MaxPool", x, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    low = s.relu(s.conv(low, 16, 32, "bottom"))
    up = s.twice(s.conv(low, 32, 16, "narrow", size=1), "larger")
    x = s.relu(s.node("Add", up, x, name="merge"))
    x = s.relu(s.conv(s.node("Concat", x, skip, name="join", axis=1), 32, 16, "last"))
    return s.model(s.node("Sigmoid", s.conv(x, 16, 1, "head"), name="mask"))


def images(count: int, seed: int = 1, shape: Sequence[int] = (1, 1, 16, 24)) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return [random.random(tuple(shape), np.float32) for _ in range(count)]


def run(model: onnx.ModelProto, tensor: NDArray[Any]) -> NDArray[np.float32]:
    """The first output, by onnxruntime with the graph as it is."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: tensor})[0]
    return result


def group_of(plan: Plan, tensor: str) -> frozenset[str]:
    """The tensors that share the scale of `tensor`."""
    return next(group for group in plan.groups if tensor in group)
