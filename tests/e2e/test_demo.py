"""The demo keeps its promises, and what it says of them is true, readable and modest."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.codes import Clock, Hint, MeasurementName, Reason, SpacingSource, Status
from edge_runtime.commands import demo
from edge_runtime.commands.demo import (
    chests,
    drawing,
    exhibits,
    findings,
    known,
    page,
    processes,
    stage,
    story,
)
from edge_runtime.commands.demo.chests import ChestPart, Taken
from edge_runtime.commands.demo.findings import Delivery, Measured
from edge_runtime.commands.demo.harm import GatePart
from edge_runtime.commands.demo.known import Known
from edge_runtime.commands.demo.parts import ArteryPart, EchoPart, HeadsPart, LivePart, artery_part
from edge_runtime.commands.demo.report import DemoReport, Files, lines
from edge_runtime.commands.demo.teller import Teller
from edge_runtime.commands.words import in_words, joined
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import parse_spec, render
from edge_runtime.frames.source import frame_id
from edge_runtime.infer.model import load_model
from edge_runtime.measure.findings import mask_records
from edge_runtime.pictures import whole_mask
from edge_runtime.sync.journal import Stamp
from edge_runtime.types import Acquisition, Finding, Measurement, Quality, SpacingUsed
from tests.brokers import needs_mosquitto
from tests.builders import finding
from tests.real import DATA, needs_data

ROOT = Path(__file__).resolve().parents[2]
STAMP = Stamp("dev-1", "e1", "boot", 7, "2026-01-01T00:00:00.000Z", Clock.NTP, 1)
VERDICTS = re.compile(r"\b(good|normal|healthy|fine|safe)\b", re.IGNORECASE)


def lung(name: str, value: float, true: float, unit: str = "cm2") -> Known:
    """A value two units about the true one, within a tenth of it."""
    return Known(name=name, unit=unit, true=true, value=value, interval=(value - 2, value + 2), within=0.1)


def clipped(how: str) -> ChestPart:
    """A picture that was refused for its left edge, as it should be."""
    reasons = ["clipped_left_edge"]
    said = in_words(reasons[0])
    return ChestPart(how=how, wanted=reasons, came=reasons, said=said, number=False, values=[])


def made_up(**changed: Any) -> DemoReport:
    """A demo in which all went well, or what `changed` says."""
    head = Measured(
        true_mm=250.0,
        value_mm=251.2,
        interval_mm=(246.4, 256.0),
        status=Status.CAUTION,
        reasons=["plane_unconfirmed", "interval_uncalibrated"],
        values=43,
        inside=41,
    )
    whole = DemoReport(
        ok=True,
        seconds=24.3,
        model="fetal_head 1.0.0 453abe3cd645",
        precision="fp32",
        backend="onnxruntime",
        others=["lungs 1.0.0 364f46b5be5c, bf16 on openvino"],
        live=LivePart(
            offered=216,
            processed=214,
            dropped=2,
            fps=29.9,
            age_ms_p50=4.2,
            age_ms_p99=9.9,
            captures=43,
            captures_before_kill=19,
            head=head,
        ),
        phantom=msgspec.structs.replace(head, true_mm=180.0, value_mm=180.4, interval_mm=(176.8, 184.0)),
        echo=EchoPart(
            frames=30,
            withheld=28,
            in_pixels=2,
            in_millimetres=0,
            reasons={"shape_not_elliptic": 20, "low_confidence": 11},
            spacing_reason="spacing_region_outside_image",
        ),
        heads=HeadsPart(
            images=12,
            measured=11,
            withheld=1,
            mean_error_mm=1.8,
            inside=10,
            reasons={"cut_by_border": 1},
            held_out=True,
        ),
        chests=[
            ChestPart(
                how="upright",
                wanted=[],
                came=[],
                said="both lungs are in the picture and none is clipped",
                number=True,
                values=[
                    lung("lung_area_right", 181.0, 180.1),
                    lung("lung_area_left", 179.8, 179.0),
                    lung("lung_width", 289.9, 290.0, "mm"),
                ],
            ),
            *(clipped(how) for how in ("turned", "inverted", "clipped")),
        ],
        artery=ArteryPart(
            frames=25, measured=25, inside=24, values=[lung("lumen_area", 33.0, 33.8, "mm2")], reasons={}
        ),
        gate=GatePart(
            frames=48,
            sound_accepted=True,
            sound_mean_mm=0.03,
            sound_largest_mm=0.12,
            layer="middle",
            spoilt_refused=True,
            why="head circumference: the p99 difference is 3.1 mm, limit 0.5 mm",
        ),
        killed=["the run", "the uplink", "the broker"],
        delivery=Delivery(
            broker="mqtt://127.0.0.1:1883", reported=145, stored=145, missing=0, twice=0, untold=1, repeated=3
        ),
        files=Files(
            folder="/tmp/edge-runtime-demo",
            summary="/tmp/edge-runtime-demo/summary.html",
            findings="/tmp/edge-runtime-demo/findings.jsonl",
        ),
        problems=[],
        notes=[],
    )
    return msgspec.structs.replace(whole, **changed)


OFFLINE = Delivery(broker=None, reported=145, stored=0, missing=0, twice=0, waiting=151)


def test_the_gates_two_verdicts_are_told_in_the_summary_and_on_the_page() -> None:
    report = made_up()
    told = "\n".join(lines(report))
    assert "INT8 as shipped is accepted: 0.03 mm from fp32" in told
    assert "INT8 with one scale spoilt is refused: head circumference: the p99 difference is 3.1 mm" in told
    assert "The gate" in page.render(report)


# ------------------------------------------------------------------ the whole of it


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


# ------------------------------------------------------------------ the words


def test_the_summary_is_short_and_says_the_main_things() -> None:
    lines = demo.lines(made_up())
    said = "\n".join(lines)
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 120
    for part in (
        "214 of 216 frames analysed after the kill, 2 dropped, 29.9 frames/s; age p50 4.2 ms, p99 9.9 ms",
        "phantom of 250.0 mm: 251.2 mm (246.4 to 256.0)",
        "28 of 30 frames withheld, 2 given a size in pixels under caution",
        "the outline is not the ellipse it should be (20)",
        "upright: both lungs are in the picture and none is clipped",
        "area right 181.0 cm2 (true 180.1), area left 179.8 cm2 (true 179.0) and width 289.9 mm (true 290.0)",
        "clipped: it goes on beyond the left edge of the picture",
        "area 33.0 mm2 (true 33.8)",
        "25 of 25 frames of a beat measured, the true area inside the interval 24 of 25 times",
        "145 findings reported, 145 of them in the database, 0 missing, 0 twice",
        "the run, the uplink and the broker",
        "/tmp/edge-runtime-demo/summary.html",
        "Research use only. Not a medical device.",
        "Size only, not checked for abnormality.",
    ):
        assert part in said


@pytest.mark.parametrize("delivery", [made_up().delivery, OFFLINE])
def test_neither_summary_nor_page_gives_a_verdict(delivery: Delivery) -> None:
    report = made_up(delivery=delivery)
    assert not VERDICTS.search("\n".join(demo.lines(report)))
    assert not VERDICTS.search(re.sub(r"<style>.*</style>", "", page.render(report), flags=re.DOTALL))


def test_the_page_says_what_failed_before_anything_else() -> None:
    problem = "3 reported findings are not in the <database>"
    html = page.render(made_up(ok=False, problems=[problem]))
    assert "Something failed" in html
    assert "3 reported findings are not in the &lt;database&gt;" in html
    assert "arrived, once" not in html
    assert "Failed" in "\n".join(demo.lines(made_up(problems=[problem])))


def test_an_offline_page_does_not_speak_of_arrival() -> None:
    html = page.render(made_up(delivery=OFFLINE))
    assert "/tmp/" not in html
    assert "arrived" not in html.partition("Where to look next")[0]
    assert "151 records wait" in html


def test_a_report_without_its_optional_parts_still_renders() -> None:
    bare = made_up(
        **dict.fromkeys(("live", "phantom", "echo", "heads", "artery", "gate")),
        chests=[],
        others=[],
        killed=[],
        notes=["no echo cine"],
    )
    assert "no echo cine" in "\n".join(demo.lines(bare))
    assert "No echo cine." in page.render(bare)


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_words_of_its_own(reason: Reason) -> None:
    assert in_words(reason) != reason.value.replace("_", " ")
    assert in_words("a_code_of_tomorrow") == "a code of tomorrow"


def test_a_list_is_joined_as_in_a_sentence() -> None:
    assert [joined(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


# ------------------------------------------------------------------ pictures and processes


def test_the_plot_writes_nothing_into_the_home_and_leaves_the_environment_as_it_was(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from edge_runtime.commands.demo import plot
from tests.builders import finding
from tests.e2e.test_demo import STAMP
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
    subprocess.run(command, env=env, cwd=ROOT, timeout=60, check=True)
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


# ------------------------------------------------------------------ chests and arteries against their truth

WHOLE = Acquisition(
    both_lungs=True, missing=(), clipped_edges=(), rotation_deg=0, inverted=False, ok=True
)  # and nothing wrong with it
TURNED = msgspec.structs.replace(WHOLE, rotation_deg=90, ok=False)
SPACING = SpacingUsed(row_mm=0.06, col_mm=0.06, source=SpacingSource.PHANTOM)


def sized(values: dict[str, float], status: Status = Status.USABLE, **over: Any) -> Finding:
    """A finding of the first frame that gives each of `values` to within a twentieth, or withholds it."""
    held = status is Status.WITHHELD
    measurements = tuple(
        Measurement(
            name=MeasurementName(name),
            value=None if held else value,
            unit="mm2",
            interval=None if held else (0.95 * value, 1.05 * value),
            status=status,
            reasons=(),
            spacing=SPACING,
            formula="pixel-count-area",
        )
        for name, value in values.items()
    )
    return finding(STAMP, measurements=measurements, status=status, **over)


def lungs_as_drawn(share: float = 1.0, **over: Any) -> Finding:
    """What a model would say that finds the true lungs, or a share of each."""
    _, truth = render(parse_spec(chests.CHEST.removeprefix("phantom:")), 0)
    assert truth is not None
    return sized({name: share * value for name, value in truth.values.items()}, **over)


UPRIGHT, SIDEWAYS = chests.WAYS[:2]
TOLERANCE = {"lung_area_right": 0.1, "lung_area_left": 0.1}


def test_a_chest_that_is_said_to_be_as_it_was_drawn_is_no_problem() -> None:
    part = chests.chest_part(UPRIGHT, lungs_as_drawn(acquisition=WHOLE, reasons=()), TOLERANCE)
    assert chests.wrong(part) == []
    assert part.said == "both lungs are in the picture and none is clipped"
    refused = lungs_as_drawn(
        status=Status.WITHHELD, acquisition=TURNED, reasons=(Reason.ROTATED_90, Reason.SATURATED)
    )
    part = chests.chest_part(SIDEWAYS, refused, TOLERANCE)
    assert chests.wrong(part) == []
    assert part.said == "the picture is turned by 90 degrees clockwise"


def test_a_turned_chest_that_passes_is_a_problem_that_says_what_was_wanted_and_what_came() -> None:
    part = chests.chest_part(SIDEWAYS, lungs_as_drawn(acquisition=WHOLE, reasons=()), TOLERANCE)
    assert chests.wrong(part) == [
        "chest X-ray, turned: wanted 'the picture is turned by 90 degrees clockwise', came nothing wrong with it",
        "chest X-ray, turned: wanted no number, came one",
    ]


def test_a_whole_chest_that_is_refused_is_a_problem_whatever_the_reason() -> None:
    doubtful = msgspec.structs.replace(WHOLE, ok=False)
    refused = lungs_as_drawn(status=Status.WITHHELD, acquisition=doubtful, reasons=(Reason.LOW_CONFIDENCE,))
    part = chests.chest_part(UPRIGHT, refused, TOLERANCE)
    first, *values = chests.wrong(part)
    assert first == "chest X-ray, upright: wanted nothing wrong with it, came 'the model is not sure enough'"
    assert part.said == "the model is not sure enough"
    assert all(value.endswith("came no number") for value in values)
    assert len(values) == len(TOLERANCE)


@pytest.mark.parametrize(("share", "right"), [(1.04, True), (0.96, True), (1.06, False), (0.8, False)])
def test_a_value_must_lie_within_its_tolerance_and_its_interval_must_hold_the_true_one(
    share: float, right: bool
) -> None:
    part = chests.chest_part(UPRIGHT, lungs_as_drawn(share, acquisition=WHOLE, reasons=()), TOLERANCE)
    assert (chests.wrong(part) == []) is right
    narrow = dict.fromkeys(TOLERANCE, 0.01)
    part = chests.chest_part(UPRIGHT, lungs_as_drawn(share, acquisition=WHOLE, reasons=()), narrow)
    said = chests.wrong(part)
    assert "wanted lung area right 180.1 mm2 within 1 % and inside the interval, came" in said[0]


def test_each_frame_of_an_artery_is_held_against_its_own_truth() -> None:
    spec = parse_spec(story.ARTERY.removeprefix("phantom:"))
    found = []
    for index in (0, 8, 16):
        _, truth = render(spec, index)
        assert truth is not None
        source = msgspec.structs.replace(finding(STAMP).source, frame_ids=(f"{index}.00",))
        found.append(sized({"lumen_area": truth.values["lumen_area"]}, source=source))
    tolerance = {"lumen_area": 0.1}
    part = artery_part(found, spec, tolerance)
    assert (part.frames, part.measured, part.inside) == (3, 3, 3)
    assert known.complaints("artery", part.values) == []
    swapped = [
        msgspec.structs.replace(one, source=other.source)
        for one, other in zip(found, found[::-1], strict=True)
    ]
    assert artery_part(swapped, spec, tolerance).inside < 3, (
        "a beat changes the area by more than the interval"
    )


def test_a_part_whose_model_is_not_installed_is_left_out(tmp_path: Path) -> None:
    told: list[str] = []
    show = story.Show(stage.set_up(tmp_path / "demo"), 4.0, {}, Teller(told.append, None))
    with ExitStack() as stack:
        show.before_the_patient_leaves(stack)
        show.artery(stack)
    assert (show.shown.chests, show.shown.artery, show.problems, show.runs.started, told) == (
        [],
        None,
        [],
        [],
        [],
    )


def test_the_models_are_asked_for_their_anatomy() -> None:
    found = stage.installed()
    assert found["fetal_head"] == "fetal_head"
    assert found["lungs"] == "lungs"
    assert {load_model(name).manifest.anatomy for name in found.values()} == set(found)


@pytest.mark.slow
def test_a_lie_about_a_chest_makes_the_demo_fail_by_the_words_of_the_real_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = Taken("turned", UPRIGHT.uri, (Reason.ROTATED_90,))
    monkeypatch.setattr(chests, "WAYS", (UPRIGHT, lie))
    show = story.Show(
        stage.set_up(tmp_path / "demo"), 4.0, stage.installed(), Teller(lambda text: None, None)
    )
    with ExitStack() as stack:
        show.before_the_patient_leaves(stack)
    assert all("turned: wanted" in problem for problem in show.problems)
    assert len(show.problems) == 2, show.problems


def chest_panel(taken: Taken, **over: Any) -> drawing.Panel | None:
    """The panel of a chest, with the true lungs for what was found."""
    spec = parse_spec(taken.uri.removeprefix("phantom:"))
    pixels, truth = render(spec, 0)
    assert truth is not None
    mask = whole_mask(truth.mask(pixels.shape), ("lung_right", "lung_left"))
    source = msgspec.structs.replace(finding(STAMP).source, frame_ids=(frame_id(0, pixels),))
    return exhibits.chest(taken, [lungs_as_drawn(source=source, masks=mask_records(mask), **over)])


def coloured(panel: drawing.Panel | None) -> int:
    """How many pixels of the drawn panel's picture are clearly coloured."""
    assert panel is not None
    picture = np.asarray(drawing.draw(panel))[drawing.TITLE_H : drawing.TITLE_H + drawing.IMAGE_H].astype(int)
    return int(np.count_nonzero(np.ptp(picture, axis=2) > 80))


def test_a_refused_chest_shows_a_broken_line_its_hint_and_no_number() -> None:
    whole = chest_panel(UPRIGHT, acquisition=WHOLE, reasons=())
    hint = Quality(score=0, hint=Hint.ROTATE_IMAGE)
    refused: dict[str, Any] = {"status": Status.WITHHELD, "reasons": (Reason.ROTATED_90,), "quality": hint}
    turned = chest_panel(SIDEWAYS, acquisition=TURNED, **refused)
    assert whole is not None
    assert turned is not None
    assert (turned.said, turned.values) == ("Rotate image", ())
    assert whole.said == "Both lungs, whole"
    assert 0.4 < coloured(turned) / coloured(whole) < 0.8
    assert coloured(chest_panel(SIDEWAYS, acquisition=None, **refused)) == 0, (
        "a foreign picture has no outline"
    )


def test_the_words_beside_a_badge_leave_it_its_room() -> None:
    panel = chest_panel(SIDEWAYS, acquisition=TURNED, status=Status.WITHHELD, reasons=(Reason.ROTATED_90,))
    assert panel is not None
    for hint in Hint:
        drawn = drawing.draw(replace(panel, said=hint.value.replace("_", " ")))
        row = np.asarray(drawn).astype(int)[-drawing.WORDS_H + 10 : -drawing.WORDS_H + 96]
        words = np.flatnonzero((row.min(axis=2) > 200).any(axis=0))  # the badge is grey
        assert words[-1] < drawing.PANEL_W - drawing.MARGIN - 190, hint


# ------------------------------------------------------------------ the comparison


ROWS = [("f1", "dev", "e", 1), ("f2", "dev", "e", 2)]


def test_a_finding_that_is_not_in_the_database_is_missing() -> None:
    found = findings.delivery(["f1", "f2", "f3"], ROWS, broker="b", waiting=0, repeated=0)
    assert (found.reported, found.stored, found.missing, found.twice) == (3, 2, 1, 0)


@pytest.mark.parametrize("double", [("f1", "dev", "e", 3), ("f3", "dev", "e", 2)])
def test_the_same_finding_or_number_in_two_rows_is_twice(double: tuple[str, str, str, int]) -> None:
    assert findings.delivery(["f1", "f2"], [*ROWS, double], broker="b", waiting=0, repeated=0).twice == 1


def test_a_line_that_a_kill_cut_off_had_not_been_told(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert findings.whole_lines(out) == b""
    out.write_bytes(b'{"a":1}\n{"b":')
    assert findings.whole_lines(out) == b'{"a":1}\n'


def test_what_was_committed_and_not_told_is_named() -> None:
    assert findings.delivery(["f1"], ROWS, broker="b", waiting=0, repeated=0).untold == 1


# ------------------------------------------------------------------ the folder


def test_an_earlier_demo_is_made_anew_and_other_files_stay(tmp_path: Path) -> None:
    first = stage.set_up(tmp_path)
    first.database.write_text("old")
    (first.work / "old.jsonl").write_text("old")
    mine = tmp_path / "thesis.docx"
    mine.write_text("mine")
    stage.set_up(tmp_path)
    assert mine.read_text() == "mine"
    assert not first.database.exists()
    assert not (first.work / "old.jsonl").exists()


@pytest.mark.parametrize("name", ["cloud.db", "thesis.docx", ".hidden"])
def test_a_folder_with_files_that_no_demo_made_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    with pytest.raises(ConfigError, match="no demo made it") as caught:
        stage.set_up(tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "theirs"


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with stage.claim(folder):
        first = stage.set_up(folder)
        first.database.write_text("mine")
        with pytest.raises(ConfigError, match="another demo runs in this folder") as caught:
            demo.demo(folder, 4.0, None, lambda text: None)
        assert "\n" not in str(caught.value)
        assert first.database.read_text() == "mine"
    with stage.claim(folder):  # given back
        stage.set_up(folder)


def test_a_folder_that_cannot_be_claimed_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(ConfigError, match="--out .*cannot be written") as caught:
        demo.demo(tmp_path / "file" / "demo", 4.0, None, lambda text: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["a.png,s1,tall", "a.png,s1,nan", "a.png,s1,250\na.png,s2,260"])
def test_a_damaged_table_of_heads_is_a_problem_of_one_part(tmp_path: Path, row: str) -> None:
    data = with_heads(tmp_path / "data")
    (data / "fetal_head" / "images" / "a.png").write_bytes(b"")
    with (data / "fetal_head" / "meta.csv").open("a") as table:
        table.write(f"{row}\n")
    show = story.Show(stage.set_up(tmp_path / "demo"), 4.0, {}, Teller(lambda text: None, None))
    with ExitStack() as stack:
        show.heads(stack, data)
    assert len(show.problems) == 1
    assert "meta.csv" in show.problems[0]


@pytest.mark.parametrize("seconds", [0.0, 1.9, 3601.0, float("nan")])
def test_a_length_that_leaves_no_room_for_a_kill_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match="--seconds"):
        demo.demo(tmp_path / "demo", seconds, None, lambda text: None)
    assert not (tmp_path / "demo").exists()


def with_heads(data: Path, header: str = "file,subject,hc_mm") -> Path:
    (data / "fetal_head" / "images").mkdir(parents=True)
    (data / "fetal_head" / "meta.csv").write_text(f"{header}\n")
    return data


def test_real_heads_are_looked_for_where_they_were_told_to_be_then_in_data_then_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("EDGE_RUNTIME_DATA", raising=False)
    beside = with_heads(tmp_path / "shared" / "data")
    assert stage.find_data(None) == beside
    linked = with_heads(tmp_path / "elsewhere")
    (project / "data").symlink_to(linked)
    assert stage.find_data(None) == linked
    told = with_heads(tmp_path / "told")
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(told))
    assert stage.find_data(None) == told
    assert stage.find_data(linked) == linked


def test_a_data_folder_of_another_kind_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_heads(tmp_path / "data", header="image,patient")
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(tmp_path / "data"))
    assert stage.find_data(None) is None


@needs_data
def test_the_heads_shown_are_of_exams_that_were_kept_out_of_training(tmp_path: Path) -> None:
    heads = stage.choose_heads(DATA, tmp_path)
    assert heads is not None
    assert heads.held_out
    assert len(heads.true_mm) == stage.HEADS
    assert list(heads.true_mm.values()) == sorted(heads.true_mm.values())
    kept = set((load_model("fetal_head").home / "test_subjects.txt").read_text().split())
    with (heads.folder / "meta.csv").open(newline="") as file:
        assert {row["subject"] for row in csv.DictReader(file)} <= kept


def test_data_without_heads_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fetal_head"):
        demo.demo(tmp_path / "demo", 4.0, tmp_path, lambda text: None)
