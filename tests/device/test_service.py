"""The very command lines of the units, started as the service starts them: nothing in the environment but what it sets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.errors import JournalError
from edge_runtime.infer.model import load_model
from edge_runtime.sync.outbox import Outbox
from tests.brokers import Mosquitto
from tests.device.units import RUN, UPLINK, arguments, environment, one
from tests.faults.processes import start_receive, stored, until
from tests.real import ROOT

ENDLESS = "phantom:fetal_head?hc_mm=250&frames=1000000&width=320&height=216"


class Service:
    """A state and a cache directory; everything else as the units say."""

    def __init__(self, home: Path, **over: str) -> None:
        self.state, self.cache = home / "state", home / "cache"
        self.env = environment(**over)
        for folder in (self.state, self.cache):
            folder.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def started(self, unit: Path, name: str = "ExecStart") -> Iterator[subprocess.Popen[str]]:
        """The process, without HOME; PYTHONPATH stands for the program being installed. Gone at the end."""
        own = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "EDGE_RUNTIME_CACHE": str(self.cache)}
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_runtime", *arguments(one(unit, name), self.env, self.state)],
            env={**self.env, **own},
            cwd=self.state,
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=30)

    def finish(self, unit: Path, name: str = "ExecStart") -> tuple[int, str, str]:
        with self.started(unit, name) as process:
            out, err = process.communicate(timeout=120)  # TimeoutStartSec
            return process.returncode, out, err

    def recorded(self) -> int:
        """How many wait for the cloud; none where no database has been made yet."""
        try:
            with Outbox(self.state) as outbox:
                return outbox.pending_count()
        except JournalError:
            return 0


def damaged(home: Path) -> Path:
    """The shipped model with one byte of its graph changed."""
    model = load_model("fetal_head")
    shutil.copytree(model.home, home)
    graph = home / model.manifest.artifacts["fp32"].file
    graph.chmod(0o644)
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    return home


def stop(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)  # TimeoutStopSec
    return process.returncode, out, err


@pytest.mark.slow
def test_the_selftest_before_the_start_passes_on_what_is_shipped(tmp_path: Path) -> None:
    service = Service(tmp_path)
    code, out, err = service.finish(RUN, "ExecStartPre")
    assert (code, err) == (0, "")
    assert "pass in" in out
    assert list(service.state.iterdir()) == []


def test_a_damaged_model_keeps_the_service_from_starting_and_says_why(tmp_path: Path) -> None:
    service = Service(tmp_path, EDGE_RUNTIME_MODEL=str(damaged(tmp_path / "model")))
    code, _, err = service.finish(RUN, "ExecStartPre")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "model.onnx" in line
    assert not (service.state / "findings.db").exists()


def test_settings_that_nobody_has_made_yet_stop_with_exit_2_and_one_line(tmp_path: Path) -> None:
    service = Service(tmp_path, EDGE_RUNTIME_SOURCE="folder:/srv/nothing-here")
    for unit, word in ((RUN, "/srv/nothing-here"), (UPLINK, "/etc/edge-runtime/ca.pem")):
        code, _, err = service.finish(unit)
        assert code == 2, err
        assert len(err.splitlines()) == 1
        assert word in err


@pytest.mark.slow
def test_a_stop_keeps_every_finding_and_writes_nowhere_else(tmp_path: Path) -> None:
    service = Service(tmp_path, EDGE_RUNTIME_SOURCE=ENDLESS)
    with service.started(RUN) as process:
        until(lambda: service.recorded() > 20, 120)
        seen = service.recorded()
        code, out, err = stop(process)
    assert (code, err) == (0, "")
    assert "stopped by a signal" in out
    assert service.recorded() >= seen
    assert {file.stat().st_mode & 0o077 for file in service.state.iterdir()} == {0}
    assert {entry.name for entry in tmp_path.iterdir()} == {"state", "cache"}


@pytest.mark.slow
@pytest.mark.broker
def test_run_and_uplink_share_the_directory_and_neither_stops_the_other(
    tmp_path: Path, broker: Mosquitto
) -> None:
    store = tmp_path / "cloud.db"
    service = Service(
        tmp_path,
        EDGE_RUNTIME_SOURCE=ENDLESS,
        EDGE_RUNTIME_BROKER=broker.url,
        EDGE_RUNTIME_UPLINK_FLAGS="",
    )
    receiver = start_receive(broker.url, store)
    try:
        with (
            service.started(UPLINK) as uplink,
            service.started(RUN) as run,
        ):  # the uplink waits for a database
            until(lambda: len(stored(store)) > 20, 120)
            broker.stop()
            seen = service.recorded()
            until(lambda: service.recorded() > seen + 20, 120)  # no broker: recording goes on
            broker.start()
            assert stop(run)[0] == 0
            until(lambda: service.recorded() == 0, 90)  # and what waited goes out without it
            assert stop(uplink)[0] == 0
    finally:
        receiver.terminate()
        receiver.wait(10)
    assert len(stored(store)) == len(set(stored(store)))


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a read-only system needs root and unshare"
)
def test_nothing_but_the_two_directories_needs_to_be_writable(tmp_path: Path) -> None:
    service = Service(tmp_path, EDGE_RUNTIME_SOURCE="phantom:fetal_head?hc_mm=250&frames=3")
    binds = [f"mount --bind {folder} {folder}" for folder in (service.state, service.cache)]
    readonly = ["mount -o remount,bind,ro /", f"! touch {tmp_path}/x 2>/dev/null", 'exec "$@"']
    shell = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        " && ".join(binds + readonly),
        "sh",
    ]
    for name in ("ExecStartPre", "ExecStart"):
        words = [sys.executable, "-m", "edge_runtime", *arguments(one(RUN, name), service.env, service.state)]
        done = subprocess.run(
            shell + words,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "EDGE_RUNTIME_CACHE": str(service.cache)},
            cwd=service.state,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert service.recorded() >= 3
