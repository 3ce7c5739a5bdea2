"""Which of the reported findings are shown in a picture, by rule: the middle one, not the most beautiful.

A finding is shown on the frame that it names by hash, read again from its source, and on no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_runtime.codes import MeasurementName, SpacingSource
from edge_runtime.commands.demo.chests import Taken
from edge_runtime.commands.demo.drawing import Panel
from edge_runtime.commands.demo.findings import circumference, frame_index, gives_a_size, middle, shown
from edge_runtime.commands.demo.stage import Heads
from edge_runtime.frames.phantom import Truth, parse_spec, render
from edge_runtime.frames.source import frame_id, open_source
from edge_runtime.types import Finding, Frame, Measurement, Origin, Spacing


def phantom(uri: str, found: Sequence[Finding]) -> Panel | None:
    """The capture of the middle size with the true outline."""
    return _sized("Head circumference, phantom", uri, found, MeasurementName.HEAD_CIRCUMFERENCE)


def artery(uri: str, found: Sequence[Finding]) -> Panel | None:
    """The frame of the middle area, somewhere in the beat, with its own true outline."""
    return _sized("Lumen of an artery, phantom", uri, found, MeasurementName.LUMEN_AREA)


def _sized(title: str, uri: str, found: Sequence[Finding], name: MeasurementName) -> Panel | None:
    """The finding with the median value of this name, beside the true value of its own frame."""
    chosen = middle(found, name)
    one, drawn = shown(chosen, name) if chosen else None, _drawn(uri, chosen)
    if chosen is None or one is None or drawn is None:
        return None
    frame, truth = drawn
    beside = f"Interval {_interval(one)}, true {truth.values[name.value]:.1f} (white line)"
    return Panel(title, frame, chosen, _value(one), (beside,), truth)


def chest(taken: Taken, found: Sequence[Finding]) -> Panel | None:
    """An X-ray with the hint that its finding gives, else with the areas of its lungs."""
    chosen = found[0] if found else None
    drawn = _drawn(taken.uri, chosen)
    if chosen is None or drawn is None:
        return None
    frame, truth = drawn
    title = f"Chest X-ray, {taken.how}, phantom"
    acquired = chosen.acquisition
    if acquired is None or not acquired.ok:
        hint = chosen.quality.hint.value.replace("_", " ")
        return Panel(title, frame, chosen, f"{hint[:1].upper()}{hint[1:]}")
    sides = (("Right", MeasurementName.LUNG_AREA_RIGHT), ("Left", MeasurementName.LUNG_AREA_LEFT))
    areas = [
        f"{side} {_value(one)} ({_interval(one)}), true {truth.values[name.value]:.1f}"
        for side, name in sides
        if (one := shown(chosen, name)) is not None
    ]
    return Panel(title, frame, chosen, "Both lungs, whole", tuple(areas), truth)


def _value(one: Measurement) -> str:
    return f"{one.value:.1f} {one.unit.replace('2', '²')}"


def _interval(one: Measurement) -> str:
    low, high = one.interval or (one.value, one.value)
    return f"{low:.1f} to {high:.1f}"


def head(heads: Heads | None, found: Sequence[Finding]) -> Panel | None:
    """The real head of the middle size beside its published circumference."""
    chosen = middle(found, MeasurementName.HEAD_CIRCUMFERENCE)
    if heads is None or chosen is None:
        return None
    frame = _frame_of(f"folder:{heads.folder}", chosen)
    published, one = heads.true_mm.get(chosen.source.name or ""), circumference(chosen)
    if frame is None or published is None or one is None:
        return None
    beside = f"Interval {_interval(one)}, published {published:.1f}"
    return Panel("Head circumference, real head", frame, chosen, _value(one), (beside,))


def heart(cine: Path | None, found: Sequence[Finding]) -> Panel | None:
    """A withheld frame from the middle of the echo cine."""
    held = [finding for finding in found if not gives_a_size(finding)]
    if cine is None or not held:
        return None
    chosen = held[len(held) // 2]
    frame = _frame_of(f"dicom:{cine}", chosen)
    return None if frame is None else Panel("A heart, foreign to this model", frame, chosen)


def _drawn(uri: str, finding: Finding | None) -> tuple[Frame, Truth] | None:
    """The frame of a phantom that `finding` names, and what is known of it: drawn anew, not the whole stream."""
    if finding is None:
        return None
    spec, index = parse_spec(uri.removeprefix("phantom:")), frame_index(finding)
    pixels, truth = render(spec, index)
    origin = Origin(finding.source.kind, uri, spec.modality)
    spacing = Spacing(spec.pixel_mm, spec.pixel_mm, SpacingSource.PHANTOM)
    frame = Frame(pixels, index, 0, origin, frame_id(index, pixels), spacing=spacing)
    if truth is None or frame.frame_id not in finding.source.frame_ids:
        return None
    return frame, truth


def _frame_of(uri: str, finding: Finding) -> Frame | None:
    """The frame that `finding` names, read again; None where no frame of the source has its hash."""
    with open_source(uri) as source:
        for frame in source.frames():
            if isinstance(frame, Frame) and frame.frame_id in finding.source.frame_ids:
                return frame
    return None
