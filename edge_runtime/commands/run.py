"""`edge-runtime run`: opens what the flags name, runs the stream, reports what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from edge_runtime import clock
from edge_runtime.codes import SpacingSource
from edge_runtime.commands.state import default_state, open_journal
from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.config import read_config
from edge_runtime.errors import ConfigError, EdgeError, JournalError
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.frames.source import open_source
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.measure.quality import FreezeWatch
from edge_runtime.pictures import PictureSink
from edge_runtime.pipeline import Result, build_pipeline
from edge_runtime.reporting import FindingMaker, Policy, Reporter, model_used
from edge_runtime.stream import Stream
from edge_runtime.telemetry import Counters
from edge_runtime.types import Spacing

PROGRESS_EVERY_NS = 200_000_000


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The flags of `run`, as `--help` explains them."""

    model: str
    source: str
    backend: str = "auto"
    precision: str = "auto"
    policy: Policy | None = None
    exam: str | None = None
    spacing_mm: str | None = None
    force_spacing: bool = False
    region: int | None = None
    plane_confirmed: bool = False
    out: str | None = None
    masks: Path | None = None
    record: Path | None = None
    state: Path | None = None
    config: Path | None = None
    fps: float | None = None
    limit: int | None = None
    threads: int = 1


class Percentiles(msgspec.Struct, frozen=True):
    p50: float | None
    p99: float | None


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `run --json` prints."""

    offered: int
    processed: int
    dropped: int
    findings: int
    withheld: int
    fps: float
    age_ms: Percentiles
    stages_ms: dict[str, float | None]  # medians
    first_finding_s: float | None  # from the start of the command
    exam_ids: list[str]
    out: str | None
    model: str
    precision: str
    backend: str
    stopped: bool  # by a signal
    problems: list[str] = field(default_factory=list)  # bad frames, a source that was lost: exit 1


def run(options: RunOptions, progress: Callable[[str], None] | None = None) -> RunReport:
    """Runs a source to its end, to `--limit` or to a signal. What was reported is on disk whatever happens.

    Raises ConfigError before anything is written; a source lost on the way and bad frames are told in
    `problems`.
    """
    _check(options)
    with ExitStack() as stack:
        source = stack.enter_context(
            open_source(
                options.source,
                fps=options.fps,
                region=options.region,
                spacing_mm=parse_spacing(options.spacing_mm),
                force_spacing=options.force_spacing,
                limit=options.limit,
            )
        )
        policy: Policy = options.policy or ("newest" if source.live else "every")
        if policy == "every" and source.live:
            raise ConfigError(f"--policy every: {options.source} is live and cannot wait; use newest")
        state = options.state or default_state()
        config = read_config(options.config, state)
        model = load_model(options.model)
        backend = open_backend(model, options.backend, options.precision, options.threads)
        stack.callback(backend.close)
        pipeline = build_pipeline(model, backend, plane_confirmed=options.plane_confirmed)
        if policy == "newest":
            pipeline.freeze_watch = FreezeWatch()
        journal = stack.enter_context(open_journal(state, config))
        counters = Counters()
        reporter = Reporter(
            journal=journal,
            maker=FindingMaker(model_used(pipeline), journal.pseudonym),
            exams=ExamTracker(options.exam, journal.pseudonym),
            policy=policy,
            counters=counters,
            out=stack.enter_context(open_out(options.out)),
            capture=config.capture,
        )
        pictures = PictureSink(options.masks, options.record)
        stream = Stream(
            source=source,
            pipeline=pipeline,
            reporter=reporter,
            policy=policy,
            counters=counters,
            paced=policy == "newest" and options.fps != 0,
        )
        problems = _Problems()
        stream.on_result = _listener(problems, pictures, counters, progress)
        with stop_on_signals() as stopped:
            stream.stop = stopped
            try:
                stream.run()
            except JournalError:
                raise
            except EdgeError as lost:
                problems.add(str(lost))
        problems.lines[:0] = journal.notices
    return _report(options, counters, reporter, model_used(pipeline), stopped.is_set(), problems.lines)


def _check(options: RunOptions) -> None:
    if options.fps is not None and not 0 <= options.fps <= 1000:
        raise ConfigError(f"--fps {options.fps:g}: want 0 (unpaced) to 1000")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: want 1 or more")


def parse_spacing(text: str | None) -> Spacing | None:
    """`ROW,COL` as an operator's spacing. Raises ConfigError."""
    if text is None:
        return None
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError as exc:
        raise ConfigError(
            f"--spacing-mm {text!r}: want ROW,COL in mm per pixel, for example 0.154,0.154"
        ) from exc
    return Spacing(row, column, SpacingSource.OPERATOR)


@contextmanager
def open_out(path: str | None) -> Iterator[BinaryIO | None]:
    """The stream for JSON lines: a file that is begun anew, stdout for `-`, none. Raises ConfigError."""
    if path is None:
        yield None
    elif path == "-":
        with open(1, "wb", closefd=False) as stdout:
            yield stdout
    else:
        try:
            file = Path(path).open("wb")  # noqa: SIM115 - closed below
        except OSError as exc:
            raise ConfigError(
                f"--out {path}: cannot be written ({exc.strerror}); name a file in an existing folder"
            ) from exc
        with file:
            yield file


class _Problems:
    """What a person must hear of at the end; the first few in full."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)


def _listener(
    problems: _Problems, pictures: PictureSink, counters: Counters, progress: Callable[[str], None] | None
) -> Callable[[Result], None]:
    """What happens with a result after its commit: pictures, a note of a bad frame, a line of progress."""
    told_ns = 0

    def on_result(result: Result) -> None:
        nonlocal told_ns
        if result.error is not None:
            problems.add(str(result.error))
        pictures.keep(result)
        now_ns = clock.monotonic_ns()
        if progress is not None and now_ns - told_ns > PROGRESS_EVERY_NS:
            told_ns = now_ns
            progress(
                f"{counters.processed} frames  {counters.fps():.1f}/s  {counters.findings} findings  {headline(result)}"
            )

    return on_result


def headline(result: Result) -> str:
    """A result in a few words: its first measurement, or why there is none."""
    for measurement in result.measurements:
        if measurement.value is not None:
            return f"{measurement.name.value} {measurement.value:.1f} {measurement.unit} ({measurement.status.value})"
    return f"withheld: {', '.join(reason.value for reason in result.reasons)}"


def _report(
    options: RunOptions,
    counters: Counters,
    reporter: Reporter,
    model: Any,
    stopped: bool,
    problems: list[str],
) -> RunReport:
    return RunReport(
        offered=counters.offered,
        processed=counters.processed,
        dropped=counters.dropped,
        findings=counters.findings,
        withheld=counters.withheld,
        fps=round(counters.fps(), 2),
        age_ms=Percentiles(counters.age_ms.percentile(50), counters.age_ms.percentile(99)),
        stages_ms={name: series.percentile(50) for name, series in counters.stages_ms.items()},
        first_finding_s=None
        if counters.first_finding_ns is None
        else clock.since_process_start_s(counters.first_finding_ns),
        exam_ids=reporter.exam_ids,
        out=options.out,
        model=f"{model.name} {model.version} {model.sha256[:12]}",
        precision=model.precision,
        backend=model.backend,
        stopped=stopped,
        problems=problems,
    )


def lines(report: RunReport) -> list[str]:
    """The report for a person."""
    if report.out == "-":
        return []
    age = (
        f"age p50 {report.age_ms.p50:.1f} ms, p99 {report.age_ms.p99:.1f} ms"
        if report.age_ms.p50 is not None
        else "no result"
    )
    return [
        f"{report.model}, {report.precision} on {report.backend}",
        f"{report.offered} frames offered = {report.processed} processed + {report.dropped} dropped, {report.fps:.1f}/s, {age}",
        f"{report.findings} findings reported, {report.withheld} of them withheld, exams: {', '.join(report.exam_ids) or 'none'}",
        *([f"written to {report.out}"] if report.out else []),
        "Research use only. Not a medical device.",
    ]
