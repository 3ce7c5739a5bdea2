"""The selftest notices real faults: each is put into a real model, backend or directory, and named by its stage."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edge_runtime.commands.selftest import Options, SelftestReport, failures, lines, selftest
from edge_runtime.commands.selftest.examine import examine
from edge_runtime.commands.selftest.frames import PHANTOMS, cases
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame
from tests.patience import within

SHIPPED = load_model("fetal_head")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer for a frame than the limit that an idle one is held to."""
    module = sys.modules[examine.__module__]
    speed = module._speed
    monkeypatch.setattr(module, "_speed", lambda came, limit: speed(came, within(limit)))


def look(tmp_path: Path, *models: Path | str, **over: Any) -> SelftestReport:
    options = Options(models=tuple(map(str, models)), state=tmp_path / "state", **over)
    return selftest(options)


def stages(report: SelftestReport) -> set[str]:
    return {check.stage for told in report.models for check in told.checks if check.state == "failed"}


@pytest.mark.slow
def test_the_shipped_models_pass_and_leave_nothing_behind(tmp_path: Path) -> None:
    report = look(tmp_path)
    assert report.ok, failures(report)
    assert not failures(report)
    assert list((tmp_path / "state").iterdir()) == []
    assert {check.stage for told in report.models for check in told.checks} >= {
        "files", "backend", "source", "infer", "postprocess", "measure", "finding", "journal", "gate", "speed",
    }  # fmt: skip
    assert lines(report)[-2].startswith("pass in")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_passes_on_the_reference_backend_too(tmp_path: Path, precision: str) -> None:
    report = look(tmp_path, "fetal_head", backend="onnxruntime", precision=precision)
    assert report.ok, failures(report)
    assert (report.models[0].backend, report.models[0].precision) == ("onnxruntime", precision)


# ---------------------------------------------------------------- damaged and changed models


def test_a_corrupted_weight_file_is_named(tmp_path: Path) -> None:
    home = tmp_path / "model"
    shutil.copytree(SHIPPED.home, home)
    graph = home / SHIPPED.manifest.artifacts["int8"].file
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 0x40
    graph.chmod(0o644)
    graph.write_bytes(content)
    report = look(tmp_path, home)
    assert stages(report) == {"files"}
    assert graph.name in failures(report)[0]
    assert "sha256" in failures(report)[0]


def bare(tmp_path: Path, graph: onnx.ModelProto, **said: str) -> Path:
    """The graph as a model without digests and gate frames: nothing but phantoms can tell."""
    home = tmp_path / "model"
    home.mkdir(exist_ok=True)
    (home / "model.onnx").write_bytes(graph.SerializeToString())
    spec = SHIPPED.manifest
    tables = {"input": "", "output": "", "limits": "", "top": "", **said}
    text = f'name = "changed"\nanatomy = "{spec.anatomy}"\nmodality = ["US"]\n{tables["top"]}\n'
    text += f"[input]\n{tables['input']}\n"
    text += (
        f'[output]\nmask = "{spec.output.mask}"\nactivation = "{spec.output.activation}"\nlabels = ["head"]\n'
    )
    text += f'presence = "{spec.output.presence}"\n'
    text += f"[limits]\nmin_presence = {spec.limits.min_presence}\nmin_confidence = {spec.limits.min_confidence}\n"
    (home / "model.toml").write_text(text)
    return home


def shipped_graph() -> onnx.ModelProto:
    return onnx.load_from_string(SHIPPED.artifact("fp32")[0].read_bytes())


def last_bias(graph: onnx.GraphProto) -> TensorProto:
    """The bias of the last convolution before the mask."""
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by[SHIPPED.manifest.output.mask or ""]
    while node.op_type != "Conv":
        node = made_by[node.input[0]]
    return next(weight for weight in graph.initializer if weight.name == node.input[2])


def reading_too_large(tmp_path: Path) -> Path:
    """A weight of the last layer is so far off that a head reads 4 to 8 % large; the graph loads as ever."""
    (frame,) = open_source("phantom:fetal_head?hc_mm=250&seed=7&frames=1&width=400&height=270").frames()
    assert isinstance(frame, Frame)
    for step in range(1, 40):
        model = shipped_graph()
        bias = last_bias(model.graph)
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(step), bias.name))
        home = bare(tmp_path, model)
        loaded = load_model(str(home))
        pipeline = build_pipeline(loaded, open_backend(loaded, "onnxruntime", "fp32"))
        measured = pipeline.step(frame).measurements
        pipeline.close()
        if measured and measured[0].value is not None and 1.04 < measured[0].value / 250 < 1.08:
            return home
    pytest.fail("no weight gave a head that is a little too large")


def test_a_weight_that_makes_heads_five_per_cent_too_large_is_told_with_the_number(tmp_path: Path) -> None:
    report = look(tmp_path, reading_too_large(tmp_path))
    assert "measure" in stages(report)
    assert "measure: wanted head circumference 250 within 3 %" in failures(report)[0]
    assert " %" in failures(report)[0].partition("came")[2]


def test_an_unchanged_model_without_gate_frames_passes_and_says_what_was_not_looked_at(
    tmp_path: Path,
) -> None:
    report = look(tmp_path, bare(tmp_path, shipped_graph()))
    assert report.ok, failures(report)
    assert {check.stage for check in report.models[0].checks if check.state == "skipped"} == {"files", "gate"}


def test_a_wrong_normalisation_in_the_manifest_is_noticed(tmp_path: Path) -> None:
    graph = shipped_graph()
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    right = look(tmp_path, bare(tmp_path, graph, input='dtype = "float32"\nscale = 1.0'))
    assert right.ok, failures(right)
    wrong = look(tmp_path, bare(tmp_path, graph, input='dtype = "float32"\nscale = 0.00392156862745098'))
    assert "measure" in stages(wrong)
    assert not wrong.ok


def test_the_models_own_tolerance_and_time_count(tmp_path: Path) -> None:
    strict = "[selftest]\nmax_frame_ms = 0.001\n[selftest.relative]\nhead_circumference = 0.00001"
    report = look(tmp_path, bare(tmp_path, shipped_graph(), top=strict))
    assert stages(report) == {"measure", "speed"}


# ---------------------------------------------------------------- backends that went wrong


class Wrong:
    """The real backend, whose answers are changed before anybody reads them."""

    def __init__(self, change: Callable[[Wrong, Any], None]) -> None:
        self._backend: Any = open_backend(SHIPPED, "onnxruntime", "fp32")
        self._change = change
        self.kept: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def wait(self, slot: Any) -> None:
        self._backend.wait(slot)
        self._change(self, slot.outputs)


def always_the_first(backend: Wrong, outputs: dict[str, Any]) -> None:
    backend.kept.append({name: value.copy() for name, value in outputs.items()})
    for name, value in backend.kept[0].items():
        outputs[name][...] = value


def the_one_before(backend: Wrong, outputs: dict[str, Any]) -> None:
    backend.kept.append({name: value.copy() for name, value in outputs.items()})
    for name, value in backend.kept[max(0, len(backend.kept) - 2)].items():
        outputs[name][...] = value


def never_the_same(backend: Wrong, outputs: dict[str, Any]) -> None:
    backend.kept.append({})
    outputs["mask"] += np.float32(1e-3 * len(backend.kept))


def not_a_number(backend: Wrong, outputs: dict[str, Any]) -> None:
    outputs["mask"][0, 0, 5, 5] = np.nan


def heads_everywhere(backend: Wrong, outputs: dict[str, Any]) -> None:
    if outputs["mask"].max() < 0.5:
        cv2.ellipse(outputs["mask"][0, 0], ((140.0, 95.0), (130.0, 100.0), 0.0), 1.0, -1)
    outputs["presence"][...] = 1.0


def a_cell_wider(backend: Wrong, outputs: dict[str, Any]) -> None:
    outputs["mask"][0, 0] = cv2.dilate(outputs["mask"][0, 0], np.ones((3, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "stage", "words"),
    [
        (always_the_first, "infer", "one answer to both"),
        (the_one_before, "infer", "not its own frame's"),
        (never_the_same, "infer", "not its own frame's"),
        (never_the_same, "finding", "a finding that differs"),
        (not_a_number, "measure", "withheld: model_output_invalid"),
        (heads_everywhere, "finding", "one of: "),
        (a_cell_wider, "gate", "head circumference"),
    ],
)
def test_a_backend_that_answers_wrong_is_noticed(
    tmp_path: Path, change: Callable[[Wrong, Any], None], stage: str, words: str
) -> None:
    pipeline = build_pipeline(SHIPPED, Wrong(change))
    checks, _ = examine(pipeline, tmp_path)
    pipeline.close()
    failed = [check for check in checks if check.state == "failed"]
    assert any(check.stage == stage and words in check.came for check in failed), failed


class Careless:
    """A postprocess that takes what is not a number for nothing."""

    def __init__(self, proper: Any) -> None:
        self._proper = proper

    def read(self, outputs: Any, geometry: Any) -> Any:
        return self._proper.read({name: np.nan_to_num(out) for name, out in outputs.items()}, geometry)


def test_a_postprocess_that_takes_what_is_not_a_number_is_noticed(tmp_path: Path) -> None:
    pipeline = build_pipeline(SHIPPED, open_backend(SHIPPED, "onnxruntime", "fp32"))
    pipeline.postprocess = Careless(pipeline.postprocess)
    checks, _ = examine(pipeline, tmp_path)
    pipeline.close()
    assert [check.stage for check in checks if check.state == "failed"] == ["postprocess"]


# ---------------------------------------------------------------- the state directory, and flags


def test_a_state_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    report = look(tmp_path, "fetal_head")
    assert stages(report) == {"journal"}
    (line,) = failures(report)
    assert "NOT RECORDING" in line
    assert str(tmp_path / "state") in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_directory_of_another_user_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    assert stages(look(tmp_path, "fetal_head")) == {"journal"}


def test_a_model_that_does_not_exist_is_a_wrong_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        look(tmp_path, "nosuch")


def test_every_row_of_the_table_is_drawn_with_a_truth_and_a_tolerance() -> None:
    for anatomy, row in PHANTOMS.items():
        found = cases(anatomy, "US")
        known = [case for case in found if case.known]
        assert len(known) >= 3
        assert all(set(row.tolerance) <= set(case.known or {}) for case in known)
        assert found[0].frame is found[-1].frame
        assert sum(case.known is None for case in found) >= 4
