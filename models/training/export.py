"""From trained weights to one ONNX file of what every backend has fast kernels for."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path

import onnx
import torch

from edge_runtime.errors import ConfigError
from models.training.network import Network, Shipped
from models.training.recipe import Recipe

OPSET = 17
# what torch.load and load_state_dict let out for a file that is cut off, or of something else
NOT_OURS = (RuntimeError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
OPERATORS = {
    "Cast",
    "Mul",
    "Conv",
    "Relu",
    "Add",
    "Resize",
    "DepthToSpace",
    "Sigmoid",
    "Softmax",
    "GlobalAveragePool",
    "Flatten",
    "Slice",
    "Constant",
}


def read_weights(recipe: Recipe, weights: Path) -> tuple[Network, int]:
    """The trained network, and for how many batches. Raises ConfigError for the weights of another recipe."""
    network = Network(recipe.classes, recipe.views, recipe.network.widths, recipe.network.bottom)
    try:
        trained = torch.load(weights, weights_only=True, map_location="cpu")
        network.load_state_dict(trained["network"])
        taught, steps = trained.get("taught", recipe.taught), int(trained.get("steps", 0))
    except NOT_OURS as error:
        raise ConfigError(
            f"{weights}: holds no weights of recipe {recipe.name}'s network; train again"
        ) from error
    if taught != recipe.taught:
        raise ConfigError(
            f"{weights}: was trained by another recipe than {recipe.name} is now, and may have seen what this one holds "
            "out; move it and its checkpoint.pt away and train again"
        )
    return network, steps


def export_onnx(recipe: Recipe, weights: Path, target: Path) -> None:
    """Writes the network as one ONNX file: batch norms folded, static shape, probabilities out. Raises ConfigError."""
    network, _ = read_weights(recipe, weights)
    shipped = Shipped(network).eval()
    image = torch.zeros((1, 1, *recipe.network.grid_hw), dtype=torch.uint8)
    names = ["mask", "presence", "rotation", "polarity"][: 2 if recipe.views == 1 else 4]
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation notes
        torch.onnx.export(
            shipped,
            (image,),
            str(new),
            input_names=["image"],
            output_names=names,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load(str(new))
    graph.producer_name, graph.producer_version = "models.training", recipe.version
    onnx.checker.check_model(graph, full_check=True)
    strange = {node.op_type for node in graph.graph.node} - OPERATORS
    if strange:
        raise ConfigError(
            f"export: the graph of {recipe.name} holds {sorted(strange)}, wanted only {sorted(OPERATORS)}"
        )
    onnx.save(graph, str(new))
    new.replace(target)


def multiply_adds(model: Path) -> int:
    """Multiply-adds of the convolutions, from the shapes in the graph."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(model))).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info
    }
    weights = {one.name: list(one.dims) for one in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return sum(
        math.prod(weights[node.input[1]]) * math.prod(shapes[node.output[0]][2:]) for node in convolutions
    )
