"""Reads an ONNX file that somebody else made: refused in one clear line, or returned in one normal form.

The normal form (`normal_form.py`) is what the rest of `build` works on: one file's worth of content, opset
19, every tensor of a static type and shape, no folded-away helpers, unique names. Knows nothing of
quantization and of what the model finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import BackendError, ConfigError
from edge_runtime.infer.backends.contract import fix_shape
from edge_runtime.infer.model import EXTERNAL_DATA
from edge_runtime.types import printable

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MAX_BYTES = 1 << 30  # protobuf ends at 2 GiB, and a portable device long before
LEAST_OPSET = 7  # onnxruntime's own limit
LEAST_IR = 3
NAMED = 3  # nodes or tensors named in a message; the rest are counted

# What the parsers of TensorRT 10.3 to 11 take of the operators that segmentation networks are made of
# (onnx-tensorrt, docs/operators.md). What is not here is refused by name: better now than after minutes of a build.
OPERATORS = frozenset(
    {
        # layers
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"),
        *("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "LRN"),
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
        *("LpNormalization",),
        # activations
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Clip", "ThresholdedRelu"),
        *("Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Softsign", "Tanh"),
        *("Softmax", "LogSoftmax", "ArgMax", "ArgMin", "TopK"),
        # arithmetic
        *("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Sign", "Sum", "Mean", "Max", "Min", "Mod"),
        *("Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Ceil", "Floor", "Round", "CumSum"),
        *("Sin", "Cos", "Tan", "Sinh", "Cosh", "Asin", "Acos", "Atan", "Asinh", "Acosh", "Atanh"),
        *("And", "Or", "Xor", "Not", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("Where", "IsNaN", "IsInf"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        # shape and place
        *("Resize", "Upsample", "Pad", "Concat", "Split", "Slice", "Transpose", "Reshape", "Flatten"),
        *("Squeeze", "Unsqueeze", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "GridSample"),
        *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Trilu", "EyeLike"),
        *("Shape", "Size", "Range", "Constant", "ConstantOfShape", "Cast", "CastLike", "Identity", "Dropout"),
        # precision
        *("QuantizeLinear", "DequantizeLinear"),
    }
)
INSTEAD = {  # what to do about some that are not
    "If": "export with fixed sizes (torch.onnx.export without dynamic_axes), which leaves no branches",
    "Loop": "export with fixed sizes, which unrolls loops",
    "Scan": "export with fixed sizes, which unrolls loops",
    "NonZero": "its output has no fixed shape; select with Where or multiply by a mask",
    "Unique": "its output has no fixed shape; end the model at the mask",
    "Compress": "its output has no fixed shape; end the model at the mask",
    "NonMaxSuppression": "end the model before its boxes are selected, at the mask",
    "MaxUnpool": "upsample with Resize or ConvTranspose",
    "MaxRoiPool": "end the model before it, or segment the whole picture",
    "RoiAlign": "end the model before it, or segment the whole picture",
    "DeformConv": "use a plain Conv",
    "MaxPool with indices": "upsample with Resize or ConvTranspose in place of MaxUnpool",
    "Resize with antialias": "export it without antialias",
    "DynamicQuantizeLinear": "export the fp32 model; edge-runtime quantize places its own scales",
    "QLinearConv": "export the fp32 model; edge-runtime quantize places its own scales",
    "ConvInteger": "export the fp32 model; edge-runtime quantize places its own scales",
    "RandomNormalLike": "export in evaluation mode: model.eval()",
    "RandomUniformLike": "export in evaluation mode: model.eval()",
}
# How files begin that are often taken for ONNX.
BEGINNINGS = (
    (b"PK\x03\x04", "a zip: a PyTorch checkpoint (.pt, .pth)?", "export it: torch.onnx.export(model, ...)"),
    (b"\x80\x02", "a Python pickle: an old PyTorch checkpoint?", "export it: torch.onnx.export(model, ...)"),
    (b"\x89HDF", "HDF5: a Keras model?", "export it with tf2onnx"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file", "fetch it: git lfs pull"),
    (b"<?xml", "XML: an OpenVINO model?", "name the ONNX file it was made from"),
    (b"ftrt", "a TensorRT engine", "name the ONNX file it was made from"),
    (b"ptrt", "a TensorRT engine", "name the ONNX file it was made from"),
)
EXPORT = "export it again with onnx or torch.onnx.export"


def read_graph(path: Path, grid_hw: tuple[int, int] | None = None) -> ModelProto:
    """The model in normal form, for the caller to change. It computes what the file computes.

    The input is one picture (1, 1 or 3, h, w), uint8 or float32; a free batch becomes 1, free height and
    width become `grid_hw`. Raises ConfigError, in one line that names the file and what to do.
    """
    where = str(path)
    model = load_onnx(path)
    from edge_runtime.build import normal_form

    try:
        normal_form.inline_functions(model, where)
        refuse_operators(model, where)
        normal_form.check_weights(model, where)
        fix_input(model, grid_hw, where)
        return normal_form.normalise(model, where)
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{where}: damaged: a name in it is no text; copy it again, or {EXPORT}") from exc


def require_onnx() -> Any:
    """The `onnx` package. Raises ConfigError where it is not installed."""
    try:
        import onnx
    except ImportError as exc:
        raise ConfigError("onnx is not installed; pip install 'edge-runtime[build]'") from exc
    return onnx


def load_onnx(path: Path) -> ModelProto:
    """The file as it is, external weights read into it, with its formal faults refused. Raises ConfigError."""
    onnx = require_onnx()
    content = _read(path)
    for beginning, what, fix in (*BEGINNINGS, (b"TFL3", "a TensorFlow Lite model", "export it with tf2onnx")):
        if content.startswith(beginning) or (beginning == b"TFL3" and content[4:8] == b"TFL3"):
            raise ConfigError(f"{path}: not an ONNX file but {what}; {fix}")
    try:
        model: ModelProto = onnx.load_model_from_string(content)
    except Exception as exc:  # protobuf's DecodeError; its package has no types
        raise ConfigError(
            f"{path}: not an ONNX file, or one that was cut short; copy it again, or {EXPORT}"
        ) from exc
    if not model.graph.node or not model.opset_import or not model.graph.output:
        raise ConfigError(f"{path}: not an ONNX file: no operators and outputs in it; {EXPORT}")
    refuse_version(model, str(path))
    _read_external(model, path)
    return model


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ConfigError(f"{path}: a directory, want an ONNX file (a SavedModel: export it with tf2onnx)")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror}); name an existing ONNX file") from exc
    if size > MAX_BYTES:
        raise ConfigError(
            f"{path}: {size >> 20} MiB, want at most {MAX_BYTES >> 20} MiB; take a smaller model"
        )
    if not content:
        raise ConfigError(f"{path}: an empty file, want an ONNX model; copy it again")
    return content


def refuse_version(model: ModelProto, where: str) -> None:
    """Raises ConfigError for a file format or an opset outside of what is read here."""
    onnx = require_onnx()
    newest = onnx.defs.onnx_opset_version()
    opset = next((known.version for known in model.opset_import if known.domain in ("", "ai.onnx")), 0)
    if not LEAST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise ConfigError(
            f"{where}: ONNX IR version {model.ir_version}, want {LEAST_IR} to {onnx.IR_VERSION}; "
            "export it again with opset_version=17"
        )
    if not LEAST_OPSET <= opset <= newest:
        raise ConfigError(
            f"{where}: opset {opset or 'missing'}, want {LEAST_OPSET} to {newest} (TensorRT 10.3 reads up to 20); "
            "export it again with opset_version=17"
        )


def _read_external(model: ModelProto, path: Path) -> None:
    """Weights kept in other files, read into `model`; each file must lie beside it. Raises ConfigError."""
    onnx = require_onnx()
    folder = path.resolve().parent
    total = 0
    for tensor in tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        place = (folder / said.get("location", "")).resolve()
        if folder not in place.parents:
            raise ConfigError(
                f"{path}: weights of {tensor.name!r} lie outside its directory ({said.get('location')!r}); "
                "save the model as one file: onnx.save(model, path, save_as_external_data=False)"
            )
        if not place.is_file():
            raise ConfigError(
                f"{path}: its weights are in {place.name}, which is not there; put it beside the model, or save one file"
            )
        total += _external_bytes(said, place, tensor, path)
        if total > MAX_BYTES:
            raise ConfigError(f"{path}: weights of more than {MAX_BYTES >> 20} MiB; take a smaller model")
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _external_bytes(said: dict[str, str], place: Path, tensor: TensorProto, path: Path) -> int:
    """How many bytes of `place` are this tensor's. Raises ConfigError where the file has fewer."""
    onnx = require_onnx()
    try:
        items = 1
        for size in tensor.dims:
            items *= size
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        offset, length = int(said.get("offset", 0)), int(said.get("length", items * item))
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"{path}: the place of weights {tensor.name!r} cannot be read; {EXPORT}") from exc
    if min(offset, length) < 0 or length < items * item or offset + length > place.stat().st_size:
        raise ConfigError(
            f"{path}: {place.name} is too short for weights {tensor.name!r}; copy both files again"
        )
    return length


def one_file(path: Path) -> bytes:
    """The model as one file: its own bytes, or with the weights of other files in it. Raises ConfigError."""
    content = _read(path)
    return load_onnx(path).SerializeToString() if EXTERNAL_DATA in content else content


def set_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """`nodes` in their order, in place of what is there; they may be the graph's own."""
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers and the constants in attributes, of sub-graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def refuse_operators(model: ModelProto, where: str) -> None:
    """Raises ConfigError that names the operators no TensorRT parser takes, with nodes and what to do."""
    unknown: dict[str, list[str]] = {}
    for index, node in enumerate(model.graph.node):
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        if domain or node.op_type not in OPERATORS or any(a.HasField("g") for a in node.attribute):
            unknown.setdefault(f"{domain}{node.op_type}", []).append(node_name(node, index))
        _refuse_training(node, index, where)
        odd = _odd_use(node)
        if odd:
            unknown.setdefault(odd, []).append(node_name(node, index))
    if unknown:
        told = "; ".join(f"{some([name])} ({some(nodes)})" for name, nodes in sorted(unknown.items()))
        fix = next((INSTEAD[name] for name in sorted(unknown) if name in INSTEAD), None)
        raise ConfigError(
            f"{where}: operators that cannot be built for a device: {told}; {fix or 'replace them in the model and export it again'}"
        )


def _odd_use(node: NodeProto) -> str | None:
    """A use of an operator that TensorRT takes otherwise, in words."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1:
        return "MaxPool with indices"
    if node.op_type == "Resize" and "antialias" in given and given["antialias"].i:
        return "Resize with antialias"
    if node.op_type == "Resize" and "coordinate_transformation_mode" in given:
        mode = given["coordinate_transformation_mode"].s.decode()
        return "Resize with tf_crop_and_resize" if mode == "tf_crop_and_resize" else None
    return None


def _refuse_training(node: NodeProto, index: int, where: str) -> None:
    if node.op_type == "BatchNormalization" and any(
        attribute.name == "training_mode" and attribute.i for attribute in node.attribute
    ):
        raise ConfigError(
            f"{where}: {node_name(node, index)} (BatchNormalization) is in training mode; "
            "call model.eval() and export it again"
        )


def fix_input(model: ModelProto, grid_hw: tuple[int, int] | None, where: str) -> None:
    """Gives the one picture that goes in its fixed shape, and takes the word of no other shape.

    Raises ConfigError for several inputs, one that is no picture, and free sizes that nobody named.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = some([value.name for value in inputs])
        raise ConfigError(
            f"{where}: {len(inputs)} inputs ({names or 'none'}), want one picture; export the segmentation network alone"
        )
    shape = input_shape(inputs[0], where)
    try:
        free = len(shape) == 4 and not isinstance(shape[1], int)
        channels = _channels(graph, inputs[0].name) if free else None
        fixed = fix_shape(shape, grid_hw, where, channels)
    except BackendError as exc:
        raise ConfigError(str(exc)) from exc
    del graph.input[:]
    graph.input.append(inputs[0])
    dims = graph.input[0].type.tensor_type.shape
    if list(fixed) == shape:
        return
    del dims.dim[:]
    for size in fixed:
        dims.dim.add().dim_value = size
    del graph.value_info[:]  # they were inferred from the free sizes, and are inferred anew
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def input_shape(value: ValueInfoProto, where: str) -> list[int | str | None]:
    """The input's axes, a name or None for a free one. Raises ConfigError for what is no picture at all."""
    onnx = require_onnx()
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.UINT8,
    ):
        kind = type_name(tensor.elem_type) if value.type.HasField("tensor_type") else "no tensor"
        raise ConfigError(
            f"{where}: input {value.name!r} is {kind}, want a picture as float (32 bit) or uint8; {EXPORT}"
        )
    return [
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in tensor.shape.dim
    ]


def _channels(graph: GraphProto, name: str) -> int | None:
    """How many channels the first convolution wants of the input; None where another operator comes first."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in weights:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            return int(weights[node.input[1]].dims[1] * groups)
    return None


def refuse_reduced(model: ModelProto, where: str) -> None:
    """Raises ConfigError for a model in normal form that is quantized or in half precision already."""
    onnx = require_onnx()
    quantized = [node.name for node in model.graph.node if node.op_type == "QuantizeLinear"]
    if quantized:
        raise ConfigError(
            f"{where}: quantized already ({some(quantized)}); name the fp32 model (edge-runtime inspect checks this one)"
        )
    half = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    ]
    if half:
        raise ConfigError(f"{where}: weights in 16 bit ({some(half)}); export it in float32: model.float()")


def type_name(kind: int) -> str:
    """An element type in words: `float`, `uint8`."""
    names: dict[int, str] = {
        number: name.lower() for name, number in require_onnx().TensorProto.DataType.items()
    }
    return names.get(kind, f"unknown type {kind}")


def node_name(node: NodeProto, index: int) -> str:
    """What a person finds the node by."""
    return node.name or f"{node.op_type} number {index}"


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = [printable(name) for name in names]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
