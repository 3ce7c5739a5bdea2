"""The systemd units: what they call exists, they hold what device/README.md says, and systemd reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from edge_runtime.cli import app
from tests.device.units import PROGRAM, RUN, SYSTEMD, UPLINK, arguments, directives, environment, one
from tests.real import ROOT

README = (ROOT / "device" / "README.md").read_text()
UNITS = [RUN, UPLINK]
COMMANDS = [(RUN, "ExecStartPre"), (RUN, "ExecStart"), (UPLINK, "ExecStart")]
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze is not installed (apt install systemd)"
)
FLAGS = {
    "EDGE_RUNTIME_BACKEND_FLAGS": "--backend tensorrt --precision fp16 --threads 2",
    "EDGE_RUNTIME_RUN_FLAGS": "--policy newest --limit 5",
}
# What would keep run from a GPU's nodes, or from code that oneDNN and CUDA make as they go.
STOPS_A_GPU = {
    "PrivateDevices", "DeviceAllow", "DevicePolicy", "ProtectClock", "MemoryDenyWriteExecute", "ProcSubset",
    "SystemCallFilter", "PrivateUsers", "BindReadOnlyPaths", "InaccessiblePaths", "RootDirectory", "DynamicUser",
}  # fmt: skip


def parsed(words: list[str]) -> click.Context:
    """The command line as the real command reads it, without running it. Raises click.UsageError."""
    name, *rest = words
    return app.commands[name].make_context(name, rest)


@pytest.mark.parametrize(("unit", "name"), COMMANDS)
@pytest.mark.parametrize("over", [{}, FLAGS], ids=["as shipped", "with flags"])
def test_the_command_reads_the_line_of_the_unit(unit: Path, name: str, over: dict[str, str]) -> None:
    context = parsed(arguments(one(unit, name), environment(**over)))
    assert context.params["state"] == Path("/var/lib/edge-runtime")


@pytest.mark.parametrize(("unit", "name"), COMMANDS)
def test_an_option_that_does_not_exist_would_be_noticed(unit: Path, name: str) -> None:
    line = one(unit, name).replace("--state", "--stat-dir")
    with pytest.raises(click.UsageError, match="No such option"):
        parsed(arguments(line, environment()))


def test_the_selftest_looks_at_what_will_run() -> None:
    env = environment(**FLAGS)
    before, main = (parsed(arguments(one(RUN, name), env)).params for name in ("ExecStartPre", "ExecStart"))
    assert before["models"] == (main["model"],)
    for flag in ("backend", "precision", "threads", "state"):
        assert before[flag] == main[flag]


def test_a_source_with_spaces_and_signs_stays_one_word() -> None:
    words = arguments(one(RUN, "ExecStart"), environment(EDGE_RUNTIME_SOURCE="folder:/srv/a b & $c"))
    assert parsed(words).params["source"] == "folder:/srv/a b & $c"


def test_run_depends_on_no_other_unit_and_on_no_network() -> None:
    own = directives(RUN)
    assert not own.keys() & {"Requires", "Requisite", "BindsTo", "PartOf", "Wants", "After", "Upholds"}
    assert one(RUN, "PrivateNetwork") == "yes"


def test_the_uplink_starts_after_run_whether_that_works_or_not() -> None:
    own = directives(UPLINK)
    assert "edge-runtime.service" in one(UPLINK, "After").split()
    assert not own.keys() & {"Requires", "Requisite", "BindsTo", "PartOf", "Wants", "Upholds"}
    assert "network-online.target" not in one(UPLINK, "After")


def test_both_work_on_one_directory_as_one_user() -> None:
    for name in ("User", "Group", "UMask", "StateDirectory", "StateDirectoryMode", "EnvironmentFile"):
        assert one(RUN, name) == one(UPLINK, name), name
    assert one(RUN, "UMask") == "0077"


def test_run_may_reach_a_gpu() -> None:
    assert not directives(RUN).keys() & STOPS_A_GPU
    members = re.findall(r"^m (\S+) (\S+)$", (SYSTEMD / "edge-runtime.sysusers").read_text(), re.MULTILINE)
    assert members == [("edge-runtime", "video"), ("edge-runtime", "render")]
    assert one(RUN, "User") == "edge-runtime"


def test_a_failed_selftest_is_tried_again_slowly_and_then_no_more() -> None:
    pause, most = int(one(RUN, "RestartSec")), int(one(RUN, "StartLimitBurst"))
    assert one(RUN, "Restart") == "on-failure"
    assert one(RUN, "StartLimitIntervalSec") == "15min"
    assert pause >= 10
    assert one(RUN, "TimeoutStartSec") == "2min"
    assert most * (pause + 120) < 900  # the slowest selftest reaches the limit, and does not outrun it
    assert {"1", "2"} <= set(one(RUN, "RestartPreventExitStatus").split())


def test_a_stop_is_a_sigterm_and_time_to_flush() -> None:
    for unit in UNITS:
        assert one(unit, "KillSignal") == "SIGTERM"
        assert int(one(unit, "TimeoutStopSec")) >= 30
        assert one(unit, "SuccessExitStatus") == "130"


def test_the_directories_of_the_units_are_those_of_the_readme() -> None:
    paths: set[str] = set()
    for unit in UNITS:
        own = directives(unit)
        paths |= {f"/var/lib/{name}" for name in own["StateDirectory"]} | {*own["EnvironmentFile"], PROGRAM}
        paths |= {f"/var/cache/{name}" for name in own.get("CacheDirectory", [])}
        assert own["WorkingDirectory"] == ["/var/lib/edge-runtime"]
    assert one(RUN, "Environment") == "EDGE_RUNTIME_CACHE=/var/cache/edge-runtime"
    assert paths == {
        "/var/lib/edge-runtime", "/var/cache/edge-runtime", "/etc/edge-runtime/edge-runtime.env", PROGRAM,
    }  # fmt: skip
    for path in paths:
        assert path in README, path
    homes = {"/var/lib/edge-runtime", "/var/cache/edge-runtime", "/etc/edge-runtime", "/opt/edge-runtime"}
    told = re.findall(r"(?:/var/lib|/var/cache|/etc|/opt)/edge[\w-]*", README)
    assert set(told) == homes


def test_each_file_of_the_folder_is_installed_by_the_readme() -> None:
    for file in SYSTEMD.iterdir():
        assert file.name in README or f"systemd/*{file.suffix}" in README, file.name


# ---------------------------------------------------------------- what systemd says of them


def copies(folder: Path) -> list[Path]:
    """The units with a program that exists on any machine: systemd looks whether it does."""
    for unit in UNITS:
        (folder / unit.name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    return [folder / unit.name for unit in UNITS]


@needs_systemd
def test_systemd_reads_the_units_without_a_word(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *copies(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_would_notice_a_wrong_line(tmp_path: Path) -> None:
    unit, _ = copies(tmp_path)
    unit.write_text(unit.read_text().replace("RestartSec=", "RestartSecs="))
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert "RestartSecs" in done.stderr


@needs_systemd
@pytest.mark.parametrize(("index", "most"), [(0, 30), (1, 15)], ids=["run", "uplink"])
def test_systemd_calls_the_exposure_low(tmp_path: Path, index: int, most: int) -> None:
    unit = copies(tmp_path)[index]
    done = subprocess.run(
        [str(ANALYZE), "security", "--no-pager", "--offline=true", f"--threshold={most}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is older than 250: it knows no security --offline")
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
