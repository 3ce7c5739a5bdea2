"""Rules on the numbers of Q and DQ: scales, zero points, types and axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge_runtime.build.lint.layers import (
    DQ,
    Q,
    axis,
    biases,
    float_type,
    heads,
    is_weight,
    layers,
    quantizers,
    readers,
    scale,
    stored_type,
    type_name,
    zero_point,
)
from edge_runtime.build.lint.rule import Found
from edge_runtime.build.view import View, attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

SYMMETRIC = (
    "quantize symmetrically to int8: activation_type and weight_type QInt8, extra_options ActivationSymmetric=True "
    "and WeightSymmetric=True of onnxruntime's quantize_static"
)
SMALLEST_NORMAL_FP16 = float(np.finfo(np.float16).smallest_normal)  # 6.1e-5
FP16_STEP = float(np.finfo(np.float16).smallest_subnormal)  # 6.0e-8: how far apart the numbers below it lie


def zero_points(view: View) -> Iterator[Found]:
    for node in heads(view):
        value = zero_point(view, node)
        if value is not None and value.size and np.any(value != 0):
            worst = value.flat[int(np.argmax(np.abs(value.astype(np.float64))))]
            yield Found(
                label(node), f"zero point is {worst}, wanted 0: TensorRT's int8 is symmetric", SYMMETRIC
            )


def unsigned(view: View) -> Iterator[Found]:
    bias = biases(view)
    for node in heads(view):
        if node.output[0] in bias or stored_type(view, node) != TensorProto.UINT8:
            continue
        if node.op_type == Q and len(node.input) < 3:
            message = "has no zero point, which means uint8 in ONNX and int8 in TensorRT: values above 127 steps clip"
            yield Found(label(node), message, "add a zero point of type int8 and value 0")
        else:
            message = "quantizes to uint8, wanted int8: TensorRT refuses it for weights and clips activations at 127 steps"
            yield Found(label(node), message, SYMMETRIC)


def quantized_types(view: View) -> Iterator[Found]:
    bias = biases(view)
    for node in heads(view):
        kind = stored_type(view, node)
        if kind not in (None, TensorProto.INT8, TensorProto.UINT8) and node.output[0] not in bias:
            yield Found(
                label(node),
                f"quantizes to {type_name(kind)}, wanted int8",
                "use QuantType.QInt8 for activation_type and weight_type of quantize_static",
            )


def bias_quantized(view: View) -> Iterator[Found]:
    for tensor, layer in biases(view).items():
        node = view.producers[tensor]
        if node.op_type == DQ:
            kind = type_name(stored_type(view, node))
            yield Found(
                label(node),
                f"dequantizes the bias of {label(layer)} from {kind}, wanted a float bias",
                "keep the bias in float: extra_options QuantizeBias=False of quantize_static",
            )


def scales_constant(view: View) -> Iterator[Found]:
    for node in quantizers(view):
        for tensor, what in zip(node.input[1:3], ("scale", "zero point"), strict=False):
            if tensor and tensor not in view.constants:
                yield Found(
                    label(node),
                    f"{what} {tensor} is computed while the network runs, wanted a constant",
                    "quantize statically (quantize_static with a calibration reader, not quantize_dynamic)",
                )


def scale_values(view: View) -> Iterator[Found]:
    for node in quantizers(view):
        value = scale(view, node)
        if value is None:
            continue
        wide = value.astype(np.float64).ravel()
        wrong = wide[~(np.isfinite(wide) & (wide > 0))]
        if wrong.size:
            which = f"{wrong.size} of {wide.size} scales are" if wide.size > 1 else "scale is"
            yield Found(
                label(node),
                f"{which} {wrong[0]:g}, wanted finite and above 0",
                "calibrate on frames that make this tensor move, or raise an empty channel's scale to 1e-4",
            )


def scale_underflow(view: View) -> Iterator[Found]:
    for node in heads(view):
        value = scale(view, node)
        if value is None or value.dtype != np.float16:
            continue
        small = [float(one) for one in value.ravel() if 0 < one < SMALLEST_NORMAL_FP16]
        if small:
            error = 50 * FP16_STEP / min(small)
            yield Found(
                label(node),
                f"{len(small)} of {value.size} FP16 scales are below {SMALLEST_NORMAL_FP16:.1e}, where FP16 loses digits "
                f"(the smallest is rounded by up to {error:.2g} %)",
                f"raise these scales to {SMALLEST_NORMAL_FP16:.1e}, or leave the layer in FP16",
            )


def scale_counts(view: View) -> Iterator[Found]:
    for node in quantizers(view):
        value, shape = scale(view, node), view.shapes.get(node.input[0])
        if value is None or attribute(node, "block_size", 0) or (value.ndim <= 1 and value.size == 1):
            continue
        if value.ndim > 1:
            message = f"scale has shape {value.shape}, wanted one number or one for each channel"
            yield Found(
                label(node), message, "store the scales as a vector, quantized per tensor or per channel"
            )
            continue
        along = axis(view, node)
        wanted = shape[along] if shape and along < len(shape) else None
        if shape is not None and wanted != value.size:
            message = (
                f"{value.size} scales along axis {along} of a tensor of shape {_text(shape)}, wanted {wanted}"
            )
            fix = "store one scale for each output channel and name their axis (0 for Conv, 1 for ConvTranspose)"
            yield Found(label(node), message, fix)


def weight_axes(view: View) -> Iterator[Found]:
    for layer in layers(view):
        if layer.weights is None or attribute(layer.weights, "block_size", 0):
            continue
        if (value := scale(view, layer.weights)) is None or value.size < 2:
            continue
        is_axis, wanted = axis(view, layer.weights), layer.weight_axis
        if wanted is not None and is_axis != wanted:
            yield Found(
                label(layer.weights),
                f"weights of {layer.node.op_type} {label(layer.node)} have their scales along axis {is_axis}, "
                f"wanted {wanted}, the output channels",
                f"set axis={wanted} (ONNX's default is 1) and one scale for each output channel",
            )


def activation_scales(view: View) -> Iterator[Found]:
    for node in heads(view):
        value = scale(view, node)
        if value is not None and value.size > 1 and not is_weight(view, node):
            yield Found(
                label(node),
                f"an activation has {value.size} scales, wanted one for the whole tensor",
                "quantize activations per tensor; per_channel of quantize_static is for weights",
            )


def pairs(view: View) -> Iterator[Found]:
    for first in view.of_type(Q):
        for second in readers(view, first.output[0], DQ):
            if differs := _difference(view, first, second):
                yield Found(
                    label(second),
                    f"{differs} than {label(first)} before it, wanted the same on both sides",
                    "give both nodes the same scale and zero point tensors",
                )


def block_sizes(view: View) -> Iterator[Found]:
    for node in quantizers(view):
        if size := attribute(node, "block_size", 0):
            yield Found(
                label(node),
                f"has block_size {size}, wanted one scale for a tensor or an output channel",
                "remove block_size and quantize weights per channel (per_channel=True of quantize_static)",
            )


def attributes(view: View) -> Iterator[Found]:
    plain: dict[str, tuple[int, ...]] = {
        "saturate": (1,),
        "output_dtype": (TensorProto.UNDEFINED,),
        "precision": (TensorProto.UNDEFINED,),
    }
    for node in quantizers(view):
        for name, expected in plain.items():
            value = attribute(node, name, expected[0])
            if value not in expected:
                yield Found(
                    label(node),
                    f"has {name}={value}, which int8 does not need and TensorRT 10.3 does not know",
                    f"remove {name}; the zero point's type says what is quantized to",
                )


def fp16_opset(view: View) -> Iterator[Found]:
    for node in heads(view):
        if float_type(view, node) == TensorProto.FLOAT16 and view.opset < 19:
            yield Found(
                label(node),
                f"quantizes FP16 at opset {view.opset}, wanted opset 19: FP16 Q/DQ does not exist before",
                "convert to opset 19 (onnx.version_converter) before the rest is made FP16",
            )
            return  # one version for the whole graph


def _difference(view: View, first: NodeProto, second: NodeProto) -> str:
    one, other = scale(view, first), scale(view, second)
    if one is not None and other is not None and not _same(one, other):
        return f"has another scale ({_brief(other)}, not {_brief(one)})"
    if one is not None and one.size > 1 and axis(view, first) != axis(view, second):
        return f"has another axis ({axis(view, second)}, not {axis(view, first)})"
    one, other = zero_point(view, first), zero_point(view, second)
    if one is not None and other is not None and not _same(one, other):
        return f"has another zero point ({_brief(other)} {other.dtype}, not {_brief(one)} {one.dtype})"
    return ""


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()  # NaN equals NaN


def _brief(value: NDArray[Any]) -> str:
    return (
        f"{value.flat[0]:g}" if value.size == 1 else f"{value.size} from {value.min():g} to {value.max():g}"
    )


def _text(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
