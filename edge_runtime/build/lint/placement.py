"""Rules on where Q and DQ stand: TensorRT fuses a layer to int8 only when they surround it in its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge_runtime.build.lint.layers import (
    CONVOLUTIONS,
    DQ,
    FIRST_CHANNELS,
    INT8_LAYERS,
    Layer,
    Q,
    commutes,
    dequantizer,
    dequantizer_above,
    is_weight,
    layers,
    quantized,
    quantizer,
    readers,
    scale,
)
from edge_runtime.build.lint.rule import Found
from edge_runtime.build.view import View, attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

FUSED = ("Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "HardSwish", "BatchNormalization")
FUSED_INTO = (*CONVOLUTIONS, "Gemm", "BatchNormalization", "Add")
CARRIERS = (*FUSED, "Add", "Concat", "Resize", "AveragePool", "GlobalAveragePool", "Pad", "Cast", Q, DQ)
DECIDERS = ("Sigmoid", "Softmax", "LogSoftmax", "ArgMax", "ArgMin", "TopK")


def dangling(view: View) -> Iterator[Found]:
    """One half of a pair, or a pair with arithmetic between its halves, which would be done on steps."""
    for node in view.of_type(Q):
        tensor = node.output[0]
        for reader in _strangers(view, tensor):
            yield Found(
                label(node),
                f"its int8 tensor goes into {reader.op_type} {label(reader)}, wanted a DequantizeLinear",
                "put a DequantizeLinear with the same scale directly behind it; TensorRT moves it by itself",
            )
        if not view.consumers.get(tensor) and not view.is_output(tensor):
            yield Found(label(node), "nothing reads its output, wanted a DequantizeLinear", "remove the node")
    for node in view.of_type(DQ):
        if not is_weight(view, node) and (maker := _first_maker(view, node.input[0])) is not None:
            yield Found(
                label(node),
                f"dequantizes what {maker.op_type} {label(maker)} made, wanted a QuantizeLinear before it",
                "put QuantizeLinear and DequantizeLinear side by side",
            )


def inside_pairs(view: View) -> Iterator[Found]:
    """Nodes that only move values are allowed on int8 tensors, but belong outside of the pair."""
    for node in view.of_type(Q):
        for reader in view.consumers.get(node.output[0], ()):
            if commutes(reader):
                yield Found(
                    label(reader),
                    f"stands between {label(node)} and its DequantizeLinear, wanted behind the pair",
                    "put QuantizeLinear and DequantizeLinear side by side; TensorRT moves them by itself",
                )


def float_weights(view: View) -> Iterator[Found]:
    for layer in layers(view):
        if layer.x is not None and layer.weights is None and not _is_decided(view, layer):
            yield Found(
                label(layer.node),
                "its input is int8 and its weights are float, so it runs in float, wanted both quantized or neither",
                "quantize the weights too, or let this layer read the tensor from before the QuantizeLinear",
            )


def float_inputs(view: View) -> Iterator[Found]:
    for layer in layers(view):
        if layer.x is None and layer.weights is not None:
            yield Found(
                label(layer.node),
                "its weights are int8 and its input is float, so it runs in float, wanted both quantized or neither",
                "put Q and DQ before the layer's input, or keep its weights in FP16",
            )


def before_activation(view: View) -> Iterator[Found]:
    for node in view.of_type(Q):
        maker = view.producers.get(node.input[0])
        if maker is None or maker.op_type not in FUSED_INTO or maker.input[0] in view.constants:
            continue
        for pair in readers(view, node.output[0], DQ):
            for reader in readers(view, pair.output[0], *FUSED):
                yield Found(
                    label(node),
                    f"stands between {maker.op_type} {label(maker)} and {reader.op_type} {label(reader)}, wanted behind "
                    f"the {reader.op_type}: the two cannot fuse",
                    f"move Q and DQ behind the {reader.op_type}: extra_options OpTypesToExcludeOutputQuantization="
                    "['Conv', 'Add'] of quantize_static",
                )


def batch_norms(view: View) -> Iterator[Found]:
    if not quantized(view):
        return
    for node in view.of_type("BatchNormalization"):
        maker = view.producers.get(node.input[0])
        if maker is not None and maker.op_type in CONVOLUTIONS:
            yield Found(
                label(node),
                f"follows {maker.op_type} {label(maker)}, wanted folded into its weights before they are quantized",
                "fold it first: quant_pre_process of onnxruntime.quantization, or export the model in eval mode",
            )


def serves_nothing(view: View) -> Iterator[Found]:
    for node in view.of_type(Q):
        if not is_weight(view, node) and not _reaches_layer(view, node.output[0]):
            maker = view.producers.get(node.input[0])
            origin = (
                f"the output of {maker.op_type} {label(maker)}" if maker else f"the input {node.input[0]}"
            )
            yield Found(
                label(node),
                f"quantizes {origin}, but no convolution or matrix product reads it, wanted Q and DQ at inputs of "
                "layers only",
                "remove this Q and its DQ",
            )


def residuals(view: View) -> Iterator[Found]:
    int8 = {layer.node.output[0] for layer in layers(view) if layer.int8}
    for node in view.of_type("Add"):
        branches = [tensor for tensor in node.input if tensor not in view.constants]
        sums = [t for t in branches if t in int8 and len(view.consumers[t]) == 1]
        if len(branches) == 2 and sums and not any(dequantizer_above(view, t) for t in branches):
            other = branches[0] if branches[1] == sums[0] else branches[1]
            yield Found(
                label(node),
                f"adds the int8 layer {label(view.producers[sums[0]])} and the float tensor {other}, wanted Q and DQ "
                "on that branch so that layer and Add fuse",
                f"put Q and DQ on {other}, with the scale its other readers use",
            )


def concat_scales(view: View) -> Iterator[Found]:
    for node in view.of_type("Concat"):
        around = [pair for tensor in node.input if (pair := dequantizer(view, tensor)) is not None]
        if around:
            around += readers(view, node.output[0], Q)
        values = _distinct(view, around)
        if len(values) > 1:
            yield Found(
                label(node),
                f"its inputs and readers have the scales {_listed(values)}, wanted one scale across the join",
                "give all of them the largest scale, or quantize only behind the Concat",
            )


def scales_around(view: View) -> Iterator[Found]:
    for node in view.nodes:
        if not commutes(node) or not node.input or not node.output:
            continue
        before = dequantizer_above(view, node.input[0])
        around = [before, *readers(view, node.output[0], Q)] if before is not None else []
        values = _distinct(view, around)
        if len(values) > 1:
            yield Found(
                label(node),
                f"has the scales {_listed(values)} before and behind it, wanted one: it only moves values",
                f"use the scale of {label(around[0])} on both sides, or remove one of the two pairs",
            )


def linear_resizes(view: View) -> Iterator[Found]:
    for node in view.of_type("Resize", "Upsample"):
        mode = attribute(node, "mode", "nearest")
        corners = attribute(node, "coordinate_transformation_mode", "") == "align_corners"
        if (mode != "nearest" or corners) and dequantizer(view, node.input[0]) is not None:
            kind = f"{mode}, align_corners" if corners else mode
            yield Found(
                label(node),
                f"a {kind} Resize reads an int8 tensor, wanted FP16: it computes new values",
                "remove Q and DQ before it, or resize with mode=nearest",
            )


def conv_transposes(view: View) -> Iterator[Found]:
    for layer in layers(view):
        if layer.node.op_type == "ConvTranspose" and layer.weights is not None:
            yield Found(
                label(layer.node),
                "a ConvTranspose is quantized; TensorRT has run it slower than FP16 and fused it wrongly "
                "(NVIDIA/TensorRT#1699, #4366)",
                "keep it in FP16 (nodes_to_exclude of quantize_static), or use Resize(nearest) and a convolution",
            )


def first_convolutions(view: View) -> Iterator[Found]:
    for layer in layers(view):
        if layer.int8 and layer.channels and layer.channels[0] <= FIRST_CHANNELS:
            channels = "channel" if layer.channels[0] == 1 else "channels"
            yield Found(
                label(layer.node),
                f"a convolution of {layer.channels[0]} input {channels} is quantized, wanted FP16: int8 gains nothing "
                "and the image loses steps",
                "name it in nodes_to_exclude of quantize_static, or in calibration.keep_fp16 of model.toml",
            )


def network_heads(view: View) -> Iterator[Found]:
    before_layer = _before_a_layer(view)
    fix = "name it in nodes_to_exclude of quantize_static, or in calibration.keep_fp16 of model.toml"
    for layer in layers(view):
        if layer.int8 and layer.node.output[0] not in before_layer:
            message = (
                "the last layer before an output is quantized, wanted FP16: its rounding goes into the mask"
            )
            yield Found(label(layer.node), message, fix)
    for node in view.of_type(*DECIDERS):
        if dequantizer(view, node.input[0]) is not None:
            message = f"{node.op_type} reads an int8 tensor, wanted FP16"
            yield Found(label(node), message, "remove Q and DQ before it")


def requantized(view: View) -> Iterator[Found]:
    for node in view.of_type(Q):
        before = dequantizer(view, node.input[0])
        if before is not None and not is_weight(view, node):
            yield Found(
                label(node),
                f"quantizes again what {label(before)} has just dequantized, wanted one pair on a tensor",
                "remove the second pair and let its readers use the first",
            )


def two_scales(view: View) -> Iterator[Found]:
    for tensor in view.consumers:
        values = _distinct(view, list(readers(view, tensor, Q)))
        if len(values) > 1:
            yield Found(
                tensor,
                f"is quantized with the scales {_listed(values)} for its readers, wanted one",
                "quantize it once, with the largest scale",
            )


def int8_at_rim(view: View) -> Iterator[Found]:
    for value in (*view.inputs, *view.outputs):
        if value.type.tensor_type.elem_type == TensorProto.INT8:
            yield Found(
                value.name,
                "is an int8 input or output of the network, wanted FP32, FP16 or (with a Cast) uint8",
                "end the network with DequantizeLinear, or start it with the float input",
            )


def _strangers(view: View, tensor: str) -> Iterator[NodeProto]:
    """Nodes that compute on an int8 tensor instead of dequantizing it, behind those that only move it."""
    return (
        reader for reader in _below(view, tensor, commutes) if reader.op_type != DQ and not commutes(reader)
    )


def _first_maker(view: View, tensor: str) -> NodeProto | None:
    """The node that computed an int8 tensor other than by quantizing; None: a Q did, or it is an input."""
    node = next((node for node in view.above(tensor) if not commutes(node)), None)
    return None if node is None or node.op_type == Q else node


def _below(view: View, tensor: str, passes: Callable[[NodeProto], bool]) -> Iterator[NodeProto]:
    """The readers of a tensor, and of what those that pass make from it."""
    seen, waiting = {tensor}, [tensor]
    while waiting:
        for node in view.consumers.get(waiting.pop(), ()):
            yield node
            if passes(node):
                waiting += [name for name in node.output if name not in seen]
                seen.update(node.output)


def _is_decided(view: View, layer: Layer) -> bool:
    """A head in FP16 may read a tensor that is int8 for its other readers: that is a choice, not an oversight."""
    assert layer.x is not None
    first = quantizer(view, layer.x.input[0])
    tensors = (
        [pair.output[0] for pair in readers(view, first.output[0], DQ)] if first else [layer.x.output[0]]
    )
    others = (
        other for tensor in tensors for other in view.consumers.get(tensor, ()) if other is not layer.node
    )
    return any(other.op_type in (*INT8_LAYERS, "Add", "Concat") for other in others)


def _reaches_layer(view: View, tensor: str) -> bool:
    """A layer reads this tensor, through nodes that carry int8 on."""
    readers_below = _below(view, tensor, lambda node: node.op_type in CARRIERS or commutes(node))
    return any(node.op_type in INT8_LAYERS for node in readers_below)


def _before_a_layer(view: View) -> set[str]:
    """Tensors that a later layer depends on, in whatever way."""
    found: set[str] = set()
    for node in reversed(view.nodes):
        if node.op_type in INT8_LAYERS or any(name in found for name in node.output):
            found.update(name for name in node.input if name)
    return found


def _distinct(view: View, pairs: list[NodeProto]) -> list[NDArray[Any]]:
    """The different scales among these nodes, in order."""
    values: list[NDArray[Any]] = []
    for node in pairs:
        value = scale(view, node)
        if value is not None and not any(np.array_equal(value, known) for known in values):
            values.append(value)
    return values


def _listed(values: list[NDArray[Any]]) -> str:
    return ", ".join(f"{value.flat[0]:.4g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
