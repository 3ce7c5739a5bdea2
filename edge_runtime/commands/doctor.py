"""`edge-runtime doctor`: what this machine has, what it lacks, and the one command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime import clock
from edge_runtime.build import jetson
from edge_runtime.build.bundle import verify_bundle
from edge_runtime.build.precision import Decision, decision_file, open_with_decision
from edge_runtime.commands.state import default_state
from edge_runtime.config import read_config
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.infer.backends.contract import infer_once
from edge_runtime.infer.backends.cuda import open_device, probe
from edge_runtime.infer.backends.table import choose_backend
from edge_runtime.infer.backends.tensorrt import import_tensorrt
from edge_runtime.infer.model import load_model, shipped_models
from edge_runtime.sync.journal_files import exposed
from edge_runtime.sync.link.link_file import read_link
from edge_runtime.sync.state import DATABASE

NEEDED = (
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "pydicom",
    "pillow",
    "pyjpegls",
    "pylibjpeg-openjpeg",
    "paho-mqtt",
    "msgspec",
)
FREE_MB = 200  # of disk: the reserve and some
BLOCK_BYTES = (
    4096  # SQLite maps its -shm in such pieces: of smaller blocks some are missing when the disk is full
)


class Check(msgspec.Struct, frozen=True):
    """One line of the report. `lacks` is a loss the runtime can live with; `broken` is not."""

    name: str
    state: Literal["ok", "lacks", "broken"]
    found: str
    mend: str | None = None


class DoctorReport(msgspec.Struct, frozen=True):
    ok: bool  # nothing is broken
    checks: list[Check]


def doctor(state: Path | None = None) -> DoctorReport:
    """Looks at everything; writes a probe in the state directory, and removes it, and what `auto` means here
    in the cache.
    """
    here = state or default_state()
    checks: list[Check] = [
        _python(),
        *_packages(),
        _models(),
        *_backend(),
        _state(here),
        _config(here),
        *_link(here),
        _broker(),
        _clock(),
        *_nvidia(),
    ]
    return DoctorReport(all(check.state != "broken" for check in checks), checks)


def _python() -> Check:
    here = f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", here)
    return Check("python", "broken", here, "use Python 3.10 to 3.13")


def _config(state: Path) -> Check:
    """The settings that `run` and `uplink` of this directory read."""
    path = state / "config.toml"
    try:
        config = read_config(None, state)
    except ConfigError as error:
        return Check("config", "broken", str(error), "device/config.toml shows every key")
    told = f"tenant {config.site.tenant}, site {config.site.site}, quota {config.journal.quota_mb:g} MB"
    return Check("config", "ok", f"{told} ({path if path.is_file() else 'defaults: no config.toml'})")


def _link(state: Path) -> list[Check]:
    """How the uplink of this directory sees its link; nothing where there never was one."""
    record = read_link(state)
    if record is None:
        return []
    found = record.line().removeprefix("link: ")
    if not record.lives:
        mend = "edge-runtime uplink, or start its service; findings wait meanwhile"
        return [Check("link", "lacks", found, mend)]
    if record.state.connected:
        link = Check("link", "ok", found)
    else:
        link = Check("link", "lacks", found, "mend what it says; it is tried again by itself")
    return [link, *(Check("alert", "lacks", alert.code, alert.text) for alert in record.alerts)]


def _packages() -> list[Check]:
    checks = []
    for name in NEEDED:
        try:
            checks.append(Check(name, "ok", version(name)))
        except PackageNotFoundError:
            checks.append(Check(name, "broken", "not installed", "pip install edge-runtime"))
    if find_spec("openvino") is None:
        mend = "pip install 'edge-runtime[openvino]'"
        checks.append(
            Check("openvino", "lacks", "not installed: inference is 2 to 7 times slower on x86", mend)
        )
    else:
        checks.append(Check("openvino", "ok", version("openvino")))
    return checks


def _models() -> Check:
    names = sorted(shipped_models())
    if not names:
        return Check("models", "broken", "none found", "pip install --force-reinstall edge-runtime")
    return _guarded("models", lambda: ", ".join(_whole(name) for name in names), "restore the named file")


def _whole(name: str) -> str:
    model = load_model(name)
    if model.manifest.files:
        verify_bundle(model)
    for precision in model.manifest.artifacts:
        model.artifact(precision)
    return f"{name} {model.manifest.version}"


def _backend() -> list[Check]:
    name, model = f"backend {choose_backend('auto')}", load_model("fetal_head")
    try:
        backend, decision = open_with_decision(model)
    except EdgeError as exc:
        return [Check(name, "broken", str(exc), "try --backend onnxruntime")]

    def one_inference() -> str:
        tensor = backend.slots[0].input.copy()
        infer_once(backend, tensor)
        start_ns = clock.monotonic_ns()
        infer_once(backend, tensor)
        spent_ms = (clock.monotonic_ns() - start_ns) / 1e6
        return f"{backend.name} {backend.precision} on {backend.device}, {spent_ms:.1f} ms an inference"

    try:
        ran = _guarded(name, one_inference, "try --backend onnxruntime")
    finally:
        backend.close()
    return [ran, Check(f"precision of {model.manifest.name}", "ok", _why(backend.precision, decision))]


def _why(precision: str, decision: Decision | None) -> str:
    if decision is None:
        return f"{precision}: the manifest's own choice, nothing was measured"
    return f"{decision.reason}; measured {decision.measured_at}: {decision_file(decision.key)}"


def _guarded(name: str, look: Callable[[], str], mend: str) -> Check:
    try:
        return Check(name, "ok", look())
    except EdgeError as exc:
        return Check(name, "broken", str(exc), mend)


def _state(state: Path) -> Check:
    nearest = next(path for path in (state, *state.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return Check(
            "state directory",
            "broken",
            f"{state} cannot be written",
            "choose another with --state, or mend its owner",
        )
    free_mb = shutil.disk_usage(nearest).free >> 20
    if free_mb < FREE_MB:
        return Check(
            "state directory", "broken", f"{state}: {free_mb} MB free", f"free at least {FREE_MB} MB"
        )
    block = os.statvfs(nearest).f_frsize
    if block < BLOCK_BYTES:
        told = f"{state}: on a file system with blocks of {block} bytes; once full, SQLite may crash at its start"
        return Check(
            "state directory", "lacks", told, f"make the file system with mkfs.ext4 -b {BLOCK_BYTES}"
        )
    findings = state / DATABASE
    if findings.exists() and exposed(findings) and exposed(state):
        told = f"{findings}: every user of this machine may read it"
        return Check("state directory", "lacks", told, f"its owner: chmod 600 {findings}*")
    return Check("state directory", "ok", f"{state}, {free_mb} MB free")


def _broker() -> Check:
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found:
        return Check("mosquitto", "ok", found)
    return Check("mosquitto", "lacks", "not installed: the demo stays offline", "apt-get install mosquitto")


def _clock() -> Check:
    quality = clock.clock_quality()
    if quality.value == "ntp":
        return Check("clock", "ok", "synchronised")
    return Check(
        "clock",
        "lacks",
        f"{quality.value}: findings carry that beside their time",
        "enable systemd-timesyncd or chrony",
    )


def _nvidia() -> list[Check]:
    """The GPU, TensorRT and a CUDA binding, each with the exact fix for this board; one line where there is no GPU.

    No object of TensorRT is made: without a driver that ends the process.
    """
    found, release = probe(), jetson.l4t_release()
    board = jetson.jetpack()
    name = board.name if board else "" if release is None else f"L4T R{release[0]}"
    if found.gpu is None:
        what = f"{found.reason}: inference runs on the CPU"
        return [Check("gpu", "lacks", f"{name}, {what}" if name else what, jetson.fix("driver"))]
    checks = [Check("gpu", "ok", ", ".join(filter(None, (name, found.reason))))]
    try:
        checks.append(Check("tensorrt", "ok", str(import_tensorrt().__version__)))
    except EdgeError as exc:
        checks.append(Check("tensorrt", "lacks", str(exc).partition(";")[0], jetson.fix("tensorrt")))
    checks.append(_cuda_binding())
    return checks


def _cuda_binding() -> Check:
    try:
        device = open_device()
    except EdgeError as exc:
        return Check("cuda binding", "lacks", str(exc), jetson.fix("binding"))
    kind = "zero-copy" if device.integrated else "copies"
    graphs = "graph replay" if device.can_capture else "no graph replay"
    try:
        return Check("cuda binding", "ok", f"{device.binding} on {device.name}, {kind}, {graphs}")
    finally:
        device.close()


def lines(report: DoctorReport) -> list[str]:
    """One line a check, the mend under what needs it."""
    out = []
    for check in report.checks:
        out.append(f"{check.state:6}  {check.name}: {check.found}")
        if check.state != "ok" and check.mend:
            out.append(f"        -> {check.mend}")
    out.append("all that is needed is here" if report.ok else "something is broken: see the arrows above")
    return out
