"""calibrate: limits and intervals that keep their word on frames that did not make them; bad input is one line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.commands.calibrate import calibrate, intervals, limits, lines
from edge_runtime.commands.calibrate.job import Options
from edge_runtime.commands.calibrate.reading import Seen, read
from edge_runtime.errors import CalibrationError, ConfigError, OutputError
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.measure.profile import read_profile
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.pipeline import build_pipeline

FRAMES = 36


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's folder: 36 pictures of twelve phantoms with masks and a table; the last two are of one subject."""
    home = tmp_path_factory.mktemp("site")
    for folder in ("images", "masks"):
        (home / folder).mkdir()
    rows = []
    for number in range(FRAMES):
        spec = PhantomSpec(hc_mm=180 + 8 * (number // 3), seed=500 + number // 3, width=320, height=216)
        pixels, head = render(spec, 40 * (number % 3))
        assert head is not None
        name = f"{number:02d}"
        cv2.imwrite(str(home / "images" / f"{name}.png"), pixels)
        cv2.imwrite(str(home / "masks" / f"{name}.png"), 255 * head.mask(pixels.shape))
        rows.append(
            {
                "file": f"images/{name}.png",
                "subject": str(min(number, FRAMES - 2)),
                "spacing_x_mm": spec.pixel_mm,
                "spacing_y_mm": spec.pixel_mm,
                "hc_mm": spec.hc_mm,
            }
        )
    with (home / "meta.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return home


def options(site: Path, out: Path, **over: object) -> Options:
    fields = {
        "model": "fetal_head",
        "frames": str(site),
        "out": out,
        "backend": "onnxruntime",
        "precision": "fp32",
        **over,
    }
    return Options(**fields)


def a_copy(site: Path, home: Path) -> Path:
    """The site's folder by links: what a test replaces in it is its own."""
    for path in [*site.glob("images/*.png"), *site.glob("masks/*.png"), site / "meta.csv"]:
        target = home / path.relative_to(site)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return home


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


# ---------------------------------------------------------------- what it makes


def test_a_labelled_folder_becomes_a_profile_that_run_can_read(site: Path, tmp_path: Path) -> None:
    report = calibrate(options(site, tmp_path / "site.toml", labels=site / "masks", name="probe C5"))
    profile = read_profile(tmp_path / "site.toml")
    assert (profile.file.name, profile.file.frames, profile.file.subjects) == ("probe C5", FRAMES, FRAMES - 1)
    assert profile.file.labelled_subjects == FRAMES - 1
    assert set(profile.file.half_width) == {
        "head_circumference",
        "biparietal_diameter",
        "occipitofrontal_diameter",
        "cephalic_index",
    }
    assert report.sha256 == profile.sha256
    circumference = report.intervals["head_circumference"]
    assert circumference.left_out is not None
    assert circumference.left_out.low <= 0.9 <= circumference.left_out.high
    assert circumference.expected.low < 0.9 < circumference.expected.high
    assert report.reject is not None
    assert any("uncertain by" in note for note in report.notes)
    assert any("too few for limits of their own" in note for note in report.notes)
    assert any("coverage to expect" in line for line in lines(report))


def test_without_labels_there_are_limits_and_no_intervals(site: Path, tmp_path: Path) -> None:
    report = calibrate(options(site, tmp_path / "site.toml"))
    assert not report.intervals
    assert not read_profile(tmp_path / "site.toml").file.half_width
    assert report.name == "site"


def test_a_source_uri_will_do_and_one_subject_is_said(tmp_path: Path) -> None:
    frames = "phantom:fetal_head?hc_mm=250&seed=3&frames=32&width=320&height=216"
    report = calibrate(options(Path(), tmp_path / "p.toml", frames=frames))
    assert (report.accepted, report.subjects) == (32, 1)
    assert report.reject is None
    assert any("one subject" in note for note in report.notes)


def test_good_frames_below_the_models_own_gate_do_not_open_it(site: Path, tmp_path: Path) -> None:
    home = a_copy(site, tmp_path / "mixed")
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 255, (216, 320), np.uint8)
        replaced(home / "images" / f"{number:02d}.png", cv2.imencode(".png", noise)[1].tobytes())
    report = calibrate(options(home, tmp_path / "p.toml"))
    assert report.withheld
    assert report.accepted == FRAMES - 4
    own = report.limits["presence"].models_own
    assert own is not None
    assert read_profile(tmp_path / "p.toml").file.gate.min_presence >= own
    assert any("may not let more through" in note for note in report.notes)


def test_the_shape_is_that_of_the_mask_even_where_an_ellipse_is_shown() -> None:
    """The overlap of an ellipse with itself would be 1 for every frame, and the limit useless."""
    model = load_model("fetal_head")
    seen = []
    for outline in ("mask", "ellipse"):
        output = msgspec.structs.replace(model.manifest.output, outline=outline)
        changed = replace(model, manifest=msgspec.structs.replace(model.manifest, output=output))
        pipeline = build_pipeline(changed, open_backend(changed, "onnxruntime", "fp32"))
        frames = "phantom:fetal_head?hc_mm=250&seed=3&frames=2&width=320&height=216"
        seen.append([one.numbers for one in read(frames, None, pipeline).seen])
        pipeline.close()
    assert seen[0] == seen[1]
    assert all(0.9 < numbers["ellipse_iou"] < 0.999 for numbers in seen[0])


# ---------------------------------------------------------------- whether it keeps its word


def drawn(count: int, seed: int) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [
        {
            "sharpness": float(random.lognormal(-3.3, 0.3)),
            "presence": float(1 - random.beta(1, 60) * 0.2),
            "confidence": float(random.beta(60, 3)),
        }
        for _ in range(count)
    ]


STANDING = {"sharpness": 0.001, "presence": 0.5, "confidence": 0.5}


def refused(found: limits.Found, frames: list[dict[str, float]]) -> float:
    out = [any(frame[name] < one.limit for name, one in found.limits.items()) for frame in frames]
    return sum(out) / len(out)


@pytest.mark.parametrize("count", [150, 1000])
def test_new_frames_are_refused_as_often_as_was_printed(count: int) -> None:
    fresh, printed, came, inside = drawn(20_000, 999), [], [], 0
    for seed in range(30):
        found = limits.find(drawn(count, seed), [str(k) for k in range(count)], STANDING, 0.02)
        rate, (low, high) = found.rate or 0.0, found.rate_range or (0.0, 1.0)
        printed.append(rate)
        came.append(refused(found, fresh))
        inside += low <= came[-1] <= high
    assert np.mean(came) == pytest.approx(np.mean(printed), abs=0.004)
    assert np.mean(came) <= 0.022
    assert inside >= 25


def test_the_rate_is_not_measured_on_the_frames_that_set_the_limits() -> None:
    """The limits refuse none of their own frames when the rank is 1; a new frame can still fall out."""
    frames = drawn(200, 1)
    found = limits.find(frames, [str(k) for k in range(200)], STANDING, 0.02)
    assert found.rank == 1
    assert refused(found, frames) == 0.0
    assert (found.rate or 0.0) > 0


def test_too_few_frames_keep_the_limits_that_stand_and_give_way_to_a_good_frame_beyond_them() -> None:
    frames = [{"sharpness": 0.02 + 0.001 * k, "saturated": 0.0} for k in range(30)]
    frames[3]["saturated"] = 0.3
    found = limits.find(frames, [str(k) for k in range(30)], {"sharpness": 0.015, "saturated": 0.05}, 0.02)
    assert found.rank == 0
    assert found.limits["sharpness"].limit == 0.015
    assert found.limits["saturated"].limit == 0.3


def test_no_site_is_so_clean_that_one_bright_pixel_is_a_fault() -> None:
    frames = [{"saturated": 0.0}] * 200
    found = limits.find(frames, [str(k) for k in range(200)], {"saturated": 0.05}, 0.5)
    assert found.limits["saturated"].limit >= 0.005


OWN = MeasureSettings(intervals={"head_circumference": (1.0, 0.01)})
NONE = MeasureSettings()


def labelled(count: int, *, own: float = 0.0, seed: int = 0) -> list[Seen]:
    random = np.random.default_rng(seed)
    made = []
    for subject in range(count):
        shift = own * random.normal()
        for frame in range(1 + 4 * (subject % 2)):
            true = 250.0
            value = true + shift + random.normal()
            values, truth = {"head_circumference": float(value)}, {"head_circumference": true}
            made.append(Seen(f"{subject}.{frame}", str(subject), {}, (), values, truth))
    return made


def test_frames_of_one_subject_count_once_and_the_models_own_shape_is_kept() -> None:
    seen = labelled(60, own=2.0)
    found = intervals.find_all(seen, OWN, 0.9)["head_circumference"]
    assert found.subjects == 60
    assert found.width.scale is not None
    assert found.width.relative is None
    assert found.median_width == pytest.approx(2 * found.width.scale * 2.5, rel=0.02)
    assert found.expected == pytest.approx(55 / 61)
    assert found.left_out is not None
    assert found.left_out_range is not None
    assert found.left_out_range[0] <= 0.9 <= found.left_out_range[1]


def test_a_measurement_without_an_interval_of_its_own_gets_one_that_grows_with_the_value() -> None:
    found = intervals.find_all(labelled(40), NONE, 0.9)["head_circumference"]
    assert found.width.scale is None
    assert found.width.relative is not None
    assert 0.002 < found.width.relative < 0.02


@pytest.mark.parametrize(("count", "enough"), [(8, False), (9, True)])
def test_eight_subjects_hold_no_interval_of_ninety_per_cent(count: int, enough: bool) -> None:
    if enough:
        assert intervals.find_all(labelled(count), NONE, 0.9)["head_circumference"].left_out is None
        return
    with pytest.raises(CalibrationError, match="8 labelled subjects, an interval of 90 % wants at least 9"):
        intervals.find_all(labelled(count), NONE, 0.9)


# ---------------------------------------------------------------- bad input

Spoil = Callable[[Path], dict[str, object]]


def unreadable(home: Path) -> dict[str, object]:
    replaced(home / "images" / "17.png", b"\x89PNG cut off")
    return {}


def the_same_picture(home: Path) -> dict[str, object]:
    first = (home / "images" / "00.png").read_bytes()
    for path in sorted((home / "images").iterdir())[1:]:
        replaced(path, first)
    return {}


def all_foreign(home: Path) -> dict[str, object]:
    for number, path in enumerate((home / "images").iterdir()):
        noise = np.random.default_rng(number).integers(0, 255, (216, 320), np.uint8)
        replaced(path, cv2.imencode(".png", noise)[1].tobytes())
    return {}


def another_size(home: Path) -> dict[str, object]:
    replaced(home / "masks" / "05.png", cv2.imencode(".png", np.full((100, 100), 255, np.uint8))[1].tobytes())
    return {"labels": home / "masks"}


def empty_label(home: Path) -> dict[str, object]:
    replaced(home / "masks" / "05.png", cv2.imencode(".png", np.zeros((216, 320), np.uint8))[1].tobytes())
    return {"labels": home / "masks"}


def missing_labels(home: Path) -> dict[str, object]:
    (home / "masks" / "05.png").unlink()
    (home / "masks" / "09.png").unlink()
    return {"labels": home / "masks"}


def no_labels(home: Path) -> dict[str, object]:
    return {"labels": home / "nosuch"}


def few_frames(home: Path) -> dict[str, object]:
    for path in sorted((home / "images").iterdir())[20:]:
        path.unlink()
    return {}


def few_subjects(home: Path) -> dict[str, object]:
    text = (home / "meta.csv").read_text().splitlines()
    rows = [line.split(",") for line in text]
    for number, row in enumerate(rows[1:]):
        row[1] = str(number % 4)
    replaced(home / "meta.csv", "\n".join(",".join(row) for row in rows).encode())
    return {"labels": home / "masks"}


def no_number(home: Path) -> dict[str, object]:
    text = (home / "meta.csv").read_text().splitlines()
    text[1] = text[1].rpartition(",")[0] + ",large"
    replaced(home / "meta.csv", "\n".join(text).encode())
    return {"labels": home / "masks"}


def no_frames(home: Path) -> dict[str, object]:
    (home / "none").mkdir()
    return {"frames": str(home / "none")}


def no_folder(home: Path) -> dict[str, object]:
    return {"out": home / "nosuch" / "p.toml"}


def a_folder(home: Path) -> dict[str, object]:
    return {"out": home / "images"}


def another_file(home: Path) -> dict[str, object]:
    return {"out": home / "meta.csv"}


def a_persons_name(home: Path) -> dict[str, object]:
    return {"name": "Größe <x>"}


def published(text: str) -> Spoil:
    """A table whose first circumference is `text`; with labels, so that it counts."""

    def spoil(home: Path) -> dict[str, object]:
        first, row, *rest = (home / "meta.csv").read_text().splitlines()
        row = f"{row.rpartition(',')[0]},{text}"
        replaced(home / "meta.csv", "\n".join((first, row, *rest)).encode())
        return {"labels": home / "masks"}

    return spoil


def no_share(home: Path) -> dict[str, object]:
    return {"target": float("nan")}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unreadable, "17.png: .*mend or remove"),
        (the_same_picture, "1 different good frames, 35 show a picture again; want at least 30"),
        (all_foreign, "withholds 36 of 36 frames .*not good frames"),
        (another_size, "05.png: 100x100, its frame is 320x216"),
        (empty_label, "05.png: the label is empty"),
        (missing_labels, "2 of 36 frames of .* have no label, the first is 05.png"),
        (no_labels, "nosuch: no such folder"),
        (few_frames, "20 different good frames; want at least 30"),
        (few_subjects, "4 labelled subjects, an interval of 90 % wants at least 9"),
        (no_number, "hc_mm of 00.png is 'large'"),
        (published("nan"), "hc_mm of 00.png is 'nan'"),
        (published("-180"), "hc_mm of 00.png is '-180'"),
        (published("1e308"), "hc_mm of 00.png is '1e308'"),
        (no_share, "--reject nan"),
        (no_frames, "no image in it"),
        (no_folder, "no folder .*nosuch"),
        (a_folder, "is a folder"),
        (another_file, "exists and is no profile"),
        (a_persons_name, "--name"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    site: Path, tmp_path: Path, spoil: Spoil, words: str
) -> None:
    home = a_copy(site, tmp_path / "site")
    over = {"out": tmp_path / "p.toml", **spoil(home)}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises((CalibrationError, ConfigError), match=words) as caught:
        calibrate(options(home, **over))
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_labels_of_something_else_give_no_interval_and_no_profile() -> None:
    seen = [replace(one, truth={"head_circumference": 1e6}) for one in labelled(40, own=0.02)]
    settings = MeasureSettings(intervals={"head_circumference": (0.0, 0.0004)})
    with pytest.raises(CalibrationError, match="off by .* times the model's own"):
        intervals.find_all(seen, settings, 0.9)


def test_a_place_that_cannot_be_written_after_all_leaves_nothing(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_runtime.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        calibrate(options(site, tmp_path / "p.toml"))
    assert list(tmp_path.iterdir()) == []


def test_an_older_profile_is_replaced_whole(site: Path, tmp_path: Path) -> None:
    first = calibrate(options(site, tmp_path / "p.toml", name="first"))
    second = calibrate(options(site, tmp_path / "p.toml", name="second"))
    assert first.sha256 != second.sha256
    assert read_profile(tmp_path / "p.toml").file.name == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["p.toml"]
