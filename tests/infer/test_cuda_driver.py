"""Both CUDA bindings, the real ones, over a stand-in for the driver library that enforces CUDA's rules (`libcuda.c`);
and the probe, which must say no in one line and never end the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import BackendError
from edge_runtime.infer.backends.cuda import open_device, probe
from tests.infer.driver import compiled_driver

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = probe().gpu is None


def has_binding(name: str) -> bool:
    return find_spec(name) is not None


BINDINGS = [
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not (has_binding("cuda") and has_binding("cuda.bindings")),
            reason="cuda-bindings is not installed",
        ),
    ),
    pytest.param(
        "pycuda",
        marks=pytest.mark.skipif(
            not has_binding("pycuda"), reason="pycuda is not installed: it is built on a device"
        ),
    ),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in."""
    return compiled_driver(tmp_path_factory.mktemp("driver"))


def live(driver: Path, binding: str, **environment: str) -> dict[str, Any]:
    """What `driver_life.py` tells of one binding."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.infer.driver_life", binding],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("integrated", [False, True], ids=["copies", "zero-copy"])
def test_a_binding_does_all_that_an_inference_needs_and_breaks_no_rule(
    binding: str, integrated: bool, driver: Path
) -> None:
    told = live(driver, binding, FAKE_INTEGRATED=str(int(integrated)))
    alone, backend = told["alone"], told["backend"]
    graphs = binding == "cuda"
    assert alone["integrated"] == integrated
    assert alone["name"] == "Orin (no GPU at all)"
    assert (alone["early"], alone["late"]) == (0, 254)  # nothing is there before the wait
    assert alone["elapsed_ms"] == pytest.approx(1.0)
    assert alone["replayed"] == (253 if graphs else None)
    assert alone["used"] == (0 if integrated else 40)  # mapped memory is the host's
    assert backend["right"]
    assert backend["captured"] == graphs
    assert ("zero-copy" in backend["device"]) == integrated
    for part in (alone, backend):
        assert part["broken"] == ""
        assert part["blocks"] == 0  # all memory was given back
        assert part["depth"] == 0  # and no context is left on the stack


@pytest.mark.parametrize("binding", BINDINGS[:1])
def test_a_call_without_the_context_is_a_clear_error(binding: str, driver: Path) -> None:
    assert (
        live(driver, binding)["alone"]["without_context"]
        == "CUDA: cuEventCreate gave CUDA_ERROR_INVALID_CONTEXT"
    )


@pytest.mark.parametrize("binding", BINDINGS[:1])
def test_where_a_capture_fails_inference_goes_on_without_graphs(binding: str, driver: Path) -> None:
    told = live(driver, binding, FAKE_CAPTURE_FAILS="1")
    assert told["alone"]["replayed"] is None
    assert told["backend"]["right"]
    assert not told["backend"]["captured"]
    assert told["backend"]["broken"] == ""


@pytest.mark.parametrize("binding", BINDINGS[:1])
def test_the_probe_describes_the_gpu(binding: str, driver: Path) -> None:
    assert live(driver, binding)["probe"] == {
        "name": "Orin (no GPU at all)",
        "compute_capability": "8.7",
        "sm_count": 8,
        "driver": "12.6",
        "integrated": False,
    }


def probed(driver: Path, **environment: str) -> str:
    """What the probe says in a process of its own."""
    asked = (
        "from edge_runtime.infer.backends.cuda import probe; found = probe(); print(found.gpu, found.reason)"
    )
    return subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_a_driver_that_does_not_start_is_a_clear_no(driver: Path) -> None:
    assert probed(driver, FAKE_INIT="999") == "None the NVIDIA driver does not start (cuInit gave error 999)"


def test_a_driver_without_a_gpu_is_a_clear_no(driver: Path) -> None:
    assert probed(driver, FAKE_DEVICES="0") == "None the NVIDIA driver sees no GPU"


def test_a_library_that_is_no_driver_is_a_clear_no() -> None:
    assert "is not a CUDA driver" in probe("libc.so.6").reason


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_without_a_driver_the_probe_says_so_and_imports_nothing() -> None:
    asked = (
        "import sys; from edge_runtime.infer.backends.cuda import probe; print(probe());"
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorrt', 'pycuda', 'cuda')])"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert "no NVIDIA driver on this machine" in told
    assert told.splitlines()[-1] == "[]"


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("binding", [None, "cuda", "pycuda"])
def test_without_a_driver_no_device_opens_and_one_line_says_why(binding: str | None) -> None:
    with pytest.raises(BackendError) as caught:
        open_device(binding)
    assert "\n" not in str(caught.value)


def test_an_unknown_binding_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RUNTIME_CUDA", "opencl")
    with pytest.raises(BackendError, match="EDGE_RUNTIME_CUDA=opencl: unknown, choose cuda or pycuda"):
        open_device()
