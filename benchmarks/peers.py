"""The same ONNX model and the same frames through SINTEF FAST and through this runtime, in interleaved rounds.

    python benchmarks/peers.py --peer-python VENV/bin/python --peer-script bench_fast.py --model DIR --frames cine.npy

DIR holds `model.onnx` ([1, 1, H, W] float in 0..1, softmax out) and a short `model.toml`. Both take a uint8 frame and give a
mask as a numpy array, one frame at a time, on the same number of threads (FAST uses all cores, so this runtime gets as
many). Ours also grades the picture and cleans the mask; FAST does not. Medians over rounds; ratios are what hold.
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

from edge_runtime.frames.memory import MemorySource
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame

# (their engine, our backend, our precision); FAST's OpenVINO runs bf16 where AMX exists and cannot be told otherwise
PAIRS = [("OpenVINO", "openvino", "bf16"), ("ONNXRuntime", "onnxruntime", "fp32"), ("ONNXRuntime", "openvino", "fp32")]
WARM_UP = 20


def ours(model: str, frames: Path, backend: str, precision: str, threads: int) -> dict[str, float]:
    """Frames per second and latencies of `Pipeline.step`, one frame at a time."""
    loaded = load_model(model)
    pipeline = build_pipeline(loaded, open_backend(loaded, backend, precision, threads))
    spent_ms = []
    pictures = [frame for frame in MemorySource(np.load(frames)).frames() if isinstance(frame, Frame)]
    for frame in pictures[:WARM_UP]:
        pipeline.step(frame)
    start = time.perf_counter()
    for frame in pictures:
        one = time.perf_counter()
        pipeline.step(frame)
        spent_ms.append(1000 * (time.perf_counter() - one))
    fps = len(pictures) / (time.perf_counter() - start)
    pipeline.close()
    return {"fps": fps, "p50_ms": float(np.percentile(spent_ms, 50)), "p99_ms": float(np.percentile(spent_ms, 99))}


def theirs(python: str, script: Path, model: str, frames: Path, engine: str) -> dict[str, float]:
    told = subprocess.run(
        [python, script, Path(model) / "model.onnx", frames, "--engine", engine, "--mode", "sync", "--threshold", "0"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    result: dict[str, float] = json.loads(next(line for line in told.splitlines() if line.startswith("{")))
    return result


def in_a_process_of_its_own(args: argparse.Namespace, backend: str, precision: str) -> dict[str, float]:
    told = subprocess.run(
        [sys.executable, __file__, "--ours", backend, precision, "--model", args.model, "--frames", args.frames],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    result: dict[str, float] = json.loads(told)
    return result


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for engine, backend, precision in PAIRS:
        rounds = [
            (
                theirs(args.peer_python, args.peer_script, args.model, args.frames, engine),
                in_a_process_of_its_own(args, backend, precision),
            )
            for _ in range(args.rounds)
        ]
        row: dict[str, Any] = {"peer": f"FAST {engine}", "ours": f"{backend} {precision}"}
        for key in ("fps", "p50_ms", "p99_ms"):
            row[f"peer_{key}"], row[f"our_{key}"] = (median(pair[side][key] for pair in rounds) for side in (0, 1))
        row["fps_ratio"] = median(our["fps"] / peer["fps"] for peer, our in rounds)
        row["p99_ratio"] = median(our["p99_ms"] / peer["p99_ms"] for peer, our in rounds)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=Path, required=True, help="uint8 (N, H, W) as .npy")
    parser.add_argument("--peer-python", help="the Python of a venv with pyfast")
    parser.add_argument("--peer-script", type=Path, help="bench_fast.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ours", nargs=2, metavar=("BACKEND", "PRECISION"), help="measure only this runtime")
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args.model, args.frames, *args.ours, threads=os.cpu_count() or 1)))
    else:
        compare(args)


if __name__ == "__main__":
    main()
