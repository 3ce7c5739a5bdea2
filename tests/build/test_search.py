"""Ranges are chosen by the error they cause; a layer that does harm goes back to FP16; too many of them refuse it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_runtime.build.gate import judge
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.graph import read_graph
from edge_runtime.build.observe import observe
from edge_runtime.build.place import Plan, insert, layers_of, plan_of
from edge_runtime.build.readings import Reading
from edge_runtime.build.search import (
    LINE,
    choose_ranges,
    scales_of,
    sensitivity,
    settle,
    tolerance_used,
)
from edge_runtime.build.trial import Trial
from edge_runtime.codes import SourceKind
from edge_runtime.errors import GateError
from edge_runtime.frames.source import frame_id
from edge_runtime.infer.model import GateSpec, Manifest, Tolerance
from edge_runtime.types import Frame, Origin
from tests.build.foreign_models import GRID, picture, save, wide_band_network
from tests.build.graphs import run

LIMIT = Tolerance(mean=0.01, p99=0.03, max=0.05, relative=True)


def silent(what: str) -> None:
    pass


@dataclass
class Bench:
    """A band network of six layers, pictures of what it finds, and fp32's readings of them."""

    graph: onnx.ModelProto
    trial: Trial
    frames: list[Frame]
    reference: list[Reading]
    inputs: list[NDArray[Any]]
    plan: Plan

    def judge(self, graph: onnx.ModelProto, subject: str) -> GateReport:
        candidate = self.trial.read(graph.SerializeToString(), self.frames)
        return judge(self.reference, candidate, self.trial.manifest.gate, subject=subject, model="band")

    def scales(self) -> dict[str, float]:
        observed = observe(self.graph, list(self.plan.points), self.inputs)
        return scales_of(choose_ranges(self.graph, self.plan, observed, self.inputs[:4], "found", silent))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("search")
    file = save(wide_band_network(middles=6), folder / "band.onnx")
    graph = read_graph(file)
    trial = Trial(Manifest(name="band", gate=GateSpec(measurement={"area_share": LIMIT})), folder)
    frames = []
    for index in range(40):
        grey, _ = picture(index)
        frames.append(Frame(grey, index, 0, Origin(SourceKind.FOLDER, f"{index}.png"), frame_id(index, grey)))
    pipeline = trial.pipeline(file.read_bytes())
    inputs = []
    for frame in frames:
        tensor = np.zeros((1, 1, *GRID), np.float32)
        pipeline.preprocess.into(frame, tensor)
        inputs.append(tensor)
    pipeline.close()
    reference = trial.read(file.read_bytes(), frames)
    return Bench(graph, trial, frames, reference, inputs, plan_of(graph, layers_of(graph)[1:]))


def test_the_method_with_the_least_error_of_the_mask_is_taken(bench: Bench) -> None:
    observed = observe(bench.graph, list(bench.plan.points), bench.inputs)
    choices = choose_ranges(bench.graph, bench.plan, observed, bench.inputs[:6], "found", silent)
    assert {name for choice in choices for name in choice.tensors} == set(bench.plan.points)
    assert any(len(choice.errors) > 1 for choice in choices)
    for choice in choices:
        if choice.errors:
            assert choice.errors[choice.method] == min(choice.errors.values())


def test_the_error_of_a_method_is_that_of_the_graph_with_that_tensor_alone_in_int8(bench: Bench) -> None:
    observed = observe(bench.graph, list(bench.plan.points), bench.inputs)
    choice = choose_ranges(bench.graph, bench.plan, observed, bench.inputs[:3], "found", silent)[0]
    (name,) = choice.tensors
    alone = Plan((), {name: bench.plan.points[name]}, (frozenset({name}),))
    graph = insert(bench.graph, alone, {name: choice.scale})

    away = [np.abs(run(graph, x) - run(bench.graph, x)).mean() for x in bench.inputs[:3]]
    assert choice.errors[choice.method] == pytest.approx(float(np.mean(away)), rel=1e-4, abs=1e-7)


def test_a_layer_that_does_harm_alone_goes_back_to_fp16_and_the_rest_passes(bench: Bench) -> None:
    scales = bench.scales()
    harmed = bench.plan.layers[2]
    tensor = next(name for name, takers in bench.plan.points.items() if harmed in takers)
    spoilt = {**scales, tensor: scales[tensor] * 16}
    layers = sensitivity(bench.graph, bench.plan.layers, spoilt, bench.judge, silent)
    assert [layer.name for layer in layers if layer.fp16_because] == [harmed]
    assert next(layer for layer in layers if layer.name == harmed).share > LINE

    def together(names: tuple[str, ...]) -> GateReport:
        return bench.judge(insert(bench.graph, plan_of(bench.graph, names), spoilt), "all")

    assert not together(bench.plan.layers).passed
    settled, report = settle(layers, together, silent)
    assert report.passed
    assert [layer.name for layer in settled if layer.fp16_because] == [harmed]
    assert "the line is 50%" in next(layer.fp16_because for layer in settled if layer.fp16_because)


def test_layers_go_back_one_by_one_the_most_harmful_first_until_the_gate_passes(bench: Bench) -> None:
    layers = sensitivity(bench.graph, bench.plan.layers, bench.scales(), bench.judge, silent)
    assert not any(layer.fp16_because for layer in layers)
    worst = max(layers, key=lambda layer: layer.share).name
    good, bad = layers[0].report, judge(bench.reference, [], bench.trial.manifest.gate, subject="INT8")
    asked: list[Sequence[str]] = []

    def only_without_the_worst(names: tuple[str, ...]) -> GateReport:
        asked.append(names)
        return bad if worst in names else good

    settled, report = settle(layers, only_without_the_worst, silent)
    assert report.passed and len(asked) == 2
    assert [layer.name for layer in settled if layer.fp16_because] == [worst]


def test_when_too_many_layers_would_have_to_go_back_the_calibration_is_refused(bench: Bench) -> None:
    spoilt = {name: scale * 32 for name, scale in bench.scales().items()}
    layers = sensitivity(bench.graph, bench.plan.layers, spoilt, bench.judge, silent)

    def together(names: tuple[str, ...]) -> GateReport:
        return bench.judge(insert(bench.graph, plan_of(bench.graph, names), spoilt), "INT8")

    with pytest.raises(GateError, match="calibrate on frames like those the model is for"):
        settle(layers, together, silent)


def test_a_missing_number_uses_more_than_any_tolerance(bench: Bench) -> None:
    assert tolerance_used(judge(bench.reference, bench.reference, bench.trial.manifest.gate)) == 0
    blind = [Reading(r.frame_id, r.name, r.frame, None, r.status, {}) for r in bench.reference]
    assert tolerance_used(judge(bench.reference, blind, bench.trial.manifest.gate)) > 1
