"""From results to findings: numbered, committed to the journal, and only then told to anyone.

One thread (the sink of `stream.py`) calls it. Results that arrived while the last commit ran go into the
next one together (group commit). Under `every` each frame is a finding; under `newest` a finding is a
capture, and a stream that ends without one reports its last frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from edge_runtime import clock
from edge_runtime.codes import Kind, Priority, Status
from edge_runtime.config import Capture
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.measure.capture import AutoCapture, exam_values
from edge_runtime.measure.findings import mask_records
from edge_runtime.pipeline import Pipeline, Result
from edge_runtime.sync.journal import Batch, Journal, Stamp
from edge_runtime.telemetry import Counters
from edge_runtime.types import (
    SCHEMA_VERSION,
    ExamEvent,
    Finding,
    Measurement,
    ModelUsed,
    Quality,
    SourceUsed,
    Timing,
    encode,
)

Policy = Literal["every", "newest"]


@dataclass(slots=True)
class FindingMaker:
    """Gives a result the form of a finding; pure but for the stamp it is given."""

    model: ModelUsed
    pseudonym: Callable[[str], str]

    def finding(self, result: Result, stamp: Stamp, exam_id: str, kind: Kind) -> Finding:
        origin = result.frame.origin
        study = None if origin.study_uid is None else self.pseudonym(origin.study_uid)
        mask = result.mask
        return Finding(
            schema_version=SCHEMA_VERSION,
            finding_id=clock.uuid7(),
            revision=1,
            supersedes=None,
            kind=kind,
            device_id=stamp.device_id,
            seq=stamp.seq,
            epoch=stamp.epoch,
            boot_id=stamp.boot_id,
            exam_id=exam_id,
            model=self.model,
            source=SourceUsed(
                kind=origin.kind,
                study_uid_pseudonym=study,
                frame_ids=(result.frame.frame_id,),
                name=origin.name,
            ),
            created_at=stamp.created_at,
            clock=stamp.clock,
            monotonic_ns=stamp.monotonic_ns,
            measurements=result.measurements,
            confidence=0.0 if mask is None else min(mask.confidence),
            quality=Quality(score=result.verdict.score, hint=result.verdict.hint),
            status=result.status,
            reasons=result.reasons,
            priority=Priority.ROUTINE,  # no shipped model can raise it
            masks=() if mask is None else mask_records(mask),
            timing=Timing(
                age_ms=round(result.age_ms, 3),
                stages_ms={name: round(ms, 3) for name, ms in result.stages_ms.items()},
            ),
        )


def model_used(pipeline: Pipeline) -> ModelUsed:
    """How a finding names the model that made it, with the precision that really ran."""
    manifest, backend = pipeline.model.manifest, pipeline.backend
    return ModelUsed(
        name=manifest.name,
        version=manifest.version,
        sha256=pipeline.model.sha256,
        artifact_sha256=pipeline.artifact_sha256,
        precision=backend.precision,
        backend=backend.name,
    )


@dataclass(slots=True)
class Reporter:
    """The one writer of a run: journal first, then `out`."""

    journal: Journal
    maker: FindingMaker
    exams: ExamTracker
    policy: Policy
    counters: Counters
    out: BinaryIO | None = None
    capture: Capture = field(default_factory=Capture)
    exam_ids: list[str] = field(default_factory=list)
    _auto: AutoCapture = field(init=False)
    _last: Result | None = None  # under `newest`: what a flush would report
    _reported: int = 0  # findings of the open exam
    _captured: dict[str, list[tuple[Measurement, ...]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._auto = self._new_capture()

    def report(self, results: Sequence[Result]) -> None:
        """Commits what `results` call for in one transaction, then writes it to `out`. Raises JournalError."""
        wanted = [(result, kind) for result in results if (kind := self._kind_of(result)) is not None]
        changes = any(self.exams.would_change(result.frame.origin) for result in results)
        if not wanted and not changes:
            return
        lines: list[bytes] = []
        findings: list[Finding] = []
        with self.journal.batch() as batch:
            for result in results:
                self._follow_exam(batch, result)
                kind = next((kind for other, kind in wanted if other is result), None)
                if kind is not None:
                    finding, line = self._add(batch, result, kind)
                    findings.append(finding)
                    lines.append(line)
        self._tell(findings, lines)

    def close(self) -> None:
        """Flushes a stream that ended without a capture, and ends the open exam. Raises JournalError."""
        lines: list[bytes] = []
        findings: list[Finding] = []
        if self.exams.open_exam is None and self._last is None:
            return
        with self.journal.batch() as batch:
            if self.policy == "newest" and self._last is not None and self.counters.findings == 0:
                self._follow_exam(batch, self._last)
                finding, line = self._add(batch, self._last, Kind.FLUSH)
                findings.append(finding)
                lines.append(line)
            self._end_exam(batch)
        self._tell(findings, lines)

    def _kind_of(self, result: Result) -> Kind | None:
        """Why this result is to be reported; None when it is only a live value."""
        if self.policy == "every":
            return Kind.FRAME
        self._last = result
        fires = self._auto.see(
            result.measurements, result.status, result.verdict.score, result.frame.captured_ns
        )
        return Kind.AUTO_CAPTURE if fires else None

    def _add(self, batch: Batch, result: Result, kind: Kind) -> tuple[Finding, bytes]:
        exam_id = self.exams.open_exam
        assert exam_id is not None, "an exam is opened before its findings"
        finding = self.maker.finding(result, batch.stamp(), exam_id, kind)
        line = encode(finding)
        batch.add(finding, line)
        self._reported += 1
        if finding.status is not Status.WITHHELD:
            self._captured[exam_id].append(finding.measurements)
        return finding, line

    def _follow_exam(self, batch: Batch, result: Result) -> None:
        """Ends and starts exams as the frame's origin says; temporal state begins anew."""
        if not self.exams.would_change(result.frame.origin):
            return
        self._end_exam(batch)
        exam_id = self.exams.enter(result.frame.origin)
        if exam_id not in self.exam_ids:
            self.exam_ids.append(exam_id)
        self._auto = self._new_capture()
        self._event(batch, "exam_started", exam_id)

    def _end_exam(self, batch: Batch) -> None:
        exam_id = self.exams.leave()
        if exam_id is not None:
            self._event(batch, "exam_ended", exam_id)

    def _event(self, batch: Batch, event: Literal["exam_started", "exam_ended"], exam_id: str) -> None:
        stamp = batch.stamp()
        ended = event == "exam_ended"
        record = ExamEvent(
            schema_version=SCHEMA_VERSION,
            event_id=clock.uuid7(),
            event=event,
            device_id=stamp.device_id,
            seq=stamp.seq,
            epoch=stamp.epoch,
            boot_id=stamp.boot_id,
            exam_id=exam_id,
            created_at=stamp.created_at,
            clock=stamp.clock,
            monotonic_ns=stamp.monotonic_ns,
            findings=self._reported if ended else None,
            summary=exam_values(self._captured.pop(exam_id, [])) if ended else (),
        )
        self._reported = 0
        batch.add(record, encode(record))

    def _tell(self, findings: Sequence[Finding], lines: Sequence[bytes]) -> None:
        """Says what was committed."""
        counters = self.counters
        if findings and counters.first_finding_ns is None:
            counters.first_finding_ns = clock.monotonic_ns()
        counters.findings += len(findings)
        counters.withheld += sum(finding.status is Status.WITHHELD for finding in findings)
        if self.out is not None and lines:
            self.out.write(b"".join(line + b"\n" for line in lines))
            self.out.flush()

    def _new_capture(self) -> AutoCapture:
        limits = self.capture
        return AutoCapture(
            min_score=limits.min_score, hold_s=limits.hold_s, gap_s=limits.gap_s, spread=limits.spread
        )
