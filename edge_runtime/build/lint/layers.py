"""The words of a Q/DQ graph: pairs, weights, biases and the layers that can compute in int8.

Knows what a thing is, never whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray
from onnx import TensorProto

from edge_runtime.build.view import RESHAPES, View, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

Q = "QuantizeLinear"
DQ = "DequantizeLinear"
CONVOLUTIONS = ("Conv", "ConvTranspose")
FIRST_CHANNELS = 4  # a convolution of so few reads the image itself
INT8_LAYERS = (*CONVOLUTIONS, "Gemm", "MatMul")
# Give back values of their input only, so a Q may stand before or after them.
COMMUTING = (*RESHAPES, "MaxPool", "Transpose", "Slice", "Split", "Identity", "DepthToSpace", "SpaceToDepth")


class Layer(NamedTuple):
    """A node that multiplies an activation with constant weights."""

    node: NodeProto
    x: NodeProto | None  # the DequantizeLinear that feeds the activation; None: it is float
    weights: NodeProto | None  # the one that feeds the weights
    shape: tuple[int, ...] | None  # of the weights

    @property
    def int8(self) -> bool:
        return self.x is not None and self.weights is not None

    @property
    def channels(self) -> tuple[int, int] | None:
        """(in, out) of a convolution."""
        if self.shape is None or len(self.shape) < 3 or self.node.op_type not in CONVOLUTIONS:
            return None
        first, second = self.shape[:2]
        group = attribute(self.node, "group", 1)
        return (second * group, first) if self.node.op_type == "Conv" else (first, second * group)

    @property
    def weight_axis(self) -> int | None:
        """The axis of the weights that counts the output channels."""
        if self.node.op_type == "Conv":
            return 0
        if self.node.op_type == "ConvTranspose":
            return 1
        if self.node.op_type == "Gemm":
            return 0 if attribute(self.node, "transB", 0) else 1
        return len(self.shape) - 1 if self.shape else None


def layers(view: View) -> Iterator[Layer]:
    """Every node of INT8_LAYERS that has constant weights."""
    for node in view.of_type(*INT8_LAYERS):
        if len(node.input) > 1 and node.input[1] in view.constants:
            shape = view.shapes.get(node.input[1])
            known = tuple(size for size in shape if size is not None) if shape else None
            yield Layer(
                node,
                dequantizer_above(view, node.input[0]),
                dequantizer(view, node.input[1]),
                known if shape and known and len(known) == len(shape) else None,
            )


def quantizers(view: View) -> Iterator[NodeProto]:
    """Every QuantizeLinear and DequantizeLinear."""
    return iter(view.of_type(Q, DQ))


def heads(view: View) -> Iterator[NodeProto]:
    """One node for each pair: the Q, or the DQ of a tensor that is stored quantized."""
    for node in quantizers(view):
        before = view.producers.get(node.input[0])
        if node.op_type == Q or before is None or before.op_type != Q:
            yield node


def quantized(view: View) -> bool:
    """The graph has a Q or a DQ."""
    return next(quantizers(view), None) is not None


def dequantizer(view: View, tensor: str) -> NodeProto | None:
    """The DQ that a tensor comes from, through Cast and Identity."""
    return _first_but(view, tensor, lambda node: node.op_type in ("Cast", "Identity"))


def dequantizer_above(view: View, tensor: str) -> NodeProto | None:
    """Likewise, through all that commutes: TensorRT moves a DQ down past these nodes."""
    return _first_but(view, tensor, lambda node: node.op_type == "Cast" or commutes(node))


def _first_but(view: View, tensor: str, passes: Callable[[NodeProto], bool]) -> NodeProto | None:
    node = next((node for node in view.above(tensor) if not passes(node)), None)
    return node if node is not None and node.op_type == DQ else None


def quantizer(view: View, tensor: str) -> NodeProto | None:
    """The Q that a quantized tensor comes from; None: it is stored or given as integers."""
    node = view.producers.get(tensor)
    return node if node is not None and node.op_type == Q else None


def readers(view: View, tensor: str, *op_types: str) -> Iterator[NodeProto]:
    """The nodes of these types that read a tensor."""
    return (node for node in view.consumers.get(tensor, ()) if node.op_type in op_types)


def scale(view: View, node: NodeProto) -> NDArray[Any] | None:
    """The scale or scales of a Q or DQ, if they can be read off the graph and are numbers."""
    return _numbers(view.constant(node.input[1]))


def zero_point(view: View, node: NodeProto) -> NDArray[Any] | None:
    """The zero point of a Q or DQ; None: it has none, or none that can be read."""
    return _numbers(view.constant(node.input[2])) if len(node.input) > 2 else None


def _numbers(value: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if value is None or not value.size or value.dtype.kind in "OSUbc" else value


def stored_type(view: View, node: NodeProto) -> int | None:
    """The data type on the quantized side of a Q or DQ, by ONNX's rules: a Q that names none makes uint8."""
    if node.op_type == DQ and (kind := view.types.get(node.input[0])):
        return kind
    if len(node.input) > 2 and (kind := view.types.get(node.input[2])):
        return kind
    return None if node.op_type == DQ else int(attribute(node, "output_dtype", 0)) or int(TensorProto.UINT8)


def float_type(view: View, node: NodeProto) -> int | None:
    """The data type on the float side of a Q or DQ."""
    tensor = node.input[0] if node.op_type == Q else node.output[0]
    return view.types.get(tensor) or view.types.get(node.input[1])


def type_name(kind: int | None) -> str:
    """The ONNX name of a data type, in small letters."""
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(kind).lower() if kind in known else f"type {kind}"


def axis(view: View, node: NodeProto) -> int:
    """The axis that several scales run along, counted from 0. ONNX's default is 1."""
    value = int(attribute(node, "axis", 1))
    return value + len(view.shapes.get(node.input[0], ())) if value < 0 else value


def is_weight(view: View, node: NodeProto) -> bool:
    """This Q or DQ works on a constant."""
    return node.input[0] in view.constants


def biases(view: View) -> dict[str, NodeProto]:
    """Outputs of a Q, DQ or Cast on the way to a layer's bias -> that layer."""
    found: dict[str, NodeProto] = {}
    for layer in view.of_type(*CONVOLUTIONS, "Gemm"):
        for node in view.above(layer.input[2]) if len(layer.input) > 2 else ():
            if node.op_type not in (Q, DQ, "Cast"):
                break
            found[node.output[0]] = layer
    return found


def commutes(node: NodeProto) -> bool:
    """This node only moves or chooses values, so one scale can serve before and after it."""
    return node.op_type in COMMUTING or (
        node.op_type == "Resize" and attribute(node, "mode", "nearest") == "nearest"
    )
