"""What each precision costs on this processor: the bare inference, one thread, in interleaved rounds.

    python benchmarks/precisions.py [--model fetal_head] [--rounds 150] [--json]

Run a second time in a process that may use AVX2-VNNI only (ONEDNN_MAX_CPU_ISA=avx2_vnni), which is what a small
x86 board has; that setting reaches OpenVINO, not onnxruntime. Medians; ratios are against the fp32 named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

from edge_runtime import clock
from edge_runtime.build.gate_phantoms import draw
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.backends.table import offered_precisions, open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import build_pipeline

WARM_UP = 10


def spent_ms(model_name: str, rounds: int) -> dict[str, float]:
    """`backend precision` -> median milliseconds of one inference with its input already in the slot."""
    model = load_model(model_name)
    backends: dict[str, Backend] = {
        f"{name} {precision}": open_backend(model, name, precision)
        for name in ("onnxruntime", "openvino")
        for precision in offered_precisions(model, name)
    }
    frame = draw("phantom:fetal_head?hc_mm=220&seed=4#9")
    times: dict[str, list[float]] = {name: [] for name in backends}
    for backend in backends.values():
        pipeline = build_pipeline(model, backend)
        for _ in range(WARM_UP):
            pipeline.step(frame)
    for _ in range(rounds):
        for name, backend in backends.items():
            slot = backend.acquire()
            start_ns = clock.monotonic_ns()
            backend.submit(slot)
            backend.wait(slot)
            times[name].append((clock.monotonic_ns() - start_ns) / 1e6)
            backend.release(slot)
    for backend in backends.values():
        backend.close()
    return {name: median(spent) for name, spent in times.items()}


def ratios(all_isa: dict[str, float], vnni: dict[str, float]) -> dict[str, float]:
    """How many times as fast as the fp32 named."""
    best = min(all_isa.values())
    return {
        "openvino int8 of onnxruntime fp32": all_isa["onnxruntime fp32"] / all_isa["openvino int8"],
        "fastest of onnxruntime fp32": all_isa["onnxruntime fp32"] / best,
        "onnxruntime int8 of onnxruntime fp32": all_isa["onnxruntime fp32"] / all_isa["onnxruntime int8"],
        "avx2_vnni: openvino int8 of openvino fp32": vnni["openvino fp32"] / vnni["openvino int8"],
    }


def measured(model: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds with all instructions and with AVX2-VNNI at most, and the ratios."""
    mine = spent_ms(model, rounds)
    command = [sys.executable, __file__, "--child", "--model", model, "--rounds", str(rounds)]
    small = {**os.environ, "ONEDNN_MAX_CPU_ISA": "avx2_vnni"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=small).stdout
    vnni = json.loads(told)
    return {"ms": mine, "ms_avx2_vnni": vnni, "ratio": ratios(mine, vnni)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="fetal_head")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(spent_ms(args.model, args.rounds)))
        return
    found = measured(args.model, args.rounds)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for title, key in (("all instructions", "ms"), ("AVX2-VNNI at most", "ms_avx2_vnni")):
        print(title)
        for name, spent in found[key].items():
            print(f"  {name:20} {spent:6.2f} ms")
    for name, ratio in found["ratio"].items():
        print(f"{ratio:5.2f} times: {name}")


if __name__ == "__main__":
    main()
