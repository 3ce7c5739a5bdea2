"""Frames for quantizing: enough, different, readable, of the model's kind, or none of them is used."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.build.calibration import read_calibration
from edge_runtime.build.trial import Trial
from edge_runtime.errors import CalibrationError, ConfigError
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import Pipeline
from tests.frames.dicom_files import dataset, write

FRAMES = 72


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    model = load_model("fetal_head")
    made = Trial(model.manifest, tmp_path_factory.mktemp("trial")).pipeline(
        (model.home / "model.onnx").read_bytes()
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    spec = PhantomSpec(width=320, height=220, spacing_mm=0.4)
    return [render(spec, index)[0] for index in range(FRAMES)]


@pytest.fixture
def folder(tmp_path: Path, drawn: list[np.ndarray]) -> Path:
    for index, pixels in enumerate(drawn):
        cv2.imwrite(str(tmp_path / f"{index:03d}.png"), pixels)
    return tmp_path


def test_frames_are_parted_and_none_is_in_both_parts(folder: Path, pipeline: Pipeline) -> None:
    made = read_calibration(str(folder), pipeline)
    held = {frame.frame_id.rpartition(".")[2] for frame in made.held_out}
    assert len(made.inputs) + len(made.held_out) == FRAMES
    assert len(made.held_out) >= 32 and len(made.inputs) >= 32
    assert not held & set(made.observed)
    assert {x.shape for x in made.inputs} == {(1, 1, 192, 288)}


def test_no_subject_is_both_observed_and_held_out(folder: Path, pipeline: Pipeline) -> None:
    rows = [f"{index:03d}.png,{index // 3}" for index in range(FRAMES)]
    (folder / "meta.csv").write_text("file,subject\n" + "\n".join(rows) + "\n")
    made = read_calibration(str(folder), pipeline)
    held = {frame.origin.subject for frame in made.held_out}
    assert 3 * len(held) == len(made.held_out)
    assert len(made.inputs) + len(made.held_out) == FRAMES


def test_subjects_that_are_left_out_are_never_seen(folder: Path, pipeline: Pipeline) -> None:
    rows = [f"{index:03d}.png,{'test' if index < 4 else index}" for index in range(FRAMES)]
    (folder / "meta.csv").write_text("file,subject\n" + "\n".join(rows) + "\n")
    made = read_calibration(str(folder), pipeline, without=frozenset({"test"}))
    assert len(made.inputs) + len(made.held_out) == FRAMES - 4
    assert "test" not in {frame.origin.subject for frame in made.held_out}


def test_many_frames_are_thinned_evenly(pipeline: Pipeline) -> None:
    made = read_calibration("phantom:noise?frames=700&width=320&height=220", pipeline)
    assert 128 <= len(made.inputs) + len(made.held_out) <= 176
    indices = [frame.index for frame in made.held_out]
    assert max(indices) > 600 and max(b - a for a, b in itertools.pairwise(indices)) < 60


def test_too_few_frames_are_refused(folder: Path, pipeline: Pipeline) -> None:
    for path in sorted(folder.glob("*.png"))[40:]:
        path.unlink()
    with pytest.raises(
        CalibrationError, match=r"40 different frames, want at least 64 \(32 to observe, 32 for"
    ):
        read_calibration(str(folder), pipeline)


def test_identical_frames_count_once(folder: Path, pipeline: Pipeline, drawn: list[np.ndarray]) -> None:
    for path in folder.glob("*.png"):
        cv2.imwrite(str(path), drawn[0])
    with pytest.raises(CalibrationError, match="1 different frames, want at least 64"):
        read_calibration(str(folder), pipeline)


def test_an_unreadable_frame_in_the_middle_ends_it_by_name(folder: Path, pipeline: Pipeline) -> None:
    middle = folder / "036.png"
    middle.write_bytes(middle.read_bytes()[:200])
    with pytest.raises(CalibrationError, match=r"036\.png.*mend or remove it"):
        read_calibration(str(folder), pipeline)


def test_a_frame_far_smaller_than_the_grid_is_refused_by_name(folder: Path, pipeline: Pipeline) -> None:
    cv2.imwrite(str(folder / "040.png"), np.full((60, 90), 40, np.uint8))
    with pytest.raises(CalibrationError, match=r"040\.png.*90x60, the model's grid is 288x192"):
        read_calibration(str(folder), pipeline)


def test_frames_of_another_modality_are_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    write(dataset(np.tile(np.arange(256, dtype=np.uint8), (200, 1)), Modality="DX"), tmp_path / "chest.dcm")
    with pytest.raises(CalibrationError, match="modality DX, model fetal_head is for US"):
        read_calibration(f"dicom:{tmp_path}", pipeline)


def test_a_folder_that_is_not_there_is_a_mistake_of_the_caller(tmp_path: Path, pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        read_calibration(str(tmp_path / "none"), pipeline)


def test_labels_come_with_their_frames(folder: Path, pipeline: Pipeline, drawn: list[np.ndarray]) -> None:
    labels = folder / "labels"
    labels.mkdir()
    for index in range(FRAMES):
        _, ellipse = render(PhantomSpec(width=320, height=220, spacing_mm=0.4), index)
        assert ellipse is not None
        cv2.imwrite(str(labels / f"{index:03d}.png"), 255 * ellipse.mask((220, 320)))
    made = read_calibration(f"folder:{folder}", pipeline, labels=labels)
    assert made.truth is not None
    assert all(true is not None and set(np.unique(true)) == {0, 1} for true in made.truth)


def test_labels_that_fit_no_frame_are_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline
) -> None:
    empty = tmp_path_factory.mktemp("labels")
    with pytest.raises(CalibrationError, match=r"has no \.png of the same stem"):
        read_calibration(str(folder), pipeline, labels=empty)
    for index in range(FRAMES):
        cv2.imwrite(str(empty / f"{index:03d}.png"), np.zeros((220, 320), np.uint8))
    with pytest.raises(CalibrationError, match="every label picture is empty"):
        read_calibration(str(folder), pipeline, labels=empty)
