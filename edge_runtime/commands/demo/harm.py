"""The gate at work: the shipped INT8 graph is accepted, the same graph with one scale spoilt is refused.

The damage is of the kind a careless calibration does: one layer's weights are scaled eight times too large. The
frames are the model's own gate frames, read by the pipeline that runs on a device.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from edge_runtime.build.gate import judge
from edge_runtime.build.gate_frames import GateSet, load_gate_set
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.graph import load_onnx
from edge_runtime.build.trial import Trial
from edge_runtime.infer.model import Model, load_model

TIMES = 8


class GatePart(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate said of a sound and of a spoilt quantization."""

    frames: int
    sound_accepted: bool
    sound_mean_mm: float  # |INT8 - fp32| of the head circumference
    sound_largest_mm: float
    layer: str  # whose scale was spoilt
    spoilt_refused: bool
    why: str  # the gate's first failure

    @property
    def as_it_should_be(self) -> bool:
        return self.sound_accepted and self.spoilt_refused


def gate_part(name: str) -> GatePart | None:
    """Both verdicts on the model `name`; None where it ships no INT8 graph."""
    model = load_model(name)
    if "int8" not in model.manifest.artifacts:
        return None
    path, _ = model.artifact("int8")
    gate_set = load_gate_set(model)
    layer, spoilt = _spoil(path)
    sound_report = _judged(model, gate_set, path.read_bytes(), "INT8 as shipped")
    spoilt_report = _judged(model, gate_set, spoilt, f"INT8 with a scale of {layer} times {TIMES}")
    numbers = {number.name: number.value for number in sound_report.numbers}
    return GatePart(
        frames=len(gate_set.frames),
        sound_accepted=sound_report.passed,
        sound_mean_mm=numbers.get("head_circumference_mean") or 0.0,
        sound_largest_mm=numbers.get("head_circumference_max") or 0.0,
        layer=layer,
        spoilt_refused=not spoilt_report.passed,
        why=spoilt_report.failures[0].message if spoilt_report.failures else "",
    )


def _judged(model: Model, gate_set: GateSet, graph: bytes, subject: str) -> GateReport:
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as scratch:
        candidate = Trial(model.manifest, Path(scratch)).read(graph, gate_set.frames)
    return judge(
        gate_set.reference, candidate, model.manifest.gate, subject=subject, model=model.manifest.name
    )


def _spoil(path: Path) -> tuple[str, bytes]:
    """The layer in the middle of the graph, and the graph with that layer's weights scaled too large."""
    from onnx import numpy_helper

    graph = load_onnx(path)
    scales = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("_weight_scale")]
    chosen = scales[len(scales) // 2]
    chosen.CopyFrom(numpy_helper.from_array(TIMES * numpy_helper.to_array(chosen), chosen.name))
    return chosen.name.removesuffix("_weight_scale"), graph.SerializeToString()
