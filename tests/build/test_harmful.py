"""A quantization that does harm is refused by the gate, with the reason; one that does none is accepted.

The shipped head model, real placement, real onnxruntime; frames are phantoms of known circumference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_runtime.build.cpu_graph import to_cpu
from edge_runtime.build.gate import judge
from edge_runtime.build.gate_frames import load_gate_set
from edge_runtime.build.gate_phantoms import draw
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.graph import read_graph
from edge_runtime.build.half import to_half
from edge_runtime.build.observe import observe
from edge_runtime.build.place import Plan, insert, layers_of, plan_of, scale_for
from edge_runtime.build.readings import Reading
from edge_runtime.build.trial import Trial
from edge_runtime.errors import GateError
from edge_runtime.infer.model import Tolerance, load_model
from edge_runtime.types import Frame
from tests.build.graphs import group_of

LIMITS = Tolerance(mean=0.05, p99=0.5, max=1.0)


@dataclass
class Bench:
    """The model in normal form, frames to judge by, and fp32's readings of them."""

    graph: onnx.ModelProto
    trial: Trial
    frames: list[Frame]
    reference: list[Reading]
    plan: Plan
    right: dict[str, float]  # scales from the model's own kind of frames

    def scales(self, inputs: list[NDArray[np.uint8]]) -> dict[str, float]:
        seen = observe(self.graph, list(self.plan.points), inputs)
        return {
            tensor: scale_for(max(seen[name].largest for name in group_of(self.plan, tensor)))
            for tensor in self.plan.points
        }

    def judged(self, scales: Mapping[str, float], weights_of: str = "") -> GateReport:
        """The verdict on INT8 with these scales; the weights of one layer eight times what they were."""
        placed = insert(self.graph, self.plan, scales)
        for tensor in placed.graph.initializer:
            if weights_of and tensor.name == f"{weights_of}_weight_scale":
                tensor.CopyFrom(numpy_helper.from_array(8 * numpy_helper.to_array(tensor), tensor.name))
        candidate = to_cpu(to_half(placed))
        readings = self.trial.read(candidate.SerializeToString(), self.frames)
        return judge(
            self.reference, readings, self.trial.manifest.gate, subject="candidate", model="fetal_head"
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    manifest = load_model("fetal_head").manifest
    gate = msgspec.structs.replace(manifest.gate, measurement={"head_circumference": LIMITS})
    manifest = msgspec.structs.replace(manifest, gate=gate)
    trial = Trial(manifest, tmp_path_factory.mktemp("harmful"))
    file = load_model("fetal_head").home / "model.onnx"
    graph = read_graph(file)
    gate_set = load_gate_set(load_model("fetal_head"))
    frames, reference = list(gate_set.frames), list(gate_set.reference)
    plan = plan_of(graph, layers_of(graph)[1:])
    made = Bench(graph, trial, frames, reference, plan, {})
    made.right = made.scales(inputs_of(trial, file, heads()))
    yield made


def heads() -> list[Frame]:
    """Other heads than those of the gate."""
    return [
        draw(f"phantom:fetal_head?hc_mm={hc}&seed={seed}#{pose}")
        for seed, hc in enumerate(range(90, 340, 20), start=900)
        for pose in (0,)
    ]


def inputs_of(trial: Trial, file: Path, frames: list[Frame]) -> list[NDArray[Any]]:
    pipeline = trial.pipeline(file.read_bytes())
    tensors = []
    for frame in frames:
        tensor = np.zeros_like(pipeline.backend.slots[0].input)
        pipeline.preprocess.into(frame, tensor)
        tensors.append(tensor)
    pipeline.close()
    return tensors


def test_a_quantization_on_frames_of_the_models_kind_is_accepted(bench: Bench) -> None:
    report = bench.judged(bench.right)
    assert report.passed, report.failures
    assert report.judged >= 32


def black(random: np.random.Generator) -> NDArray[np.uint8]:
    return np.zeros((1, 1, 192, 288), np.uint8)


def nearly_black(random: np.random.Generator) -> NDArray[np.uint8]:
    return random.integers(0, 3, (1, 1, 192, 288), np.uint8)


def noise(random: np.random.Generator) -> NDArray[np.uint8]:
    return random.integers(0, 256, (1, 1, 192, 288), np.uint8)


@pytest.mark.parametrize("make", [black, nearly_black], ids=lambda make: make.__name__)
def test_calibration_on_black_frames_is_refused_by_the_gate(
    bench: Bench, make: Callable[[np.random.Generator], NDArray[np.uint8]]
) -> None:
    random = np.random.default_rng(0)
    report = bench.judged(bench.scales([make(random) for _ in range(32)]))
    assert not report.passed
    with pytest.raises(GateError, match="refused"):
        report.require()


@pytest.mark.parametrize(
    "layer", ["stem.2", "to_eighth.2/first", "bottom.1/second", "up_quarter", "at_quarter/second"]
)
def test_one_layers_weights_with_a_scale_eight_times_too_large_are_refused(bench: Bench, layer: str) -> None:
    name = next(name for name in bench.plan.layers if layer in name)
    report = bench.judged(bench.right, weights_of=name)
    assert not report.passed, [(number.name, number.value) for number in report.numbers]


@pytest.mark.parametrize(
    "tensor",
    ["/network/stem/stem.1/Relu_output_0", "/network/at_quarter/second/second.0/Conv_output_0"],
)
def test_one_tensor_with_a_scale_eight_times_too_large_is_refused_in_millimetres(
    bench: Bench, tensor: str
) -> None:
    """Masks hardly differ there: it is the circumference that tells."""
    harmful = {name: bench.right[name] * 8 for name in group_of(bench.plan, tensor)}
    report = bench.judged({**bench.right, **harmful})
    assert report.failures[0].code in ("value_mean", "value_p99", "value_max")
    assert "circumference" in report.failures[0].message
    assert "mm, limit" in report.failures[0].message


@pytest.mark.parametrize("shrink", [8, 64])
def test_ranges_that_are_too_small_are_refused(bench: Bench, shrink: float) -> None:
    assert not bench.judged({name: scale / shrink for name, scale in bench.right.items()}).passed


def test_frames_that_fp32_itself_withholds_are_no_frames_to_judge_by(bench: Bench) -> None:
    none = [draw(f"phantom:noise?seed={seed}#0") for seed in range(40)]
    readings = bench.trial.read((load_model("fetal_head").home / "model.onnx").read_bytes(), none)
    report = judge(readings, readings, bench.trial.manifest.gate)
    assert [failure.code for failure in report.failures][:1] == ["too_few_frames"]
