"""The demo's parts in figures, each made of what its runs reported and of nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from edge_runtime.codes import MeasurementName, Reason
from edge_runtime.commands.demo.findings import (
    Measured,
    circumference,
    covers,
    frame_index,
    gives_a_size,
    in_millimetres,
    mean_error_mm,
    measured,
    middle,
    withheld_reasons,
)
from edge_runtime.commands.demo.known import Known, held_against
from edge_runtime.commands.run import RunReport
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.types import Finding

_SCALE_REFUSED = tuple(reason for reason in Reason if reason.value.startswith("spacing_"))


class LivePart(msgspec.Struct, frozen=True, kw_only=True):
    """The stream, killed once. What a run counts dies with it: the figures are those of the run after the kill."""

    offered: int
    processed: int
    dropped: int
    fps: float
    age_ms_p50: float | None
    age_ms_p99: float | None
    captures: int  # of both runs
    captures_before_kill: int  # reported by the killed run
    head: Measured | None


class EchoPart(msgspec.Struct, frozen=True, kw_only=True):
    """A heart in front of a head model."""

    frames: int
    withheld: int
    in_pixels: int  # frames for which a size in pixels, and none in mm, was given
    in_millimetres: int  # frames for which any number in mm was given: want 0
    reasons: dict[str, int]  # that withheld
    spacing_reason: str | None  # why the file's scale was refused


class HeadsPart(msgspec.Struct, frozen=True, kw_only=True):
    """Real fetal heads against their published circumference."""

    images: int
    measured: int
    withheld: int
    mean_error_mm: float | None
    inside: int  # of the measured: the published value lies in the interval
    reasons: dict[str, int]
    held_out: bool  # from exams that the model never saw; else the error says little


class ArteryPart(msgspec.Struct, frozen=True, kw_only=True):
    """A beating artery; each finding is held against the truth of its own frame."""

    frames: int
    measured: int
    inside: int  # of the measured: the true area lies in the interval
    values: list[Known]  # of the finding with the median area; none where every frame was withheld
    reasons: dict[str, int]  # that withheld


def live_part(
    before: Sequence[Finding], after: Sequence[Finding], report: RunReport, true_mm: float
) -> LivePart:
    """The stream: captures of both runs, counts of the one that lived."""
    return LivePart(
        offered=report.offered,
        processed=report.processed,
        dropped=report.dropped,
        fps=report.fps,
        age_ms_p50=report.age_ms.p50,
        age_ms_p99=report.age_ms.p99,
        captures=len(before) + len(after),
        captures_before_kill=len(before),
        head=measured([*before, *after], true_mm),
    )


def echo_part(found: Sequence[Finding]) -> EchoPart:
    """The heart, a finding for each of its frames."""
    sized = sum(map(gives_a_size, found))
    spacing = Counter(reason for one in found for reason in one.reasons if reason in _SCALE_REFUSED)
    return EchoPart(
        frames=len(found),
        withheld=len(found) - sized,
        in_pixels=sized,
        in_millimetres=sum(map(in_millimetres, found)),
        reasons=withheld_reasons(found),
        spacing_reason=spacing.most_common(1)[0][0].value if spacing else None,
    )


def heads_part(found: Sequence[Finding], true_mm: dict[str, float], held_out: bool) -> HeadsPart:
    """The real heads; `true_mm` holds the published circumference by file name."""
    pairs = [
        (head, true_mm[finding.source.name or ""])
        for finding in found
        if (head := circumference(finding)) is not None
    ]
    return HeadsPart(
        images=len(found),
        measured=len(pairs),
        withheld=len(found) - len(pairs),
        mean_error_mm=mean_error_mm(pairs),
        inside=sum(covers(head, true) for head, true in pairs),
        reasons=withheld_reasons(found),
        held_out=held_out,
    )


def artery_part(found: Sequence[Finding], spec: PhantomSpec, tolerance: Mapping[str, float]) -> ArteryPart:
    """The artery, a finding for each of its frames."""
    area = MeasurementName.LUMEN_AREA
    values = {one.finding_id: held_against(one, _true(spec, one), tolerance) for one in found}
    areas = [one for known in values.values() for one in known if one.name == area.value and one.value]
    median = middle(found, area)
    return ArteryPart(
        frames=len(found),
        measured=len(areas),
        inside=sum(one.inside for one in areas),
        values=values[median.finding_id] if median is not None else [],
        reasons=withheld_reasons(found),
    )


def _true(spec: PhantomSpec, finding: Finding) -> dict[str, float]:
    _, truth = render(spec, frame_index(finding))
    return {} if truth is None else truth.values
