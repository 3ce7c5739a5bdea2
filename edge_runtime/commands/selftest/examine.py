"""One opened model, taken through every stage to the disk and back. Each function is one stage's checks.

The findings that are judged are those read back from the journal: what is wrong anywhere on the way is seen there.
Knows no files of a model and no flags.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime import clock
from edge_runtime.build.gate_frames import has_gate_set, load_gate_set
from edge_runtime.build.readings import Row, as_held, read_frames, rows_of
from edge_runtime.codes import SourceKind, Status
from edge_runtime.commands.selftest.frames import PHANTOMS, Case, cases, tolerances
from edge_runtime.commands.selftest.report import Check, failed, passed, skipped
from edge_runtime.errors import EdgeError, FrameError, JournalError
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.frames.source import Closeable
from edge_runtime.infer.model import GateSpec
from edge_runtime.pipeline import Pipeline
from edge_runtime.reporting import Reporter, maker_for
from edge_runtime.stream import Stream
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.masks import as_reported
from edge_runtime.sync.outbox import Outbox
from edge_runtime.telemetry import Counters
from edge_runtime.types import BadFrame, Finding, Frame, canonical

GATE_FRAMES_SEEN = 6
TIMED = 10  # frames
EXAM = "selftest"


def examine(pipeline: Pipeline, state: Path | None) -> tuple[list[Check], float | None]:
    """(every check of an opened model, milliseconds of a frame); the pipeline stays the caller's.

    `state` is an empty directory for its journal; None: there is none, and what needs one is skipped.
    """
    checks: list[Check] = []
    manifest = pipeline.model.manifest
    try:
        shown = cases(manifest.anatomy, next(iter(manifest.modality), None))
    except EdgeError as exc:
        return [failed("source", "the phantom frames", str(exc))], None
    checks.append(passed("source", f"{len(shown)} phantom frames and patterns, drawn and read"))
    frame_ms: float | None = None
    try:
        checks += _infer(pipeline, shown)
        checks.append(_not_a_number(pipeline, shown[0].frame))
        checks += _findings(pipeline, shown, state)
        checks += _gate(pipeline)
        frame_ms = _frame_ms(pipeline, shown[0].frame)
        checks.append(_speed(frame_ms, manifest.selftest.max_frame_ms))
    except EdgeError as exc:
        checks.append(failed("infer", "an answer for every frame", str(exc)))
    return checks, frame_ms


# ---------------------------------------------------------------- the backend


def _infer(pipeline: Pipeline, shown: Sequence[Case]) -> Iterator[Check]:
    """Each slot is given two frames in turn: an answer must be its own frame's, and the same every time."""
    one, other = shown[0].frame, shown[-2].frame  # the last but one is black
    slots = len(pipeline.backend.slots)
    given = [one, one, *([other, one] * slots)]
    answers = [_answer(pipeline, frame) for frame in given]
    firsts = [answer for answer, frame in zip(answers, given, strict=True) if frame is one]
    others = [answer for answer, frame in zip(answers, given, strict=True) if frame is other]
    wanted = "for the same frame the same answer, for another frame another"
    if len(set(firsts)) > 1 or len(set(others)) > 1:
        yield failed("infer", wanted, f"{len(set(firsts + others))} answers to 2 frames: not its own frame's")
    elif firsts[0] == others[0]:
        yield failed("infer", wanted, "one answer to both")
    else:
        yield passed("infer", f"{len(given)} inferences over {slots} slots, each the answer to its own frame")


def _answer(pipeline: Pipeline, frame: Frame) -> bytes:
    """All outputs for a frame, as they lie in the slot."""
    flight = pipeline.start(frame)
    try:
        pipeline.backend.wait(flight.slot)
        outputs = flight.slot.outputs
        return b"".join(np.ascontiguousarray(outputs[name]).tobytes() for name in sorted(outputs))
    finally:
        pipeline.backend.release(flight.slot)


def _not_a_number(pipeline: Pipeline, frame: Frame) -> Check:
    """An answer with one NaN in it must not become a mask."""
    flight = pipeline.start(frame)
    try:
        pipeline.backend.wait(flight.slot)
        outputs: dict[str, NDArray[Any]] = {name: out.copy() for name, out in flight.slot.outputs.items()}
    finally:
        pipeline.backend.release(flight.slot)
    for output in outputs.values():
        if output.dtype.kind == "f":
            output.flat[output.size // 2] = np.nan
    try:
        pipeline.postprocess.read(outputs, flight.geometry)
    except FrameError:
        return passed("postprocess", "an answer that is not a number is refused")
    return failed("postprocess", "an answer that is not a number refused", "a mask of it")


# ---------------------------------------------------------------- to the disk and back


class _Shown(Closeable):
    """The frames of a selftest as a source."""

    kind = SourceKind.PHANTOM
    live = False

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames, self.length = frames, len(frames)

    def frames(self) -> Iterator[Frame | BadFrame]:
        yield from self._frames

    def due_s(self, index: int) -> float:
        return 0.0


def _findings(pipeline: Pipeline, shown: Sequence[Case], state: Path | None) -> Iterator[Check]:
    """The frames through the product's own stream into a journal; what is read back is judged."""
    if state is None:
        yield skipped("finding", "nowhere to record")
        return
    try:
        reported = _record(pipeline, shown, state)
        kept = _read_back(state)
    except JournalError as exc:
        yield failed("journal", "findings that are committed and read back", str(exc))
        return
    if kept != reported:
        same = sum(ours == theirs for ours, theirs in zip(kept, reported, strict=False))
        yield failed(
            "journal", f"{len(reported)} findings read back as they were reported", f"{same} of them"
        )
        return
    yield passed("journal", f"{len(kept)} findings committed, synchronised, and read back byte for byte")
    found = [msgspec.json.decode(line, type=Finding) for line in kept]
    if len(found) != len(shown):
        yield failed("finding", f"{len(shown)} findings", str(len(found)))
        return
    yield from _values(pipeline, shown, found)
    yield _no_numbers(shown, found)
    first, again = canonical(found[0]), canonical(found[-1])
    if first == again:
        yield passed("finding", "the same frame twice gives the same bytes")
    else:
        yield failed("finding", "for the same frame the same bytes", "a finding that differs")


def _record(pipeline: Pipeline, shown: Sequence[Case], state: Path) -> list[bytes]:
    """The lines that were reported, one a frame. Raises JournalError and what ends a stream."""
    out = io.BytesIO()
    with Journal.open(state, reserve_bytes=0) as journal:
        reporter = Reporter(
            journal=journal,
            maker=maker_for(pipeline, journal.pseudonym),
            exams=ExamTracker(EXAM, journal.pseudonym),
            policy="every",
            counters=Counters(),
            out=out,
        )
        frames = [case.frame for case in shown]
        Stream(_Shown(frames), pipeline, reporter, "every", reporter.counters, paced=False).run()
    return out.getvalue().splitlines()


def _read_back(state: Path) -> list[bytes]:
    with Outbox(state, reading=True) as outbox:
        return [row.body for row in as_reported(holdings.records(outbox)) if row.kind == "finding"]


def _values(pipeline: Pipeline, shown: Sequence[Case], found: Sequence[Finding]) -> Iterator[Check]:
    """Every value whose truth is known, against the tolerance of the model."""
    manifest = pipeline.model.manifest
    if manifest.anatomy not in PHANTOMS:
        yield skipped("measure", f"no phantom of {manifest.anatomy}: its values were held against nothing")
        return
    limits = tolerances(manifest)
    worst, count = 0.0, 0
    for case, finding in zip(shown, found, strict=True):
        values = {measurement.name.value: measurement for measurement in finding.measurements}
        known = case.known or {}
        for name, limit in limits.items():
            truth, measurement = known.get(name), values.get(name)
            if truth is None:
                continue
            value = None if measurement is None else measurement.value
            wanted = f"{name.replace('_', ' ')} {truth:g} within {100 * limit:g} % ({case.what})"
            if value is None:
                why = ", ".join(reason.value for reason in finding.reasons) or "no such value"
                yield failed("measure", wanted, f"withheld: {why}")
            elif not abs(value / truth - 1) <= limit:  # also NaN
                yield failed("measure", wanted, f"{value:.2f}, {100 * (value / truth - 1):+.1f} %")
            else:
                worst, count = max(worst, abs(value / truth - 1)), count + 1
    if count:
        yield passed(
            "measure", f"{count} known values within their tolerance, at most {100 * worst:.2f} % off"
        )


def _no_numbers(shown: Sequence[Case], found: Sequence[Finding]) -> Check:
    """What shows nothing must be withheld."""
    nothing = [(case, finding) for case, finding in zip(shown, found, strict=True) if case.known is None]
    wrong = [case.what for case, finding in nothing if finding.status is not Status.WITHHELD]
    if wrong:
        return failed("finding", "no number where there is nothing to measure", f"one of: {', '.join(wrong)}")
    return passed("finding", f"{', '.join(case.what for case, _ in nothing)}: no number")


# ---------------------------------------------------------------- the gate's frames, and the time


def _gate(pipeline: Pipeline) -> Iterator[Check]:
    """A few of the frames by which engines are accepted, against what fp32 said of them."""
    model = pipeline.model
    if not has_gate_set(model):
        yield skipped("gate", "the model has no gate frames")
        return
    try:
        kept = load_gate_set(model)
    except EdgeError as exc:
        yield failed("gate", "its gate frames", str(exc))
        return
    spec, count = model.manifest.gate, len(kept.frames)
    some = sorted({number * (count - 1) // (GATE_FRAMES_SEEN - 1) for number in range(GATE_FRAMES_SEEN)})
    reference = [kept.reference[k] for k in some]
    rows = rows_of(reference, read_frames(pipeline, [kept.frames[k] for k in some]), None, spec)
    bad = [text for row in rows for text in _complaints(row, spec, may_lose=spec.max_lost * count >= 1)]
    wanted = "on stored frames what fp32 said of them, within the gate's limits"
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield failed("gate", wanted, f"{bad[0]}{more}")
    else:
        yield passed("gate", f"{len(rows)} stored frames agree with fp32 within the gate's limits")


def _complaints(row: Row, spec: GateSpec, may_lose: bool) -> Iterator[str]:
    """What is wrong with one stored frame; with `may_lose` it may be withheld although fp32 shows it."""
    name = row.reference.name
    if row.candidate.shown and not row.reference.shown:
        yield f"{name} shown, fp32 withholds it"
    elif row.reference.shown and not row.candidate.shown and not may_lose:
        yield f"{name} withheld, fp32 shows it"
    elif row.judged and not (row.boundary is not None and row.boundary <= spec.max_boundary_cells):
        away = "missing" if row.boundary is None else f"{row.boundary:.1f} cells away"
        yield f"{name} with its outline {away}"
    for value, tolerance in spec.measurement.items():
        off, limit = row.counted.get(value), as_held(tolerance, tolerance.max)
        if row.judged and value in row.values and not (off is not None and off <= limit):
            away = "missing" if off is None else f"{off:.3g} away, limit {limit:.3g}"
            yield f"{name} with its {value.replace('_', ' ')} {away}"


def _frame_ms(pipeline: Pipeline, frame: Frame) -> float:
    """One frame through all stages, median."""
    spent = []
    for _ in range(TIMED):
        start_ns = clock.monotonic_ns()
        pipeline.step(frame)
        spent.append((clock.monotonic_ns() - start_ns) / 1e6)
    return round(median(spent), 3)


def _speed(frame_ms: float, limit_ms: float) -> Check:
    came = f"{frame_ms:.1f} ms a frame"
    if frame_ms <= limit_ms:
        return passed("speed", came)
    return failed("speed", f"at most {limit_ms:g} ms a frame", came)
