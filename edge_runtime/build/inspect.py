"""A stranger's ONNX file at first sight: what it is, what it seems to want, and a `model.toml` drafted for it.

Facts are read off the graph, the rest is guessed (`guess.py`) and says so. Knows nothing of folders and of
what is printed: `commands/inspect.py` does that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge_runtime.build import guess
from edge_runtime.build.graph import load_onnx, read_graph
from edge_runtime.build.guess import MaskGuess, NormalisationGuess
from edge_runtime.build.lint import Problem, lint
from edge_runtime.config import toml_string
from edge_runtime.errors import ConfigError
from edge_runtime.infer.model import InputSpec, Manifest
from edge_runtime.infer.preprocess import Fit
from edge_runtime.types import Frame, printable

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

CONFIRM = "# guess: confirm"


class TensorLine(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    dtype: str


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a file. The guesses say what they are from."""

    file: str
    sha256: str
    producer: str
    opset: int
    ir_version: int
    input: TensorLine
    grid_given: bool  # the file leaves height and width free, and somebody named them
    outputs: tuple[TensorLine, ...]
    parameters: int
    multiply_adds: int
    operators: dict[str, int]  # of the normal form, the commonest first
    fit: Fit
    normalisation: NormalisationGuess
    mask: MaskGuess
    labels: tuple[str, ...]
    quantized: bool
    lint: tuple[Problem, ...]  # TensorRT's rules, for a graph that is quantized already


def inspect_model(
    path: Path, grid_hw: tuple[int, int] | None = None, frames: Sequence[Frame] = (), fit: Fit = "letterbox"
) -> Inspection:
    """Reads the file, and tries it on `frames` where the graph does not say what it is given.

    Raises ConfigError for a file that cannot be used, BackendError for one that does not run.
    """
    original = load_onnx(path)
    model = read_graph(path, grid_hw)
    try:
        mask = guess.mask_of(model)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    given = _line(model.graph.input[0])
    normalisation = guess.normalisation_of(model) or guess.by_custom(given.shape[1])
    if frames and mask.problem is None:
        scorer = guess.Scorer(model, mask, fit)
        if normalisation.source == "custom":
            normalisation = guess.normalisation_by_trial(scorer, frames)
        mask = guess.activation_by_trial(scorer, mask, normalisation.chosen, frames)
    operators = Counter(node.op_type for node in model.graph.node)
    quantized = operators["QuantizeLinear"] + operators["DequantizeLinear"] > 0
    return Inspection(
        file=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        producer=printable(f"{original.producer_name} {original.producer_version}".strip()),
        opset=max(known.version for known in original.opset_import if known.domain in ("", "ai.onnx")),
        ir_version=original.ir_version,
        input=given,
        grid_given=_line(original.graph.input[0]).shape[2:] != given.shape[2:],
        outputs=tuple(_line(value) for value in model.graph.output),
        parameters=parameters_of(model),
        multiply_adds=multiply_adds_of(model),
        operators=dict(operators.most_common()),
        fit=fit,
        normalisation=normalisation,
        mask=mask,
        labels=tuple(f"class_{k}" for k in range(1, max(2, mask.channels))),
        quantized=quantized,
        lint=lint(original) if quantized else (),
    )


def as_manifest_says(seen: Inspection, manifest: Manifest) -> Inspection:
    """`seen` with the manifest's word in place of guesses."""
    given, output = manifest.input, manifest.output
    why = "model.toml says so"
    return msgspec.structs.replace(
        seen,
        fit=given.fit,
        normalisation=NormalisationGuess(
            seen.normalisation.chosen
            if seen.input.dtype == "uint8"
            else guess.Normalisation(_formula(given), given.scale, given.mean, given.std),
            "manifest",
            why,
        ),
        mask=msgspec.structs.replace(
            seen.mask,
            output=output.mask or seen.mask.output,
            activation=output.activation,
            source="manifest",
            why=why,
        ),
        labels=output.labels or seen.labels,
    )


def _formula(given: InputSpec) -> str:
    return f"(grey * {given.scale:.4g} - {list(given.mean or (0,))}) / {list(given.std or (1,))}"


def parameters_of(model: ModelProto) -> int:
    """How many numbers were learned: those of more than one dimension, and of biases and normalizations."""
    weights = {
        name: node for node in model.graph.node if node.op_type in _LEARNED for name in node.input[1:] if name
    }
    dequantized = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.output[0] in weights
    }
    return sum(
        int(np.prod(tensor.dims, dtype=np.int64))
        for tensor in model.graph.initializer
        if tensor.name in weights or tensor.name in dequantized
    )


_LEARNED = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "QuantizeLinear"),
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
    }
)


def multiply_adds_of(model: ModelProto) -> int:
    """Of one inference: convolutions and matrix products, from a model in normal form."""
    from edge_runtime.build.normal_form import static_shapes

    shapes = static_shapes(model.graph)
    return sum(_multiply_adds(node, shapes) for node in model.graph.node)


def _multiply_adds(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    out, weight = shapes[node.output[0]], shapes.get(node.input[1], ())
    size = int(np.prod(out, dtype=np.int64))
    if node.op_type == "Conv":  # each output: one product for each weight of its channel
        return size * int(np.prod(weight[1:], dtype=np.int64))
    if node.op_type == "ConvTranspose":  # each input: one product for each weight of its channel
        given = shapes.get(node.input[0], ())
        return int(np.prod(given, dtype=np.int64)) * int(np.prod(weight[1:], dtype=np.int64))
    return size * (shapes.get(node.input[0]) or (1,))[-1]


def _line(value: ValueInfoProto) -> TensorLine:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    return TensorLine(
        value.name,
        tuple(axis.dim_value for axis in tensor.shape.dim),
        "float32" if dtype == "float" else dtype,
    )


def draft(seen: Inspection) -> str:
    """The text of a `model.toml` of at most ten settings; what was guessed is marked for a person to confirm."""
    chosen, mask = seen.normalisation.chosen, seen.mask
    sure = "" if seen.normalisation.sure else f"  {CONFIRM}; "
    lines = [
        f"# Drafted by edge-runtime inspect from {printable(Path(seen.file).name)}. Lines without a mark were read off the graph.",
        f"name = {toml_string(model_name(Path(seen.file)))}",
        f'anatomy = "mask_only"  {CONFIRM}; fetal_head, lungs or vessel make masks millimetres',
        "",
        "[input]",
    ]
    if seen.grid_given:
        lines.append(f"grid_hw = [{seen.input.shape[2]}, {seen.input.shape[3]}]")
    lines.append(f'fit = "{seen.fit}"  {CONFIRM}; "stretch" if it was trained on pictures out of shape')
    if seen.input.dtype == "uint8":
        lines.append("# uint8: the graph takes grey from 0 to 255 as it is")
    else:
        why = f"{sure}{chosen.name}: {seen.normalisation.why}" if sure else f"  # {seen.normalisation.why}"
        lines.append(f"scale = {chosen.scale!r}{why}")
    if chosen.mean:
        lines.append(f"mean = {list(chosen.mean)}{sure.rstrip('; ')}")
        lines.append(f"std = {list(chosen.std)}{sure.rstrip('; ')}")
    known = "" if mask.source == "graph" else f"  {CONFIRM}"
    lines += [
        "",
        "[output]",
        f"mask = {toml_string(mask.output)}",
        f'activation = "{mask.activation}"{known or " "}{";" if known else " #"} {mask.why}',
        f"labels = [{', '.join(map(toml_string, seen.labels))}]  {CONFIRM}; rename them{_background(mask)}",
    ]
    if mask.presence is not None:
        lines.append(
            f"# presence = {toml_string(mask.presence)}  {CONFIRM}; if it says whether the anatomy is in the picture"
        )
    return "\n".join(lines) + "\n"


def _background(mask: MaskGuess) -> str:
    return "; channel 0 is the background" if mask.channels > 1 else ""


def model_name(path: Path) -> str:
    """A name for the model, made of its file's."""
    signs = (
        sign if sign.isascii() and (sign.isalnum() or sign in "-_") else "_" for sign in path.stem.lower()
    )
    return "".join(signs).strip("_")[:64] or "model"
