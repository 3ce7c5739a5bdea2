"""Commands that tell how good this machine, its models and what is installed are; they write no record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.options import (
    FILE,
    FOLDER,
    as_json,
    backend_option,
    example,
    model_option,
    precision_option,
    profile_option,
    state_option,
    threads_option,
)
from edge_runtime.cli.terminal import fail_with, say, show, watched


@click.command(
    epilog=example("edge-runtime evaluate --model fetal_head --data ../shared/data/fetal_head --json")
)
@model_option
@click.option("--data", required=True, type=FOLDER, help="Folder with images/, masks/ and meta.csv.")
@click.option("--subjects", type=FILE, default=None, help="Only these subjects of meta.csv, one to a line.")
@backend_option
@precision_option
@threads_option
@profile_option
@as_json
def evaluate(as_json: bool, **flags: Any) -> None:
    """A model against labelled images: Dice, millimetres, latency."""
    from edge_runtime.commands import evaluate as command

    with watched() as progress:
        report = command.evaluate(**flags, progress=progress)
    show(report, as_json, command.lines(report))


@click.command(epilog=example("edge-runtime bench --model fetal_head --scenario stream --frames 500 --json"))
@model_option
@click.option("--source", default=None, metavar="URI", help="Default: phantom frames of 800x540 in memory.")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "stream", "offline", "overload"]),
    default="stream",
    show_default=True,
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Offered rate (stream, overload).",
)
@click.option("--frames", type=click.IntRange(min=1), default=None, help="How many frames (default 500).")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Instead of --frames: how long.",
)
@backend_option
@precision_option
@threads_option
@as_json
def bench(as_json: bool, **flags: Any) -> None:
    """How fast this machine is, end to end and against the bare backend in the same run."""
    from edge_runtime.commands import bench as command

    report = command.bench(**flags)
    show(report, as_json, command.lines(report))


@click.command(epilog=example("edge-runtime doctor"))
@state_option
@as_json
def doctor(state: Path | None, as_json: bool) -> None:
    """What is installed, what is missing, and how to mend it."""
    from edge_runtime.commands import doctor as command

    report = command.doctor(state)
    show(report, as_json, command.lines(report))
    if not report.ok:
        raise SystemExit(1)


@click.command(epilog=example("edge-runtime selftest --state state"))
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|DIR",
    help="A shipped model or a directory with a model.toml; may be repeated (default: every shipped model).",
)
@backend_option
@precision_option
@threads_option
@state_option
@as_json
def selftest(as_json: bool, **flags: Any) -> None:
    """Does what is installed here measure what it should? Phantoms through every stage; exit 1 where not."""
    from edge_runtime.commands import selftest as command

    report = command.selftest(command.Options(**flags), say=say if sys.stderr.isatty() else None)
    show(report, as_json, command.lines(report))
    if not report.ok:
        fail_with(command.failures(report))


@click.command(epilog=example("edge-runtime models"))
@as_json
def models(as_json: bool) -> None:
    """The shipped models."""
    from edge_runtime.commands import models as command

    found = command.models()
    show({"models": found}, as_json, command.lines(found))
