"""From trained weights to what ships: `python -m models.training.export --weights DIR/weights.pt`.

Writes model.onnx, measures it on every split, and writes from what was measured: the recipe that `make quantize`
makes the bundle of, evaluation.json (beside the weights), CARD.md, and test_subjects.txt, for
`edge-runtime evaluate --subjects` and for `quantize --without`.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from models.training.card import card_of
from models.training.data import GRID_HW, data_root, subjects
from models.training.evaluate import evaluate
from models.training.network import HeadNet, Shipped

VERSION = "1.0.0"
OPSET = 17


def export_onnx(weights: Path, target: Path) -> None:
    """Writes the network as one ONNX file: batch norms folded, static shape, probabilities out."""
    network = HeadNet()
    network.load_state_dict(torch.load(weights, weights_only=True)["network"])
    shipped = Shipped(network).eval()
    image = torch.zeros((1, 1, *GRID_HW), dtype=torch.uint8)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation notes
        torch.onnx.export(
            shipped,
            (image,),
            str(new),
            input_names=["image"],
            output_names=["mask", "presence"],
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load(str(new))
    graph.producer_name, graph.producer_version = "models.training", VERSION
    onnx.checker.check_model(graph, full_check=True)
    allowed = {
        "Cast",
        "Mul",
        "Conv",
        "Relu",
        "Add",
        "Resize",
        "Sigmoid",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    strange = {node.op_type for node in graph.graph.node} - allowed - {"Constant"}
    if strange:
        raise SystemExit(f"export: the graph holds {sorted(strange)}, wanted only {sorted(allowed)}")
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


def recipe_of(results: dict[str, Any]) -> str:
    """The text of the recipe with the chosen rule and intervals: model.toml without its files."""
    rule, intervals, precision = results["rule"], results["interval"], results["precision"]
    accepted = ["fp32", "bf16"] if precision["openvino_bf16"]["accepted"] else ["fp32"]
    widths = "\n".join(
        f"{name} = {{ absolute = {width['absolute']:.2f}, relative = {width['relative']} }}"
        for name, width in intervals["half_width"].items()
    )
    return f"""name = "fetal_head"
version = "{VERSION}"
anatomy = "fetal_head"
modality = ["US"]

[input]
name = "image"
grid_hw = [{GRID_HW[0]}, {GRID_HW[1]}]
dtype = "uint8"
fit = "letterbox"

[output]
mask = "mask"
activation = "none"  # the graph already gives probabilities
labels = ["head"]
presence = "presence"

[limits]
spacing_mm = [0.03, 0.5]  # per pixel of the source, beyond: withheld
min_presence = {rule["min_presence"]:.3f}
min_confidence = {rule["min_confidence"]:.3f}
min_ellipse_iou = {rule["min_ellipse_iou"]:.3f}

[interval]  # split-conformal
coverage = 0.9
exams = {intervals["exams"]}

[interval.half_width]  # the larger of absolute, in the value's own unit, and relative * value
{widths}

[precision]
accepted = {json.dumps(accepted)}  # bf16: p99 of |dHC| at most 0.5 mm, largest 1 mm, Dice within 0.001

[gate]  # of a candidate against fp32, frame by frame, in millimetres
phantoms = true

[gate.measurement]
head_circumference = {{ mean = 0.05, p99 = 0.5, max = 1.0 }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="models.training.export", description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("build/fetal_head/weights.pt"))
    parser.add_argument("--to", type=Path, default=Path("models/fetal_head"))
    parser.add_argument("--recipe", type=Path, default=Path("calibration/fetal_head/recipe.toml"))
    arguments = parser.parse_args()
    model = arguments.to / "model.onnx"
    export_onnx(arguments.weights, model)
    trained = torch.load(arguments.weights, weights_only=True)
    results = evaluate(model)
    results["training"] = {key: trained[key] for key in ("seconds", "epochs", "seed", "limit")}
    results["gmac"] = multiply_adds(model) / 1e9
    results["parameters"] = sum(p.numel() for p in HeadNet().parameters())
    (arguments.weights.parent / "evaluation.json").write_text(json.dumps(results, indent=1))
    arguments.recipe.write_text(recipe_of(results))
    (arguments.to / "CARD.md").write_text(card_of(results))
    listed = "".join(f"{subject}\n" for subject in subjects(data_root(), "test"))
    (arguments.to / "test_subjects.txt").write_text(listed)


if __name__ == "__main__":
    main()
