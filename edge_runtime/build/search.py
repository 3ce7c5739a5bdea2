"""Which range each tensor gets and which layers stay FP16, both decided by what they do to the result.

A range is chosen by the error it causes in the model's mask, with all else in fp32. A layer is judged by the
gate's own numbers with that layer alone in INT8. Knows no file and no page; the gate is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.observe import Method, Observed
from edge_runtime.build.onnx_run import outputs_of
from edge_runtime.build.place import Plan, insert, plan_of, scale_for
from edge_runtime.errors import GateError

if TYPE_CHECKING:
    import onnx

Tick = Callable[[str], None]

# A layer that uses more than this share of any tolerance by itself goes back to FP16.
LINE = 0.5
# More layers than this share may not go back: then not a layer is at fault but the calibration.
MOST_BACK = 0.25


class ChosenRange(msgspec.Struct, frozen=True):
    """The range of one tensor, or of several that share it, and why."""

    tensors: tuple[str, ...]
    method: Method
    largest: float  # representable value
    scale: float
    errors: dict[Method, float]  # mean |difference| of the mask's scores, by method tried


def choose_ranges(
    model: onnx.ModelProto,
    plan: Plan,
    observed: Mapping[str, Observed],
    inputs: Sequence[NDArray[Any]],
    mask: str,
    tick: Tick,
) -> tuple[ChosenRange, ...]:
    """One choice for each group of `plan`. `inputs` are those of the model, `mask` the output to compare."""
    reference = [
        values[0] for values in outputs_of(model.SerializeToString(), [mask], ({"": x} for x in inputs))
    ]
    choices = []
    for group in plan.groups:
        tick("ranges")
        tensors = tuple(sorted(group))
        suggested = _suggested(tensors, observed)
        errors: dict[Method, float] = {}
        if len(suggested) > 1:
            errors = _errors(model, plan, tensors, suggested, inputs, reference, mask)
        best = min(errors, key=lambda method: errors[method]) if errors else "min_max"
        largest = suggested.get(best, 0.0)
        choices.append(ChosenRange(tensors, best, largest, scale_for(largest), errors))
    return tuple(choices)


def scales_of(choices: Iterable[ChosenRange]) -> dict[str, float]:
    """Scale by tensor."""
    return {tensor: choice.scale for choice in choices for tensor in choice.tensors}


def _suggested(tensors: Sequence[str], observed: Mapping[str, Observed]) -> dict[Method, float]:
    """By method the range that holds for all of `tensors`; equal ones once."""
    each = [observed[tensor].ranges() for tensor in tensors]
    found: dict[Method, float] = {}
    for method in dict.fromkeys(name for ranges in each for name in ranges):
        largest = max((ranges.get(method, ranges.get("min_max", 0.0)) for ranges in each), default=0.0)
        if all(abs(largest / other - 1) > 0.01 for other in found.values()):
            found[method] = largest
    return found


def _errors(
    model: onnx.ModelProto,
    plan: Plan,
    tensors: Sequence[str],
    suggested: Mapping[Method, float],
    inputs: Sequence[NDArray[Any]],
    reference: Sequence[NDArray[np.float32]],
    mask: str,
) -> dict[Method, float]:
    """Mean |difference| of the mask with only `tensors` quantized, by method."""
    from onnx import TensorProto, helper

    alone = Plan((), {tensor: plan.points[tensor] for tensor in tensors}, (frozenset(tensors),))
    probe = insert(model, alone, dict.fromkeys(tensors, 1.0))
    names = [f"{tensor}_scale" for tensor in tensors]
    for name in names:  # an initializer that is an input too may be fed
        probe.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    feeds = [
        {"": x} | dict.fromkeys(names, np.array(scale_for(largest), np.float32))
        for largest in suggested.values()
        for x in inputs
    ]
    results = outputs_of(probe.SerializeToString(), [mask], feeds)
    differences = [
        float(np.abs(result[0] - reference[index % len(inputs)]).mean())
        for index, result in enumerate(results)
    ]
    means = np.array(differences).reshape(len(suggested), len(inputs)).mean(axis=1)
    return dict(zip(suggested, map(float, means), strict=True))


@dataclass(frozen=True, slots=True)
class Layer:
    """What INT8 in one layer alone does, and where the layer ended."""

    name: str
    report: GateReport
    share: float  # of the tolerance it comes closest to, 1.0 = at the limit
    fp16_because: str = ""  # empty: it is INT8


def sensitivity(
    model: onnx.ModelProto,
    layers: Sequence[str],
    scales: Mapping[str, float],
    judge: Callable[[onnx.ModelProto, str], GateReport],
    tick: Tick,
) -> tuple[Layer, ...]:
    """Each layer alone in INT8, judged; in graph order. Those over `LINE` are marked for FP16."""
    found = []
    for name in layers:
        tick("sensitivity")
        report = judge(insert(model, plan_of(model, (name,)), scales), name)
        share = tolerance_used(report)
        why = "" if share <= LINE else f"alone it uses {share:.0%} of a tolerance, the line is {LINE:.0%}"
        found.append(Layer(name, report, share, why))
    return tuple(found)


def tolerance_used(report: GateReport) -> float:
    """The share of its limit that the worst number of `report` uses: 1.0 is at the limit, infinite where a
    number is missing. How many frames there are is no number of the layer's.
    """
    shares = [0.0]
    for number in report.numbers:
        counted_in_cells = number.name == "boundary_p99" and number.passed  # below its limit it says nothing
        share = number.used_share()
        if share is not None and number.name != "frames" and not counted_in_cells:
            shares.append(share)
    return max(shares)


def settle(
    layers: tuple[Layer, ...], judge: Callable[[tuple[str, ...]], GateReport], tick: Tick
) -> tuple[tuple[Layer, ...], GateReport]:
    """The layers as they end, and the report that passed. Raises GateError where too many would have to go
    back to FP16: then the ranges are wrong, not a layer.
    """
    allowed = max(1, int(len(layers) * MOST_BACK))
    first: GateReport | None = None
    while True:
        tick("gate")
        back = [layer for layer in layers if layer.fp16_because]
        report = judge(tuple(layer.name for layer in layers if not layer.fp16_because))
        first = first or report
        if report.passed and len(back) <= allowed:
            return layers, report
        left = [layer for layer in layers if not layer.fp16_because]
        if len(back) >= allowed or not left:
            break
        worst = max(left, key=lambda layer: layer.share)
        moved = replace(worst, fp16_because=f"the gate failed: {report.failures[0].message}")
        layers = tuple(moved if layer is worst else layer for layer in layers)
    worst = max(layers, key=lambda layer: layer.share)
    why = first.failures[0].message if first.failures else f"{worst.name}: {worst.fp16_because}"
    raise GateError(
        f"gate: {first.subject} refused: {why}; {len(back)} of {len(layers)} layers are back in FP16, and more than "
        f"{allowed} would mean that the ranges are wrong: calibrate on frames like those the model is for"
    )
