"""Engines in the cache: missing, stale, damaged, ungated, killed in the middle; and which of two is kept.

Files, digests, kills and gate reports are real; what builds and times is a small function, for there is no GPU here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.build.compiler import Built
from edge_runtime.build.engine import Maker, choose, engine_for, get_or_build, time_interleaved, write_atomic
from edge_runtime.build.gate import judge
from edge_runtime.build.gate_report import Failure, GateReport
from edge_runtime.build.readings import Reading
from edge_runtime.codes import SourceKind, Status
from edge_runtime.errors import EngineError, GateError
from edge_runtime.frames.source import frame_id
from edge_runtime.infer.backends.engine_file import (
    Engine,
    EngineKey,
    EngineOptions,
    Sidecar,
    find_engine,
    plan_path,
    sidecar_path,
)
from edge_runtime.infer.model import GateSpec
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.types import Box, Frame, Mask, Origin

KEY = EngineKey(
    manifest_sha256="1" * 64,
    graph_sha256="2" * 64,
    precision="int8",
    tensorrt="10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    sm_count=8,
    driver="12.6",
)
SPEC = GateSpec(min_frames=8)


def readings(shift: int) -> list[Reading]:
    """Eight frames with a square in each, moved by `shift` cells."""
    geometry, made = fit_region(Box(0, 0, 64, 48), (48, 64), "letterbox"), []
    for index in range(8):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 10 + index + shift : 30 + index + shift] = 1
        pixels = np.random.default_rng(index).integers(0, 256, (48, 64), dtype=np.uint8)
        frame = Frame(pixels, index, 0, Origin(SourceKind.MEMORY, f"frame {index}"), frame_id(index, pixels))
        mask = Mask(labels, ("head",), geometry, (0.98,), (0.0,), 1.0)
        made.append(
            Reading(frame.frame_id, f"frame {index}", frame, mask, Status.USABLE, {"area_share": 0.13})
        )
    return made


REFERENCE, AGREES, STRAYS = readings(0), readings(0), readings(6)


def report(candidate: list[Reading]) -> GateReport:
    return judge(REFERENCE, candidate, SPEC, subject="int8 on Orin")


@dataclass
class Factory:
    """Counts what is asked of it; plans are the count, so that no two are the same."""

    candidate: list[Reading] = field(default_factory=lambda: AGREES)
    bad_plans: int = 0  # so many of the first cannot be opened
    built: int = 0
    opened: list[bytes] = field(default_factory=list)

    def build(self) -> Built:
        self.built += 1
        return Built(b"plan %d" % self.built, b"", 1.0)

    def check(self, plan: bytes) -> None:
        self.opened.append(plan)
        if int(plan.split()[1]) <= self.bad_plans:
            raise EngineError("TensorRT refuses this engine")

    def gate(self, plan: bytes) -> GateReport:
        return report(self.candidate)


def made(home: Path, factory: Factory, key: EngineKey = KEY, gate: Any = None) -> tuple[Engine, bool]:
    return get_or_build(home, key, factory.build, gate or factory.gate, factory.check, model="tiny")


def test_it_is_built_once_and_then_found(tmp_path: Path) -> None:
    factory = Factory()
    engine, new = made(tmp_path, factory)
    again, old = made(tmp_path, factory)
    assert (new, old, factory.built) == (True, False, 1)
    assert engine == again
    assert engine.plan() == b"plan 1"
    assert engine.sidecar.gate.passed
    assert engine.path.with_suffix(".gate.json").is_file()  # why it was accepted


@pytest.mark.parametrize("damage", ["cut short", "one bit", "empty", "gone", "sidecar gone", "sidecar cut"])
def test_what_is_damaged_is_built_again(damage: str, tmp_path: Path) -> None:
    factory = Factory()
    engine, _ = made(tmp_path, factory)
    sidecar = sidecar_path(engine.path)
    if damage == "cut short":
        engine.path.write_bytes(engine.path.read_bytes()[:-1])
    elif damage == "one bit":
        engine.path.write_bytes(bytes([engine.path.read_bytes()[0] ^ 1]) + engine.path.read_bytes()[1:])
    elif damage == "empty":
        engine.path.write_bytes(b"")
    elif damage == "gone":
        engine.path.unlink()
    elif damage == "sidecar gone":
        sidecar.unlink()
    else:
        sidecar.write_bytes(sidecar.read_bytes()[:40])
    engine, new = made(tmp_path, factory)
    assert new
    assert engine.plan() == b"plan 2"


CHANGED: dict[str, Any] = {
    "manifest_sha256": "3" * 64,
    "graph_sha256": "3" * 64,
    "precision": "fp16",
    "tensorrt": "10.16.2",
    "gpu": "Thor",
    "compute_capability": "11.0",
    "sm_count": 16,
    "driver": "13.2",
    "options": EngineOptions(workspace_bytes=1),
}


def test_every_field_of_the_key_is_tried_below() -> None:
    assert set(CHANGED) == {field.name for field in msgspec.structs.fields(EngineKey)}


@pytest.mark.parametrize("name", CHANGED)
def test_another_key_is_another_engine(name: str, tmp_path: Path) -> None:
    other = msgspec.structs.replace(KEY, **{name: CHANGED[name]})
    made(tmp_path, Factory())
    assert other.digest() != KEY.digest()
    with pytest.raises(EngineError, match="there is no engine"):
        find_engine(tmp_path, other)
    _, new = made(tmp_path, Factory(), other)
    assert new


def test_a_digest_is_the_same_in_every_process() -> None:
    assert KEY.digest().startswith("30ab969fe262")
    assert KEY.digest() == msgspec.json.decode(msgspec.json.encode(KEY), type=EngineKey).digest()


def test_a_plan_that_the_device_refuses_is_built_again_once(tmp_path: Path) -> None:
    factory = Factory(bad_plans=1)
    engine, _ = made(tmp_path, factory)
    assert factory.built == 2
    assert engine.plan() == b"plan 2"


def test_a_plan_that_is_refused_twice_is_refused_for_good(tmp_path: Path) -> None:
    factory = Factory(bad_plans=99)
    with pytest.raises(EngineError, match="built 2 times, and cannot be used: TensorRT refuses this engine"):
        made(tmp_path, factory)
    assert factory.built == 2
    with pytest.raises(EngineError):
        find_engine(tmp_path, KEY)  # and nothing that would run is left


def test_a_stored_plan_that_the_device_no_longer_takes_is_built_again(tmp_path: Path) -> None:
    made(tmp_path, Factory())
    engine, new = made(tmp_path, Factory(bad_plans=1))
    assert new
    assert engine.plan() == b"plan 2"


def test_a_graph_that_cannot_be_built_is_not_tried_twice(tmp_path: Path) -> None:
    tried = []

    def build() -> Built:
        tried.append(1)
        raise EngineError("node conv_1: no implementation")

    with pytest.raises(EngineError, match="no implementation"):
        get_or_build(tmp_path, KEY, build, lambda plan: report(AGREES))
    assert len(tried) == 1


def test_an_engine_that_strays_is_refused_and_stays_refused(tmp_path: Path) -> None:
    factory = Factory(STRAYS)
    with pytest.raises(GateError, match="int8 on Orin refused"):
        made(tmp_path, factory)
    factory.candidate = AGREES  # the gate's word stands: no building until one slips through
    with pytest.raises(GateError, match="the gate refused this engine"):
        made(tmp_path, factory)
    assert factory.built == 1


def test_an_ungated_engine_is_never_found(tmp_path: Path) -> None:
    def broken_gate(plan: bytes) -> GateReport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, Factory(), gate=broken_gate)
    assert plan_path(tmp_path, KEY).is_file()
    with pytest.raises(EngineError, match="there is no engine"):
        find_engine(tmp_path, KEY)
    _, new = made(tmp_path, Factory())
    assert new


def test_a_sidecar_that_says_ungated_is_not_enough(tmp_path: Path) -> None:
    engine, _ = made(tmp_path, Factory())
    path = sidecar_path(engine.path)
    sidecar = msgspec.json.decode(path.read_bytes(), type=Sidecar)
    path.write_bytes(
        msgspec.json.encode(
            msgspec.structs.replace(sidecar, gate=msgspec.structs.replace(sidecar.gate, passed=False))
        )
    )
    with pytest.raises(GateError):
        find_engine(tmp_path, KEY)


# ---------------------------------------------------------------- killed in the middle

KILLED = """
import os, signal, sys
from pathlib import Path
from edge_runtime.build import engine
from tests.build.test_engine import KEY, Factory, made
calls = int(sys.argv[2])
written = 0
write = engine.write_atomic
def dying(path, content):
    global written
    if written == calls:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
    written += 1
engine.write_atomic = dying
made(Path(sys.argv[1]), Factory())
"""


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_between_any_two_writes_leaves_no_engine_that_runs(writes: int, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(writes)],
        cwd=Path(__file__).parents[2],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.returncode == -signal.SIGKILL
    assert plan_path(tmp_path, KEY).exists() == (writes > 0)
    with pytest.raises(EngineError):
        find_engine(tmp_path, KEY)
    engine, new = made(tmp_path, Factory())
    assert new
    assert engine.plan() == b"plan 1"


def test_a_kill_during_a_rebuild_leaves_the_old_sidecar_with_the_new_plan_and_that_is_refused(
    tmp_path: Path,
) -> None:
    engine, _ = made(tmp_path, Factory())
    write_atomic(engine.path, b"plan 2")  # the plan of the next build; its sidecar was never written
    with pytest.raises(EngineError, match="is damaged"):
        find_engine(tmp_path, KEY).plan()


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file where a folder should be")
    with pytest.raises(EngineError, match="set EDGE_RUNTIME_CACHE to another place"):
        write_atomic(tmp_path / "taken" / "x.plan", b"plan")
    (tmp_path / "folder.plan").mkdir()
    with pytest.raises(EngineError, match="cannot be written"):
        write_atomic(tmp_path / "folder.plan", b"plan")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.plan", "taken"]


# ---------------------------------------------------------------- which one is kept


@dataclass
class Bench:
    """A maker of both precisions."""

    timings: dict[str, float]
    candidates: dict[str, list[Reading]] = field(default_factory=dict)
    unbuildable: tuple[str, ...] = ()
    model: str = "tiny"
    precisions: tuple[Any, ...] = ("int8", "fp16")
    timed: int = 0
    built: list[str] = field(default_factory=list)

    def key(self, precision: Any) -> EngineKey:
        return msgspec.structs.replace(KEY, precision=precision)

    def build(self, precision: Any) -> Built:
        if precision in self.unbuildable:
            raise EngineError(f"{precision}: no implementation for node conv_1")
        self.built.append(precision)
        return Built(b"plan of " + precision.encode(), b"", 1.0)

    def check(self, precision: Any, plan: bytes) -> None:
        assert plan == b"plan of " + precision.encode()

    def gate(self, precision: Any, plan: bytes) -> GateReport:
        return report(self.candidates.get(precision, AGREES))

    def time(self, plans: Mapping[Any, bytes]) -> dict[str, float]:
        self.timed += 1
        return {precision: self.timings[precision] for precision in plans}

    def power(self) -> dict[str, str]:
        return {"mode": "MAXN_SUPER", "clocks": "locked at 1020 MHz"}


def is_maker(bench: Bench) -> Maker:
    return bench


@pytest.mark.parametrize(
    ("timings", "kept", "words"),
    [
        ({"int8": 1.0, "fp16": 1.5}, "int8", "1.50 times as fast"),
        ({"int8": 1.5, "fp16": 1.0}, "fp16", "not faster"),
        ({"int8": 0.99, "fp16": 1.0}, "fp16", "not faster by 3%"),
    ],
)
def test_the_faster_is_kept_and_the_reason_lies_beside_it(
    timings: dict[str, float], kept: str, words: str, tmp_path: Path
) -> None:
    choice = engine_for(is_maker(Bench(timings)), tmp_path)
    sidecar = choice.engine.sidecar
    assert (sidecar.key.precision, sidecar.chosen) == (kept, True)
    assert words in sidecar.reason
    assert sidecar.timings_ms == timings
    assert sidecar.power["mode"] == "MAXN_SUPER"
    stored = [find_engine(tmp_path, Bench({}).key(precision)).sidecar for precision in ("int8", "fp16")]
    assert [each.chosen for each in stored].count(True) == 1


def test_what_is_there_is_neither_built_nor_timed_again(tmp_path: Path) -> None:
    engine_for(is_maker(Bench({"int8": 1.0, "fp16": 1.5})), tmp_path)
    again = Bench({"int8": 9.0, "fp16": 1.0})
    choice = engine_for(is_maker(again), tmp_path)
    assert choice.engine.key.precision == "int8"
    assert (again.built, again.timed, choice.built) == ([], 0, ())


def test_when_one_was_lost_both_are_timed_again(tmp_path: Path) -> None:
    engine_for(is_maker(Bench({"int8": 1.0, "fp16": 1.5})), tmp_path)
    plan_path(tmp_path, Bench({}).key("int8")).unlink()
    again = Bench({"int8": 9.0, "fp16": 1.0})
    choice = engine_for(is_maker(again), tmp_path)
    assert (choice.engine.key.precision, again.built, again.timed) == ("fp16", ["int8"], 1)
    assert not find_engine(tmp_path, again.key("int8")).sidecar.chosen


def test_an_int8_engine_that_the_gate_refuses_leaves_fp16_and_says_why(tmp_path: Path) -> None:
    bench = Bench({"fp16": 1.0, "int8": 0.1}, {"int8": STRAYS})
    choice = engine_for(is_maker(bench), tmp_path)
    assert choice.engine.key.precision == "fp16"
    assert "refused" in choice.refused["int8"]
    assert "fp16 alone may be used" in choice.engine.sidecar.reason


def test_a_graph_that_cannot_be_built_leaves_the_other(tmp_path: Path) -> None:
    bench = Bench({"fp16": 1.0, "int8": 0.1}, unbuildable=("int8",))
    choice = engine_for(is_maker(bench), tmp_path)
    assert choice.engine.key.precision == "fp16"
    assert "no implementation for node conv_1" in choice.refused["int8"]


def test_when_none_may_run_there_is_no_engine(tmp_path: Path) -> None:
    bench = Bench({"fp16": 1.0, "int8": 1.0}, {"int8": STRAYS, "fp16": STRAYS})
    with pytest.raises(
        GateError, match="tiny: no engine may be used on this device: int8: .*; fp16: "
    ) as caught:
        engine_for(is_maker(bench), tmp_path)
    assert "\n" not in str(caught.value)
    assert bench.timed == 0


def test_a_model_with_one_graph_gets_that_engine(tmp_path: Path) -> None:
    bench = Bench({"fp16": 1.0}, precisions=("fp16",))
    assert (
        engine_for(is_maker(bench), tmp_path).engine.sidecar.reason
        == "fp16 alone may be used: int8: no graph"
    )


def test_a_choice_needs_no_more_than_the_numbers() -> None:
    assert choose({"int8": 1.0, "fp16": 1.2}, {})[0] == "int8"
    assert choose({"int8": 1.0}, {"fp16": "strays"}) == ("int8", "int8 alone may be used: fp16: strays")


def test_timing_alternates_and_takes_medians() -> None:
    order: list[str] = []

    def run(name: str, values: list[float]) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return values[len(order) % len(values)]

        return once

    found = time_interleaved({"a": run("a", [1.0]), "b": run("b", [5.0, 5.0, 90.0])}, rounds=9, warm_up=1)
    assert order == ["a", "b"] * 10
    assert found == {"a": 1.0, "b": 5.0}


def test_the_refusal_that_is_shown_is_the_gates_own(tmp_path: Path) -> None:
    judged = report(STRAYS)
    assert isinstance(judged.failures[0], Failure)
    with pytest.raises(GateError):
        made(tmp_path, Factory(STRAYS))
    stored = msgspec.json.decode(sidecar_path(plan_path(tmp_path, KEY)).read_bytes(), type=Sidecar)
    assert stored.gate.message.startswith(judged.failures[0].message)
