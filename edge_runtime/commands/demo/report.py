"""What the demo has shown, as data for a machine and as lines for a person. Knows nothing of how it came about."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.commands.demo.findings import Delivery, Measured
from edge_runtime.commands.demo.words import RESEARCH, SIZE_ONLY, in_words, joined, listed


class LivePart(msgspec.Struct, frozen=True, kw_only=True):
    """The stream, killed once. What a run counts dies with it: the figures are those of the run after the kill."""

    offered: int
    processed: int
    dropped: int
    fps: float
    age_ms_p50: float | None
    age_ms_p99: float | None
    captures: int  # of both runs
    captures_before_kill: int  # reported by the killed run
    head: Measured | None


class EchoPart(msgspec.Struct, frozen=True, kw_only=True):
    """A heart in front of a head model."""

    frames: int
    withheld: int
    in_pixels: int  # frames for which a size in pixels, and none in mm, was given
    in_millimetres: int  # frames for which any number in mm was given: want 0
    reasons: dict[str, int]  # that withheld
    spacing_reason: str | None  # why the file's scale was refused


class HeadsPart(msgspec.Struct, frozen=True, kw_only=True):
    """Real fetal heads against their published circumference."""

    images: int
    measured: int
    withheld: int
    mean_error_mm: float | None
    inside: int  # of the measured: the published value lies in the interval
    reasons: dict[str, int]
    held_out: bool  # from exams that the model never saw; else the error says little


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is."""

    folder: str
    summary: str
    findings: str
    overlay: str | None = None
    measurement: str | None = None


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `demo --json` prints."""

    ok: bool  # nothing missing, nothing twice, no part failed
    seconds: float
    model: str
    precision: str
    backend: str
    live: LivePart | None
    phantom: Measured | None  # the second phantom, every frame a finding
    echo: EchoPart | None
    heads: HeadsPart | None
    killed: list[str]
    delivery: Delivery
    files: Files
    problems: list[str]  # what makes it fail
    notes: list[str]  # what was left out and how to have it


def lines(report: DemoReport) -> list[str]:
    """The summary for a person."""
    parts = [
        *_row("Live", _live(report)),
        *_row("Measured", _measured(report)),
        *_row("Echo", _echo(report.echo)),
        *_row("Heads", _heads(report.heads)),
        *_row("Killed", [f"with kill -9, in the middle: {joined(report.killed)}"] if report.killed else []),
        *_row("Kept", kept(report.delivery)),
        *_row("Failed", report.problems),
        *_row("Note", report.notes),
    ]
    folder = report.files.folder
    return [
        "",
        *parts,
        "",
        *_row("Look at", [f"{report.files.summary}   (open it in a browser)"]),
        *_row("Next", [f"edge-runtime outbox stats --state {_quoted(Path(folder) / 'state')}", YOURS]),
        "",
        f"{SIZE_ONLY} {RESEARCH} {report.seconds:.0f} s in all.",
    ]


YOURS = "edge-runtime run --model fetal_head --source dicom:YOUR.dcm --out -"


def _row(title: str, texts: list[str]) -> list[str]:
    """The title beside the first line only."""
    return [f"{title if at == 0 else '':9} {text}" for at, text in enumerate(texts)]


def _quoted(path: Path) -> str:
    text = str(path)
    return f"'{text}'" if " " in text else text


def _live(report: DemoReport) -> list[str]:
    live = report.live
    if live is None:
        return []
    age = (
        "" if live.age_ms_p50 is None else f"; age p50 {live.age_ms_p50:.1f} ms, p99 {live.age_ms_p99:.1f} ms"
    )
    return [
        f"{live.processed} of {live.offered} frames analysed, {live.dropped} dropped, {live.fps:.1f} frames/s{age}",
        f"{live.captures} captures; {report.model}, {report.precision} on {report.backend}",
    ]


def _measured(report: DemoReport) -> list[str]:
    said = [] if report.live is None else [sized(report.live.head)]
    if report.phantom is not None:
        said.append(sized(report.phantom))
    return said


def sized(head: Measured | None) -> str:
    """A phantom's measured circumference beside the true one."""
    if head is None:
        return "no circumference: every frame of the phantom was withheld"
    low, high = head.interval_mm
    where = "inside" if low <= head.true_mm <= high else "OUTSIDE"
    reasons = joined(in_words(reason) for reason in head.reasons if reason != "interval_uncalibrated")
    why = f"; {head.status.value}: {reasons}" if reasons else f"; {head.status.value}"
    return (
        f"head circumference {head.value_mm:.1f} mm ({low:.1f} to {high:.1f}), true {head.true_mm:.1f}: "
        f"{where} the interval, as in {head.inside} of {head.values}{why}"
    )


def _echo(echo: EchoPart | None) -> list[str]:
    if echo is None:
        return []
    said = [f"a heart, not a head: {withheld(echo)}"]
    if echo.spacing_reason is not None:
        said.append(
            f"{'never' if not echo.in_millimetres else 'NOT never'} millimetres: {in_words(echo.spacing_reason)}"
        )
    return said


def withheld(echo: EchoPart) -> str:
    """How many frames of the echo cine were withheld, and why; and what was not."""
    said = f"{echo.withheld} of {echo.frames} frames withheld ({listed(echo.reasons, 2)})"
    left = echo.frames - echo.withheld
    return said if not left else f"{said}; {left} passed with a size in pixels under caution"


def _heads(heads: HeadsPart | None) -> list[str]:
    if heads is None:
        return []
    return [real_heads(heads)]


def real_heads(heads: HeadsPart) -> str:
    """The real heads in one sentence."""
    exams = "from exams the model never saw" if heads.held_out else "some of them seen in training"
    error = (
        ""
        if heads.mean_error_mm is None
        else f", {heads.mean_error_mm:.1f} mm from the published value on average"
    )
    said = f"{heads.images} real fetal heads, {exams}: {heads.measured} measured{error}, {heads.inside} inside the interval"
    return said if not heads.withheld else f"{said}; {heads.withheld} withheld ({listed(heads.reasons, 2)})"


def kept(delivery: Delivery) -> list[str]:
    """The promise, in one line or two."""
    if delivery.broker is None:
        return [
            f"{delivery.reported} findings reported, all on disk; stayed offline: {delivery.waiting} records wait in the outbox",
            "no broker here: apt-get install mosquitto, then run the demo again to see them delivered",
        ]
    known = f"; {delivery.repeated} came again over the wire and were recognised" if delivery.repeated else ""
    said = (
        f"{delivery.reported} findings reported, {delivery.stored} of them in the database, "
        f"{delivery.missing} missing, {delivery.twice} twice{known}"
    )
    extra = (
        [f"and {delivery.untold} committed just before the kill, not yet told, stored too"]
        if delivery.untold
        else []
    )
    rest = [f"{delivery.waiting} records still wait in the outbox"] if delivery.waiting else []
    return [said, *extra, *rest]
