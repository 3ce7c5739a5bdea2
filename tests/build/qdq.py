"""Draws small Q/DQ graphs, a node at a time, and asks TensorRT-RTX for its word on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNELS, SIDE = 32, 16
CRASHED = "crashed"  # the verdict on a graph that killed the process


class Net:
    """A graph in the making. Every method that adds a node returns the name of its output, `NODE.out`."""

    def __init__(self, opset: int = 19, rest: Any = np.float16) -> None:
        self.opset = opset
        self.rest = np.dtype(rest)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.domains: set[str] = set()

    def input(self, name: str = "x", shape: Any = (1, CHANNELS, SIDE, SIDE), dtype: Any = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, self._type(dtype), shape))
        return name

    def output(self, tensor: str, shape: Any = None, dtype: Any = None) -> None:
        shape = shape or [f"{tensor}_{axis}" for axis in range(4)]
        self.outputs.append(helper.make_tensor_value_info(tensor, self._type(dtype), shape))

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype or self.rest), name))
        return name

    def packed(self, kind: int, shape: Any, value: float) -> str:
        """A constant of a type that numpy does not have."""
        name = f"constant_{len(self.constants)}"
        size = int(np.prod(shape))
        self.constants.append(helper.make_tensor(name, kind, shape, [value] * size))
        return name

    def node(self, op_type: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        name = name or f"{op_type.lower()}_{len(self.nodes)}"
        if domain:
            self.domains.add(domain)
        self.nodes.append(
            helper.make_node(op_type, inputs, [f"{name}.out"], name, domain=domain, **attributes)
        )
        return f"{name}.out"

    def q(self, tensor: str, scale: Any = 0.02, zero: Any = 0, dtype: Any = np.int8, **rest: Any) -> str:
        return self._half("QuantizeLinear", "q", tensor, scale, zero, dtype, rest)

    def dq(self, tensor: str, scale: Any = 0.02, zero: Any = 0, dtype: Any = np.int8, **rest: Any) -> str:
        return self._half("DequantizeLinear", "dq", tensor, scale, zero, dtype, rest)

    def pair(self, tensor: str, scale: Any = 0.02, **rest: Any) -> str:
        return self.dq(self.q(tensor, scale, **rest), scale, **rest)

    def weights(self, shape: Any, *, int8: bool = True, axis: int = 0, scale: Any = None, **rest: Any) -> str:
        if not int8:
            return self.constant(np.random.default_rng(0).standard_normal(shape) * 0.1)
        stored = np.random.default_rng(0).integers(0, 127, shape)
        dtype = rest.get("dtype", np.int8)
        scale = np.full(shape[axis], 0.002) if scale is None else scale
        if axis != 1:  # ONNX's default
            rest["axis"] = axis
        known = sum(node.name.startswith("w_dq") for node in self.nodes)
        return self.dq(self.constant(stored, dtype), scale, name=f"w_dq{known or ''}", **rest)

    def conv(self, tensor: str, weights: str = "", bias: str = "", *, side: int = 3, **rest: Any) -> str:
        """A convolution of CHANNELS to CHANNELS that keeps the size; int8 weights unless others are given."""
        weights = weights or self.weights((CHANNELS, CHANNELS, side, side))
        inputs = [tensor, weights, bias] if bias else [tensor, weights]
        return self.node("Conv", *inputs, **{"pads": [side // 2] * 4, "name": "conv", **rest})

    def relu(self, tensor: str) -> str:
        return self.node("Relu", tensor)

    def end(self, tensor: str, channels: int = CHANNELS) -> None:
        """A float head and the network's output."""
        weights = self.weights((2, channels, 1, 1), int8=False)
        self.output(self.conv(tensor, weights, side=1, name="head"))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.constants)
        opsets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(name, 1) for name in self.domains),
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def _half(self, op: str, tag: str, tensor: str, scale: Any, zero: Any, dtype: Any, rest: Any) -> str:
        inputs = [tensor, scale if isinstance(scale, str) else self.constant(scale)]
        if isinstance(zero, str):
            inputs.append(zero)
        elif zero is not None:
            points = () if isinstance(scale, str) else np.shape(scale)
            inputs.append(self.constant(np.full(points, zero), dtype))
        return self.node(op, *inputs, **{"name": f"{tensor.removesuffix('.out')}_{tag}", **rest})

    def _type(self, dtype: Any) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.rest)))


def rtx_verdicts(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, str]:
    """What TensorRT-RTX says of each model: "" when it parses and builds, else why not.

    In a process of its own, and there each in a fork: a bad graph may kill it.
    """
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    subprocess.run([sys.executable, __file__, folder, *models], check=True, capture_output=True, timeout=240)
    return {
        name: path.read_text() if (path := folder / f"{name}.verdict").exists() else CRASHED
        for name in models
    }


def _judge(folder: Path, names: Iterable[str]) -> None:
    import os

    import tensorrt_rtx  # loaded once, before the forks

    for name in names:
        if os.fork() == 0:
            verdict = _verdict(tensorrt_rtx, (folder / f"{name}.onnx").read_bytes())
            (folder / f"{name}.verdict").write_text(verdict)
            os._exit(0)
        os.wait()


def _verdict(trt: Any, model: bytes) -> str:
    told: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                told.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        return f"parser: {' '.join(told)}"
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    return "" if plan is not None else f"builder: {' '.join(told)}"


if __name__ == "__main__":
    _judge(Path(sys.argv[1]), sys.argv[2:])
