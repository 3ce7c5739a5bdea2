"""ONNX files as strangers export them: small, real networks whose answer is known beforehand.

A band network finds grey values near the middle of a band: score = 8 (1 - |grey - middle| / half width). What its
input has to be is hidden in the weights of its first convolution, as in a network that was trained so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

GRID = (64, 96)
MIDDLES, HALF_WIDTHS = (110.0, 220.0), (45.0, 45.0)
STEEP = 8.0


def info(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, value: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def model(
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto] = (),
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    opset: int = 17,
    **over: Any,
) -> ModelProto:
    """A model of these nodes from x (1, 1, 16, 16) to y, unchecked."""
    graph = helper.make_graph(
        list(nodes),
        "stranger",
        list(inputs) or [info("x", [1, 1, 16, 16])],
        list(outputs) or [info("y", None)],
        list(weights),
    )
    over.setdefault("ir_version", 8)
    over.setdefault("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, **over)


def one_conv(**over: Any) -> ModelProto:
    """The least segmentation network: a convolution and a sigmoid."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Sigmoid", ["c"], ["y"], name="end"),
    ]
    return model(nodes, [tensor("w", np.full((1, 1, 3, 3), 0.1))], **over)


def save(made: ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def band_network(
    *,
    channels: int = 1,
    scale: float = 1 / 255,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    classes: int = 1,
    end: str | None = "Sigmoid",
    uint8: bool = False,
    opset: int = 17,
) -> ModelProto:
    """A network for (grey * scale - mean) / std that gives `classes` bands, with a background where several."""
    blur = np.full((3, 3), 1 / 9)
    first = np.stack([blur * (one / scale) / channels for one in std])[None]
    bias = sum(mean) / len(mean) / scale
    sides = [(sign, -sign * middle) for middle in MIDDLES[:classes] for sign in (1.0, -1.0)]
    scores = np.zeros((classes if classes == 1 else classes + 1, 2 * classes))
    offsets = np.zeros(len(scores))
    for k in range(classes):
        row = k if classes == 1 else k + 1
        scores[row, 2 * k : 2 * k + 2] = -STEEP / HALF_WIDTHS[k]
        offsets[row] = STEEP
    weights = [
        tensor("w1", first),
        tensor("b1", [bias]),
        tensor("w2", np.array([sign for sign, _ in sides]).reshape(-1, 1, 1, 1)),
        tensor("b2", [offset for _, offset in sides]),
        tensor("w3", scores.reshape(*scores.shape, 1, 1)),
        tensor("b3", offsets),
    ]
    nodes = [helper.make_node("Cast", ["picture"], ["x"], to=TensorProto.FLOAT)] if uint8 else []
    nodes += [
        helper.make_node("Conv", ["x" if uint8 else "picture", "w1", "b1"], ["grey"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["grey", "w2", "b2"], ["sides"]),
        helper.make_node("Relu", ["sides"], ["away"]),
        helper.make_node("Conv", ["away", "w3", "b3"], ["scores" if end else "found"]),
    ]
    if end == "Softmax":
        nodes.append(helper.make_node("Softmax", ["scores"], ["found"], axis=1))
    elif end is not None:
        nodes.append(helper.make_node(end, ["scores"], ["found"]))
    made = model(
        nodes,
        weights,
        [info("picture", [1, channels, *GRID], TensorProto.UINT8 if uint8 else TensorProto.FLOAT)],
        [info("found", [1, len(scores), *GRID])],
        opset=opset,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def picture(seed: int, classes: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(grey, labels), (200, 300): an ellipse of each band's grey on dark noise."""
    rng = np.random.default_rng(seed)
    grey, labels = np.full((200, 300), 12.0, np.float32), np.zeros((200, 300), np.uint8)
    for k in range(classes):
        centre = (75 + 150 * k if classes > 1 else 150, int(rng.integers(85, 115)))
        axes = (int(rng.integers(35, 55)), int(rng.integers(30, 60)))
        cv2.ellipse(grey, centre, axes, 20.0 * seed, 0, 360, MIDDLES[k], -1)
        cv2.ellipse(labels, centre, axes, 20.0 * seed, 0, 360, k + 1, -1)
    noisy = grey + rng.normal(0, 5, grey.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def wide_band_network(channels: int = 16, middles: int = 1) -> ModelProto:
    """The first band again, by a network that INT8 is for: 1 -> 16 -> ... -> 1 channels, probabilities out."""
    low, middle, high = MIDDLES[0] - HALF_WIDTHS[0], MIDDLES[0], MIDDLES[0] + HALF_WIDTHS[0]
    ends = np.resize([low, middle, high], channels) / 255
    rises = np.zeros(channels)
    rises[:3] = np.array([1, -2, 1]) * STEEP * 255 / HALF_WIDTHS[0]
    weights = [tensor("w1", np.full((channels, 1, 3, 3), 1 / 9)), tensor("b1", -ends)]
    nodes = [
        helper.make_node("Conv", ["picture", "w1", "b1"], ["blurred"], pads=[1, 1, 1, 1], name="blur"),
        helper.make_node("Relu", ["blurred"], ["hinges"]),
    ]
    last = "hinges"
    for k in range(middles):
        weights.append(tensor(f"same{k}", np.eye(channels).reshape(channels, channels, 1, 1)))
        nodes.append(helper.make_node("Conv", [last, f"same{k}"], [f"kept{k}"], name=f"middle{k}"))
        nodes.append(helper.make_node("Relu", [f"kept{k}"], [f"rises{k}"]))
        last = f"rises{k}"
    weights += [tensor("w3", rises.reshape(1, channels, 1, 1)), tensor("b3", [-STEEP / 2])]
    nodes += [
        helper.make_node("Conv", [last, "w3", "b3"], ["scores"], name="last"),
        helper.make_node("Sigmoid", ["scores"], ["found"]),
    ]
    made = model(nodes, weights, [info("picture", [1, 1, *GRID])], [info("found", [1, 1, *GRID])])
    onnx.checker.check_model(made, full_check=True)
    return made
