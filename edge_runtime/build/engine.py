"""Engines of this device: built once, gated, timed, kept by key; what is stale or damaged is rebuilt once, then refused.

What an engine depends on and how it lies on disk is `infer/backends/engine_file.py`; how one is built, opened, gated
and timed comes as a `Maker`. So this module is the order of things and the files, and runs without a GPU.

Order on disk: a plan is written first, its sidecar last, each whole or not at all (a file beside it, synced, renamed).
A process that is killed in between leaves a plan without the sidecar of its key: it counts as missing, is never run,
and the next `compile` builds it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import msgspec

from edge_runtime import clock
from edge_runtime.build.compiler import Built
from edge_runtime.build.gate_report import GateReport
from edge_runtime.errors import EngineError, GateError
from edge_runtime.files import CACHE_VARIABLE, json_bytes, write_whole
from edge_runtime.infer.backends.cuda import DeviceFacts
from edge_runtime.infer.backends.engine_file import (
    Engine,
    EngineKey,
    EnginePrecision,
    Sidecar,
    Verdict,
    engines_home,
    find_engine,
    plan_path,
    sidecar_path,
)

TRIES = 2  # built, and once again
WORTH = 0.97  # of fp16's time: what is hardly faster is not worth being less exact
TIMING_ROUNDS = 200
WARM_UP_ROUNDS = 20


class Maker(Protocol):
    """What it takes to make engines of one model on one device; `on_device.py` has the real one."""

    model: str  # its name
    precisions: tuple[EnginePrecision, ...]  # that it has graphs for

    def key(self, precision: EnginePrecision) -> EngineKey: ...

    def build(self, precision: EnginePrecision) -> Built:
        """Raises EngineError where the graph cannot be built: building again would not help."""

    def check(self, precision: EnginePrecision, plan: bytes) -> None:
        """Raises EngineError where the device does not take the plan."""

    def gate(self, precision: EnginePrecision, plan: bytes) -> GateReport:
        """The engine against fp32 on the model's own gate frames."""

    def time(self, plans: Mapping[EnginePrecision, bytes]) -> dict[str, float]:
        """Median milliseconds of an inference of each, interleaved."""

    def power(self) -> dict[str, str]:
        """The power mode as it is now."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that `auto` takes, and why."""

    engine: Engine
    built: tuple[EnginePrecision, ...]  # those that were not there yet
    refused: dict[str, str]  # precision -> why


def write_atomic(path: Path, content: bytes) -> None:
    """`content` under this name, whole or not at all, and durable. Raises EngineError where it cannot be written."""
    try:
        write_whole(path, content)
    except OSError as exc:
        raise EngineError(
            f"{path}: cannot be written ({exc.strerror}); set {CACHE_VARIABLE} to another place"
        ) from exc


def get_or_build(
    home: Path,
    key: EngineKey,
    build: Callable[[], Built],
    gate: Callable[[bytes], GateReport],
    check: Callable[[bytes], None] = lambda plan: None,
    *,
    model: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Engine, bool]:
    """The gated engine of `key` and whether it had to be built.

    A plan that is missing, damaged, of another key, ungated, or that `check` refuses is built; one that was just built
    and still cannot be used is built once more, then refused. Raises EngineError, or GateError for an engine that
    strays too far. That verdict stands: building until one slips through is no way to pass a gate.
    """
    try:
        engine = find_engine(home, key)
        check(engine.plan())
        return engine, False
    except EngineError as exc:
        say(f"{key.precision}: {exc}; building")
    trouble: EngineError | None = None
    for _ in range(TRIES):
        built = build()
        write_atomic(plan_path(home, key), built.plan)
        try:
            return _admit(home, key, built, gate, check, model), True
        except EngineError as exc:
            trouble = exc
            say(f"{key.precision}: {exc}")
    raise EngineError(
        f"{plan_path(home, key)}: built {TRIES} times, and cannot be used: {trouble}"
    ) from trouble


def _admit(
    home: Path,
    key: EngineKey,
    built: Built,
    gate: Callable[[bytes], GateReport],
    check: Callable[[bytes], None],
    model: str,
) -> Engine:
    """Reads the plan back, has it opened and gated, and writes its sidecar. Raises EngineError or GateError."""
    path = plan_path(home, key)
    sidecar = Sidecar(
        model=model,
        key=key,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        built_at=clock.utc_now(),
        build_s=round(built.seconds, 3),
        gate=Verdict(False, "not judged", 0),
    )
    plan = Engine(path, sidecar).plan()  # what lies on the disk, not what was meant to
    check(plan)
    report = gate(plan)
    write_atomic(path.with_suffix(".gate.json"), json_bytes(report))
    message = "; ".join(failure.message for failure in report.failures) or f"{report.judged} frames agree"
    judged = msgspec.structs.replace(sidecar, gate=Verdict(report.passed, message, report.judged))
    _write_sidecar(path, judged)
    report.require()
    return Engine(path, judged)


def _write_sidecar(plan: Path, sidecar: Sidecar) -> None:
    write_atomic(sidecar_path(plan), json_bytes(sidecar))


def engine_for(
    maker: Maker, home: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> Choice:
    """The engine of `maker`'s model that is right and fastest on this device, made where it is not there yet.

    Every precision is built and gated; those that passed are timed in interleaved rounds, and the faster is kept as
    the one that `auto` takes. Raises EngineError, or GateError where none passed.
    """
    place = engines_home() if home is None else home
    ready: dict[EnginePrecision, Engine] = {}
    refused: dict[str, str] = {}
    built: list[EnginePrecision] = []
    for precision in maker.precisions:
        try:
            engine, new = _one(maker, place, precision, say)
        except (EngineError, GateError) as exc:
            refused[precision] = str(exc)
            say(f"{precision}: not used: {exc}")
            continue
        ready[precision] = engine
        if new:
            built.append(precision)
    if not ready:
        every = "; ".join(f"{precision}: {why}" for precision, why in refused.items())
        raise GateError(f"{maker.model}: no engine may be used on this device: {every}")
    chosen = next((engine for engine in ready.values() if engine.sidecar.chosen), None)
    if chosen is None or built:
        chosen = _settle(maker, ready, refused)
    return Choice(chosen, tuple(built), refused)


def _one(
    maker: Maker, home: Path, precision: EnginePrecision, say: Callable[[str], None]
) -> tuple[Engine, bool]:
    return get_or_build(
        home,
        maker.key(precision),
        lambda: maker.build(precision),
        lambda plan: maker.gate(precision, plan),
        lambda plan: maker.check(precision, plan),
        model=maker.model,
        say=say,
    )


def _settle(maker: Maker, ready: Mapping[EnginePrecision, Engine], refused: Mapping[str, str]) -> Engine:
    """Times what may run, and writes into the sidecars which one `auto` takes and why."""
    timings = maker.time({precision: engine.plan() for precision, engine in ready.items()})
    power = maker.power()
    precision, reason = choose(timings, refused)
    told = {
        name: msgspec.structs.replace(
            engine.sidecar,
            timings_ms={each: round(ms, 4) for each, ms in timings.items()},
            power=power,
            chosen=name == precision,
            reason=reason,
        )
        for name, engine in ready.items()
    }
    for name in sorted(told, key=lambda name: name == precision):  # the chosen one last: never two at a time
        _write_sidecar(ready[name].path, told[name])
    return Engine(ready[precision].path, told[precision])


def choose(timings_ms: Mapping[str, float], refused: Mapping[str, str]) -> tuple[EnginePrecision, str]:
    """Which of the engines that passed their gates is kept, and why. FP16 unless INT8 is faster by more than a little."""
    int8, fp16 = timings_ms.get("int8"), timings_ms.get("fp16")
    if int8 is None:
        return "fp16", f"fp16 alone may be used: int8: {refused.get('int8', 'no graph')}"
    if fp16 is None:
        return "int8", f"int8 alone may be used: fp16: {refused.get('fp16', 'no graph')}"
    both = f"int8 takes {int8:.3f} ms, fp16 {fp16:.3f} ms"
    if int8 <= WORTH * fp16:
        return "int8", f"{both}: int8 is {fp16 / int8:.2f} times as fast and within tolerance"
    return "fp16", f"{both}: int8 is not faster by {1 - WORTH:.0%}, and fp16 is more exact"


def time_interleaved(
    runs: Mapping[str, Callable[[], float]], rounds: int = TIMING_ROUNDS, warm_up: int = WARM_UP_ROUNDS
) -> dict[str, float]:
    """Median of what each of `runs` gives, one of each in every round: heat and clocks meet all of them alike."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            spent[name].append(run())
    return {name: median(values) for name, values in spent.items()}


def timing_cache_path(home: Path, facts: DeviceFacts, tensorrt: str, power: Mapping[str, str]) -> Path:
    """Where what the builder learned on this device lies. Tactics are timed at the clocks of a power mode."""
    parts = (
        facts.name,
        facts.compute_capability,
        str(facts.sm_count),
        facts.driver,
        tensorrt,
        power.get("mode", ""),
    )
    return home / f"timing-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.cache"
