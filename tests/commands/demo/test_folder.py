"""The folder that a demo is given, and the real heads it finds."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_runtime.commands import demo
from edge_runtime.commands.demo import stage, story
from edge_runtime.commands.demo.teller import Teller
from edge_runtime.errors import ConfigError
from edge_runtime.infer.model import load_model
from tests.real import DATA, needs_data


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
