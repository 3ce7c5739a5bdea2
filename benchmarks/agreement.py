"""How far each precision strays from FP32 on a folder of pictures: masks, millimetres, and what is shown.

    python benchmarks/agreement.py --frames data/fetal_head/images [--model fetal_head] [--json]

FP32 on onnxruntime is the reference. `tensorrt int8` is TensorRT's graph as onnxruntime computes it, no GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

from edge_runtime.build.agreement import agreement, p99
from edge_runtime.build.emulate import emulated
from edge_runtime.build.graph import load_onnx
from edge_runtime.build.readings import Reading, read_frames
from edge_runtime.build.trial import Trial
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.table import offered_precisions, open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame

VALUE = "head_circumference"


def readings(model_name: str, frames: Sequence[Frame]) -> Iterator[tuple[str, list[Reading]]]:
    """(what ran, what it made of each frame); the reference first."""
    model = load_model(model_name)
    for backend in ("onnxruntime", "openvino"):
        for precision in sorted(offered_precisions(model, backend)):
            if (backend, precision) != ("onnxruntime", "fp32"):
                with closing(build_pipeline(model, open_backend(model, backend, precision, 2))) as pipeline:
                    yield f"{backend} {precision}", read_frames(pipeline, frames)
    if "int8" in model.manifest.tensorrt:
        graph, _ = model.tensorrt_graph("int8")
        with tempfile.TemporaryDirectory() as scratch:
            trial = Trial(model.manifest, Path(scratch))
            yield "tensorrt int8", trial.read(emulated(load_onnx(graph)).SerializeToString(), frames)


def compare(reference: Sequence[Reading], candidate: Sequence[Reading]) -> dict[str, Any]:
    """Counts over all frames; differences over those that the reference shows, in the value's own unit."""
    pairs = list(zip(reference, candidate, strict=True))
    shown = [(a, b) for a, b in pairs if a.shown and VALUE in a.values and VALUE in b.values]
    away = [abs(a.values[VALUE] - b.values[VALUE]) for a, b in shown]
    masks = [agreement(a.mask, b.mask) for a, b in shown if a.mask is not None and b.mask is not None]
    return {
        "frames": len(pairs),
        "withheld_then_shown": sum(b.shown and not a.shown for a, b in pairs),
        "shown_then_withheld": sum(a.shown and not b.shown for a, b in pairs),
        "mean_mm": fmean(away),
        "p99_mm": p99(away),
        "max_mm": max(away),
        "dice_mean": fmean(masks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", required=True, help="a folder of pictures with a spacing in its meta.csv")
    parser.add_argument("--model", default="fetal_head")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with open_source(f"folder:{args.frames}") as source:
        frames = [frame for frame in source.frames() if isinstance(frame, Frame)]
    model = load_model(args.model)
    with closing(build_pipeline(model, open_backend(model, "onnxruntime", "fp32", 2))) as pipeline:
        reference = read_frames(pipeline, frames)
    found, kept = {}, {}
    for name, made in readings(args.model, frames):
        found[name], kept[name] = compare(reference, made), made
    if "tensorrt int8" in kept:
        found["onnxruntime int8 against tensorrt int8"] = compare(
            kept["tensorrt int8"], kept["onnxruntime int8"]
        )
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for name, row in found.items():
        told = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
        print(f"{name}: {told}")


if __name__ == "__main__":
    main()
