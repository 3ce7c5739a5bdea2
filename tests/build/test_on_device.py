"""A rehearsal of all that happens on a device: compile, run, verify, with a driver that is C and engines that
onnxruntime computes. Files, digests, the gate, slots, threads and the real CUDA binding are what they are on a device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.infer.model import load_model
from tests.infer.driver import compiled_driver

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("cuda") is None or find_spec("cuda.bindings") is None,
        reason="cuda-bindings is not installed",
    ),
    pytest.mark.skipif(find_spec("tensorrt") is not None, reason="this machine has the real TensorRT"),
    pytest.mark.skipif(
        not load_model("fetal_head").manifest.tensorrt, reason="the shipped model has no graphs for TensorRT"
    ),
]
SHORT = """
import functools, sys
from edge_runtime.build import on_device
on_device.time_interleaved = functools.partial(on_device.time_interleaved, rounds=4, warm_up=1)
"""
COMMAND = SHORT + "from edge_runtime.cli import main; sys.exit(main())"
VERIFY = (
    SHORT
    + """
import pathlib
sys.path.insert(0, "benchmarks")
import device_verify as verify
verify.INFERENCES, verify.WARM_UP, verify.PIPELINE_FRAMES = 20, 5, 24
verify.RESULTS = pathlib.Path(sys.argv[1])
verify.latency = functools.partial(lambda real, backend, count: real(backend, 5), verify.latency)
verify.time_interleaved = functools.partial(lambda real, runs, rounds: real(runs, rounds=3), verify.time_interleaved)
verify.main.__globals__["sys"].argv = ["device_verify"]
verify.main()
"""
)


class Device:
    """A machine with a cache of its own."""

    def __init__(self, driver: Path, cache: Path) -> None:
        self.cache = cache
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(driver),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "rehearsal"), str(ROOT)]),
            "EDGE_RUNTIME_CACHE": str(cache),
            "EDGE_RUNTIME_CUDA": "cuda",
        }

    def run(
        self, *arguments: str, program: str = COMMAND, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )

    def json(self, *arguments: str, **environment: str) -> Any:
        ran = self.run(*arguments, "--json", **environment)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def plan(self, precision: str) -> Path:
        return next((self.cache / "engines").glob(f"*-{precision}.plan"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def compiled(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Any]]:
    """A device that has compiled the shipped model, and what it said."""
    device = Device(driver, tmp_path_factory.mktemp("cache"))
    yield device, device.json("compile", "fetal_head")


def test_both_engines_are_built_gated_and_timed_and_one_is_kept(compiled: tuple[Device, Any]) -> None:
    device, report = compiled
    engine = report["engine"]
    assert sorted(engine["built"]) == ["fp16", "int8"]
    assert engine["refused"] == {}
    assert set(engine["timings_ms"]) == {"int8", "fp16"}
    assert "frames agree" in engine["gate"]
    assert engine["reason"]
    again = device.json("compile", "fetal_head")["engine"]
    assert again["built"] == []
    assert again["path"] == engine["path"]


def test_auto_then_means_that_engine_and_the_finding_says_so(
    compiled: tuple[Device, Any], tmp_path: Path
) -> None:
    device, report = compiled
    out = tmp_path / "findings.jsonl"
    source = "phantom:fetal_head?hc_mm=250&frames=2"
    device.json(
        *(
            "run",
            "--model",
            "fetal_head",
            "--source",
            source,
            "--state",
            str(tmp_path / "s"),
            "--out",
            str(out),
        )
    )
    findings = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(findings) == 2
    for finding in findings:
        assert finding["model"]["backend"] == "tensorrt"
        assert finding["model"]["precision"] == report["engine"]["precision"]
        assert finding["measurements"][0]["value"] == pytest.approx(250, abs=3)


def test_doctor_finds_the_gpu_the_library_and_the_binding(
    compiled: tuple[Device, Any], tmp_path: Path
) -> None:
    told = json.loads(compiled[0].run("doctor", "--state", str(tmp_path), "--json").stdout)
    found = {check["name"]: check for check in told["checks"]}
    assert found["gpu"]["state"] == found["tensorrt"]["state"] == found["cuda binding"]["state"] == "ok"
    assert "graph replay" in found["cuda binding"]["found"]


def test_a_damaged_engine_does_not_run_and_compile_mends_it(driver: Path, tmp_path: Path) -> None:
    device = Device(driver, tmp_path / "cache")
    device.json("compile", "fetal_head")
    for precision in ("int8", "fp16"):
        plan = device.plan(precision)
        plan.write_bytes(plan.read_bytes()[:-1])
    ran = device.run(
        *("run", "--model", "fetal_head", "--backend", "tensorrt", "--state", str(tmp_path / "s")),
        *("--source", "phantom:fetal_head?frames=1"),
    )
    assert ran.returncode == 1
    assert "is damaged" in ran.stderr
    assert "run edge-runtime compile fetal_head" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert sorted(device.json("compile", "fetal_head")["engine"]["built"]) == ["fp16", "int8"]


def test_an_int8_engine_that_computes_something_else_is_refused_by_the_gate(
    driver: Path, tmp_path: Path
) -> None:
    device = Device(driver, tmp_path / "cache")
    engine = device.json("compile", "fetal_head", REHEARSAL_STRAYS="1")["engine"]
    assert engine["precision"] == "fp16"
    assert "refused" in engine["refused"]["int8"]
    ran = device.run(
        *("run", "--model", "fetal_head", "--backend", "tensorrt", "--precision", "int8"),
        *("--source", "phantom:fetal_head?frames=1", "--state", str(tmp_path / "s")),
    )
    assert ran.returncode == 1
    assert "the gate refused this engine" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_verify_runs_from_end_to_end_and_writes_its_file(driver: Path, tmp_path: Path) -> None:
    device = Device(driver, tmp_path / "cache")
    ran = device.run(str(tmp_path / "results"), program=VERIFY)
    (written,) = (tmp_path / "results").glob("*.json")
    found = json.loads(written.read_text())
    failed = [text for text in found["failed"] if "doctor" not in text]  # which looks at this very machine
    assert failed == [], ran.stdout
    assert "no GPU at all" in found["gpu"]["name"]  # nobody shall take a rehearsal for a device
    assert found["endurance"]["inferences"] == 20
    assert {"graphs", "plain", "copied", "mapped"} <= set(found["ways_ms"])
    assert ran.returncode == (1 if found["failed"] else 0)


def test_verify_without_a_gpu_is_one_clear_line() -> None:
    ran = subprocess.run(
        ["sh", str(ROOT / "device" / "verify.sh")],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith("verify: compile: no GPU here: ")
    assert len(ran.stderr.strip().splitlines()) == 1
