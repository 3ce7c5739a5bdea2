"""Commands that put findings into the journal: the demo, a run, a person's mark on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.options import (
    FOLDER,
    POLICIES,
    as_json,
    backend_option,
    config_option,
    example,
    model_option,
    precision_option,
    profile_option,
    state_option,
    threads_option,
)
from edge_runtime.cli.terminal import fail_with, say, show, watched
from edge_runtime.errors import ConfigError


@click.command(epilog=example("edge-runtime demo"))
@click.option(
    "--out", type=FOLDER, default=None, help="Where pictures and the summary go (default: edge-runtime-demo)."
)
@click.option("--seconds", type=float, default=12.0, show_default=True, help="Length of the live part.")
@click.option(
    "--data",
    type=FOLDER,
    default=None,
    help="Folder with fetal_head/images (default: $EDGE_RUNTIME_DATA, ./data or ../shared/data).",
)
@as_json
def demo(out: Path | None, seconds: float, data: Path | None, as_json: bool) -> None:
    """The main job on embedded defaults: frames to findings to broker to database, with a kill in the
    middle.
    """
    from edge_runtime.commands import demo as command

    with watched() as progress:
        report = command.demo(
            out or Path("edge-runtime-demo"), seconds=seconds, data=data, say=say, progress=progress
        )
    show(report, as_json, command.lines(report))
    if not report.ok:
        fail_with(report.problems)


@click.command(
    epilog=example(
        "edge-runtime run --model fetal_head --source 'phantom:fetal_head?hc_mm=250' --out findings.jsonl"
    )
)
@model_option
@click.option(
    "--source",
    required=True,
    metavar="URI",
    help="dicom:PATH, video:FILE, folder:DIR or phantom:fetal_head?..., phantom:carotid?..., phantom:lungs?...",
)
@backend_option
@precision_option
@click.option(
    "--policy",
    type=POLICIES,
    default=None,
    help="every: each frame a finding. newest: live (default by source).",
)
@click.option(
    "--exam",
    default=None,
    metavar="ID",
    help="One exam id for all frames; it leaves the device as typed: no names.",
)
@click.option("--spacing-mm", default=None, metavar="ROW,COL", help="Operator's millimetres per pixel.")
@click.option(
    "--force-spacing", is_flag=True, help="Take --spacing-mm although the file's tags contradict it."
)
@click.option("--region", type=int, default=None, help="Which ultrasound region of the file, counted from 1.")
@click.option("--plane-confirmed", is_flag=True, help="A person confirms that this is the standard plane.")
@click.option(
    "--out",
    default=None,
    metavar="FILE.jsonl|-",
    help="Findings as JSON lines, each written after its commit; a file is begun anew.",
)
@click.option("--masks", type=FOLDER, default=None, help="Masks at source resolution as PNG, one per frame.")
@click.option(
    "--overlays",
    type=FOLDER,
    default=None,
    help="Frames as PNG with the contour of what was measured, and the finding in words below.",
)
@click.option(
    "--record",
    type=FOLDER,
    default=None,
    help="Keep the pixels of analysed frames as PNG, burned-in text included.",
)
@state_option
@config_option
@click.option(
    "--fps", type=float, default=None, help="Pace of the source under --policy newest; 0 = unpaced."
)
@click.option("--limit", type=int, default=None, help="Stop after this many source frames.")
@threads_option
@profile_option
@click.option("--selftest", is_flag=True, help="Refuse to start unless edge-runtime selftest passes.")
@as_json
def run(as_json: bool, **flags: Any) -> None:
    """Analyse a source: frames in, findings out, each on disk before it is reported."""
    from edge_runtime.commands import run as command

    if as_json and flags["out"] == "-":
        raise ConfigError("--json and --out - both want stdout: name a file for --out")
    with watched() as progress:
        report = command.run(command.RunOptions(**flags), progress=progress, say=say)
    show(report, as_json, command.lines(report))
    if report.problems:
        fail_with(report.problems)


@click.command(epilog=example("edge-runtime mark last --urgent --state state"))
@click.argument("finding", metavar="FINDING")
@click.option("--urgent", is_flag=True, required=True, help="It cannot wait: send it before all else.")
@state_option
@as_json
def mark(finding: str, urgent: bool, state: Path | None, as_json: bool) -> None:
    """A person's mark on a finding, by its id or `last`."""
    from edge_runtime.commands import mark as command
    from edge_runtime.commands.state import default_state

    report = command.run(finding=finding, state=state or default_state(), on_notice=say)
    show(report, as_json, command.lines(report))
