"""Where the Q/DQ pairs go: TensorRT's rules for an explicitly quantized network, as a plan and as a graph.

Inputs of convolutions are quantized, never outputs, so that nothing stands between a convolution and its
ReLU; both inputs of a residual Add, so that the sum stays in INT8; both sides of a nearest Resize or a MaxPool
and all inputs of a Concat with one scale, so that they commute with Q. Zero points are 0, weights have a scale
for each output channel, biases stay float. Reference: NVIDIA TensorRT documentation, "Working with Quantized
Types", and the issues named in `lint/`, which checks the result.

Knows no frames: scales come from `search.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.graph import set_nodes
from edge_runtime.build.observe import LEVELS
from edge_runtime.build.view import View, attribute

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv",)  # ConvTranspose stays FP16: slower or mis-fused in INT8 (NVIDIA/TensorRT#1699, #4366)
COMMUTING = ("MaxPool", "Resize")  # with one scale on both sides; Resize only where it copies values
# A scale is stored as FP16. Below its smallest normal number it would lose digits.
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)
LARGEST_SCALE = float(np.finfo(np.float16).max)  # a range beyond it: the gate sees what is lost


@dataclass(frozen=True, slots=True)
class Plan:
    """What is quantized: layers by the name of their node, and at which tensors, for which of their takers."""

    layers: tuple[str, ...]
    points: Mapping[str, frozenset[str]]  # tensor -> names of the nodes that take it quantized
    groups: tuple[frozenset[str], ...]  # tensors that share one scale; every point is in exactly one


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The nodes that may be quantized, in graph order: convolutions with constant weights."""
    view = View.of(model)
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and view.constant(node.input[1]) is not None
    )


def plan_of(model: onnx.ModelProto, layers: tuple[str, ...]) -> Plan:
    """The plan that quantizes these layers and what lies between them."""
    view, wanted = View.of(model), set(layers)
    points: dict[str, set[str]] = {}
    joins: list[set[str]] = []
    for node in model.graph.node:
        if node.name in wanted:
            points.setdefault(node.input[0], set()).add(node.name)
    for node in model.graph.node:
        if node.op_type == "Add" and _joins_quantized(node, view, wanted):
            for tensor in node.input:
                points.setdefault(tensor, set()).add(node.name)
    for node in reversed(model.graph.node):  # from the takers up, so that a chain of joins is found whole
        if node.output[0] in points and _commutes(node, view):
            inputs = list(node.input) if node.op_type == "Concat" else [node.input[0]]
            for tensor in inputs:
                points.setdefault(tensor, set()).add(node.name)
            joins.append({node.output[0], *inputs})
    return Plan(
        layers,
        {tensor: frozenset(takers) for tensor, takers in points.items()},
        _groups(points, joins),
    )


def _joins_quantized(node: onnx.NodeProto, view: View, layers: set[str]) -> bool:
    """An Add of two computed tensors that a quantized layer writes into or reads from."""
    if any(view.constant(tensor) is not None for tensor in node.input):
        return False
    before = (_above(tensor, view) for tensor in node.input)
    return any(source is not None and source.name in layers for source in before)


def _above(tensor: str, view: View) -> onnx.NodeProto | None:
    """The node that made a tensor, seen through what only copies values."""
    node = view.producers.get(tensor)
    while node is not None and _commutes(node, view) and node.op_type != "Concat":
        node = view.producers.get(node.input[0])
    return node


def _commutes(node: onnx.NodeProto, view: View) -> bool:
    """Whether Q before the node is Q after it: it only moves values."""
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", "nearest") == "nearest")
    if node.op_type == "Concat":
        return all(view.constant(tensor) is None for tensor in node.input)
    return node.op_type in COMMUTING


def _groups(points: Mapping[str, set[str]], joins: list[set[str]]) -> tuple[frozenset[str], ...]:
    """The points in sets that a join ties together."""
    groups: list[set[str]] = []
    for tied in [*joins, *({tensor} for tensor in points)]:
        touching = [group for group in groups if group & tied]
        groups = [group for group in groups if group not in touching]
        groups.append(set(tied).union(*touching))
    return tuple(frozenset(group) for group in groups)


def scale_for(largest: float) -> float:
    """The scale of a symmetric INT8 tensor that represents up to `largest`, as FP16 can hold it."""
    return float(np.float16(min(max(largest / LEVELS, SMALLEST_SCALE), LARGEST_SCALE)))


def quantized_weights(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """INT8 weights (out, ...) and their scales (out,), from the largest value of each output channel."""
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    scales = np.clip(largest / LEVELS, SMALLEST_SCALE, LARGEST_SCALE).astype(np.float16).astype(np.float32)
    steps = weights / scales.reshape(-1, *[1] * (weights.ndim - 1))
    return np.clip(np.round(steps), -LEVELS, LEVELS).astype(np.int8), scales


def insert(model: onnx.ModelProto, plan: Plan, scales: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of `model` (fp32) with the plan's Q/DQ pairs. `scales` has one for each tensor of the plan."""
    import onnx

    placed = onnx.ModelProto()
    placed.CopyFrom(model)
    graph, view = placed.graph, View.of(model)
    layers = set(plan.layers)
    nodes: list[onnx.NodeProto] = []
    for tensor in (value.name for value in graph.input):
        nodes += _pair(graph, tensor, scales) if tensor in plan.points else []
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            if node.name in plan.points.get(tensor, ()):
                node.input[position] = f"{tensor}_dequantized"
        if node.name in layers:
            nodes.append(_weights(graph, node, view))
        nodes.append(node)
        for tensor in node.output:
            nodes += _pair(graph, tensor, scales) if tensor in plan.points else []
    set_nodes(graph, nodes)
    del graph.value_info[:]
    drop_unused(placed)
    return placed


def _pair(
    graph: onnx.GraphProto, tensor: str, scales: Mapping[str, float]
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Q and DQ behind a tensor; their constants are added to the graph."""
    from onnx import helper

    scale, zero, quantized = f"{tensor}_scale", f"{tensor}_zero", f"{tensor}_quantized"
    _constant(graph, scale, np.array(scales[tensor], np.float32))
    _constant(graph, zero, np.array(0, np.int8))
    return (
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [quantized], name=f"{tensor}_Q"),
        helper.make_node(
            "DequantizeLinear", [quantized, scale, zero], [f"{tensor}_dequantized"], name=f"{tensor}_DQ"
        ),
    )


def _weights(graph: onnx.GraphProto, node: onnx.NodeProto, view: View) -> onnx.NodeProto:
    """Makes the weights of a layer INT8; returns the DQ that gives them back."""
    from onnx import helper

    name = node.input[1]
    weights = view.constant(name)
    assert weights is not None  # layers_of has looked
    values, scales = quantized_weights(weights)
    prefix = f"{node.name}_weight"
    _constant(graph, f"{prefix}_quantized", values)
    _constant(graph, f"{prefix}_scale", scales)
    _constant(graph, f"{prefix}_zero", np.zeros(len(scales), np.int8))
    node.input[1] = f"{prefix}_dequantized"
    return helper.make_node(
        "DequantizeLinear",
        [f"{prefix}_quantized", f"{prefix}_scale", f"{prefix}_zero"],
        [node.input[1]],
        name=f"{prefix}_DQ",
        axis=0,
    )


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))


def drop_unused(model: onnx.ModelProto) -> None:
    """Removes the initializers that no node takes."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
