"""The same ONNX model and the same frames through SINTEF FAST and through this runtime, in interleaved rounds.

    python benchmarks/peers.py --peer-python VENV/bin/python --peer-script bench_fast.py --model DIR --frames cine.npy

DIR holds `model.onnx` ([1, 1, H, W] float in 0..1, softmax out) and a short `model.toml`, or is the bundle that
`quantize` made of it. Each takes uint8 frames and gives
masks as numpy arrays.

sync    one frame in, wait for its mask, the next frame: `Pipeline.step` against FAST's closed loop
stream  frames as fast as they are taken: a whole `Stream` with every finding committed, against FAST's streamer

Ours also grades the picture and, in `stream`, commits a finding for each frame; FAST does neither. Both infer on as many
threads as there are cores. Medians over interleaved rounds; ratios are what hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from streaming import stream_into

from edge_runtime.frames.memory import MemorySource
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import build_pipeline

# (mode, their engine, our backend, our precision); FAST's OpenVINO runs bf16 where AMX exists and cannot be told otherwise
PAIRS = [
    ("stream", "OpenVINO", "openvino", "bf16"),
    ("sync", "OpenVINO", "openvino", "bf16"),
    ("stream", "ONNXRuntime", "onnxruntime", "fp32"),
    ("sync", "ONNXRuntime", "onnxruntime", "fp32"),
    ("sync", "ONNXRuntime", "openvino", "bf16"),  # their portable engine against ours in bf16
]
# Where DIR is a bundle: their fastest against ours.
INT8_PAIRS = [("stream", "OpenVINO", "openvino", "int8"), ("sync", "OpenVINO", "openvino", "int8")]
WARM_UP = 20


def ours(args: argparse.Namespace) -> dict[str, float]:
    """Frames per second and latencies of this runtime."""
    mode, backend, precision = args.ours
    loaded = load_model(args.model)
    pipeline = build_pipeline(loaded, open_backend(loaded, backend, precision, os.cpu_count() or 1))
    array = np.load(args.frames)
    for frame in MemorySource(array, frames=WARM_UP).frames():
        pipeline.step(frame)
    spent_ms: list[float] = []
    start = time.perf_counter()
    if mode == "sync":
        for frame in MemorySource(array).frames():
            one = time.perf_counter()
            pipeline.step(frame)
            spent_ms.append(1000 * (time.perf_counter() - one))
    else:
        stream_into(pipeline, MemorySource(array), lambda result: spent_ms.append(result.age_ms))
    fps = len(array) / (time.perf_counter() - start)
    pipeline.close()
    return {
        "fps": fps,
        "p50_ms": float(np.percentile(spent_ms, 50)),
        "p99_ms": float(np.percentile(spent_ms, 99)),
    }


def theirs(args: argparse.Namespace, mode: str, engine: str) -> dict[str, float]:
    onnx = Path(args.model) / "model.onnx"
    told = subprocess.run(
        [
            args.peer_python,
            args.peer_script,
            onnx,
            args.frames,
            "--engine",
            engine,
            "--mode",
            mode,
            "--threshold",
            "0",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    result: dict[str, float] = json.loads(next(line for line in told.splitlines() if line.startswith("{")))
    return result


def in_a_process_of_its_own(args: argparse.Namespace, *which: str) -> dict[str, float]:
    told = subprocess.run(
        [sys.executable, __file__, "--ours", *which, "--model", args.model, "--frames", args.frames],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    result: dict[str, float] = json.loads(told)
    return result


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    pairs = PAIRS + (INT8_PAIRS if "int8" in load_model(args.model).manifest.artifacts else [])
    for mode, engine, backend, precision in pairs:
        rounds = [
            (theirs(args, mode, engine), in_a_process_of_its_own(args, mode, backend, precision))
            for _ in range(args.rounds)
        ]
        row: dict[str, Any] = {"mode": mode, "peer": f"FAST {engine}", "ours": f"{backend} {precision}"}
        for key in ("fps", "p50_ms", "p99_ms"):
            row[f"peer_{key}"], row[f"our_{key}"] = (
                median(pair[side][key] for pair in rounds) for side in (0, 1)
            )
        row["fps_ratio"] = median(our["fps"] / peer["fps"] for peer, our in rounds)
        row["p99_ratio"] = median(our["p99_ms"] / peer["p99_ms"] for peer, our in rounds)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=Path, required=True, help="uint8 (N, H, W) as .npy")
    parser.add_argument("--peer-python", help="the Python of a venv with pyfast")
    parser.add_argument("--peer-script", type=Path, help="bench_fast.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ours", nargs=3, metavar=("MODE", "BACKEND", "PRECISION"), help="measure only this runtime"
    )
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args)))
    else:
        compare(args)


if __name__ == "__main__":
    main()
