"""Which of the reported findings are shown in a picture, by rule: the middle one, not the most beautiful.

A finding is shown on the frame that it names by hash, read again from its source, and on no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_runtime.codes import SpacingSource
from edge_runtime.commands.demo.drawing import Panel
from edge_runtime.commands.demo.findings import circumference, gives_a_size
from edge_runtime.commands.demo.stage import Heads
from edge_runtime.frames.phantom import Ellipse, parse_spec, render
from edge_runtime.frames.source import frame_id, open_source
from edge_runtime.types import Finding, Frame, Origin, Spacing


def phantom(uri: str, true_mm: float, found: Sequence[Finding]) -> Panel | None:
    """The capture of the middle size with the true outline; the one frame is drawn anew, not the whole stream."""
    chosen = _middle_by_size(found)
    if chosen is None:
        return None
    spec = parse_spec(uri.removeprefix("phantom:"))
    index = int(chosen.source.frame_ids[0].partition(".")[0])
    pixels, truth_of = render(spec, index)
    outline = truth_of if isinstance(truth_of, Ellipse) else None
    origin = Origin(chosen.source.kind, uri, "US")
    spacing = Spacing(spec.pixel_mm, spec.pixel_mm, SpacingSource.PHANTOM)
    frame = Frame(pixels, index, 0, origin, frame_id(index, pixels), spacing=spacing)
    if frame.frame_id not in chosen.source.frame_ids:
        return None
    truth = f", true {true_mm:.1f} (white line)"
    return Panel("Head circumference, phantom", frame, chosen, truth, outline)


def head(heads: Heads | None, found: Sequence[Finding]) -> Panel | None:
    """The real head of the middle size beside its published circumference."""
    chosen = _middle_by_size(found)
    if heads is None or chosen is None:
        return None
    frame = _frame_of(f"folder:{heads.folder}", chosen)
    published = heads.true_mm.get(chosen.source.name or "")
    if frame is None or published is None:
        return None
    return Panel("Head circumference, real head", frame, chosen, f", published {published:.1f}")


def heart(cine: Path | None, found: Sequence[Finding]) -> Panel | None:
    """A withheld frame from the middle of the echo cine."""
    held = [finding for finding in found if not gives_a_size(finding)]
    if cine is None or not held:
        return None
    chosen = held[len(held) // 2]
    frame = _frame_of(f"dicom:{cine}", chosen)
    return None if frame is None else Panel("A heart, foreign to this model", frame, chosen)


def _middle_by_size(found: Sequence[Finding]) -> Finding | None:
    sized = [(one.value or 0.0, finding) for finding in found if (one := circumference(finding)) is not None]
    return sorted(sized, key=lambda pair: pair[0])[len(sized) // 2][1] if sized else None


def _frame_of(uri: str, finding: Finding) -> Frame | None:
    """The frame that `finding` names, read again; None where no frame of the source has its hash."""
    with open_source(uri) as source:
        for frame in source.frames():
            if isinstance(frame, Frame) and frame.frame_id in finding.source.frame_ids:
                return frame
    return None
