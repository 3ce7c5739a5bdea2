"""The verdict of a selftest, for a script and for a person."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.commands.words import RESEARCH

Stage = Literal[
    "files", "backend", "source", "infer", "postprocess", "measure", "finding", "journal", "gate", "speed"
]
State = Literal["ok", "failed", "skipped"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    stage: Stage
    state: State
    wanted: str  # empty where nothing failed
    came: str


def passed(stage: Stage, came: str) -> Check:
    return Check(stage=stage, state="ok", wanted="", came=came)


def failed(stage: Stage, wanted: str, came: str) -> Check:
    return Check(stage=stage, state="failed", wanted=wanted, came=came)


def skipped(stage: Stage, why: str) -> Check:
    return Check(stage=stage, state="skipped", wanted="", came=why)


class ModelTold(msgspec.Struct, frozen=True, kw_only=True):
    """One model's checks, in the order of the stages."""

    model: str
    backend: str | None  # None: it could not be opened
    precision: str | None
    frame_ms: float | None  # one frame through all stages, median
    checks: list[Check]


class SelftestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `selftest --json` prints."""

    ok: bool
    seconds: float  # since the process began
    models: list[ModelTold]


def failures(report: SelftestReport) -> list[str]:
    """One line for each check that failed: the model, the stage, what was wanted, what came."""
    return [
        f"{told.model}: {check.stage}: wanted {check.wanted}, came {check.came}"
        for told in report.models
        for check in told.checks
        if check.state == "failed"
    ]


def lines(report: SelftestReport) -> list[str]:
    """One line a check; the verdict last."""
    out: list[str] = []
    for told in report.models:
        runs = f", {told.precision} on {told.backend}" if told.backend else ""
        out.append(f"{told.model}{runs}")
        for check in told.checks:
            said = f"wanted {check.wanted}, came {check.came}" if check.state == "failed" else check.came
            out.append(f"  {check.state:8}{check.stage:12}{said}")
    bad, count = len(failures(report)), sum(len(told.checks) for told in report.models)
    verdict = "pass" if report.ok else f"FAIL: {bad} of {count} checks"
    return [*out, f"{verdict} in {report.seconds:.1f} s", RESEARCH]
