"""Everything the README claims about speed and memory, measured here and written to benchmarks/results/<device>.json.

    make bench        about four minutes; on a quiet machine, or the ratios are of a busy one

Each figure comes from the command a user would type, in a process of its own; medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from precisions import measured
from streaming import stream_into

from edge_runtime.build.precision import open_gated
from edge_runtime.commands.bench import rss_mb
from edge_runtime.frames.memory import MemorySource
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import Result, build_pipeline

COMMAND = [sys.executable, "-m", "edge_runtime"]
RESULTS = Path(__file__).parent / "results"


def edge_runtime(*args: str) -> Any:
    told = subprocess.run([*COMMAND, *args, "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(told)


def bench(scenario: str, precision: str, *more: str) -> Any:
    return edge_runtime(
        "bench", "--model", "fetal_head", "--scenario", scenario, "--precision", precision, *more
    )


def first_finding_s(rounds: int = 5) -> float:
    """From the start of the command to the first committed finding; the files are in the cache after one run."""
    spent = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            source = "phantom:fetal_head?frames=3"
            report = edge_runtime("run", "--model", "fetal_head", "--source", source, "--state", folder)
            spent.append(report["first_finding_s"])
    return median(spent[1:])


def memory_mb(warm_up: int = 2000, frames: int = 20_000) -> dict[str, float]:
    """Resident memory of one run after its warm-up and 20,000 frames later."""
    model = load_model("fetal_head")
    pipeline = build_pipeline(model, open_gated(model))
    pictures = np.random.default_rng(0).integers(0, 256, (24, 540, 800), dtype=np.uint8)
    seen, at = 0, {}

    def note(result: Result) -> None:
        nonlocal seen
        seen += 1
        if seen in (warm_up, warm_up + frames):
            at[seen] = rss_mb()

    stream_into(pipeline, MemorySource(pictures, frames=warm_up + frames), note)
    pipeline.close()
    return {"after_warm_up": at[warm_up], "after_20000_more": at[warm_up + frames]}


def measure(frames: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for precision in ("fp32", "auto"):
        report = bench("offline", precision, "--frames", str(frames))
        found[f"offline_{report['precision']}"] = report
        print(f"offline {report['precision']}: {report['of_bare']:.3f} of the bare backend", flush=True)
    for scenario in ("single-stream", "stream", "overload"):
        found[scenario] = bench(scenario, "auto", "--frames", str(frames if scenario != "stream" else 300))
        print(
            f"{scenario}: p50 {found[scenario]['latency_ms']['p50']:.2f}, p99 {found[scenario]['latency_ms']['p99']:.2f} ms",
            flush=True,
        )
    service_ms = found["single-stream"]["latency_ms"]["p50"]
    found["overload_p99_age_of_service"] = found["overload"]["age_ms"]["p99"] / service_ms
    print(
        f"overload: p99 age is {found['overload_p99_age_of_service']:.2f} times the service time", flush=True
    )
    found["first_finding_s"] = first_finding_s()
    print(f"first finding after {found['first_finding_s']:.2f} s", flush=True)
    found["precisions"] = measured("fetal_head", rounds=150)
    for name, ratio in found["precisions"]["ratio"].items():
        print(f"{ratio:.2f} times: {name}", flush=True)
    found["memory_mb"] = memory_mb()
    print(f"memory over 20000 frames: {found['memory_mb']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=2000)
    args = parser.parse_args()
    found = measure(args.frames)
    device = found["stream"]["device"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{device['processor']}-{device['cores']}-cores".lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {RESULTS / f'{name}.json'}")


if __name__ == "__main__":
    main()
