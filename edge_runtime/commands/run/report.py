"""What a run did, for a machine and for a person."""

from __future__ import annotations

import msgspec

from edge_runtime import clock
from edge_runtime.codes import MeasurementName, Status
from edge_runtime.commands.run.values import plain, span, with_interval, with_unit
from edge_runtime.commands.shortfall import Short, Shortfalls
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY, acquisition_in_words, in_words, listed
from edge_runtime.pipeline import Result
from edge_runtime.reporting import Reporter
from edge_runtime.types import ExamValue

REASONS_TOLD = 4


class Percentiles(msgspec.Struct, frozen=True):
    """Of the frames' ages, in milliseconds."""

    p50: float  # null when nothing was processed
    p99: float


class Acquired(msgspec.Struct, frozen=True):
    """X-rays whose acquisition was checked."""

    checked: int
    ok: int  # both lungs, whole, upright, black and white as they should be
    last: str  # in words


class LastValue(msgspec.Struct, frozen=True):
    """A measurement as the last finding that has a value tells it; its unit is `measured`'s."""

    name: MeasurementName
    value: float
    interval: tuple[float, float] | None
    status: Status


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `run --json` prints."""

    offered: int
    processed: int
    dropped: int
    findings: int
    withheld: int
    fps: float
    age_ms: Percentiles
    stages_ms: dict[str, float]  # medians
    first_finding_s: float | None  # from the start of the command
    exam_ids: list[str]
    out: str | None
    written: tuple[str, ...]  # files and folders that were asked for
    model: str
    precision: str
    backend: str
    measured: tuple[ExamValue, ...]  # over all findings of the run
    last: tuple[LastValue, ...]
    reasons: dict[str, int]  # findings that carry the code, the commonest first
    stopped: bool  # by a signal
    problems: list[str]  # bad frames, a source that was lost, a full journal, a database set aside: exit 1
    short: dict[str, Short] = {}  # by code: what came where a limit is a number, of the frames processed
    acquisition: Acquired | None = None  # of chest X-rays; null where none was checked


def headline(result: Result) -> str:
    """A result in a few words: its first measurement, or why there is none."""
    for measurement in result.measurements:
        if measurement.value is not None:
            name = measurement.name
            return f"{plain(name)} {with_unit(measurement.value, name)} ({measurement.status.value})"
    return f"withheld: {', '.join(in_words(reason) for reason in result.reasons[:2])}"


def report_of(
    out: str | None,
    written: tuple[str, ...],
    reporter: Reporter,
    shortfalls: Shortfalls,
    stopped: bool,
    problems: list[str],
) -> RunReport:
    """What a run that is over did; `out` as it was given."""
    counters, model = reporter.counters, reporter.maker.model
    first_ns = counters.first_finding_ns
    return RunReport(
        offered=counters.offered,
        processed=counters.processed,
        dropped=counters.dropped,
        findings=counters.findings,
        withheld=counters.withheld,
        fps=round(counters.fps(), 2),
        age_ms=Percentiles(counters.age_ms.percentile(50), counters.age_ms.percentile(99)),
        stages_ms={name: series.percentile(50) for name, series in counters.stages_ms.items()},
        first_finding_s=None if first_ns is None else clock.since_process_start_s(first_ns),
        exam_ids=reporter.exam_ids,
        out=out,
        written=written,
        model=f"{model.name} {model.version} {model.sha256[:12]}",
        precision=model.precision,
        backend=model.backend,
        measured=reporter.told.values(),
        last=tuple(
            LastValue(one.name, one.value, one.interval, one.status)
            for one in reporter.last.values()
            if one.value is not None
        ),
        reasons={reason.value: count for reason, count in reporter.reasons.most_common()},
        short={reason.value: short for reason, short in shortfalls.found.items()},
        stopped=stopped,
        problems=problems,
        acquisition=_acquired(reporter),
    )


def _acquired(reporter: Reporter) -> Acquired | None:
    counts, last = reporter.acquired, reporter.last_acquired
    return None if last is None else Acquired(counts.total(), counts[True], acquisition_in_words(last))


def lines(report: RunReport) -> list[str]:
    """The report for a person."""
    if report.out == "-":
        return []
    age = report.age_ms
    ages = "" if report.processed == 0 else f", age p50 {age.p50:.1f} ms, p99 {age.p99:.1f} ms"
    exams = report.exam_ids[0] if len(report.exam_ids) == 1 else f"{len(report.exam_ids)} exams"
    out = [
        f"{report.model}, {report.precision} on {report.backend}{'; stopped by a signal' if report.stopped else ''}",
        f"frames    {report.offered} offered = {report.processed} processed + {report.dropped} dropped, {report.fps:.1f}/s{ages}",
        f"findings  {report.findings} reported, {report.withheld} of them withheld; {exams}",
    ]
    out += [f"measured  {plain(value.name)} {_told(value, report.last)}" for value in report.measured]
    taken = report.acquisition
    if taken is not None:
        many = f"{taken.ok} of {taken.checked} show both lungs, whole, upright and not inverted; the last: "
        out.append(f"acquired  {many if taken.checked > 1 else ''}{taken.last}")
    if report.reasons:
        short = {code: short.in_words() for code, short in report.short.items()}
        out.append(f"reasons   {listed(report.reasons, REASONS_TOLD, short)}")
    if report.written:
        out.append(f"written   {', '.join(report.written)}")
    return [*out, f"{SIZE_ONLY} {RESEARCH}"]


def _told(value: ExamValue, last: tuple[LastValue, ...]) -> str:
    """One finding with its interval and status; of several the median and range, and the last like one."""
    name = value.name
    one = next(one for one in last if one.name is name)
    now = f"{with_interval(one.value, one.interval, name)}, {one.status.value}"
    if value.captures == 1:
        return now
    return f"median {with_unit(value.median, name)} of {value.captures} findings, {span(value.range, name)}; the last {now}"
