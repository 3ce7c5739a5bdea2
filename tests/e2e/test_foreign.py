"""Something else in front of the model: withheld, never a number. Over whole real cines, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_runtime.codes import Status
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import BadFrame
from tests.real import DATA, needs_data


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    model = load_model("fetal_head")
    opened = build_pipeline(model, open_backend(model))
    yield opened
    opened.close()


def shown(pipeline: Pipeline, uri: str) -> tuple[int, int]:
    """(frames that became a number, frames)."""
    numbers = frames = 0
    with open_source(uri) as source:
        for frame in source.frames():
            assert not isinstance(frame, BadFrame), frame
            frames += 1
            numbers += pipeline.step(frame).status is not Status.WITHHELD
    return numbers, frames


@needs_data
@pytest.mark.parametrize("name", sorted(path.name for path in (DATA / "dicom").glob("*.dcm")))
def test_no_dicom_file_of_another_kind_becomes_a_number(pipeline: Pipeline, name: str) -> None:
    numbers, frames = shown(pipeline, f"dicom:{DATA / 'dicom' / name}")
    assert frames > 0
    assert numbers == 0


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", ["carotid", "lungs"])
def test_no_other_anatomy_becomes_a_number(pipeline: Pipeline, name: str) -> None:
    numbers, frames = shown(pipeline, f"folder:{DATA / name}")
    assert frames > 100
    assert numbers == 0


@pytest.mark.parametrize(
    "uri",
    ["phantom:noise?frames=10", "phantom:text?frames=10", "phantom:fetal_head?empty=1&frames=20&seed=5"],
    ids=["noise", "text", "nothing"],
)
def test_no_picture_without_a_head_becomes_a_number(pipeline: Pipeline, uri: str) -> None:
    assert shown(pipeline, uri)[0] == 0


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_a_phantom_head_does_become_one(pipeline: Pipeline, seed: int) -> None:
    numbers, frames = shown(pipeline, f"phantom:fetal_head?hc_mm=230&frames=10&seed={seed}")
    assert numbers == frames
