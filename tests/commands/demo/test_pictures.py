"""The demo's plot, and the words under its pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.codes import Reason
from edge_runtime.commands.demo import drawing, processes
from edge_runtime.commands.words import in_words
from tests.builders import finding
from tests.commands.demo.made_up import STAMP


def test_the_plot_writes_nothing_into_the_home_and_leaves_the_environment_as_it_was(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from edge_runtime.commands.demo import plot
from tests.builders import finding
from tests.commands.demo.made_up import STAMP
out = Path(sys.argv[1])
before = dict(os.environ)
assert plot.draw(out / "plot.png", [finding(STAMP)], 250.0, plot.Timeline(), out)
assert dict(os.environ) == before
"""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    names = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    env = {"HOME": str(home)} | {name: os.environ[name] for name in names if name in os.environ}
    command = [sys.executable, "-c", program, str(out)]
    subprocess.run(command, env=env, cwd=Path(__file__).parents[3], timeout=60, check=True)
    assert (out / "plot.png").stat().st_size > 0
    assert list(home.iterdir()) == []


def test_a_complaint_of_the_broker_is_told_without_its_seconds_since_1970(tmp_path: Path) -> None:
    child = processes.Child("broker", [], tmp_path)
    (tmp_path / "broker.log").write_text(
        "1795234311: starting\n1795234311: Error: Address already in use\n\n"
    )
    assert child.complaint() == "Error: Address already in use"


@pytest.mark.parametrize("reasons", [[], [Reason.BLURRED], list(Reason)])
def test_the_reasons_under_a_picture_fit_into_its_lines(reasons: list[Reason]) -> None:
    lines = drawing._reasons(finding(STAMP, reasons=tuple(reasons)))
    assert len(lines) <= drawing.REASON_LINES
    assert bool(lines) == bool(reasons)
    widest = drawing.PANEL_W - 2 * drawing.MARGIN
    assert all(drawing._font(drawing.SMALL).getlength(line) <= widest for line in lines)


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_alone_fits_under_a_picture(reason: Reason) -> None:
    assert len(drawing._wrapped(in_words(reason))) <= drawing.REASON_LINES


def test_the_words_of_a_reason_hold_of_any_anatomy() -> None:
    said = " ".join(in_words(reason) for reason in Reason if "lung" not in reason.value)
    assert not re.search(r"\b(head|skull|lung|artery)\b", said)
