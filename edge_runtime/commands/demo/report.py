"""What the demo has shown, as data for a machine and as lines for a person. Knows nothing of how it came about."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from edge_runtime.commands.demo.chests import ChestPart
from edge_runtime.commands.demo.findings import Delivery, Measured
from edge_runtime.commands.demo.harm import GatePart
from edge_runtime.commands.demo.known import Known
from edge_runtime.commands.demo.parts import ArteryPart, EchoPart, HeadsPart, LivePart
from edge_runtime.commands.demo.processes import typed
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY, in_words, joined, listed


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is."""

    folder: str
    summary: str
    findings: str
    overlay: str | None = None
    phantoms: str | None = None  # only what was drawn: for anyone to see
    measurement: str | None = None


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `demo --json` prints."""

    ok: bool  # nothing missing, nothing twice, no part failed
    seconds: float
    model: str
    precision: str
    backend: str
    others: list[str]  # the other models, each with its precision and backend
    live: LivePart | None
    phantom: Measured | None  # the second phantom, every frame a finding
    echo: EchoPart | None
    heads: HeadsPart | None
    chests: list[ChestPart]  # the acquisition check; none without a model of the lungs
    artery: ArteryPart | None  # None without a model of an artery
    gate: GatePart | None  # a sound and a spoilt quantization
    killed: list[str]
    delivery: Delivery
    files: Files
    problems: list[str]  # what makes it fail
    notes: list[str]  # what was left out and how to have it


YOURS = "run --model fetal_head --source dicom:YOUR.dcm --out -"


def lines(report: DemoReport) -> list[str]:
    """The summary for a person: what it did, whether anything was lost, where to look."""
    killed = [f"{joined(report.killed)}, with kill -9 and in the middle"] if report.killed else []
    folder = _near(Path(report.files.folder))
    return [
        "",
        *_row("Live", _live(report)),
        *_row("Measured", _measured(report)),
        *_row("Echo", _echo(report.echo)),
        *_row("Heads", _heads(report.heads)),
        *_row("Chest", chests(report.chests)),
        *_row("Artery", artery(report.artery)),
        *_row("Gate", gated(report.gate)),
        *_row("Killed", killed),
        *_row("Kept", kept(report.delivery)),
        *_row("Failed", report.problems),
        *_row("Note", report.notes),
        "",
        *_row("Look at", [f"{_near(Path(report.files.summary))}  in a browser"]),
        *_row("Next", next_commands(folder / "state", _near(typed()))),
        "",
        f"{SIZE_ONLY} {RESEARCH} {report.seconds:.0f} s in all.",
    ]


def next_commands(state: Path, program: Path) -> list[str]:
    """What to type after a demo."""
    name = shlex.quote(str(program))
    return [f"{name} outbox stats --state {shlex.quote(str(state))}", f"{name} {YOURS}"]


def _row(title: str, texts: list[str]) -> list[str]:
    """The title beside the first line only."""
    return [f"{title if at == 0 else '':9} {text}" for at, text in enumerate(texts)]


def _near(path: Path) -> Path:
    """The path as it is typed from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _live(report: DemoReport) -> list[str]:
    live = report.live
    if live is None:
        return []
    age = (
        "" if live.age_ms_p50 is None else f"; age p50 {live.age_ms_p50:.1f} ms, p99 {live.age_ms_p99:.1f} ms"
    )
    return [
        f"{live.processed} of {live.offered} frames analysed after the kill, {live.dropped} dropped, {live.fps:.1f} frames/s{age}",
        f"{live.captures} captures; {report.model}, {report.precision} on {report.backend}",
    ]


def _measured(report: DemoReport) -> list[str]:
    heads = [head for head in (report.live.head if report.live else None, report.phantom) if head is not None]
    if report.live is not None and report.live.head is None:
        return ["nothing: every frame of the live phantom was withheld"]
    said = [f"phantom of {head.true_mm:.1f} mm: {sized(head)}" for head in heads]
    reasons = dict.fromkeys(reason for head in heads for reason in caution(head))
    return [*said, f"under caution: {joined(reasons)}"] if reasons else said


def sized(head: Measured) -> str:
    """A phantom's measured circumference, and how often its interval held the true one."""
    low, high = head.interval_mm
    return f"{head.value_mm:.1f} mm ({low:.1f} to {high:.1f}), the true one inside {head.inside} of {head.values} times"


def caution(head: Measured) -> list[str]:
    """Why a value is not simply usable, in words."""
    return [in_words(reason) for reason in head.reasons if reason != "interval_uncalibrated"]


def _echo(echo: EchoPart | None) -> list[str]:
    if echo is None:
        return []
    said = [f"a heart in front of a head model: {withheld(echo)}"]
    if echo.reasons:
        said.append(f"withheld because {listed(echo.reasons, 2)}")
    if echo.spacing_reason is not None and not echo.in_millimetres:
        said.append(f"no millimetres either: {in_words(echo.spacing_reason)}")
    return said


def withheld(echo: EchoPart) -> str:
    """How many frames of the echo cine were withheld, and what was said of the others."""
    said = f"{echo.withheld} of {echo.frames} frames withheld"
    return f"{said}, {echo.in_pixels} given a size in pixels under caution" if echo.in_pixels else said


def _heads(heads: HeadsPart | None) -> list[str]:
    return [] if heads is None else real_heads(heads)


def real_heads(heads: HeadsPart) -> list[str]:
    """The real heads in two or three phrases."""
    exams = "none of them seen in training" if heads.held_out else "some of them seen in training"
    said = [f"{heads.images} real fetal heads, {exams}: {heads.measured} measured, {heads.withheld} withheld"]
    if heads.withheld:
        said.append(f"withheld because {listed(heads.reasons, 2)}")
    if heads.mean_error_mm is not None:
        inside = f"inside the interval {heads.inside} of {heads.measured} times"
        said.append(f"{heads.mean_error_mm:.1f} mm from the published value on average, {inside}")
    return said


def chests(parts: list[ChestPart]) -> list[str]:
    """A line for each way to take a chest X-ray, and one for what was measured."""
    return [text for part in parts for text in (f"{part.how}: {part.said}", *_beside(part.values))]


def artery(part: ArteryPart | None) -> list[str]:
    """The artery in a line or two."""
    if part is None:
        return []
    if not part.values:
        return [f"an artery, drawn: {part.frames} of {part.frames} frames withheld"]
    often = f"the true area inside the interval {part.inside} of {part.measured} times"
    return [*_beside(part.values), f"{part.measured} of {part.frames} frames of a beat measured, {often}"]


def _beside(values: list[Known]) -> list[str]:
    """One line: each measured value with the true one."""
    said = [
        f"{one.name.partition('_')[2].replace('_', ' ')} {one.value:.1f} {one.unit} (true {one.true:.1f})"
        for one in values
        if one.value is not None
    ]
    return [joined(said)] if said else []


def gated(gate: GatePart | None) -> list[str]:
    """Both verdicts, a line each."""
    if gate is None:
        return []
    sound = "accepted" if gate.sound_accepted else "refused"
    spoilt = "refused" if gate.spoilt_refused else "accepted"
    return [
        f"INT8 as shipped is {sound}: {gate.sound_mean_mm:.2f} mm from fp32 on average, {gate.sound_largest_mm:.2f} mm "
        f"at most, on {gate.frames} frames",
        f"INT8 with one scale spoilt is {spoilt}" + (f": {gate.why}" if gate.why else ""),
    ]


def kept(delivery: Delivery) -> list[str]:
    """The promise, in a line or two."""
    if delivery.broker is None:
        return [
            f"{delivery.reported} findings reported, all on disk; {delivery.waiting} records wait in the outbox"
        ]
    said = [
        f"{delivery.reported} findings reported, {delivery.stored} of them in the database, "
        f"{delivery.missing} missing, {delivery.twice} twice"
    ]
    if delivery.repeated:
        said.append(f"{delivery.repeated} sent again after a cut: recognised, not stored again")
    if delivery.untold:
        said.append(
            f"{delivery.untold} more had been committed when the run was killed and not yet told: stored too"
        )
    if delivery.waiting:
        said.append(f"{delivery.waiting} records still wait in the outbox")
    return said
