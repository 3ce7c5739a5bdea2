"""Opens what the flags name and runs the stream; what a person should know meanwhile is said at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from edge_runtime import clock
from edge_runtime.build.precision import open_gated
from edge_runtime.codes import SpacingSource
from edge_runtime.commands.run.pictures import PictureSink
from edge_runtime.commands.run.report import RunReport, headline, report_of
from edge_runtime.commands.shortfall import Shortfalls
from edge_runtime.commands.state import default_state, open_journal
from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.config import Config, read_config
from edge_runtime.errors import ConfigError, EdgeError, SelftestError
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.frames.source import Source, open_source
from edge_runtime.infer.model import load_model
from edge_runtime.measure.profile import read_profile
from edge_runtime.measure.quality import FreezeWatch
from edge_runtime.pipeline import Pipeline, Result, build_pipeline
from edge_runtime.reporting import Policy, Reporter, maker_for
from edge_runtime.stream import Stream
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.topics import check_level
from edge_runtime.telemetry import Counters
from edge_runtime.types import Spacing

PROGRESS_EVERY_NS = 200_000_000
TOLD_IN_FULL = 20  # bad frames; the rest are counted


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
    overlays: Path | None = None
    record: Path | None = None
    state: Path | None = None
    config: Path | None = None
    fps: float | None = None
    limit: int | None = None
    threads: int = 1
    profile: Path | None = None
    selftest: bool = False


@dataclass(slots=True)
class Problems:
    """What makes the command exit 1 although its findings stand."""

    lines: list[str]
    more: int = 0

    def add(self, line: str) -> None:
        if len(self.lines) < TOLD_IN_FULL:
            self.lines.append(line)
        else:
            self.more += 1

    def told(self) -> list[str]:
        return [*self.lines, f"{self.more} more frames"] if self.more else self.lines


@dataclass(slots=True)
class Notices:
    """What the journal wants a person to know: said when it comes, not when the run is over.

    Where its database was set aside at the start, what it said by then is a problem of the run instead: told once.
    """

    say: Callable[[str], None]
    opening: list[str] | None = field(default_factory=list)

    def hear(self, line: str) -> None:
        if self.opening is None:
            self.say(line)
        else:
            self.opening.append(line)

    def opened(self, journal: Journal) -> Problems:
        heard, self.opening = self.opening or [], None
        if journal.set_aside is not None:
            return Problems(heard)
        for line in heard:
            self.say(line)
        return Problems([])


def run(
    options: RunOptions,
    progress: Callable[[str], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunReport:
    """Runs a source to its end, to `--limit` or to a signal. What was reported is on disk whatever happens.

    Raises ConfigError before anything is written. What goes wrong later (bad frames, a source that is lost, a
    journal that is full: NOT RECORDING) is told in `problems`; `say` gets the journal's notices as they come.
    """
    with ExitStack() as stack, stop_on_signals() as stop:
        if options.exam is not None:
            check_level(options.exam, "--exam")
        source = stack.enter_context(_open_source(options))
        policy = _policy(options, source)
        state = options.state or default_state()
        _guard(options, state)
        config = read_config(options.config, state)
        if options.selftest:
            _require_selftest(options, state, say)
        pipeline = _open_pipeline(options, stack, progress)
        if policy == "newest":
            pipeline.freeze_watch = FreezeWatch()
        pictures = PictureSink(options.masks, options.record, options.overlays)
        notices = Notices(say)
        journal = stack.enter_context(open_journal(state, config, notices.hear))
        problems = notices.opened(journal)
        out = stack.enter_context(open_out(options.out))
        reporter = _reporter(options, policy, config, pipeline, journal, out)
        shortfalls = Shortfalls.of(pipeline.limits, pipeline.settings)
        stream = Stream(
            source=source,
            pipeline=pipeline,
            reporter=reporter,
            policy=policy,
            counters=reporter.counters,
            paced=policy == "newest" and options.fps != 0,
            on_result=_listener(problems, pictures, shortfalls, reporter.counters, progress),
            stop=stop,
        )
        try:
            stream.run()
        except EdgeError as lost:
            problems.add(str(lost))
        except BrokenPipeError:  # who read our stdout has left; what was reported is on disk
            if options.out != "-":
                raise
        return report_of(options.out, _written(options), reporter, shortfalls, stop.is_set(), problems.told())


def _written(options: RunOptions) -> tuple[str, ...]:
    """Where a person finds what was asked for; stdout is no place."""
    asked = (options.out, options.masks, options.record, options.overlays)
    return tuple(str(place) for place in asked if place is not None and place != "-")


def _require_selftest(options: RunOptions, state: Path, say: Callable[[str], None]) -> None:
    """Raises SelftestError where what is about to run does not measure phantoms right."""
    from edge_runtime.commands.selftest import Options, failures, selftest

    asked = Options(
        models=(options.model,),
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        state=state,
    )
    found = failures(selftest(asked, say))
    if found:
        more = f" (and {len(found) - 1} more: edge-runtime selftest)" if len(found) > 1 else ""
        raise SelftestError(f"--selftest failed, not started: {found[0]}{more}")


def _guard(options: RunOptions, state: Path) -> None:
    """No output may fall on the state, on the source or on its images. Raises ConfigError."""
    source = Path(options.source.partition(":")[2])
    images = {source.resolve(), (source / "images").resolve()} if source.exists() else set()
    if options.out not in (None, "-"):
        out = Path(str(options.out)).resolve()
        if state.resolve() in (out, *out.parents):
            raise ConfigError(f"--out {options.out}: lies in the state directory {state}; name another place")
        if out in images or (out.exists() and out.parent in images):
            raise ConfigError(f"--out {options.out}: is a file of the source; name another one")
    kept = {"--masks": options.masks, "--record": options.record, "--overlays": options.overlays}
    for flag, folder in kept.items():
        if folder is not None and folder.resolve() in {*images, state.resolve()}:
            raise ConfigError(
                f"{flag} {folder}: is the source's own folder or the state directory; name another one"
            )


def _open_source(options: RunOptions) -> Source:
    return open_source(
        options.source,
        fps=options.fps,
        region=options.region,
        spacing_mm=parse_spacing(options.spacing_mm),
        force_spacing=options.force_spacing,
        limit=options.limit,
    )


def _policy(options: RunOptions, source: Source) -> Policy:
    policy: Policy = options.policy or ("newest" if source.live else "every")
    if policy == "every" and source.live:
        raise ConfigError(f"--policy every: {options.source} is live and cannot wait; use newest")
    return policy


def _open_pipeline(options: RunOptions, stack: ExitStack, progress: Callable[[str], None] | None) -> Pipeline:
    model = load_model(options.model)
    profile = None if options.profile is None else read_profile(options.profile)
    if profile is not None:
        profile.require_model(model.manifest.name, model.sha256)
    backend = open_gated(model, options.backend, options.precision, options.threads, say=progress)
    stack.callback(backend.close)
    return build_pipeline(model, backend, plane_confirmed=options.plane_confirmed, profile=profile)


def _reporter(
    options: RunOptions,
    policy: Policy,
    config: Config,
    pipeline: Pipeline,
    journal: Journal,
    out: BinaryIO | None,
) -> Reporter:
    return Reporter(
        journal=journal,
        maker=maker_for(pipeline, journal.pseudonym),
        exams=ExamTracker(options.exam, journal.pseudonym),
        policy=policy,
        counters=Counters(),
        out=out,
        capture=config.capture,
    )


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
        if sys.stdout is None:
            raise ConfigError("--out -: stdout is closed")
        with open(1, "wb", closefd=False) as stdout:
            yield stdout
    else:
        try:
            file = Path(path).open("wb")  # noqa: SIM115 - closed below
        except OSError as exc:
            raise ConfigError(
                f"--out {path}: cannot be written ({exc.strerror}); name a file in an existing folder"
            ) from exc
        try:
            yield file
        finally:
            with suppress(OSError):  # a full disk: what could not be written was told when it was
                file.close()


def _listener(
    problems: Problems,
    pictures: PictureSink,
    shortfalls: Shortfalls,
    counters: Counters,
    progress: Callable[[str], None] | None,
) -> Callable[[Result], None]:
    """What happens with a result after its commit: pictures, a note of a bad frame, a line of progress."""
    told_ns = 0

    def on_result(result: Result) -> None:
        nonlocal told_ns
        shortfalls.add(result.reasons, result.found)
        if result.error is not None:
            problems.add(str(result.error))
        try:
            pictures.keep(result)
        except EdgeError as exc:  # a full disk must not end the recording of findings
            problems.add(str(exc))
        now_ns = clock.monotonic_ns()
        if progress is not None and now_ns - told_ns > PROGRESS_EVERY_NS:
            told_ns = now_ns
            progress(
                f"{counters.processed} frames  {counters.fps():.1f}/s  {counters.findings} findings  {headline(result)}"
            )

    return on_result
