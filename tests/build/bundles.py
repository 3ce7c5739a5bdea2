"""Bundles of the shipped model, made in a second: real graphs, real frames, few phantoms in many poses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.build.bundle import Contents, write_bundle
from edge_runtime.build.gate_frames import GateSet, gate_files, make_gate_set
from edge_runtime.build.gate_phantoms import draw
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import Artifact, GateSpec, Manifest, Model, Tolerance, load_model
from edge_runtime.pipeline import build_pipeline

HEADS = tuple(
    f"phantom:fetal_head?hc_mm={hc_mm}&seed={hc_mm}&width=320&height=216#{pose}"
    for hc_mm in (120, 190, 260)
    for pose in range(0, 132, 12)
)
OTHERS = (
    "phantom:fetal_head?empty=1&seed=206&width=320&height=220#0",
    "phantom:noise?seed=211&width=320&height=240#0",
    "phantom:text?seed=213&width=320&height=240#0",
)
MILLIMETRES = Tolerance(mean=0.05, p99=0.5, max=1.0)
SPEC = GateSpec(measurement={"head_circumference": MILLIMETRES})


def shipped() -> Model:
    return load_model("fetal_head")


@cache
def gate_set() -> GateSet:
    """36 frames of three phantoms and three without a head, as fp32 on onnxruntime reads them."""
    return gate_set_of(shipped())


@cache
def gate_set_files() -> Mapping[str, bytes]:
    """`gate_set` as the files of a bundle."""
    return MappingProxyType(gate_files(gate_set()))


def gate_set_of(model: Model) -> GateSet:
    recipes = HEADS + OTHERS
    pipeline = build_pipeline(model, open_backend(model, "onnxruntime", "fp32"))
    try:
        return make_gate_set([draw(recipe) for recipe in recipes], pipeline, recipes)
    finally:
        pipeline.close()


def manifest(graphs: Mapping[str, str]) -> Manifest:
    """The shipped model's, with these graphs (precision -> file) and a gate in millimetres."""
    named = {precision: Artifact(file=file) for precision, file in graphs.items()}
    return msgspec.structs.replace(
        shipped().manifest,
        artifacts=named,
        tensorrt={},
        files={},
        gate=SPEC,  # type: ignore[arg-type]
    )


def bundle(out: Path, graphs: Mapping[str, bytes], gate: Mapping[str, bytes] | None = None) -> Model:
    """A bundle of `graphs` (precision -> content) with these gate files, else frames that the shipped fp32 read."""
    files: dict[str, bytes | Path] = {f"{precision}.onnx": content for precision, content in graphs.items()}
    made = manifest({precision: f"{precision}.onnx" for precision in graphs})
    return write_bundle(out, Contents(made, {**files, **(gate or gate_set_files())}))


def plain() -> bytes:
    """The shipped fp32 graph."""
    return shipped().artifact("fp32")[0].read_bytes()


@cache
def idling() -> bytes:
    """The same answers from a graph that also computes something nobody asked for: at half the speed or less."""
    model = onnx.load_from_string(plain())
    random = np.random.default_rng(0)
    first, second = (random.normal(0, 0.1, (32, inputs, 3, 3)).astype(np.float32) for inputs in (1, 32))
    model.graph.initializer.extend(
        [numpy_helper.from_array(first, "idle.first"), numpy_helper.from_array(second, "idle.second")]
    )
    model.graph.node.extend(
        [
            helper.make_node("Conv", ["/Cast_output_0", "idle.first"], ["idle.1"], pads=[1] * 4),
            helper.make_node("Conv", ["idle.1", "idle.second"], ["idle.2"], pads=[1] * 4),
            helper.make_node("GlobalAveragePool", ["idle.2"], ["idle"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("idle", TensorProto.FLOAT, [1, 32, 1, 1]))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def harmful() -> bytes:
    """The shipped graph with the weights of one convolution in its middle times 8."""
    return edited(lambda model: _scale(model, 8.0))


def edited(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(plain())
    change(model)
    return bytes(model.SerializeToString())


def _scale(model: onnx.ModelProto, factor: float) -> None:
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    name = convolutions[len(convolutions) // 2].input[1]
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))


def harmful_int8() -> bytes:
    """The shipped INT8 graph for a CPU with the weights' scale of one convolution times 8."""
    model = onnx.load(str(shipped().artifact("int8")[0]))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [
        node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]
    scale = constants[weights[len(weights) // 2].input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(8), scale.name))
    return bytes(model.SerializeToString())
