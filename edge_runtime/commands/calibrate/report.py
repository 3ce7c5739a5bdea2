"""What `calibrate` found, for a script and for a person: rates, coverage, and how far both can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge_runtime.build.readings import shown_unit
from edge_runtime.commands.calibrate.intervals import Interval
from edge_runtime.commands.calibrate.limits import GATED, Found
from edge_runtime.commands.calibrate.reading import Reading, Seen, models_own
from edge_runtime.commands.words import RESEARCH, listed
from edge_runtime.measure.anatomy import unit_of
from edge_runtime.measure.profile import Profile, ProfileFile
from edge_runtime.pipeline import Pipeline

WIDE = 0.15  # a range of coverage or of a rate from which a person is warned
WORDS = {
    "sharpness": "sharpness",
    "saturated": "burnt-out share",
    "lit_median": "median grey where lit",
    "near_field": "near-field share (hint only)",
    "presence": "presence",
    "confidence": "confidence",
    "ellipse_iou": "overlap with an ellipse",
}


class Rate(msgspec.Struct, frozen=True):
    """A share with the interval in which the true one lies in 95 of 100 cases."""

    value: float
    low: float
    high: float


class LimitTold(msgspec.Struct, frozen=True, kw_only=True):
    limit: float
    models_own: float | None  # of a gate: what the model asks for by itself; null: a default of the modality
    refused: int | None  # of the frames left out, by this number


class IntervalTold(msgspec.Struct, frozen=True, kw_only=True):
    scale: float | None  # of the model's own half-width
    relative: float | None  # of the value, where the model has none
    median_width: float
    unit: str
    frames: int
    subjects: int
    expected: Rate  # coverage of frames to come
    left_out: Rate | None  # coverage of whole subjects left out


class CalibrateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `calibrate --json` prints."""

    out: str
    name: str
    sha256: str
    model: str
    precision: str
    backend: str
    frames: int
    accepted: int
    subjects: int
    withheld: dict[str, int]  # by the model itself, whatever a profile says
    target_reject: float
    reject: Rate | None  # of accepted frames to come, by the profile; null: all frames are of one subject
    rank: int
    coverage: float
    limits: dict[str, LimitTold]
    intervals: dict[str, IntervalTold]
    notes: list[str]


def report_of(
    profile: Profile,
    reading: Reading,
    accepted: Sequence[Seen],
    found: Found,
    widths: Mapping[str, Interval],
    pipeline: Pipeline,
) -> CalibrateReport:
    file = profile.file
    own = models_own(pipeline)
    withheld = Counter(reason.value for one in reading.seen for reason in one.withheld)
    reject = None
    if found.rate is not None and found.rate_range is not None:
        reject = Rate(found.rate, *found.rate_range)
    return CalibrateReport(
        out=str(profile.path),
        name=file.name,
        sha256=profile.sha256,
        model=f"{file.model.name} {file.model.version} {file.model.sha256[:12]}",
        precision=file.model.precision,
        backend=file.model.backend,
        frames=len(reading.seen),
        accepted=len(accepted),
        subjects=file.subjects,
        withheld=dict(withheld.most_common()),
        target_reject=file.target_reject,
        reject=reject,
        rank=found.rank,
        coverage=file.coverage,
        limits={
            name: LimitTold(
                limit=max(one.limit, own.get(name, one.limit)),
                models_own=own.get(name),
                refused=found.by_number.get(name),
            )
            for name, one in found.limits.items()
        },
        intervals={name: _told(name, one) for name, one in widths.items()},
        notes=_notes(reading, own, found, file, widths),
    )


def _told(name: str, one: Interval) -> IntervalTold:
    left_out = None
    if one.left_out is not None and one.left_out_range is not None:
        left_out = Rate(one.left_out, *one.left_out_range)
    return IntervalTold(
        scale=one.width.scale,
        relative=one.width.relative,
        median_width=one.median_width,
        unit=unit_of(name),
        frames=one.frames,
        subjects=one.subjects,
        expected=Rate(one.expected, *one.expected_range),
        left_out=left_out,
    )


def _notes(
    reading: Reading,
    own: Mapping[str, float],
    found: Found,
    file: ProfileFile,
    widths: Mapping[str, Interval],
) -> list[str]:
    """What a person should know before relying on the profile."""
    notes = []
    if reading.repeated:
        notes.append(f"{reading.repeated} frames show a picture that had come before; it counts once")
    for name in GATED:
        below = sum(one.numbers.get(name, 1.0) < own[name] for one in reading.seen)
        if below:
            notes.append(
                f"{below} of {len(reading.seen)} frames lie below the model's own {WORDS[name]} of {own[name]:g}, which "
                "stays: a profile may not let more through than the model"
            )
    if not reading.subjects_known:
        notes.append(
            "no subjects are known: each frame counts as one; with several frames of one person the ranges are too narrow"
        )
    if found.rank == 0:
        notes.append(
            f"{file.frames} frames are too few for limits of their own at {100 * file.target_reject:g} %: the model's and the "
            "defaults stay, wider where a good frame lies beyond them"
        )
    if found.rate_range is None:
        notes.append("all frames are of one subject: how many frames of others will be refused is not known")
    elif found.rate_range[1] - found.rate_range[0] > WIDE or found.rate_range[0] > file.target_reject:
        notes.append(
            f"{file.subjects} subjects leave the rate of refused frames uncertain; add frames of more subjects"
        )
    worst = max((one.expected_range[1] - one.expected_range[0] for one in widths.values()), default=0.0)
    if worst > WIDE:
        notes.append(
            f"so few labelled subjects leave the true coverage uncertain by {100 * worst:.0f} points; label more"
        )
    return notes


def lines(report: CalibrateReport) -> list[str]:
    """The report for a person."""
    shown = f"{report.accepted} of {report.frames} frames of {report.subjects} subjects"
    out = [
        f"{report.model}, {report.precision} on {report.backend}: {shown} set the limits",
    ]
    if report.withheld:
        out.append(f"withheld by the model itself: {listed(report.withheld)}")
    for name, one in report.limits.items():
        side = "at most" if name in ("saturated", "near_field") else "at least"
        base = "" if one.models_own is None else f" (the model's own: {one.models_own:.3g})"
        out.append(f"  {WORDS[name]:30} {side} {one.limit:.4g}{base}")
    if report.reject is not None:
        out.append(
            f"will refuse   {_percent(report.reject)} of good frames; target {100 * report.target_reject:g} %"
        )
    for name, value in report.intervals.items():
        out += _interval_lines(name, value, report.coverage)
    out += [f"note: {note}" for note in report.notes]
    out.append(
        f"written       {report.out} ({report.name}, {report.sha256[:12]}); use it with run --profile {Path(report.out)}"
    )
    return [*out, RESEARCH]


def _interval_lines(name: str, one: IntervalTold, coverage: float) -> list[str]:
    plain = name.removesuffix("_px").replace("_", " ")
    unit = f" {shown_unit(name)}".rstrip()
    own = "" if one.scale is None else f" ({one.scale:.2f} of the model's own)"
    first = (
        f"{plain}: {100 * coverage:.0f} % interval, {one.median_width:.3g}{unit} wide in the median{own}, "
        f"from {one.frames} frames of {one.subjects} subjects"
    )
    held = (
        "too few subjects to leave one out"
        if one.left_out is None
        else f"subjects left out {_percent(one.left_out)}"
    )
    return [first, f"  coverage to expect {_percent(one.expected)}; {held}"]


def _percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
