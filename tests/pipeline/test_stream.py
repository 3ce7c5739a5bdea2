"""Frames through three threads: each accounted for, errors told, a stop that loses nothing."""

from __future__ import annotations

import io
import json
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import clock
from edge_runtime.codes import Kind, Reason, SourceKind, Status
from edge_runtime.errors import BackendError, FrameError, JournalError, SourceLostError
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.frames.memory import MemorySource
from edge_runtime.infer.backends.contract import Slot
from edge_runtime.infer.backends.null import NullBackend
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.pipeline import Pipeline, Result, build_pipeline
from edge_runtime.reporting import FindingMaker, Policy, Reporter, model_used
from edge_runtime.stream import Stream
from edge_runtime.sync.database import MIN_QUOTA_BYTES
from edge_runtime.sync.journal import Journal
from edge_runtime.telemetry import Counters
from edge_runtime.types import BadFrame, Frame, Origin

SHAPE = (240, 320)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)


class Failing(NullBackend):
    """The null backend, failing at frame `fails_at`."""

    fails_at = -1
    done = 0

    def wait(self, slot: Slot, /) -> None:
        super().wait(slot)
        self.done += 1
        if self.done == self.fails_at:
            raise BackendError("the processor has caught fire")


class Lost(MemorySource):
    """A source that is lost after some frames."""

    def frames(self) -> Iterator[Frame | BadFrame]:
        for count, frame in enumerate(super().frames()):
            if count == 5:
                raise SourceLostError("source: the cable was pulled after frame 5")
            yield frame


class Steps(threading.Event):
    """A stop that nobody sets, whose waits take no time: they move a clock of their own, and only when the frame
    before has been told. So however busy the machine is, each frame is seen, at its own time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = threading.Semaphore(1)  # nothing comes before the first frame
        self._now_ns = clock.monotonic_ns()

    def now_ns(self) -> int:
        return self._now_ns

    def told(self, result: Result) -> None:
        self._told.release()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert self._told.acquire(timeout=120), "a frame was never told"
        self._now_ns += round(timeout * 1e9)
        return False


@pytest.fixture
def backend() -> Failing:
    return Failing((192, 288), load_model("fetal_head"), 1)


@pytest.fixture
def pipeline(backend: Failing) -> Pipeline:
    return build_pipeline(load_model("fetal_head"), backend)


def stream(
    pipeline: Pipeline,
    source: MemorySource,
    state: Path,
    policy: Policy = "every",
    *,
    out: io.BytesIO | None = None,
    paced: bool = False,
) -> Stream:
    journal = Journal.open(state, reserve_bytes=0)
    counters = Counters()
    reporter = Reporter(
        journal=journal,
        maker=FindingMaker(model_used(pipeline), journal.pseudonym),
        exams=ExamTracker(None, journal.pseudonym),
        policy=policy,
        counters=counters,
        out=out,
    )
    return Stream(
        source=source, pipeline=pipeline, reporter=reporter, policy=policy, counters=counters, paced=paced
    )


def test_every_gives_one_finding_per_frame_and_drops_none(pipeline: Pipeline, tmp_path: Path) -> None:
    out = io.BytesIO()
    running = stream(pipeline, MemorySource(PICTURES, frames=200), tmp_path, out=out)
    running.run()
    counters = running.counters
    assert (counters.offered, counters.processed, counters.dropped, counters.findings) == (200, 200, 0, 200)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["source"]["frame_ids"][0].partition(".")[0] for line in lines] == [
        str(i) for i in range(200)
    ]
    assert [line["seq"] for line in lines] == list(
        range(2, 402, 2)
    )  # 1 is the exam's start, each mask is one too


def test_newest_never_waits_and_takes_the_newest_frame_next(tmp_path: Path) -> None:
    offered_all = threading.Event()

    class Held(NullBackend):
        def wait(self, slot: Slot, /) -> None:
            assert offered_all.wait(30), "the source waited for the inference"
            super().wait(slot)

    class Hasty(MemorySource):
        def frames(self) -> Iterator[Frame | BadFrame]:
            yield from super().frames()
            offered_all.set()

    model = load_model("fetal_head")
    out = io.BytesIO()
    pipeline = build_pipeline(model, Held((192, 288), model, 1))
    running = stream(pipeline, Hasty(PICTURES, frames=100), tmp_path, "newest", out=out)
    seen: list[int] = []
    running.on_result = lambda result: seen.append(result.frame.index)
    running.run()
    counters = running.counters
    assert len(seen) <= 2  # the one that was being computed, and the newest
    assert seen[-1] == 99
    assert (counters.offered, counters.processed, counters.dropped) == (100, len(seen), 100 - len(seen))
    (flushed,) = [json.loads(line) for line in out.getvalue().splitlines()]  # nothing was captured
    assert flushed["source"]["frame_ids"][0].startswith("99.")


def test_a_lost_source_is_told_and_what_came_before_is_reported(pipeline: Pipeline, tmp_path: Path) -> None:
    running = stream(pipeline, Lost(PICTURES, frames=50), tmp_path)
    with pytest.raises(SourceLostError, match="cable"):
        running.run()
    assert running.counters.findings == 5
    assert running.counters.offered == running.counters.processed + running.counters.dropped


def test_a_backend_that_fails_ends_the_run_with_its_cause(
    pipeline: Pipeline, backend: Failing, tmp_path: Path
) -> None:
    backend.fails_at = 4
    running = stream(pipeline, MemorySource(PICTURES, frames=50), tmp_path)
    with pytest.raises(BackendError, match="caught fire"):
        running.run()
    counters = running.counters
    assert counters.findings == 3
    assert counters.offered == counters.processed + counters.dropped


def test_a_full_journal_ends_the_run_and_keeps_what_was_reported(pipeline: Pipeline, tmp_path: Path) -> None:
    out = io.BytesIO()
    running = stream(pipeline, MemorySource(PICTURES, frames=2000), tmp_path, out=out)
    running.reporter.journal.close()
    running.reporter.journal = Journal.open(tmp_path, quota_bytes=MIN_QUOTA_BYTES, reserve_bytes=0)
    with pytest.raises(JournalError, match="NOT RECORDING"):
        running.run()
    counters = running.counters
    assert 0 < counters.findings < 2000
    assert len(out.getvalue().splitlines()) == counters.findings
    assert counters.offered == counters.processed + counters.dropped


def test_a_bug_in_a_listener_is_not_swallowed(pipeline: Pipeline, tmp_path: Path) -> None:
    def broken(result: Result) -> None:
        raise ZeroDivisionError("a bug")

    running = stream(pipeline, MemorySource(PICTURES, frames=20), tmp_path)
    running.on_result = broken
    with pytest.raises(ZeroDivisionError):
        running.run()


def test_a_bad_frame_is_a_withheld_finding_and_the_run_goes_on(pipeline: Pipeline, tmp_path: Path) -> None:
    class OneBad(MemorySource):
        def frames(self) -> Iterator[Frame | BadFrame]:
            for frame in super().frames():
                if frame.index != 2:
                    yield frame
                    continue
                error = FrameError("torn.png: not an image", Reason.FRAME_UNREADABLE)
                yield BadFrame(
                    2, clock.monotonic_ns(), Origin(SourceKind.FOLDER, "torn.png"), "2.none", error
                )

    out = io.BytesIO()
    running = stream(pipeline, OneBad(PICTURES, frames=5), tmp_path, out=out)
    running.run()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["reasons"] for line in lines][2] == ["frame_unreadable"]
    assert running.counters.bad_frames == 1
    assert running.counters.findings == 5


def test_a_stop_ends_a_paced_stream_at_once_with_a_finding(pipeline: Pipeline, tmp_path: Path) -> None:
    hour_between = MemorySource(PICTURES, frames=10, fps=1 / 3600)
    running = stream(pipeline, hour_between, tmp_path, "newest", paced=True)
    running.on_result = lambda result: running.stop.set()
    running.run()  # or the test's time is up before the hour is
    assert running.counters.findings == 1
    assert (running.counters.offered, running.counters.processed, running.counters.dropped) == (1, 1, 0)


class Visits(MemorySource):
    """Three frames of each subject."""

    def frames(self) -> Iterator[Frame | BadFrame]:
        for frame in super().frames():
            assert isinstance(frame, Frame)
            subject = f"subject {frame.index // 3}"
            yield replace(frame, origin=Origin(SourceKind.FOLDER, "still", subject=subject))


def test_each_exam_without_a_capture_reports_its_last_frame(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, steps = io.BytesIO(), Steps()
    monkeypatch.setattr(clock, "monotonic_ns", steps.now_ns)
    running = stream(pipeline, Visits(PICTURES, frames=9), tmp_path, "newest", out=out, paced=True)
    running.stop, running.on_result = steps, steps.told
    running.run()
    assert running.counters.processed == 9
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["kind"] for line in lines] == ["flush"] * 3
    assert [line["source"]["frame_ids"][0].partition(".")[0] for line in lines] == ["2", "5", "8"]
    assert len({line["exam_id"] for line in lines}) == 3


def test_a_steady_live_value_is_captured_once_in_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.frames.source import open_source

    model = load_model("fetal_head")
    pipeline = build_pipeline(model, open_backend(model, precision="fp32"))
    out = io.BytesIO()
    steps = Steps()
    monkeypatch.setattr(clock, "monotonic_ns", steps.now_ns)
    with open_source("phantom:fetal_head?hc_mm=250&frames=45&fps=30") as source:
        running = stream(pipeline, source, tmp_path, "newest", out=out, paced=True)
        running.stop, running.on_result = steps, steps.told
        running.run()
    pipeline.close()
    assert (running.counters.processed, running.counters.dropped) == (45, 0)
    (finding,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert finding["kind"] == Kind.AUTO_CAPTURE.value
    assert finding["source"]["frame_ids"][0].partition(".")[0] in ("15", "16")  # half a second held
    assert finding["status"] == Status.CAUTION.value
    assert finding["measurements"][0]["value"] == pytest.approx(250, rel=0.05)


def test_a_step_allocates_nothing_of_the_size_of_a_frame(tmp_path: Path) -> None:
    model = load_model("fetal_head")
    pipeline = build_pipeline(model, open_backend(model, precision="fp32"))
    pixels = np.random.default_rng(0).integers(0, 256, (540, 800), dtype=np.uint8)
    frames = [frame for frame in MemorySource(pixels[None], frames=110).frames() if isinstance(frame, Frame)]
    for frame in frames[:10]:
        pipeline.step(frame)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for frame in frames[10:]:
        pipeline.step(frame)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pipeline.close()
    assert after - before < 100_000, "100 steps left something behind"
    assert peak - before < 0.75 * pixels.size, "a step made an array of a frame's size"
