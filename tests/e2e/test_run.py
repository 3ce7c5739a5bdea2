"""`edge-runtime run` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.sync.journal import Journal
from edge_runtime.types import Finding, canonical
from tests.e2e.command import COMMAND, edge_runtime, findings
from tests.patience import within

PHANTOM = "phantom:fetal_head?hc_mm=250&frames=8"
REPORT_KEYS = {
    "offered",
    "processed",
    "dropped",
    "findings",
    "withheld",
    "fps",
    "age_ms",
    "stages_ms",
    "first_finding_s",
    "exam_ids",
    "out",
}
FINDING_KEYS = {
    "schema_version", "finding_id", "revision", "supersedes", "kind", "device_id", "seq", "epoch", "boot_id", "exam_id",
    "model", "source", "created_at", "clock", "monotonic_ns", "measurements", "confidence", "quality", "status",
    "reasons", "priority", "masks", "timing",
}  # fmt: skip


def run(cwd: Path, source: str, *more: str | Path, model: str = "fetal_head") -> list[str | Path]:
    return ["run", "--model", model, "--source", source, "--state", cwd / "state", *more]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom frames as stills without any spacing."""
    folder = tmp_path_factory.mktemp("recorded")
    edge_runtime(*run(folder, "phantom:fetal_head?frames=4", "--record", folder / "stills"), cwd=folder)
    return folder / "stills"


@pytest.fixture
def stills(tmp_path: Path, recorded: Path) -> Path:
    """A copy of them in the test's own folder."""
    return Path(shutil.copytree(recorded, tmp_path / "stills"))


def test_a_phantom_becomes_findings_that_tell_its_circumference(tmp_path: Path) -> None:
    done = edge_runtime(*run(tmp_path, PHANTOM, "--out", tmp_path / "f.jsonl", "--json"), cwd=tmp_path)
    report, lines = done.json, findings(tmp_path / "f.jsonl")
    assert done.code == 0, done.err
    assert set(report) >= REPORT_KEYS
    assert (report["offered"], report["processed"], report["dropped"], report["findings"]) == (8, 8, 0, 8)
    assert all(set(line) >= FINDING_KEYS for line in lines)
    for line in lines:
        values = {measurement["name"]: measurement for measurement in line["measurements"]}
        assert values["head_circumference"]["value"] == pytest.approx(250, rel=0.03)
        low, high = values["head_circumference"]["interval"]
        assert low < values["head_circumference"]["value"] < high
        assert line["status"] == "caution"
        assert "plane_unconfirmed" in line["reasons"]


def test_reported_means_committed(tmp_path: Path) -> None:
    edge_runtime(*run(tmp_path, PHANTOM, "--out", tmp_path / "f.jsonl"), cwd=tmp_path)
    with Journal.open(tmp_path / "state", reserve_bytes=0) as journal:
        assert journal.device_id == findings(tmp_path / "f.jsonl")[0]["device_id"]
    exported = edge_runtime("outbox", "export", "--state", tmp_path / "state", cwd=tmp_path).out.splitlines()
    stored = {json.loads(line).get("finding_id") for line in exported}
    assert {line["finding_id"] for line in findings(tmp_path / "f.jsonl")} <= stored


def test_the_same_frames_give_the_same_canonical_findings_bit_for_bit(tmp_path: Path) -> None:
    import msgspec

    for name in ("a", "b"):
        edge_runtime(
            *run(tmp_path, PHANTOM, "--out", tmp_path / f"{name}.jsonl", "--exam", name), cwd=tmp_path
        )
    first, second = (
        [
            canonical(msgspec.json.decode(line, type=Finding))
            for line in (tmp_path / f"{name}.jsonl").read_bytes().splitlines()
        ]
        for name in ("a", "b")
    )
    assert len(first) == 8
    assert first == second


def test_out_to_stdout_is_json_lines_and_nothing_else(tmp_path: Path) -> None:
    done = edge_runtime(*run(tmp_path, PHANTOM, "--out", "-", "--limit", "3"), cwd=tmp_path)
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [2, 4, 6]


def test_newest_on_a_finite_source_ends_with_at_least_one_finding(tmp_path: Path) -> None:
    done = edge_runtime(
        *run(
            tmp_path,
            "phantom:noise?frames=5",
            "--policy",
            "newest",
            "--fps",
            "0",
            "--out",
            "f.jsonl",
            "--json",
        ),
        cwd=tmp_path,
    )
    report = done.json
    assert done.code == 0, done.err
    assert report["offered"] == report["processed"] + report["dropped"] == 5
    (line,) = findings(tmp_path / "f.jsonl")
    assert (line["kind"], line["status"]) == ("flush", "withheld")
    assert all(measurement["value"] is None for measurement in line["measurements"])


def test_no_spacing_means_pixel_names_and_never_millimetres(tmp_path: Path, stills: Path) -> None:
    edge_runtime(*run(tmp_path, f"folder:{stills}", "--out", "f.jsonl"), cwd=tmp_path)
    for line in findings(tmp_path / "f.jsonl"):
        assert {m["unit"] for m in line["measurements"]} <= {"{pixel}", "%"}
        assert "spacing_missing" in line["reasons"]


def test_an_operators_spacing_is_never_better_than_caution(tmp_path: Path, stills: Path) -> None:
    edge_runtime(
        *run(
            tmp_path,
            f"folder:{stills}",
            "--out",
            "f.jsonl",
            "--spacing-mm",
            "0.18,0.18",
            "--plane-confirmed",
        ),
        cwd=tmp_path,
    )
    for line in findings(tmp_path / "f.jsonl"):
        circumference = line["measurements"][0]
        assert circumference["unit"] == "mm"
        assert circumference["spacing"]["source"] == "operator"
        assert circumference["status"] == "caution"
        assert "spacing_operator" in circumference["reasons"]


def test_each_subject_of_a_folder_is_an_exam_and_no_subject_is_told(tmp_path: Path, stills: Path) -> None:
    pictures = sorted(stills.glob("*.png"))
    rows = [f"{path.name},{'Jane Roe' if i < 2 else 'John Doe'},0.18,0.18" for i, path in enumerate(pictures)]
    (stills / "meta.csv").write_text("\n".join(["file,subject,spacing_x_mm,spacing_y_mm", *rows]))
    done = edge_runtime(*run(tmp_path, f"folder:{stills}", "--out", "f.jsonl", "--json"), cwd=tmp_path)
    assert len(done.json["exam_ids"]) == 2
    text = (tmp_path / "f.jsonl").read_text()
    assert "Roe" not in text
    assert "Doe" not in text
    events = edge_runtime("outbox", "export", "--state", tmp_path / "state", cwd=tmp_path).out
    assert events.count('"exam_started"') == events.count('"exam_ended"') == 2


def test_masks_come_at_source_resolution_and_record_keeps_the_pixels(tmp_path: Path) -> None:
    edge_runtime(
        *run(tmp_path, PHANTOM, "--masks", tmp_path / "m", "--record", tmp_path / "r", "--limit", "2"),
        cwd=tmp_path,
    )
    masks, pixels = sorted((tmp_path / "m").iterdir()), sorted((tmp_path / "r").iterdir())
    assert len(masks) == len(pixels) == 2
    mask = np.asarray(Image.open(masks[0]))
    assert mask.shape == np.asarray(Image.open(pixels[0])).shape == (540, 800)
    assert set(np.unique(mask)) == {0, 255}


def test_overlays_show_the_contour_and_say_the_finding_below_and_of_a_foreign_picture_only_why(
    tmp_path: Path,
) -> None:
    for source in (PHANTOM, "phantom:fetal_head?empty=1"):
        edge_runtime(*run(tmp_path, source, "--overlays", tmp_path / "o", "--limit", "1"), cwd=tmp_path)
        (path,) = (tmp_path / "o").iterdir()
        picture = np.asarray(Image.open(path)).astype(int)
        path.unlink()
        image, strip = picture[:540], picture[540:]
        coloured = int(np.sum(np.ptp(image, axis=2) > 60))
        assert (coloured > 500) == (source == PHANTOM)
        assert strip.shape[0] > 40
        assert np.sum(strip > 200) > 200  # letters


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_within_a_second_with_everything_on_disk(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [
            *COMMAND,
            *map(
                str,
                run(tmp_path, "phantom:fetal_head?frames=100000", "--out", tmp_path / "f.jsonl", "--json"),
            ),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (
        not ((tmp_path / "f.jsonl").exists() and (tmp_path / "f.jsonl").stat().st_size)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(number)
    start = time.monotonic()
    out, err = process.communicate(timeout=60)
    spent = time.monotonic() - start
    assert process.returncode == 0, err
    assert spent < within(3.0)  # a second, and an interpreter's end
    report = json.loads(out)
    assert report["stopped"] is True
    assert report["findings"] == report["processed"] == len(findings(tmp_path / "f.jsonl"))


def test_a_killed_run_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *COMMAND,
            *map(str, run(tmp_path, "phantom:fetal_head?frames=100000", "--out", tmp_path / "f.jsonl")),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while (
        not ((tmp_path / "f.jsonl").exists() and (tmp_path / "f.jsonl").stat().st_size > 20_000)
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.kill()
    process.wait()
    whole = (tmp_path / "f.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    reported = {json.loads(line)["finding_id"] for line in whole}
    exported = edge_runtime("outbox", "export", "--state", tmp_path / "state", cwd=tmp_path).out.splitlines()
    assert len(reported) > 3
    assert reported <= {json.loads(line).get("finding_id") for line in exported}


# ---------------------------------------------------------------- bad input: one line, not zero, nothing lost


@pytest.mark.parametrize(
    ("source", "more", "told"),
    [
        ("dicom:missing.dcm", [], "missing.dcm"),
        ("folder:missing", [], "missing"),
        ("video:missing.avi", [], "missing.avi"),
        ("dicom:text.txt", [], "text.txt"),
        ("video:text.txt", [], "text.txt"),
        ("camera:0", [], "camera"),
        ("v4l2:/dev/video0", [], "not in this version"),
        ("phantom:fetal_head?hc_mm=9000", [], "hc_mm"),
        ("phantom:fetal_head?colour=red", [], "colour"),
        (PHANTOM, ["--spacing-mm", "0,0"], "spacing"),
        (PHANTOM, ["--spacing-mm", "nonsense"], "ROW,COL"),
        (PHANTOM, ["--spacing-mm", "500,500"], "spacing"),
        (PHANTOM, ["--spacing-mm", "0.5,0.5"], "contradicts"),
        (PHANTOM, ["--fps", "-3"], "fps"),
        (PHANTOM, ["--limit", "0"], "limit"),
        (PHANTOM, ["--threads", "0"], "threads"),
        (PHANTOM, ["--precision", "fp16"], "precision"),
        (PHANTOM, ["--precision", "fp99"], "precision"),
        (PHANTOM, ["--backend", "tensorrt"], "tensorrt"),
        (PHANTOM, ["--out", "no/such/folder/f.jsonl"], "no/such/folder"),
        (PHANTOM, ["--config", "unknown.toml"], "jurnal"),
        (PHANTOM, ["--config", "missing.toml"], "missing.toml"),
        (PHANTOM, ["--colour"], "--colour"),
    ],
)
def test_a_wrong_flag_or_file_is_one_clear_line(
    tmp_path: Path, source: str, more: list[str], told: str
) -> None:
    (tmp_path / "text.txt").write_text("not a picture\n" * 100)
    (tmp_path / "unknown.toml").write_text("[jurnal]\nquota_mb = 3\n")
    line = edge_runtime(*run(tmp_path, source, *more), cwd=tmp_path).failed_in_one_line()
    assert told in line


def test_an_unknown_model_is_one_clear_line(tmp_path: Path) -> None:
    assert "fetal_head" in edge_runtime(
        *run(tmp_path, PHANTOM, model="heart"), cwd=tmp_path
    ).failed_in_one_line(2)


def test_a_folder_with_files_that_are_no_pictures_reports_the_good_ones_and_exits_1(
    tmp_path: Path, stills: Path
) -> None:
    (stills / "notes.txt").write_text("call back on Monday")
    Image.new("L", (1, 1)).save(stills / "one.png")
    Image.new("L", (10_000, 10_000)).save(stills / "vast.png")
    colours = np.zeros((200, 300, 3), np.uint8)
    colours[:, :, 0] = 255
    Image.fromarray(colours).save(stills / "red.png")
    whole = (stills / "vast.png").read_bytes()
    (stills / "torn.png").write_bytes(whole[: len(whole) // 2])
    done = edge_runtime(*run(tmp_path, f"folder:{stills}", "--out", "f.jsonl"), cwd=tmp_path)
    line = done.failed_in_one_line(1)
    assert "notes.txt" in line
    reasons = [line["reasons"] for line in findings(tmp_path / "f.jsonl")]
    assert len(reasons) == 9
    told = {reason for several in reasons for reason in several}
    assert told >= {"frame_unreadable", "image_too_small", "image_too_large", "colour_image"}
    assert sum(line["measurements"] != [] for line in findings(tmp_path / "f.jsonl")) == 4


def test_a_video_that_ends_in_the_middle_of_a_frame_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "cine.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240), False)
    for seed in range(20):
        writer.write(np.random.default_rng(seed).integers(0, 256, (240, 320), dtype=np.uint8))
    writer.release()
    whole = edge_runtime(*run(tmp_path, f"video:{path}", "--json"), cwd=tmp_path)
    assert (whole.code, whole.json["findings"]) == (0, 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = edge_runtime(*run(tmp_path, f"video:{path}", "--out", "f.jsonl", "--json"), cwd=tmp_path)
    done.failed_in_one_line(1)
    assert 5 <= len(findings(tmp_path / "f.jsonl")) < 20


def test_a_corrupt_database_is_set_aside_named_and_a_new_epoch_begins(tmp_path: Path) -> None:
    edge_runtime(*run(tmp_path, PHANTOM, "--out", "a.jsonl"), cwd=tmp_path)
    database = tmp_path / "state" / "findings.db"
    database.write_bytes(b"garbage" * 1000)
    done = edge_runtime(*run(tmp_path, PHANTOM, "--out", "b.jsonl"), cwd=tmp_path)
    assert "findings.db.corrupt-1" in done.failed_in_one_line(1)
    before, after = findings(tmp_path / "a.jsonl")[0], findings(tmp_path / "b.jsonl")
    assert len(after) == 8
    assert after[0]["epoch"] != before["epoch"]
    assert after[0]["device_id"] == before["device_id"]
    assert (tmp_path / "state" / "findings.db.corrupt-1").read_bytes() == b"garbage" * 1000


@pytest.mark.slow
def test_what_the_journal_says_when_it_opens_is_said_by_who_opened_it(tmp_path: Path) -> None:
    edge_runtime(*run(tmp_path, PHANTOM), cwd=tmp_path)
    for command in (run(tmp_path, PHANTOM), ["mark", "last", "--urgent", "--state", "state"]):
        (tmp_path / "state" / "findings.db").chmod(0o644)
        done = edge_runtime(*command, cwd=tmp_path)
        assert done.code == 0
        assert "now only its owner can" in done.err


def test_a_state_directory_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert "NOT RECORDING" in edge_runtime(*run(tmp_path, PHANTOM), cwd=tmp_path).failed_in_one_line(1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; tests/faults/ uses a read-only mount")
def test_a_read_only_state_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    assert "NOT RECORDING" in edge_runtime(*run(tmp_path, PHANTOM), cwd=tmp_path).failed_in_one_line(1)


@pytest.mark.slow
def test_a_full_journal_says_not_recording_and_keeps_what_was_reported(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text("[journal]\nquota_mb = 0.6\nreserve_mb = 0\n")
    done = edge_runtime(
        *run(tmp_path, "phantom:fetal_head?frames=600", "--config", "small.toml", "--out", "f.jsonl"),
        cwd=tmp_path,
    )
    assert "NOT RECORDING" in done.failed_in_one_line(1)
    assert 0 < len(findings(tmp_path / "f.jsonl")) < 600


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--out", "state/findings.db"], "state directory"),
        (["--out", "stills/000000.png"], "file of the source"),
        (["--masks", "stills"], "own folder"),
        (["--record", "state"], "state directory"),
        (["--exam", "Jane Roe"], "--exam"),
        (["--out", "-", "--json"], "both want stdout"),
    ],
)
def test_an_output_never_falls_on_an_input(tmp_path: Path, stills: Path, flags: list[str], told: str) -> None:
    first = sorted(stills.iterdir())[0]
    first.rename(stills / "000000.png")
    before = (stills / "000000.png").read_bytes()
    command = run(tmp_path, f"folder:{stills}", *flags)
    assert told in edge_runtime(*command, cwd=tmp_path).failed_in_one_line(2)
    assert (stills / "000000.png").read_bytes() == before


def test_a_full_out_is_told_and_the_findings_are_in_the_journal(tmp_path: Path) -> None:
    line = edge_runtime(*run(tmp_path, PHANTOM, "--out", "/dev/full"), cwd=tmp_path).failed_in_one_line(1)
    assert "outbox export" in line
    exported = edge_runtime("outbox", "export", "--state", tmp_path / "state", cwd=tmp_path).out
    assert exported.count('"finding_id"') >= 1


def test_a_reader_of_stdout_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = shlex.join([*COMMAND, *map(str, run(tmp_path, PHANTOM, "--out", "-"))])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stdout_is_never_printed_into_another_file(tmp_path: Path) -> None:
    command = shlex.join([*COMMAND, *map(str, run(tmp_path, PHANTOM, "--out", "-"))])
    done = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "stdout is closed" in done.stderr


# ---------------------------------------------------------------- the command itself


def test_a_closed_stderr_takes_nothing_from_stdout_and_stops_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -m edge_runtime run --model fetal_head --source '{PHANTOM}' --state state --json 2>&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"] > 0
    failed = subprocess.run(
        command.replace("fetal_head", "nobody", 1), shell=True, cwd=tmp_path, capture_output=True, check=False
    )
    assert (failed.returncode, failed.stdout) == (2, b"")


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_nothing_is_written_or_called_outside_the_named_folders(tmp_path: Path, backend: str) -> None:
    home, cache, scratch = tmp_path / "home", tmp_path / "cache", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    named = {
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "EDGE_RUNTIME_CACHE": str(cache),
        "TMPDIR": str(scratch),
    }
    done = edge_runtime(
        *run(tmp_path, PHANTOM, "--backend", backend),
        cwd=tmp_path,
        env={**named, "ORT_DISABLE_TELEMETRY": "0"},
    )
    assert done.code == 0, done.err
    assert list(home.iterdir()) == [] and list(scratch.iterdir()) == []
    kept = {path.relative_to(cache).parts[0] for path in cache.rglob("*") if path.is_file()}
    assert kept <= {"precision"}  # which precision is fastest and right here
    code = "import sys, edge_runtime.infer.backends.openvino; print(sys.modules['openvino_telemetry'])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "None"


def test_a_confirmed_plane_makes_a_head_usable_and_gives_an_age_only_where_there_is_one(
    tmp_path: Path,
) -> None:
    for circumference, names in ((200, 5), (70, 4)):
        source = f"phantom:fetal_head?hc_mm={circumference}&frames=2"
        edge_runtime(*run(tmp_path, source, "--out", "f.jsonl", "--plane-confirmed"), cwd=tmp_path)
        for line in findings(tmp_path / "f.jsonl"):
            assert line["status"] == "usable", line["reasons"]
            assert len(line["measurements"]) == names


def test_a_person_is_told_each_value_with_its_interval_and_status_and_an_age_in_weeks(tmp_path: Path) -> None:
    one = edge_runtime(
        *run(tmp_path, "phantom:fetal_head?hc_mm=200&frames=1", "--plane-confirmed", "--masks", "m"),
        cwd=tmp_path,
    ).out
    value = r"[0-9.]+ mm \([0-9.]+ to [0-9.]+\), usable"
    assert re.search(rf"^measured  head circumference {value}$", one, re.MULTILINE)
    weeks = "2[0-4] weeks [0-6] days"
    assert re.search(
        rf"^measured  gestational age {weeks} \({weeks} to {weeks}\), usable$", one, re.MULTILINE
    )
    assert "written   m\n" in one
    two = edge_runtime(*run(tmp_path, "phantom:fetal_head?hc_mm=200&frames=2"), cwd=tmp_path).out
    told = r"median [0-9.]+ mm of 2 findings, [0-9.]+ to [0-9.]+; the last [0-9.]+ mm \([0-9.]+ to [0-9.]+\), caution"
    assert re.search(rf"^measured  head circumference {told}$", two, re.MULTILINE)


def test_every_command_has_help_with_an_example(tmp_path: Path) -> None:
    listed = edge_runtime("--help", cwd=tmp_path).out
    names = re.findall(r"^  ([a-z]+) ", listed.partition("Frames to findings:")[2], re.MULTILINE)
    assert len(names) == len(set(names))
    assert {"demo", "run", "uplink", "receive", "evaluate", "bench", "doctor", "models", "outbox"} <= set(
        names
    )
    for name in names:
        done = edge_runtime(name, "--help", cwd=tmp_path)
        assert done.code == 0
        assert f"edge-runtime {name}" in done.out.partition("Example:")[2]


def test_importing_the_package_is_quick_and_imports_no_library() -> None:
    code = "import time; t = time.perf_counter(); import edge_runtime, sys; print(time.perf_counter() - t, 'numpy' in sys.modules)"
    spent, numpy = min(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    )
    assert float(spent) < 0.150
    assert numpy == "False"
