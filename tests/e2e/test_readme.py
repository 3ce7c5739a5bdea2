"""Every command of the README does what it says, in the order it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import Mosquitto
from tests.real import DATA, ROOT, needs_data

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [
    line.partition("  #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
MAKE = [line for line in LINES if line.startswith("make ")]
PRODUCT = [line for line in LINES if line.startswith("edge-runtime ")]


def test_the_readme_has_no_command_that_nothing_runs() -> None:
    assert len(PRODUCT) >= 6
    assert [line for line in LINES if line in MAKE or line in PRODUCT] == LINES, (
        "write commands as make or edge-runtime"
    )


@pytest.mark.parametrize("line", MAKE)
def test_each_target_that_the_readme_names_exists(line: str) -> None:
    subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, check=True, capture_output=True)


@needs_data
@pytest.mark.broker
@pytest.mark.slow
def test_each_command_of_the_readme_runs(tmp_path: Path, broker: Mosquitto) -> None:
    (tmp_path / "data").symlink_to(DATA)
    (tmp_path / "models").symlink_to(ROOT / "models")
    background: list[subprocess.Popen[bytes]] = []
    try:
        for line in PRODUCT:
            line = line.replace("127.0.0.1:1883", f"127.0.0.1:{broker.port}")
            waits = not line.endswith("&")
            words = [sys.executable, "-m", "edge_runtime", *shlex.split(line.rstrip("& "))[1:]]
            if waits:
                done = subprocess.run(
                    words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
            else:
                background.append(subprocess.Popen(words, cwd=tmp_path))
    finally:
        for process in background:
            process.terminate()
            process.wait(10)
