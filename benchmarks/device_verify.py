"""Everything about TensorRT that only a GPU can prove, in one go; writes benchmarks/results/<device>.json.

    device/verify.sh [MODEL]        ten minutes on an Orin Nano, most of it the two builds

It has not been run on a GPU yet. Each part says pass or fail in one line, the file has the numbers, and the exit code
is 1 if a part failed. Without a GPU it is one line and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import clock
from edge_runtime.build import jetson
from edge_runtime.build.engine import engine_for, get_or_build, time_interleaved
from edge_runtime.build.on_device import DeviceMaker, inference_of, require_gpu
from edge_runtime.build.readings import read_frames
from edge_runtime.commands.bench import rss_mb
from edge_runtime.commands.doctor import doctor
from edge_runtime.errors import EdgeError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.cuda import open_device
from edge_runtime.infer.backends.engine_file import Engine
from edge_runtime.infer.backends.tensorrt import TensorRtBackend
from edge_runtime.infer.model import Model, load_model
from edge_runtime.pipeline import build_pipeline
from edge_runtime.telemetry import Series
from edge_runtime.types import Frame

RESULTS = Path(__file__).parent / "results"
INFERENCES = 10_000
WARM_UP = 500
PIPELINE_FRAMES = 1000
FLAT_MB = 8.0  # that memory of host and device may grow by, after the warm-up, over all inferences
START_S = 10.0  # from an engine on disk to the first answer
PHANTOM = "phantom:fetal_head?hc_mm=240&frames=24&seed=5"


@dataclass
class Checks:
    """What was proven, and what it was measured to be."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def hold(self, kept: bool, text: str) -> None:
        (self.passed if kept else self.failed).append(text)
        print(f"{'pass' if kept else 'FAIL'}  {text}", flush=True)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that breaks is a failure of that part: the others still run."""
        try:
            yield
        except EdgeError as exc:
            self.hold(False, f"{name}: {exc}")


def percentiles(series: Series) -> dict[str, float]:
    return {f"p{q}": round(series.percentile(q), 4) for q in (50, 90, 99, 100)}


def compile_both(checks: Checks, model: Model, home: Path) -> tuple[DeviceMaker, dict[str, Engine]]:
    """Builds INT8 and FP16 from nothing, gates and times them; then again, which must find both."""
    maker = DeviceMaker(model, home=home)
    start_ns = clock.monotonic_ns()
    choice = engine_for(maker, home, say=lambda text: print(f"      {text}", flush=True))
    cold_s = (clock.monotonic_ns() - start_ns) / 1e9
    start_ns = clock.monotonic_ns()
    again = engine_for(maker, home)
    warm_s = (clock.monotonic_ns() - start_ns) / 1e9
    checks.hold(not again.built, f"engines are built once ({cold_s:.0f} s) and then found ({warm_s:.1f} s)")
    checks.hold(not choice.refused, f"both precisions build and pass the gate {choice.refused or ''}".strip())
    sidecar = choice.engine.sidecar
    print(f"      {sidecar.key.precision} is kept: {sidecar.reason}", flush=True)
    checks.numbers["compile"] = {
        "cold_s": round(cold_s, 2),
        "found_s": round(warm_s, 3),
        "kept": sidecar.key.precision,
        "reason": sidecar.reason,
        "timings_ms": sidecar.timings_ms,
        "power": sidecar.power,
        "refused": choice.refused,
    }
    engines = {}
    for precision in maker.precisions:
        if precision not in choice.refused:
            engine, _ = get_or_build(home, maker.key(precision), lambda: _never(), lambda plan: _never())
            engines[precision] = engine
            judged = json.loads(engine.path.with_suffix(".gate.json").read_bytes())
            checks.numbers[f"gate_{precision}"] = judged["numbers"]
    return maker, engines


def _never() -> Any:
    raise AssertionError("it was just found")


def damaged_is_rebuilt(checks: Checks, maker: DeviceMaker, engines: dict[str, Engine], home: Path) -> None:
    """The timing cache makes the second build of the same engine short."""
    precision, engine = next(iter(engines.items()))
    engine.path.write_bytes(engine.path.read_bytes()[:-100])
    start_ns = clock.monotonic_ns()
    again = engine_for(maker, home)
    checks.numbers["rebuild_s"] = round((clock.monotonic_ns() - start_ns) / 1e9, 2)
    checks.hold(again.built == (precision,), f"a damaged engine is rebuilt ({checks.numbers['rebuild_s']} s)")


def opened(model: Model, engine: Engine, **how: Any) -> TensorRtBackend:
    return TensorRtBackend(engine.plan(), model, engine.key.precision, **how)


def start_up(checks: Checks, model: Model, engines: dict[str, Engine]) -> None:
    """From the file to the first answer."""
    for precision, engine in engines.items():
        start_ns = clock.monotonic_ns()
        backend = opened(model, engine)
        try:
            inference_of(backend)()
            spent_s = (clock.monotonic_ns() - start_ns) / 1e9
            print(f"      {precision}: {backend.device}", flush=True)
        finally:
            backend.close()
        checks.numbers[f"start_s_{precision}"] = round(spent_s, 3)
        checks.hold(spent_s <= START_S, f"{precision}: first answer {spent_s:.2f} s after opening the engine")


def ways_to_run(checks: Checks, model: Model, engine: Engine) -> None:
    """Graph replay against plain launches, mapped memory against copies, and each CUDA binding: same bits, times told."""
    ways: dict[str, dict[str, Any]] = {
        "graphs": {},
        "plain": {"graphs": False},
        "copied": {"mapped": False},
        "mapped": {"mapped": True},
    }
    for binding, module in (("cuda", "cuda"), ("pycuda", "pycuda")):
        if find_spec(module) is not None:
            ways[f"binding {binding}"] = {"open_device": lambda binding=binding: open_device(binding)}
    answers: dict[str, dict[str, Any]] = {}
    spent: dict[str, dict[str, float]] = {}
    for name, how in ways.items():
        with checks.part(name):
            backend = opened(model, engine, **how)
            try:
                answers[name] = answer(backend)
                spent[name] = latency(backend, 1000)
                if name == "graphs":
                    checks.hold(backend.captured, f"inferences are replayed from a graph ({backend.device})")
            finally:
                backend.close()
    checks.numbers["ways_ms"] = spent
    first = answers.get("graphs", {})
    for name, other in answers.items():
        same = bool(first) and all(np.array_equal(first[key], other[key]) for key in first)
        checks.hold(same, f"{name}: same bits as with graphs; {spent[name]}")


def answer(backend: TensorRtBackend) -> dict[str, Any]:
    slot = backend.acquire()
    try:
        noise = np.random.default_rng(3).integers(0, 256, slot.input.shape, dtype=np.uint8)
        np.copyto(slot.input, noise, casting="unsafe")
        backend.submit(slot)
        backend.wait(slot)
        return {name: array.copy() for name, array in slot.outputs.items()}
    finally:
        backend.release(slot)


def latency(backend: TensorRtBackend, count: int) -> dict[str, float]:
    """Milliseconds from submit to answer, on the host's clock; `device` is the device's own median."""
    run, wall, device = inference_of(backend), Series(), Series()
    for _ in range(min(50, count)):
        run()
    for _ in range(count):
        start_ns = clock.monotonic_ns()
        device.add(run())
        wall.add((clock.monotonic_ns() - start_ns) / 1e6)
    return {**percentiles(wall), "device": round(device.percentile(50), 4)}


def int8_against_fp16(checks: Checks, model: Model, engines: dict[str, Engine]) -> None:
    backends = {precision: opened(model, engine) for precision, engine in engines.items()}
    try:
        runs: dict[str, Callable[[], float]] = {name: inference_of(each) for name, each in backends.items()}
        found = time_interleaved(runs, rounds=2000)
    finally:
        for backend in backends.values():
            backend.close()
    checks.numbers["interleaved_ms"] = {name: round(ms, 4) for name, ms in found.items()}
    print(f"      device time, interleaved: {checks.numbers['interleaved_ms']}", flush=True)


def endurance(checks: Checks, model: Model, engine: Engine) -> None:
    """10,000 inferences through two slots; memory of host and device before and after."""
    backend, wall = opened(model, engine), Series()
    try:
        run = inference_of(backend)
        for _ in range(WARM_UP):
            run()
        host_mb, device_mb = rss_mb(), backend.used_bytes() / 1e6
        start_ns = clock.monotonic_ns()
        for _ in range(INFERENCES):
            one_ns = clock.monotonic_ns()
            run()
            wall.add((clock.monotonic_ns() - one_ns) / 1e6)
        spent_s = (clock.monotonic_ns() - start_ns) / 1e9
        grown = {"host": rss_mb() - host_mb, "device": backend.used_bytes() / 1e6 - device_mb}
    finally:
        backend.close()
    checks.numbers["endurance"] = {
        "inferences": INFERENCES,
        "per_s": round(INFERENCES / spent_s, 1),
        "latency_ms": percentiles(wall),
        "grown_mb": {name: round(mb, 2) for name, mb in grown.items()},
        "power_after": jetson.power_state(),
    }
    flat = max(grown.values()) <= FLAT_MB
    checks.hold(
        flat, f"memory is flat over {INFERENCES} inferences: {checks.numbers['endurance']['grown_mb']} MB"
    )


def whole_pipeline(checks: Checks, model: Model, engine: Engine) -> None:
    """A frame in memory to a measured result, with the decision inside the engine."""
    with open_source(PHANTOM) as source:
        frames = [frame for frame in source.frames() if isinstance(frame, Frame)]
    pipeline, wall, stages = build_pipeline(model, opened(model, engine)), Series(), dict[str, Series]()
    try:
        for index in range(PIPELINE_FRAMES):
            start_ns = clock.monotonic_ns()
            result = pipeline.step(frames[index % len(frames)])
            wall.add((clock.monotonic_ns() - start_ns) / 1e6)
            for name, spent in result.stages_ms.items():
                stages.setdefault(name, Series()).add(spent)
        shown = sum(reading.mask is not None for reading in read_frames(pipeline, frames))
    finally:
        pipeline.close()
    checks.numbers["pipeline_ms"] = {
        **percentiles(wall),
        "stages": {name: round(series.percentile(50), 4) for name, series in stages.items()},
    }
    checks.hold(
        shown == len(frames),
        f"every phantom gives a mask; a frame takes {checks.numbers['pipeline_ms']['p50']} ms",
    )


def reopened_many_times(checks: Checks, model: Model, engine: Engine, times: int = 20) -> None:
    """Closing gives everything back: opened and closed, device memory comes home."""
    used = []
    for _ in range(times):
        backend = opened(model, engine)
        backend.close()
        device = open_device()
        try:
            with device.current():
                used.append(device.used_bytes() / 1e6)
        finally:
            device.close()
    checks.numbers["used_mb_after_closing"] = [round(mb, 1) for mb in (used[0], used[-1])]
    checks.hold(
        used[-1] - used[1] <= FLAT_MB,
        f"opened and closed {times} times: {used[1]:.0f} MB, then {used[-1]:.0f} MB",
    )


def verify(name: str) -> Path:
    """All parts; the file that was written. Raises EdgeError without a GPU, TensorRT or graphs."""
    model = load_model(name)
    gpu = require_gpu(model)
    checks = Checks()
    report = doctor()
    checks.hold(report.ok, "doctor finds nothing broken")
    checks.numbers["doctor"] = {check.name: f"{check.state}: {check.found}" for check in report.checks}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-verify-") as folder:
        home = Path(folder)
        maker, engines = compile_both(checks, model, home)
        kept = engines[checks.numbers["compile"]["kept"]]
        parts: dict[str, Callable[[], None]] = {
            "rebuild": lambda: damaged_is_rebuilt(checks, maker, engines, home),
            "start-up": lambda: start_up(checks, model, engines),
            "ways to run": lambda: ways_to_run(checks, model, kept),
            "int8 against fp16": lambda: int8_against_fp16(checks, model, engines),
            "pipeline": lambda: whole_pipeline(checks, model, kept),
            "endurance": lambda: endurance(checks, model, kept),
            "reopening": lambda: reopened_many_times(checks, model, kept),
        }
        for part, run in parts.items():
            with checks.part(part):
                run()
    found = {
        "model": model.manifest.name,
        "sha256": model.sha256,
        "gpu": asdict(gpu),
        "tensorrt": maker.key(maker.precisions[0]).tensorrt,
        "jetpack": getattr(jetson.jetpack(), "name", None),
        "python": platform.python_version(),
        "passed": checks.passed,
        "failed": checks.failed,
        **checks.numbers,
    }
    RESULTS.mkdir(exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{gpu.name}-{gpu.sm_count}-sm-tensorrt".lower()).strip("-")
    out = RESULTS / f"{slug}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(checks.passed)} passed, {len(checks.failed)} failed; written to {out}")
    if checks.failed:
        raise SystemExit(1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="fetal_head")
    try:
        verify(parser.parse_args().model)
    except EdgeError as exc:
        print(f"verify: {exc}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
