"""Runs a pipeline over a source: three threads, two bounded hand-overs, every frame accounted for.

    source thread --(newest slot | short queue)--> inference thread --(short queue)--> sink thread

Under `newest` the source keeps its own pace and never waits: a frame that nobody took is replaced by the
next and counted as dropped. Under `every` the source waits. offered = processed + dropped exactly. However
a thread ends, the others finish what they hold and the caller gets the cause; a stop leaves everything that
was reported on disk.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from edge_runtime import clock
from edge_runtime.errors import EdgeError
from edge_runtime.frames.slot import Handover, LatestSlot, Mailbox, pump
from edge_runtime.frames.source import Source
from edge_runtime.pipeline import InFlight, Pipeline, Result, unusable
from edge_runtime.reporting import Policy, Reporter
from edge_runtime.telemetry import Counters
from edge_runtime.types import BadFrame, Frame

SWITCH_INTERVAL_S = (
    0.0005  # of the interpreter: with its 5 ms a busy sink held each inference up by that much
)
QUEUE = 2  # frames between source and inference under `every`
RESULTS = 64  # results between inference and sink: what one slow fsync may hold up
GROUP = 64  # findings in one commit
STUCK_S = 0.5  # how long a source may take to notice the end


@dataclass(slots=True)
class Stream:
    """One run of one source. `run` returns when the source has ended or `stop` was set."""

    source: Source
    pipeline: Pipeline
    reporter: Reporter
    policy: Policy
    counters: Counters
    paced: bool  # hand frames over at their own times
    on_result: Callable[[Result], None] | None = None  # called in the sink thread, after the commit
    stop: threading.Event = field(default_factory=threading.Event)
    _error: BaseException | None = None

    def run(self) -> None:
        """Raises what ended a thread, after everything that was processed has been reported."""
        frames: Mailbox[Frame | BadFrame] = LatestSlot() if self.policy == "newest" else Handover(QUEUE)
        results: Mailbox[Result] = Handover(RESULTS)
        source = threading.Thread(target=pump, args=(self._due(), frames), name="source", daemon=True)
        inference = threading.Thread(
            target=self._infer, args=(frames, results), name="inference", daemon=True
        )
        sink = threading.Thread(target=self._sink, args=(frames, results), name="sink", daemon=True)
        switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.counters.started_ns = clock.monotonic_ns()
        try:
            for thread in (source, inference, sink):
                thread.start()
            sink.join()
            inference.join()
            source.join(STUCK_S)  # it may be stuck in a driver
        finally:
            sys.setswitchinterval(switch_interval)
        unfinished = frames.taken - results.offered  # an error ended their inference
        self.counters.offered = frames.offered
        self.counters.dropped = frames.dropped + unfinished + results.dropped
        if self._error is not None:
            raise self._error

    def _due(self) -> Iterator[Frame | BadFrame]:
        """The source's frames until `stop`, each at its own time when paced."""
        start_ns = clock.monotonic_ns()
        for frame in self.source.frames():
            if self.paced:
                due_s = self.source.due_s(frame.index) - (clock.monotonic_ns() - start_ns) / 1e9
                self.stop.wait(max(0.0, due_s))
                frame = replace(frame, captured_ns=clock.monotonic_ns())
            if self.stop.is_set():
                return
            yield frame

    def _infer(self, frames: Mailbox[Frame | BadFrame], results: Mailbox[Result]) -> None:
        """Inference thread: what ends it is handed on behind the last result."""
        error: BaseException | None = None
        try:
            self._analyse(frames, results)
        except BaseException as exc:  # noqa: BLE001 - handed to the sink, not swallowed
            error = exc
        finally:
            frames.abandon()
            results.close(error)

    def _analyse(self, frames: Mailbox[Frame | BadFrame], results: Mailbox[Result]) -> None:
        """Frames to results, in order. Under `every` the next frames are prepared while one is computed;
        under `newest` a frame is taken only when it can run at once, so that it is as new as can be.
        """
        depth = 1 if self.policy == "newest" else len(self.pipeline.backend.slots)
        flying: deque[InFlight] = deque()
        while (frame := self._next(frames, flying, results)) is not None:
            if isinstance(frame, BadFrame):
                self._land(flying, results, 0)
                results.put(unusable(frame, frame.error))
                continue
            flying.append(self.pipeline.start(frame))
            if not self._land(flying, results, depth - 1):
                return
        self._land(flying, results, 0)

    def _next(
        self, frames: Mailbox[Frame | BadFrame], flying: deque[InFlight], results: Mailbox[Result]
    ) -> Frame | BadFrame | None:
        """The next frame. When the source was lost, what was begun is finished before its error goes on."""
        try:
            return frames.get()
        except EdgeError:
            self._land(flying, results, 0)
            raise

    def _land(self, flying: deque[InFlight], results: Mailbox[Result], left: int) -> bool:
        """Finishes frames, oldest first, until `left` are being computed; False when nobody takes results
        any more.
        """
        wanted = True
        while len(flying) > left:
            wanted = results.put(self.pipeline.finish(flying.popleft()))
        return wanted

    def _sink(self, frames: Mailbox[Frame | BadFrame], results: Mailbox[Result]) -> None:
        """Sink thread: commits what has come in since the last commit, then tells. Its end is everybody's."""
        try:
            try:
                while batch := results.take(GROUP):
                    self._report(batch)
            finally:
                self.reporter.close()
        except BaseException as exc:  # noqa: BLE001 - raised by run
            self._error = exc
        finally:
            results.abandon()
            frames.abandon()

    def _report(self, batch: list[Result]) -> None:
        for result in batch:
            self.counters.result(result.age_ms, result.stages_ms)
            self.counters.bad_frames += result.error is not None
        self.reporter.report(batch)
        if self.on_result is not None:
            for result in batch:
                self.on_result(result)
