"""A model whose parts are shown as the ellipses that were measured, through the whole pipeline."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edge_runtime.build.agreement import dice
from edge_runtime.build.readings import read_frames
from edge_runtime.codes import Reason
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import Model, load_model
from edge_runtime.measure.ellipse import filled, moment_ellipse
from edge_runtime.measure.findings import mask_from, mask_records
from edge_runtime.pipeline import Result, build_pipeline
from edge_runtime.types import Frame


def shaped(model: Model, outline: str, **manifest: object) -> Model:
    output = msgspec.structs.replace(model.manifest.output, outline=outline)
    return replace(model, manifest=msgspec.structs.replace(model.manifest, output=output, **manifest))


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    with open_source("phantom:fetal_head?hc_mm=240&frames=3&seed=11") as source:
        return [frame for frame in source.frames() if isinstance(frame, Frame)]


@pytest.fixture(scope="module")
def both(frames: list[Frame]) -> tuple[list[Result], list[Result]]:
    """Results with the mask as it is, and with the ellipse."""
    found = []
    for outline in ("mask", "ellipse"):
        model = shaped(load_model("fetal_head"), outline)
        pipeline = build_pipeline(model, open_backend(model, "onnxruntime", "fp32"))
        found.append([pipeline.step(frame) for frame in frames])
        pipeline.close()
    return found[0], found[1]


def test_the_mask_of_a_finding_is_the_ellipse_that_was_measured(
    both: tuple[list[Result], list[Result]],
) -> None:
    for plain, result in zip(*both, strict=True):
        assert plain.mask is plain.found
        assert result.mask is not None
        assert result.found is not None
        ellipse = moment_ellipse(result.found.of("head"), (1.0, 1.0))
        assert ellipse is not None
        expected = filled(ellipse.outline, result.mask.geometry.grid_hw)
        np.testing.assert_array_equal(result.mask.of("head"), expected)
        read_again = mask_from(mask_records(result.mask))
        assert read_again is not None
        np.testing.assert_array_equal(read_again.of("head"), expected)
        assert (result.mask.labels != plain.found.labels).any()
        assert dice(result.mask.labels == 1, plain.found.labels == 1) > 0.95


def test_no_value_and_no_reason_changes_with_the_outline(both: tuple[list[Result], list[Result]]) -> None:
    for plain, result in zip(*both, strict=True):
        assert plain.found is not None
        assert result.found is not None
        np.testing.assert_array_equal(result.found.labels, plain.found.labels)
        assert result.measurements == plain.measurements
        assert result.measurements[0].value is not None
        assert (result.status, result.reasons) == (plain.status, plain.reasons)


def test_the_shape_is_judged_as_the_network_gave_it(frames: list[Frame]) -> None:
    """The ellipse of a mask always is one: only the mask itself can be refused for its shape."""
    model = shaped(load_model("fetal_head"), "ellipse")
    strict = msgspec.structs.replace(model.manifest.limits, min_ellipse_iou=0.9999)
    model = shaped(model, "ellipse", limits=strict)
    pipeline = build_pipeline(model, open_backend(model, "onnxruntime", "fp32"))
    result = pipeline.step(frames[0])
    pipeline.close()
    assert Reason.SHAPE_NOT_ELLIPTIC in result.reasons


def test_the_gate_compares_ellipses_and_the_values_of_the_masks(
    frames: list[Frame], both: tuple[list[Result], list[Result]]
) -> None:
    readings = []
    for outline in ("mask", "ellipse"):
        model = shaped(load_model("fetal_head"), outline)
        pipeline = build_pipeline(model, open_backend(model, "onnxruntime", "fp32"))
        readings.append(read_frames(pipeline, frames))
        pipeline.close()
    for plain, drawn, result in zip(*readings, both[1], strict=True):
        assert drawn.values == plain.values
        assert drawn.mask == replace(result.mask, labels=drawn.mask.labels)
        np.testing.assert_array_equal(drawn.mask.labels, result.mask.labels)


@pytest.mark.parametrize("anatomy", ["lungs", "mask_only"])
def test_an_anatomy_that_measures_no_ellipse_is_refused_one(anatomy: str) -> None:
    model = load_model("fetal_head")
    labels = ("lung_right", "lung_left") if anatomy == "lungs" else ("head",)
    output = msgspec.structs.replace(model.manifest.output, labels=labels)
    model = replace(model, manifest=msgspec.structs.replace(model.manifest, anatomy=anatomy, output=output))
    backend = open_backend(load_model("fetal_head"), "onnxruntime", "fp32")
    with pytest.raises(ConfigError, match="outline"):
        build_pipeline(shaped(model, "ellipse"), backend)
    backend.close()
