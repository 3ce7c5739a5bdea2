"""What a bundle says of its own quantization: `scales.json`, the page to print, the card. Judges and chooses nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edge_runtime.build.gate_page import Page, Section, SensitivityRow
from edge_runtime.build.gate_report import GateReport
from edge_runtime.build.search import ChosenRange, Layer
from edge_runtime.infer.model import Manifest


class LayerKept(msgspec.Struct, frozen=True):
    """A row of `scales.json`."""

    name: str
    precision: str
    tolerance_used: float  # with this layer alone in INT8, 1.0 = at the limit
    because: str


class Scales(msgspec.Struct, frozen=True):
    """`scales.json`: what was observed, what was chosen, and why."""

    frames: tuple[str, ...]  # content hashes of the observed frames
    ranges: tuple[ChosenRange, ...]
    layers: tuple[LayerKept, ...]


def scales_of_job(
    observed: tuple[str, ...], ranges: tuple[ChosenRange, ...], layers: Sequence[Layer]
) -> Scales:
    """The record of these choices."""
    kept = (
        LayerKept(layer.name, "fp16" if layer.fp16_because else "int8", layer.share, layer.fp16_because)
        for layer in layers
    )
    return Scales(observed, ranges, tuple(kept))


def page_of(
    reports: Sequence[GateReport], layers: Sequence[Layer], ranges: Sequence[ChosenRange], observed: int
) -> Page:
    """The page about the first of `reports`; of the others it tells the verdict."""
    facts = (
        ("frames observed", str(observed)),
        ("frames judged", str(reports[0].offered)),
        *((report.subject, "accepted" if report.passed else "refused") for report in reports),
    )
    return Page(
        report=reports[0], sensitivity=tuple(map(_row, layers)), facts=facts, sections=(_section(ranges),)
    )


def _row(layer: Layer) -> SensitivityRow:
    numbers = {number.name: number.value for number in layer.report.numbers}
    agreement, change = numbers["agreement_mean"], numbers[f"{layer.report.measurements[0]}_p99"]
    return SensitivityRow(
        layer=layer.name,
        agreement_loss=math.nan if agreement is None else 1 - agreement,
        value_change=math.nan if change is None else change,
        kept_fp16=bool(layer.fp16_because),
        why=layer.fp16_because,
        kind="Conv",
    )


def _section(ranges: Sequence[ChosenRange]) -> Section:
    """Which range each tensor got, and what each way to choose it would have cost."""
    rows = []
    for one in ranges:
        tried = ", ".join(f"{method} {error:.2g}" for method, error in one.errors.items())
        rows.append((" = ".join(one.tensors), one.method, f"{one.largest:.4g}", tried))
    return Section(
        "Ranges",
        ("tensor", "chosen by", "largest", "error of the mask, by method"),
        tuple(rows),
        "Each tensor alone in INT8; the least mean error of the mask decides.",
    )


def card(manifest: Manifest) -> str:
    """The card of a model that nobody wrote one for: it says no more than is known."""
    return (
        f"# {manifest.name} {manifest.version}\n\nQuantized from a model of your own. What it was trained on, and how "
        "accurate it is, is not known here: gate/report.html compares INT8 with your fp32 model on your frames.\n\n"
        "Research use only. Not a medical device.\n"
    )
