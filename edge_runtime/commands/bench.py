"""`edge-runtime bench`: how fast this machine is, end to end, against the bare backend in interleaved
rounds.

single-stream  one frame at a time, frame in memory to finding; latency is its time
stream         frames at `--fps` (30), newest wins; latency is the age of each result
offline        as fast as the pipeline takes them, every frame a committed finding; latency is the age in the queues
overload       twice as many frames as one-at-a-time could take, newest wins

`bare` is the backend alone, its input already in the slot. Rounds alternate and medians are quoted: the
machine may be busy with something else.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from edge_runtime import clock
from edge_runtime.build.precision import open_gated
from edge_runtime.codes import Clock, Kind, SourceKind
from edge_runtime.config import Capture
from edge_runtime.errors import ConfigError
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.frames.source import Closeable, frame_id, open_source
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import Pipeline, Result, build_pipeline
from edge_runtime.reporting import FindingMaker, Policy, Reporter, model_used
from edge_runtime.stream import Stream
from edge_runtime.sync.journal import Journal, Stamp
from edge_runtime.telemetry import Counters, Series
from edge_runtime.types import Frame, encode

DEFAULT_SOURCE = "phantom:fetal_head?frames=24"
ROUNDS = 5
WARM_UP = 10
IN_MEMORY = 64  # distinct frames kept


class Spread(msgspec.Struct, frozen=True):
    p50: float
    p90: float
    p99: float
    max: float


class Bare(msgspec.Struct, frozen=True):
    fps: float
    p50_ms: float


class Age(msgspec.Struct, frozen=True):
    p50: float
    p99: float


class Rss(msgspec.Struct, frozen=True):
    start: float
    end: float


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `bench --json` prints."""

    scenario: str
    model: str
    sha256: str
    backend: str
    precision: str
    threads: int
    frames: int
    size_hw: tuple[int, int]
    fps: float
    offered_fps: float | None
    latency_ms: Spread
    bare: Bare
    of_bare: float  # fps / bare fps
    age_ms: Age
    offered: int
    processed: int
    dropped: int
    rss_mb: Rss
    cpu_ms_per_frame: float
    stages_ms: dict[str, float]
    device: dict[str, Any]


class LoopedFrames(Closeable):
    """Frames in memory, over and over, each hashed and numbered anew as a source would."""

    live = False
    kind = SourceKind.MEMORY

    def __init__(self, frames: list[Frame], count: int, fps: float | None) -> None:
        self._frames, self.length, self._fps = frames, count, fps

    def frames(self) -> Iterator[Frame]:
        for index in range(self.length):
            frame = self._frames[index % len(self._frames)]
            yield replace(
                frame, index=index, captured_ns=clock.monotonic_ns(), frame_id=frame_id(index, frame.pixels)
            )

    def due_s(self, index: int) -> float:
        return index / self._fps if self._fps else 0.0


def bench(
    model: str,
    source: str | None = None,
    scenario: str = "stream",
    fps: float | None = None,
    frames: int | None = None,
    seconds: float | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
) -> BenchReport:
    """Measures one scenario. Raises ConfigError for a source without a frame."""
    loaded = load_model(model)
    pipeline = build_pipeline(loaded, open_gated(loaded, backend, precision, threads))
    try:
        pictures = _load(source or DEFAULT_SOURCE)
        for index in range(WARM_UP):
            pipeline.step(pictures[index % len(pictures)])
        service_s = _service_s(pipeline, pictures)
        offered_fps = {"stream": fps or 30.0, "overload": fps or 2 / service_s}.get(scenario)
        if frames is not None and seconds is not None:
            raise ConfigError("--frames and --seconds: give one of them")
        rate = offered_fps or 1 / service_s
        count = frames or (max(ROUNDS, int(seconds * rate)) if seconds else 500)
        return _Bench(pipeline, pictures, scenario, offered_fps, max(1, count // ROUNDS)).report()
    finally:
        pipeline.close()


class _Bench:
    """The rounds of one scenario, and what was counted in them."""

    def __init__(
        self,
        pipeline: Pipeline,
        pictures: list[Frame],
        scenario: str,
        offered_fps: float | None,
        per_round: int,
    ) -> None:
        self._pipeline, self._pictures, self._scenario = pipeline, pictures, scenario
        self._offered_fps, self._per_round = offered_fps, per_round
        self._forget()

    def _forget(self) -> None:
        """Begins to count anew."""
        self._latency_ms = Series()
        self._stages_ms: dict[str, Series] = {}
        self._fps: list[float] = []
        self._bare_fps: list[float] = []
        self._bare_ms = Series()
        self._counted = Counters()
        self._cpu_s = 0.0

    def report(self) -> BenchReport:
        self._scenario_round()  # warms files, threads and caches; not counted
        self._forget()
        start_mb = rss_mb()
        for _ in range(ROUNDS):
            self._bare_round()
            self._scenario_round()
        used, latency = model_used(self._pipeline), self._latency_ms
        fps, bare_fps = median(self._fps), median(self._bare_fps)
        return BenchReport(
            scenario=self._scenario,
            model=used.name,
            sha256=used.sha256,
            backend=used.backend,
            precision=used.precision,
            threads=self._pipeline.backend.threads,
            frames=self._counted.processed,
            size_hw=self._pictures[0].size_hw,
            fps=fps,
            offered_fps=self._offered_fps,
            latency_ms=Spread(*(latency.percentile(q) for q in (50, 90, 99, 100))),
            bare=Bare(bare_fps, self._bare_ms.percentile(50)),
            of_bare=fps / bare_fps,
            age_ms=Age(latency.percentile(50), latency.percentile(99)),
            offered=self._counted.offered,
            processed=self._counted.processed,
            dropped=self._counted.dropped,
            rss_mb=Rss(start_mb, rss_mb()),
            cpu_ms_per_frame=1000 * self._cpu_s / max(1, self._counted.processed),
            stages_ms={name: spent.percentile(50) for name, spent in self._stages_ms.items()},
            device=device(self._pipeline.backend.device),
        )

    def _bare_round(self) -> None:
        backend = self._pipeline.backend
        start_ns = clock.monotonic_ns()
        for _ in range(self._per_round):
            one_ns = clock.monotonic_ns()
            slot = backend.acquire()
            backend.submit(slot)
            backend.wait(slot)
            backend.release(slot)
            self._bare_ms.add((clock.monotonic_ns() - one_ns) / 1e6)
        self._bare_fps.append(self._per_round / ((clock.monotonic_ns() - start_ns) / 1e9))

    def _scenario_round(self) -> None:
        before = self._counted.processed
        spent_s = self._one_at_a_time() if self._scenario == "single-stream" else self._streamed()
        self._fps.append((self._counted.processed - before) / spent_s)

    def _one_at_a_time(self) -> float:
        """Seconds of a round."""
        cpu_s, round_ns = time.process_time(), clock.monotonic_ns()
        maker = FindingMaker(model_used(self._pipeline), pseudonym=lambda text: text)
        for frame in LoopedFrames(self._pictures, self._per_round, None).frames():
            start_ns = clock.monotonic_ns()
            result = self._pipeline.step(frame)
            stamp = Stamp("bench", "0", clock.boot_id(), 1, clock.utc_now(), Clock.UNSYNCED, start_ns)
            encode(maker.finding(result, stamp, "bench", Kind.FRAME))
            self._latency_ms.add((clock.monotonic_ns() - start_ns) / 1e6)
            self._add_stages(result.stages_ms)
            self._counted.offered += 1
            self._counted.processed += 1
        self._cpu_s += time.process_time() - cpu_s
        return (clock.monotonic_ns() - round_ns) / 1e9

    def _streamed(self) -> float:
        """A whole run into a journal of its own, as `edge-runtime run` does it; seconds of the stream itself."""
        policy: Policy = "every" if self._scenario == "offline" else "newest"
        counters = Counters()
        with tempfile.TemporaryDirectory(prefix="edge-runtime-bench-") as folder:
            journal = Journal.open(Path(folder), reserve_bytes=0)
            reporter = Reporter(
                journal=journal,
                maker=FindingMaker(model_used(self._pipeline), journal.pseudonym),
                exams=ExamTracker("bench", journal.pseudonym),
                policy=policy,
                counters=counters,
                capture=Capture(),
            )
            stream = Stream(
                source=LoopedFrames(self._pictures, self._per_round, self._offered_fps),
                pipeline=self._pipeline,
                reporter=reporter,
                policy=policy,
                counters=counters,
                paced=policy == "newest",
                on_result=self._note,
            )
            cpu_s, start_ns = time.process_time(), clock.monotonic_ns()
            stream.run()
            spent_s = (clock.monotonic_ns() - start_ns) / 1e9
            self._cpu_s += time.process_time() - cpu_s
            journal.close()
        for name in ("offered", "processed", "dropped"):
            setattr(self._counted, name, getattr(self._counted, name) + getattr(counters, name))
        return spent_s

    def _note(self, result: Result) -> None:
        self._latency_ms.add(result.age_ms)
        self._add_stages(result.stages_ms)

    def _add_stages(self, stages_ms: dict[str, float]) -> None:
        for name, spent in stages_ms.items():
            self._stages_ms.setdefault(name, Series()).add(spent)


def _load(uri: str) -> list[Frame]:
    with open_source(uri, limit=IN_MEMORY) as source:
        found = [frame for frame in source.frames() if isinstance(frame, Frame)]
    if not found:
        raise ConfigError(f"--source {uri}: has no frame that can be read")
    return found


def _service_s(pipeline: Pipeline, pictures: list[Frame], rounds: int = 40) -> float:
    """The median time of one frame alone."""
    spent = []
    for index in range(rounds):
        start_ns = clock.monotonic_ns()
        pipeline.step(pictures[index % len(pictures)])
        spent.append((clock.monotonic_ns() - start_ns) / 1e9)
    return median(spent)


def rss_mb() -> float:
    """Resident memory of this process, MB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def device(processor: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def lines(report: BenchReport) -> list[str]:
    """The numbers for a person."""
    return [
        f"{report.scenario}: {report.model} ({report.sha256[:12]}), {report.precision} on {report.backend}, "
        f"{report.threads} thread(s), {report.size_hw[1]}x{report.size_hw[0]}, {report.device['processor']}",
        f"{report.fps:.1f} frames/s"
        + (
            f" of {report.offered_fps:.1f} offered"
            if report.offered_fps
            else f", {report.of_bare:.2f} of the bare backend's {report.bare.fps:.1f}"
        ),
        f"latency p50 {report.latency_ms.p50:.2f} ms, p90 {report.latency_ms.p90:.2f}, p99 {report.latency_ms.p99:.2f}, "
        f"max {report.latency_ms.max:.2f}; bare p50 {report.bare.p50_ms:.2f}",
        f"{report.offered} offered = {report.processed} processed + {report.dropped} dropped",
        "stages p50: " + ", ".join(f"{name} {spent:.2f} ms" for name, spent in report.stages_ms.items()),
        f"memory {report.rss_mb.start:.0f} to {report.rss_mb.end:.0f} MB, {report.cpu_ms_per_frame:.2f} ms of CPU per frame",
    ]
