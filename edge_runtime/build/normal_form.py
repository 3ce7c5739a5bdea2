"""Brings a graph into the one form that the rest of `build` works on, without changing what it computes.

Constants and what follows from them alone become initializers, helpers that do nothing at inference go,
batch normalization goes into the convolution before it, nodes get unique names, every tensor a static type
and shape. The module imports onnx: `graph.py` imports it late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_runtime.build.graph import EXPORT, node_name, set_nodes, some, tensors, type_name
from edge_runtime.errors import ConfigError, first_line

OPSET = 19  # the least in which FP16 may be quantized, and TensorRT 10.3 reads up to 20
IR_VERSION = 9  # the one of opset 19
MOST_FOLDED = 1 << 24  # elements of a constant that is worth computing beforehand
TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)
QUANTIZING = ("QuantizeLinear", "DequantizeLinear")  # left as they are: where they stand is their meaning


def check_weights(model: ModelProto, where: str) -> None:
    """Raises ConfigError for a file whose weights are not of the size that it says."""
    for tensor in tensors(model.graph):
        try:
            onnx.checker.check_tensor(tensor)
            numpy_helper.to_array(tensor)
        except Exception as exc:  # ValidationError, and ValueError where the numbers do not fill the shape
            raise ConfigError(
                f"{where}: weights {some([tensor.name])} are damaged ({first_line(exc)}); copy it again, or {EXPORT}"
            ) from exc


def inline_functions(model: ModelProto, where: str) -> None:
    """Puts the bodies of the model's own functions in their places. Raises ConfigError."""
    if not model.functions:
        return
    import onnx.inliner

    try:
        model.CopyFrom(onnx.inliner.inline_local_functions(model))
    except Exception as exc:  # the C++ inliner raises types of its own
        names = some(function.name for function in model.functions)
        raise ConfigError(
            f"{where}: its functions ({names}) cannot be put in place ({first_line(exc)}); {EXPORT}"
        ) from exc


def normalise(model: ModelProto, where: str) -> ModelProto:
    """`model` in normal form; the argument is spent. Its input's shape is static.

    Raises ConfigError for what cannot be converted to opset 19, inferred or checked.
    """
    _strip(model)
    _inline_constants(model.graph, where)
    model = _to_opset(model, where)
    model = _fold(model, where)
    _refuse_live_dropout(model.graph, where)
    _remove_idle(model.graph)
    _fold_normalization(model.graph)
    _drop_unused(model.graph)
    _name_nodes(model.graph)
    del model.graph.value_info[:]
    model = _infer(model, where)
    _refuse_types(model.graph, where)
    _refuse_channels(model.graph, where)
    _check(model, where)
    return model


def _strip(model: ModelProto) -> None:
    """Takes away what only tells of the machine that exported the model, and domains that are not used."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        if hasattr(node, "metadata_props"):  # IR 10 and later
            node.ClearField("metadata_props")
        if node.domain == "ai.onnx":
            node.domain = ""
    version = next(known.version for known in model.opset_import if known.domain in ("", "ai.onnx"))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))


def _inline_constants(graph: GraphProto, where: str) -> None:
    """Constant nodes become initializers."""
    kept = []
    for index, node in enumerate(graph.node):
        if node.op_type != "Constant":
            kept.append(node)
            continue
        given = node.attribute[0]
        if given.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(given.t)
        elif given.name in ("value_float", "value_floats"):
            tensor = numpy_helper.from_array(np.asarray(helper.get_attribute_value(given), np.float32))
        elif given.name in ("value_int", "value_ints"):
            tensor = numpy_helper.from_array(np.asarray(helper.get_attribute_value(given), np.int64))
        else:
            raise ConfigError(
                f"{where}: {node_name(node, index)} is a constant of text or sparse values; {EXPORT}"
            )
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    set_nodes(graph, kept)


def _to_opset(model: ModelProto, where: str) -> ModelProto:
    """`model` at opset 19. Raises ConfigError where an operator has no equal there."""
    version = model.opset_import[0].version
    model.ir_version = IR_VERSION  # the converter wants weights of IR 3 among the inputs
    if version != OPSET:
        try:
            model = _converted(model, version)
        except Exception as exc:  # the C++ converter raises RuntimeError, IndexError and its own
            raise ConfigError(
                f"{where}: opset {version} cannot be converted to {OPSET} ({first_line(exc)}); "
                "export it again with opset_version=17"
            ) from exc
        _inline_constants(model.graph, where)  # the converter makes some
        model.ir_version = IR_VERSION
    return model


def _converted(model: ModelProto, version: int) -> ModelProto:
    """`model` by onnx's converter, which is helped where it fails and put right where it errs."""
    from onnx import version_converter

    try:
        converted = version_converter.convert_version(model, OPSET)
    except Exception:  # once more with the operators that opset 19 does not know written out
        if version < OPSET:
            raise
        converted = version_converter.convert_version(_written_out(model, version), OPSET)
    if version < 11:
        # Resize 10 and Upsample map by the corner of a pixel, Resize 11 by its centre if not told: onnx 1.23 does not.
        for node in converted.graph.node:
            if node.op_type == "Resize":
                node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
                node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    return converted


def _written_out(model: ModelProto, version: int) -> ModelProto:
    """`model` with operators that are younger than opset 19 as the older ones that define them."""
    import onnx.inliner

    known: list[Any] = [  # its stubs leave out what it says of functions
        onnx.defs.get_schema(name, version, "") for name in {node.op_type for node in model.graph.node}
    ]
    young = [
        ("", schema.name)
        for schema in known
        if schema.since_version > OPSET and (schema.has_function or schema.has_context_dependent_function)
    ]
    typed = onnx.shape_inference.infer_shapes(model)
    typed.graph.value_info.extend(  # the inliner looks for the types of weights there
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in typed.graph.initializer
    )
    return onnx.inliner.inline_selected_functions(typed, young, inline_schema_functions=True)


def _infer(model: ModelProto, where: str) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as exc:  # InferenceError, and what the C++ code lets through
        raise ConfigError(
            f"{where}: shapes and types do not fit together ({first_line(exc)}); {EXPORT}"
        ) from exc


def _fold(model: ModelProto, where: str) -> ModelProto:
    """Computes what follows from constants and static shapes alone, until nothing more does."""
    while True:
        model = _infer(model, where)
        if not _fold_once(model.graph):
            return model
        del model.graph.value_info[:]


def _fold_once(graph: GraphProto) -> bool:
    """One pass in the order of the graph. Returns whether anything was computed."""
    known = initializers(graph)
    shapes = static_shapes(graph)
    given = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in graph.node:
        values = None if given.intersection(node.output) else _value(node, known, shapes)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            graph.initializer.append(numpy_helper.from_array(value, name))
    changed = len(kept) < len(graph.node)
    set_nodes(graph, kept)
    return changed


def _value(
    node: NodeProto,
    known: Mapping[str, NDArray[np.generic]],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[NDArray[np.generic]] | None:
    """The outputs of a node whose inputs are all known; None for any other."""
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        stand_in = np.broadcast_to(np.float32(0), shapes[node.input[0]])  # only its shape is looked at
        feeds = {node.input[0]: stand_in}
    elif node.op_type in QUANTIZING or not all(name in known for name in node.input if name):
        return None
    else:
        feeds = {name: known[name] for name in node.input if name}
    from onnx.reference import ReferenceEvaluator

    try:
        values = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, feeds)
    except Exception:  # noqa: BLE001 - an operator the evaluator cannot run stays in the graph: nothing is lost
        return None
    arrays = [np.asarray(value) for value in values]
    return arrays if sum(array.size for array in arrays) <= MOST_FOLDED else None


def _refuse_live_dropout(graph: GraphProto, where: str) -> None:
    known = initializers(graph)
    for index, node in enumerate(graph.node):
        if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
            continue
        training = known.get(node.input[2])
        if training is None or bool(training.any()):
            raise ConfigError(
                f"{where}: {node_name(node, index)} (Dropout) is in training mode; "
                "call model.eval() and export it again"
            )


def _remove_idle(graph: GraphProto) -> None:
    """Identity and Dropout go; a name that is the graph's own stays."""
    given = {value.name for value in graph.output}
    fixed = given | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}  # a name that goes -> the one that stands for it
    kept: list[NodeProto] = []
    for node in graph.node:
        idle = node.op_type in ("Identity", "Dropout") and not any(node.output[1:])
        source = renamed.get(node.input[0], node.input[0]) if idle else ""
        if idle and node.output[0] not in given:
            renamed[node.output[0]] = source
        elif idle and source not in fixed:
            renamed[source] = node.output[0]
            fixed.add(node.output[0])
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = _last_name(renamed, name)
    set_nodes(graph, kept)


def _last_name(renamed: Mapping[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _fold_normalization(graph: GraphProto) -> None:
    """Batch normalization right after a convolution becomes part of its weights and bias.

    With k = scale / sqrt(variance + epsilon): weights times k for each channel that comes out, bias
    (bias - mean) k + shift; computed in float64.
    """
    known = initializers(graph)
    producer = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    kept: list[NodeProto] = []
    for node in graph.node:
        conv = producer.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if (
            conv is None
            or conv.op_type not in ("Conv", "ConvTranspose")
            or uses[node.input[0]] != 1
            or not all(name in known for name in (*conv.input[1:], *node.input[1:]) if name)
        ):
            kept.append(node)
            continue
        weight, bias = folded(conv, node, known)
        base = node.output[0]
        for name, value in ((f"{base}.weight", weight), (f"{base}.bias", bias)):
            graph.initializer.append(numpy_helper.from_array(value, name))
            known[name] = value
        del conv.input[1:]
        conv.input.extend([f"{base}.weight", f"{base}.bias"])
        conv.output[0] = base
        producer[base] = conv
    set_nodes(graph, kept)


def folded(
    conv: NodeProto, norm: NodeProto, known: Mapping[str, NDArray[np.generic]]
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Weights and bias of `conv` with the batch normalization `norm` in them, in the weights' type."""
    scale, shift, mean, variance = (known[name].astype(np.float64) for name in norm.input[1:5])
    epsilon = next((given.f for given in norm.attribute if given.name == "epsilon"), 1e-5)
    weight: NDArray[Any] = known[conv.input[1]]
    factor = scale / np.sqrt(variance + epsilon)
    bias = known[conv.input[2]].astype(np.float64) if len(conv.input) > 2 and conv.input[2] else 0.0
    rest = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":  # (out, in / groups, ...)
        wide = factor.reshape(-1, 1, *rest)
    else:  # (in, out / groups, ...): the input channels of a group make that group's outputs
        groups = next((given.i for given in conv.attribute if given.name == "group"), 1)
        wide = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        wide = wide.reshape(*wide.shape, *rest)
    return (weight * wide).astype(weight.dtype), ((bias - mean) * factor + shift).astype(weight.dtype)


def _drop_unused(graph: GraphProto) -> None:
    """Nodes, initializers that lead nowhere, and initializers listed as inputs (IR 3)."""
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    set_nodes(graph, kept[::-1])
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _name_nodes(graph: GraphProto) -> None:
    """Each node gets a name of its own, its old one where that is the first of its kind."""
    taken: set[str] = set()
    for node in graph.node:
        base = name = node.name or f"{node.op_type}_{node.output[0]}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name


def _refuse_types(graph: GraphProto, where: str) -> None:
    """Raises ConfigError for tensors of 64-bit floats or other types, and for shapes that stayed open."""
    typed = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    kinds = {name: tensor.elem_type for name, tensor in typed.items()}
    kinds.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    double = [name for name, kind in kinds.items() if kind == TensorProto.DOUBLE]
    if double:
        raise ConfigError(f"{where}: float64 (double) in {some(double)}; export it in float32: model.float()")
    odd = [f"{name} ({type_name(kind)})" for name, kind in kinds.items() if kind not in TYPES]
    if odd:
        raise ConfigError(f"{where}: types that TensorRT does not take: {some(odd)}; {EXPORT}")
    shapes = static_shapes(graph)
    for node in graph.node:
        for name in node.output:
            if name and name not in shapes:
                raise ConfigError(
                    f"{where}: the shape of {name!r} (node {node.name}, {node.op_type}) is known only when it runs; "
                    "export with fixed sizes: torch.onnx.export without dynamic_axes"
                )


def _refuse_channels(graph: GraphProto, where: str) -> None:
    """Raises ConfigError for a convolution of another number of channels than it is given: onnx lets it pass."""
    shapes = static_shapes(graph)
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        given, weight = shapes[node.input[0]], shapes[node.input[1]]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        wanted = weight[1] * groups if node.op_type == "Conv" else weight[0]
        if given[1] != wanted:
            raise ConfigError(
                f"{where}: {node.name} is given {given[1]} channels and has weights for {wanted}; {EXPORT}"
            )


def _check(model: ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:  # ValidationError, and what the C++ code lets through
        raise ConfigError(f"{where}: not valid ONNX ({first_line(exc)}); {EXPORT}") from exc


def static_shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor whose shape is known and fixed, initializers included."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shape = value.type.tensor_type
        if shape.HasField("shape") and all(axis.HasField("dim_value") for axis in shape.shape.dim):
            found[value.name] = tuple(axis.dim_value for axis in shape.shape.dim)
    return found


def initializers(graph: GraphProto) -> dict[str, NDArray[np.generic]]:
    """Name -> value of every initializer."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
