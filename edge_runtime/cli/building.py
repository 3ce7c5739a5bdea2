"""Commands that make a model fit for a device, or limits fit for a site, from their own frames."""

from __future__ import annotations

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
    threads_option,
)
from edge_runtime.cli.terminal import notices, show, watched


@click.command(epilog=example("edge-runtime lint model.int8.onnx"))
@click.argument("model", type=FILE)
@as_json
def lint(model: Path, as_json: bool) -> None:
    """Check an ONNX graph against TensorRT's rules, without a GPU: node, reason, fix."""
    from edge_runtime.commands import lint as command

    report = command.lint(model)
    show(report, as_json, command.lines(report))
    if report.errors:
        raise SystemExit(1)


@click.command(epilog=example("edge-runtime inspect model.onnx --frames images --out my_model"))
@click.argument("model", metavar="MODEL.onnx|DIR", type=click.Path(path_type=Path))
@click.option(
    "--frames",
    default=None,
    metavar="DIR|URI",
    help="Pictures of the model's kind: guesses are tried on them.",
)
@click.option(
    "--out", type=FOLDER, default=None, help="Writes a model directory that runs, and a contact sheet."
)
@click.option(
    "--grid", default=None, metavar="H,W", help="Height and width, where the file leaves them free."
)
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How pictures of another shape come onto the grid.",
)
@as_json
def inspect(as_json: bool, **flags: Any) -> None:
    """A stranger's ONNX file: shapes, guessed normalisation and activation, a drafted model.toml."""
    from edge_runtime.commands import inspect as command

    report = command.inspect(**flags)
    show(report, as_json, command.lines(report))


@click.command(epilog=example("edge-runtime quantize model.onnx --frames images --out bundle"))
@click.argument("model", metavar="MODEL.onnx|DIR")
@click.option(
    "--frames", required=True, metavar="DIR|URI", help="Real frames of the kind the model is for; no default."
)
@click.option("--out", required=True, type=FOLDER, metavar="BUNDLE", help="The bundle: a new folder.")
@click.option(
    "--recipe",
    type=FILE,
    default=None,
    help="A model.toml without digests (default: the one beside the model).",
)
@click.option("--labels", type=FOLDER, default=None, help="Masks as PNG of the frames' stems, for Dice.")
@click.option(
    "--without", type=FILE, default=None, help="Subjects of the frames to leave out, one to a line."
)
@as_json
def quantize(as_json: bool, **flags: Any) -> None:
    """INT8 and FP16 graphs for TensorRT and for CPUs, accepted by the gate or not written."""
    from edge_runtime.commands import quantize as command

    with watched() as progress:
        report = command.run(**flags, progress=progress)
    show(report, as_json, command.lines(report))


@click.command(
    epilog=example(
        "edge-runtime calibrate --model fetal_head --frames good_frames --labels good_frames/masks --out site.toml"
    )
)
@model_option
@click.option(
    "--frames", required=True, metavar="DIR|URI", help="Frames that you call good, of several subjects."
)
@click.option(
    "--labels",
    type=FOLDER,
    default=None,
    help="Masks as PNG of the frames' stems: intervals. hc_mm of meta.csv counts.",
)
@click.option("--out", required=True, type=FILE, metavar="PROFILE.toml", help="The profile.")
@click.option("--name", default=None, metavar="TEXT", help="Findings carry it as typed: no names of people.")
@click.option(
    "--reject",
    "target",
    type=click.FloatRange(0, 0.5, max_open=True),
    default=0.02,
    show_default=True,
    help="The share of good frames that may be refused.",
)
@backend_option
@precision_option
@threads_option
@as_json
def calibrate(as_json: bool, **flags: Any) -> None:
    """Limits of quality, and intervals, for a new probe or site, from its own frames."""
    from edge_runtime.commands import calibrate as command
    from edge_runtime.commands.calibrate.job import Options

    with watched() as progress:
        report = command.calibrate(Options(**flags), progress)
    show(report, as_json, command.lines(report))


@click.command("compile", epilog=example("edge-runtime compile fetal_head --validate-only"))
@click.argument("model", metavar="NAME|BUNDLE")
@click.option(
    "--validate-only", is_flag=True, help="Check every graph for TensorRT without a GPU; build no engine."
)
@as_json
def compile_model(model: str, validate_only: bool, as_json: bool) -> None:
    """TensorRT engines for this device: built, gated, timed; the faster that is right is kept."""
    from edge_runtime.commands import compile as command

    with watched() as progress:
        report = command.run(model, validate_only, say=notices(ends_by_itself=True), progress=progress)
    show(report, as_json, command.lines(report))
