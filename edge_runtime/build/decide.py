"""Appends the decision to a segmentation graph, so that an engine gives labels and a few sums instead of probabilities.

A device then copies one byte a pixel and some hundred floats, and no host loop runs over a probability map. The
rules are those of `infer/postprocess.py`: above one half for one channel; else the largest, the first of equals, by
the same chain of comparisons (an argmax by sorting breaks ties as it likes). Every sum is taken in FP32: FP16 ends
at 65504, and a map of 192x288 ones is near it.

Outputs, with C channels of which K = max(1, C - 1) are labels:

    decided_labels   (1, h, w) uint8     the label of each pixel, padding included
    decided_total    (1, C) float32      sum of p over the grid; NaN or infinity anywhere shows in it
    decided_rows     (1, K, h) float32   sum of p along each row, over the pixels decided for that label
    decided_columns  (1, K, w) float32   likewise along each column

Rows and columns, because a letterbox leaves padding either above and below or at the sides: whichever it is, the sum
inside the picture comes from one of the two exactly, and the graph need not know where the picture lies.

TensorRT takes uint8 only at a network's edge and only from or to FP32 and FP16: the labels are floats until the last
cast. Knows no TensorRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.graph import require_onnx
from edge_runtime.errors import EngineError
from edge_runtime.infer.model import OutputSpec
from edge_runtime.infer.postprocess import COLUMNS, LABELS, ROWS, TOTAL

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 13  # ReduceSum and Split take their axes as inputs
PREFIX = "decided__"  # of every name that is added


def append_decision(graph: bytes, output: OutputSpec, where: str) -> bytes:
    """The model in `graph` with its mask output replaced by the decision; the other outputs that the manifest names
    (presence, rotation, polarity) stay as they are, the rest go.

    The same bytes for the same graph. Raises EngineError where the mask is no float map of a fixed shape,
    ConfigError where onnx is not installed.
    """
    onnx = require_onnx()
    model = onnx.load_model_from_string(graph)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise EngineError(
            f"{where}: opset {opset}, want {OLDEST_OPSET} or later; edge-runtime quantize writes 19"
        )
    outputs = {value.name: value for value in model.graph.output}
    mask = output.mask or next(iter(outputs))
    for name in (mask, *output.words):
        if name not in outputs:
            raise EngineError(f"{where}: no output {name!r}, the graph has {', '.join(outputs)}")
    channels, height, width = _shape(model, outputs[mask], where)
    tail = _Tail(model)
    probabilities = tail.activated(mask, output.activation)
    labels = tail.labels(probabilities, channels)
    tail.sums(probabilities, labels, channels, height, width)
    kept = [outputs[name] for name in output.words]
    del model.graph.output[:]
    model.graph.output.extend([*tail.outputs, *kept])
    return bytes(model.SerializeToString(deterministic=True))


def _shape(model: onnx.ModelProto, mask: onnx.ValueInfoProto, where: str) -> tuple[int, int, int]:
    """Channels, height and width of the mask output, inferred where the graph does not say."""
    import onnx

    axes = _static(mask)
    if axes is None:
        inferred = onnx.shape_inference.infer_shapes(model)
        axes = _static(next(value for value in inferred.graph.output if value.name == mask.name))
    if axes is None or len(axes) != 4 or axes[0] != 1:
        raise EngineError(
            f"{where}: output {mask.name!r} is {axes or 'of no fixed shape'}, want [1, channels, h, w]"
        )
    if mask.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise EngineError(f"{where}: output {mask.name!r} is not float32")
    return axes[1], axes[2], axes[3]


def _static(value: onnx.ValueInfoProto) -> list[int] | None:
    """The axes of a tensor, None where one is free."""
    axes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    return axes if axes and all(axis > 0 for axis in axes) else None


class _Tail:
    """Nodes appended to a graph one by one. A method returns the name of the tensor it made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self.outputs: list[onnx.ValueInfoProto] = []

    def _node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = f"{PREFIX}{len(self._graph.node)}_{kind.lower()}"
        made = output or name
        self._graph.node.append(helper.make_node(kind, inputs, [made], name=name, **attributes))
        return made

    def _constant(self, array: NDArray[np.generic]) -> str:
        from onnx import numpy_helper

        name = f"{PREFIX}constant_{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _output(self, name: str, kind: int, shape: list[int]) -> str:
        from onnx import helper

        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def activated(self, scores: str, activation: str) -> str:
        """Probabilities (1, C, h, w) of `scores`."""
        if activation == "sigmoid":
            return self._node("Sigmoid", [scores])
        if activation == "softmax":
            return self._node("Softmax", [scores], axis=1)
        return scores

    def labels(self, probabilities: str, channels: int) -> str:
        """The label of each pixel as a float, (1, 1, h, w)."""
        from onnx import TensorProto

        if channels == 1:
            above = self._node("Greater", [probabilities, self._constant(np.array([0.5], np.float32))])
            return self._node("Cast", [above], to=TensorProto.FLOAT)
        best, labels = self._channel(probabilities, 0), self._constant(np.zeros((1, 1, 1, 1), np.float32))
        for value in range(1, channels):
            channel = self._channel(probabilities, value)
            better = self._node("Greater", [channel, best])
            labels = self._node("Where", [better, self._constant(np.array([value], np.float32)), labels])
            best = self._node("Max", [best, channel])
        return labels

    def _channel(self, probabilities: str, index: int) -> str:
        """One channel, (1, 1, h, w)."""
        return self._cut(probabilities, index, index + 1)

    def _cut(self, tensor: str, start: int, stop: int) -> str:
        """Channels from `start` to before `stop`."""
        bounds = [self._constant(np.array([edge], np.int64)) for edge in (start, stop, 1)]
        return self._node("Slice", [tensor, *bounds])

    def sums(self, probabilities: str, labels: str, channels: int, height: int, width: int) -> None:
        """The four outputs."""
        from onnx import TensorProto

        count = max(1, channels - 1)
        foreground = probabilities if channels == 1 else self._cut(probabilities, 1, channels)
        values = np.arange(1, count + 1, dtype=np.float32).reshape(1, count, 1, 1)
        decided = self._node(
            "Cast", [self._node("Equal", [labels, self._constant(values)])], to=TensorProto.FLOAT
        )
        inside = self._node("Mul", [foreground, decided])
        squeezed = self._node("Squeeze", [labels, self._constant(np.array([1], np.int64))])
        self._node(
            "Cast",
            [squeezed],
            self._output(LABELS, TensorProto.UINT8, [1, height, width]),
            to=TensorProto.UINT8,
        )
        self._sum(probabilities, [2, 3], self._output(TOTAL, TensorProto.FLOAT, [1, channels]))
        self._sum(inside, [3], self._output(ROWS, TensorProto.FLOAT, [1, count, height]))
        self._sum(inside, [2], self._output(COLUMNS, TensorProto.FLOAT, [1, count, width]))

    def _sum(self, tensor: str, axes: list[int], output: str) -> None:
        self._node("ReduceSum", [tensor, self._constant(np.array(axes, np.int64))], output, keepdims=0)
