"""From results to findings: numbered, committed to the journal, and only then told to anyone.

One thread (the sink of `stream.py`) calls it. Results that arrived while the last commit ran go into the
next one together (group commit). Under `every` each frame is a finding; under `newest` a finding is a
capture, and an exam that ends without one reports its last frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from edge_runtime import clock
from edge_runtime.codes import Kind, MeasurementName, Priority, Reason, Status
from edge_runtime.config import Capture
from edge_runtime.errors import OutputError
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.measure.capture import AutoCapture, ExamSummary
from edge_runtime.measure.findings import mask_records
from edge_runtime.pipeline import Pipeline, Result
from edge_runtime.records import Telemetry
from edge_runtime.sync.journal import Journal, Stamp
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.state import free_mb
from edge_runtime.telemetry import Counters
from edge_runtime.types import (
    Acquisition,
    ExamEvent,
    ExamValue,
    Finding,
    Measurement,
    ModelUsed,
    ProfileUsed,
    Quality,
    SourceUsed,
    Timing,
    encode,
)

Policy = Literal["every", "newest"]

TALLY_NS = 60 * 10**9  # between two tellings of what a run has done so far


@dataclass(slots=True)
class FindingMaker:
    """Gives a result the form of a finding; pure but for the stamp it is given."""

    model: ModelUsed
    pseudonym: Callable[[str], str]
    profile: ProfileUsed | None = None

    def finding(self, result: Result, stamp: Stamp, exam_id: str, kind: Kind) -> Finding:
        origin = result.frame.origin
        study = None if origin.study_uid is None else self.pseudonym(origin.study_uid)
        mask = result.mask
        return Finding(
            **stamp.head(),
            boot_id=stamp.boot_id,
            monotonic_ns=stamp.monotonic_ns,
            finding_id=clock.uuid7(),
            revision=1,
            supersedes=None,
            kind=kind,
            exam_id=exam_id,
            model=self.model,
            source=SourceUsed(
                kind=origin.kind,
                study_uid_pseudonym=study,
                frame_ids=(result.frame.frame_id,),
                name=origin.name,
            ),
            measurements=result.measurements,
            confidence=0.0 if mask is None else round(min(mask.confidence), 4),
            quality=Quality(score=result.verdict.score, hint=result.verdict.hint),
            status=result.status,
            reasons=result.reasons,
            priority=Priority.ROUTINE,  # no shipped model can raise it
            masks=() if mask is None else mask_records(mask),
            timing=Timing(
                age_ms=round(result.age_ms, 1),
                stages_ms={name: round(ms, 3) for name, ms in result.stages_ms.items()},
            ),
            acquisition=result.acquisition,
            profile=self.profile,
        )


def maker_for(pipeline: Pipeline, pseudonym: Callable[[str], str]) -> FindingMaker:
    """The maker of `pipeline`'s findings: they name its model and its site's profile."""
    return FindingMaker(model_used(pipeline), pseudonym, pipeline.profile)


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


@dataclass(frozen=True, slots=True)
class Change:
    """An exam begins or ends."""

    event: Literal["exam_started", "exam_ended"]
    exam_id: str
    findings: int | None = None
    summary: tuple[ExamValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A result becomes a finding."""

    result: Result
    exam_id: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Tally:
    """What the run did so far becomes telemetry."""

    ended: bool


Item = Change | Report | Tally


@dataclass(slots=True)
class Reporter:
    """The one writer of a run: what is to be recorded is planned first, then written in one transaction."""

    journal: Journal
    maker: FindingMaker
    exams: ExamTracker
    policy: Policy
    counters: Counters
    out: BinaryIO | None = None
    capture: Capture = field(default_factory=Capture)
    exam_ids: list[str] = field(default_factory=list)
    told: ExamSummary = field(default_factory=ExamSummary)  # of all that was reported
    last: dict[MeasurementName, Measurement] = field(default_factory=dict)  # the last that has a value
    reasons: Counter[Reason] = field(default_factory=Counter)
    acquired: Counter[bool] = field(default_factory=Counter)  # X-rays checked, by whether all was well
    last_acquired: Acquisition | None = None
    _auto: AutoCapture = field(init=False)
    _summary: ExamSummary = field(default_factory=ExamSummary)  # of the open exam
    _last: Result | None = None  # of the open exam under `newest`: what a flush would report
    _failed: bool = False
    _tally_due_ns: int = field(default_factory=lambda: clock.monotonic_ns() + TALLY_NS)

    def __post_init__(self) -> None:
        self._auto = self._new_capture()

    def report(self, results: Sequence[Result]) -> None:
        """Commits what `results` call for in one transaction, then writes it to `out`. Raises JournalError."""
        plan: list[Item] = []
        for result in results:
            exam_id = self._follow_exam(result, plan)
            kind = self._kind_of(result)
            if kind is not None:
                plan.append(Report(result, exam_id, kind))
                self._summary.add(result.measurements)
        if clock.monotonic_ns() >= self._tally_due_ns:
            plan.append(Tally(ended=False))
        self._commit(plan)

    def close(self) -> None:
        """Ends the open exam. Raises JournalError.

        After a commit that failed it does nothing: what was not recorded is not summed up.
        """
        if self._failed:
            return
        plan: list[Item] = []
        self._end_exam(plan)
        if self.counters.processed:
            plan.append(Tally(ended=True))
        self._commit(plan)

    def _follow_exam(self, result: Result, plan: list[Item]) -> str:
        """The exam of `result`; another than the open one ends that, and all that was remembered of it."""
        if self.exams.would_change(result.frame.origin):
            self._end_exam(plan)
            exam_id = self.exams.enter(result.frame.origin)
            if exam_id not in self.exam_ids:
                self.exam_ids.append(exam_id)
            plan.append(Change("exam_started", exam_id))
        assert self.exams.open_exam is not None, "enter opens one"
        return self.exams.open_exam

    def _end_exam(self, plan: list[Item]) -> None:
        """Ends the open exam, if there is one; its last frame is a finding where nothing was captured."""
        exam_id, summary, last = self.exams.leave(), self._summary, self._last
        if exam_id is not None:
            if last is not None and summary.findings == 0:
                plan.append(Report(last, exam_id, Kind.FLUSH))
                summary.add(last.measurements)
            plan.append(Change("exam_ended", exam_id, summary.findings, summary.values()))
        self._summary, self._auto, self._last = ExamSummary(), self._new_capture(), None

    def _kind_of(self, result: Result) -> Kind | None:
        """Why this result is to be reported; None when it is only a live value."""
        if self.policy == "every":
            return Kind.FRAME
        self._last = result
        fires = self._auto.see(
            result.measurements, result.status, result.verdict.score, result.frame.captured_ns
        )
        return Kind.AUTO_CAPTURE if fires else None

    def _commit(self, plan: Sequence[Item]) -> None:
        """Records the plan, all of it or nothing, and only then tells."""
        if not plan:
            return
        findings: list[Finding] = []
        lines: list[bytes] = []
        self._failed = True
        with self.journal.batch() as batch:
            for item in plan:
                record = self._record(item, batch.stamp())
                if isinstance(record, Finding):
                    findings.append(record)
                    if self.out is not None:  # there with its masks' pixels, which the journal holds apart
                        lines.append(encode(record) + b"\n")
                    add_finding(batch, record)
                else:
                    batch.add(record, encode(record))
        self._failed = False
        counters = self.counters
        if findings and counters.first_finding_ns is None:
            counters.first_finding_ns = clock.monotonic_ns()
        for finding in findings:
            counters.findings += 1
            counters.withheld += finding.status is Status.WITHHELD
            self.told.add(finding.measurements)
            self.last |= {one.name: one for one in finding.measurements if one.value is not None}
            self.reasons.update(finding.reasons)
            if finding.acquisition is not None:
                self.acquired[finding.acquisition.ok] += 1
                self.last_acquired = finding.acquisition
        if self.out is not None and lines:
            self._write(self.out, lines)

    def _write(self, out: BinaryIO, lines: Sequence[bytes]) -> None:
        try:
            out.write(b"".join(lines))
            out.flush()
        except BrokenPipeError:  # its reader has left: the command knows what that means
            raise
        except OSError as exc:
            raise OutputError(
                f"--out: cannot be written ({exc.strerror}); the findings are in the journal: edge-runtime outbox export"
            ) from exc

    def _record(self, item: Item, stamp: Stamp) -> Finding | ExamEvent | Telemetry:
        if isinstance(item, Report):
            return self.maker.finding(item.result, stamp, item.exam_id, item.kind)
        if isinstance(item, Tally):
            self._tally_due_ns = clock.monotonic_ns() + TALLY_NS
            return self._telemetry(stamp, item.ended)
        return ExamEvent(
            **stamp.head(),
            boot_id=stamp.boot_id,
            monotonic_ns=stamp.monotonic_ns,
            event_id=clock.uuid7(),
            event=item.event,
            exam_id=item.exam_id,
            findings=item.findings,
            summary=item.summary,
        )

    def _telemetry(self, stamp: Stamp, ended: bool) -> Telemetry:
        counters = self.counters
        return Telemetry(
            **stamp.head(),
            record_id=clock.uuid7(),
            exam_id=None,
            model=self.maker.model,
            seconds=round((clock.monotonic_ns() - counters.started_ns) / 1e9, 3),
            offered=counters.offered,
            processed=counters.processed,
            dropped=counters.dropped,
            findings=counters.findings,
            withheld=counters.withheld,
            bad_frames=counters.bad_frames,
            reasons=dict(self.reasons),
            fps=round(counters.fps(), 2),
            age_ms={
                "p50": round(counters.age_ms.percentile(50), 2),
                "p99": round(counters.age_ms.percentile(99), 2),
            },
            free_mb=free_mb(self.journal.state_dir),
            ended=ended,
        )

    def _new_capture(self) -> AutoCapture:
        limits = self.capture
        return AutoCapture(
            min_score=limits.min_score, hold_s=limits.hold_s, gap_s=limits.gap_s, spread=limits.spread
        )
