"""A read-only view of an ONNX graph: who makes a tensor, who reads it, and what is known of it beforehand.

Knows no rule and changes nothing. It looks at the top level of a graph only: the bodies of If, Loop and Scan and the
model's own functions are opaque to it (`opaque` names the nodes that have one).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

STANDARD = ("", "ai.onnx")
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, slots=True)
class View:
    """Made once for a model by `View.of`; a tensor is meant by its name everywhere."""

    model: ModelProto
    nodes: tuple[NodeProto, ...]  # without those that lack an input or output of their operator
    producers: Mapping[str, NodeProto]
    consumers: Mapping[str, tuple[NodeProto, ...]]  # a node once for each time it reads the tensor
    inputs: tuple[ValueInfoProto, ...]  # without those that only name an initializer
    outputs: tuple[ValueInfoProto, ...]
    types: Mapping[str, int]  # onnx.TensorProto.DataType, as far as shape inference gets
    shapes: Mapping[str, tuple[int | None, ...]]  # likewise; None: not fixed
    constants: frozenset[str]  # tensors that depend on no input, computed ones included
    initializers: Mapping[str, TensorProto] = field(repr=False)

    @classmethod
    def of(cls, model: ModelProto) -> View:
        """The view of `model`, which is neither copied nor changed. Never raises for a bad graph: it knows less of it."""
        graph = model.graph
        nodes = tuple(node for node in graph.node if _is_whole(node))
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        described = _described(model)
        return cls(
            model=model,
            nodes=nodes,
            producers={name: node for node in nodes for name in node.output if name},
            consumers=_consumers(nodes),
            inputs=tuple(value for value in graph.input if value.name not in initializers),
            outputs=tuple(graph.output),
            types=_types(described, initializers),
            shapes=_shapes(described, initializers),
            constants=_constants(nodes, initializers),
            initializers=initializers,
        )

    @property
    def opset(self) -> int:
        """The version of the standard operators; 0 when the model does not say."""
        return max(
            (entry.version for entry in self.model.opset_import if entry.domain in STANDARD), default=0
        )

    @property
    def opaque(self) -> tuple[NodeProto, ...]:
        """Nodes with a body of their own, which this view does not look into."""
        functions = {(function.domain, function.name) for function in self.model.functions}
        return tuple(
            node
            for node in self.nodes
            if (node.domain, node.op_type) in functions
            or any(entry.type in (entry.GRAPH, entry.GRAPHS) for entry in node.attribute)
        )

    def of_type(self, *op_types: str) -> Iterable[NodeProto]:
        """The nodes of these types, in the graph's order."""
        return (node for node in self.nodes if node.op_type in op_types)

    def is_output(self, tensor: str) -> bool:
        return any(value.name == tensor for value in self.outputs)

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer or a Constant, through Cast, Identity and reshapes; None for any other tensor.

        The array may be read-only memory of the model: copy it before writing.
        """
        if tensor not in self.constants:
            return None
        if tensor in self.initializers:
            return _array(self.initializers[tensor])
        node = self.producers[tensor]
        if node.op_type == "Constant":
            return _constant_node(node)
        if node.op_type not in ("Cast", "Identity", *RESHAPES):
            return None
        value = self.constant(node.input[0])
        if value is not None and node.op_type == "Cast":
            return _cast(value, attribute(node, "to", 1))
        sizes = [size for size in self.shapes.get(tensor, ()) if size is not None]
        return value.reshape(sizes) if value is not None and value.size == math.prod(sizes) else value

    def above(self, tensor: str) -> Iterator[NodeProto]:
        """The node that makes a tensor, the one that makes its first input, and so on up. Ends at a circle, too."""
        seen: set[str] = set()
        while tensor not in seen and (node := self.producers.get(tensor)) is not None:
            yield node
            seen.add(tensor)
            tensor = node.input[0] if node.input else ""


def label(node: NodeProto) -> str:
    """What a person finds the node by: its name, else what it makes."""
    return str(node.name) or f"{node.op_type} -> {', '.join(node.output)}"


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The attribute's value, text as str; `default` where it has none, or one of another type."""
    from onnx import helper

    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            value = value.decode(errors="replace") if isinstance(value, bytes) else value
            return value if default is None or isinstance(value, type(default)) else default
    return default


def _is_whole(node: NodeProto) -> bool:
    from onnx import defs

    if node.domain in STANDARD and defs.has(node.op_type):
        schema = defs.get_schema(node.op_type)
        return len(node.input) >= schema.min_input and len(node.output) >= schema.min_output
    return bool(node.output)


def _consumers(nodes: Iterable[NodeProto]) -> dict[str, tuple[NodeProto, ...]]:
    found: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in filter(None, node.input):
            found.setdefault(name, []).append(node)
    return {name: tuple(readers) for name, readers in found.items()}


def _constants(nodes: Iterable[NodeProto], initializers: Iterable[str]) -> frozenset[str]:
    known = set(initializers)
    for node in nodes:  # an ONNX graph is in the order of computation
        if all(name in known for name in node.input if name) and not _may_vary(node):
            known.update(filter(None, node.output))
    return frozenset(known)


def _may_vary(node: NodeProto) -> bool:
    """Draws at random, or has a body that may read what lies outside of it."""
    return node.op_type.startswith("Random") or any(
        entry.type in (entry.GRAPH, entry.GRAPHS) for entry in node.attribute
    )


def _cast(value: NDArray[Any], kind: int) -> NDArray[Any] | None:
    from onnx import helper

    try:
        return value.astype(helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, ValueError, TypeError):  # no such type, or text that is no number
        return None


def _array(tensor: TensorProto) -> NDArray[Any] | None:
    from onnx import checker, numpy_helper

    try:
        value: NDArray[Any] = numpy_helper.to_array(tensor)
    except (
        ValueError,
        TypeError,
        KeyError,
        OSError,
        checker.ValidationError,
    ):  # damaged, or in a file not here
        return None
    return value


def _constant_node(node: NodeProto) -> NDArray[Any] | None:
    from onnx import helper

    for entry in node.attribute:
        if entry.name == "value":
            return _array(entry.t)
        if entry.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(entry), np.float32)
        if entry.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(entry), np.int64)
    return None


def _described(model: ModelProto) -> dict[str, ValueInfoProto]:
    """What the graph says of its tensors, and what follows from it."""
    from onnx import shape_inference

    try:
        graph: GraphProto = shape_inference.infer_shapes(model).graph
    except (
        shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ):  # the checker's rule reports the reason
        graph = model.graph
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def _types(
    described: Mapping[str, ValueInfoProto], initializers: Mapping[str, TensorProto]
) -> dict[str, int]:
    known = {name: int(value.type.tensor_type.elem_type) for name, value in described.items()}
    known.update({name: int(tensor.data_type) for name, tensor in initializers.items()})
    return {name: kind for name, kind in known.items() if kind}


def _shapes(
    described: Mapping[str, ValueInfoProto], initializers: Mapping[str, TensorProto]
) -> dict[str, tuple[int | None, ...]]:
    known: dict[str, tuple[int | None, ...]] = {
        name: tuple(
            int(size.dim_value) if size.HasField("dim_value") and size.dim_value >= 0 else None
            for size in value.type.tensor_type.shape.dim
        )
        for name, value in described.items()
        if value.type.tensor_type.HasField("shape")
    }
    known.update({name: tuple(int(size) for size in tensor.dims) for name, tensor in initializers.items()})
    return known
