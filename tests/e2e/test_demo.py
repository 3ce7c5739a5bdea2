"""The demo as a user runs it: three kills, no broker, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.commands import demo
from edge_runtime.commands.demo import stage, story
from tests.brokers import needs_mosquitto

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.broker
@needs_mosquitto
def test_after_three_kills_everything_reported_is_in_the_database_once(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "edge_runtime", "demo", "--seconds", "4", "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["ok"]
    assert report["problems"] == []
    assert report["killed"] == ["the run", "the uplink", "the broker"]
    live = report["live"]
    assert live["offered"] == live["processed"] + live["dropped"]
    assert live["captures_before_kill"] >= 1
    assert report["echo"]["withheld"] >= 1
    assert report["echo"]["in_millimetres"] == 0
    assert report["gate"]["sound_accepted"]
    assert report["gate"]["spoilt_refused"]
    assert report["gate"]["why"]
    assert [chest["how"] for chest in report["chests"]] == ["upright", "turned", "inverted", "clipped"]
    assert all(chest["came"] == chest["wanted"] for chest in report["chests"])
    assert [chest["number"] for chest in report["chests"]] == [True, False, False, False]
    assert [one["name"] for one in report["chests"][0]["values"]] == [
        "lung_area_right",
        "lung_area_left",
        "lung_width",
    ]
    assert (report["artery"] is not None) == ("vessel" in stage.installed())

    told = [json.loads(line)["finding_id"] for line in (out / "findings.jsonl").read_text().splitlines()]
    with closing(sqlite3.connect(out / "cloud.db")) as db:
        rows = db.execute("SELECT finding_id, epoch, seq FROM findings").fetchall()
    assert len(told) > story.STILL_FRAMES
    assert set(told) <= {row[0] for row in rows}
    assert max(Counter(row[1:] for row in rows).values()) == 1
    assert report["delivery"]["reported"] == report["delivery"]["stored"] == len(told)

    overlay = cv2.imread(str(out / "overlay.png"))
    assert overlay is not None
    blue, green, red = (overlay[..., colour].astype(int) for colour in range(3))
    assert np.count_nonzero((green > blue + 80) & (green > red + 80)) > 1000, "no contour in the picture"
    assert cv2.imread(str(out / "measurement.png")) is not None
    html = (out / "summary.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") >= 7
    assert html.index("What it saw") < html.index("Before the patient leaves")
    assert cv2.imread(str(out / "phantoms.png")) is not None
    assert 'src="http' not in html


@pytest.mark.slow
def test_without_a_broker_all_else_works_and_it_says_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "find_mosquitto", lambda: None)
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(tmp_path / "nowhere"))
    report = demo.demo(tmp_path / "demo", 2.0, None, lambda text: None)
    assert report.ok, report.problems
    assert report.delivery.broker is None
    assert report.delivery.waiting >= report.delivery.reported > story.STILL_FRAMES
    assert report.heads is None
    said = "\n".join(demo.lines(report))
    assert f"{report.delivery.waiting} records wait in the outbox" in said
    assert "apt-get install mosquitto" in said
    assert "--data" in said


@pytest.mark.slow
@pytest.mark.broker
@needs_mosquitto
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_stopped_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "edge_runtime", "demo", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (out / "work" / "live-killed.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) != 0
    assert running_with(str(out)) == []


def running_with(text: str) -> list[str]:
    """The command lines of running processes that hold `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found
