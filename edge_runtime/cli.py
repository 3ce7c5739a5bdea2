"""The command line: flags in, one JSON object or a few lines out. The only module that prints.

Each command is a function in `commands/`, imported when it is called. An error is one line on stderr, exit
2 for a wrong flag, file or model, exit 1 for a job that failed; never a traceback (set EDGE_RUNTIME_DEBUG=1
to have one).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from edge_runtime import __version__
from edge_runtime.errors import ConfigError, EdgeError

POLICIES = click.Choice(["every", "newest"])
PRECISIONS = click.Choice(["auto", "fp32", "bf16", "fp16", "int8"])
BACKENDS = click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "null"])
FOLDER = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
PROBLEMS_TOLD = 3


class FirstDayOrder(click.Group):
    """Commands in the order of a first day, not of the alphabet; those of the contract that are yet to come say so."""

    LATER = ("replay",)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.LATER:
            raise ConfigError(f"edge-runtime {args[0]}: not in this version")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=FirstDayOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="edge-runtime")
def app() -> None:
    """Real-time segmentation and measured findings for portable ultrasound and X-ray devices.

    Research use only. Not a medical device.
    """


def example(text: str) -> str:
    """An epilog that click leaves as it is."""
    return "\b\nExample:\n  " + text.replace("\n", "\n  ")


def show(report: Any, as_json: bool, lines: list[str]) -> None:
    """The result on stdout: one JSON object, or lines for a person."""
    if as_json:
        print(msgspec.json.encode(report).decode(), flush=True)
    elif lines:
        print("\n".join(lines), flush=True)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
model_option = click.option(
    "--model", required=True, metavar="NAME|DIR", help="A shipped model or a directory with a model.toml."
)
backend_option = click.option("--backend", type=BACKENDS, default="auto", show_default=True)
precision_option = click.option("--precision", type=PRECISIONS, default="auto", show_default=True)
threads_option = click.option(
    "--threads", type=int, default=1, show_default=True, help="Threads of the backend."
)
profile_option = click.option(
    "--profile", type=FILE, default=None, help="A site's limits and intervals (edge-runtime calibrate)."
)
state_option = click.option(
    "--state", type=FOLDER, default=None, help="State directory (default: this user's)."
)
which_option = click.option(
    "--which",
    type=click.Choice(["pending", "delivered", "dead", "held", "all"]),
    default="all",
    show_default=True,
)
config_option = click.option(
    "--config", type=FILE, default=None, help="TOML settings (default: config.toml in --state)."
)


@app.command(epilog=example("edge-runtime demo"))
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

    report = command.demo(
        out or Path("edge-runtime-demo"),
        seconds=seconds,
        data=data,
        say=_say,
        progress=_progress if sys.stderr.isatty() else None,
    )
    show(report, as_json, command.lines(report))
    if not report.ok:
        _fail_with(report.problems)


@app.command(
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
    "--record",
    type=FOLDER,
    default=None,
    help="Keep the pixels of analysed frames as PNG, burned-in text included.",
)
@state_option
@config_option
@click.option("--fps", type=float, default=None, help="Pace of the source; 0 = unpaced.")
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
    watched = sys.stderr.isatty()
    report = command.run(command.RunOptions(**flags), progress=_progress if watched else None, say=_say)
    if watched:
        _progress("")
    show(report, as_json, command.lines(report))
    if report.problems:
        _fail_with(report.problems)


@app.command(
    epilog=example(
        "edge-runtime uplink --state state --broker mqtt://127.0.0.1:1883 --once\n"
        "edge-runtime uplink --state state --explain"
    )
)
@state_option
@config_option
@click.option("--broker", default=None, metavar="mqtt[s]://HOST:PORT")
@click.option(
    "--explain", is_flag=True, help="Show what would be sent, and what would not; no broker is needed."
)
@click.option("--limit", type=int, default=10, show_default=True, help="With --explain: records shown.")
@click.option(
    "--ca", type=FILE, default=None, help="PEM of the authority that signed the broker's certificate."
)
@click.option("--cert", type=FILE, default=None, help="PEM of this device's certificate.")
@click.option("--key", type=FILE, default=None, help="PEM of this device's key.")
@click.option("--once", is_flag=True, help="Stop when all that was pending is stored in the cloud.")
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=60.0,
    show_default=True,
    help="With --once: give up after this.",
)
@click.option(
    "--link",
    type=click.Choice(["auto", "normal", "slow"]),
    default="auto",
    show_default=True,
    help="How the line is treated: slow is packed and a few rows at a time; auto measures.",
)
@click.option(
    "--ack",
    type=click.Choice(["receipt", "puback"]),
    default="receipt",
    show_default=True,
    help="What counts as delivered. puback: the broker's word, weaker: what a broker loses is lost.",
)
@click.option(
    "--command-keys",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE|DIR",
    help="PEM of the public keys whose commands this device does; without it every one is refused.",
)
@as_json
def uplink(as_json: bool, explain: bool, limit: int, **flags: Any) -> None:
    """Deliver findings to the cloud; a finding is done when the cloud's receipt says it is stored."""
    from edge_runtime.commands import explain as shown
    from edge_runtime.commands import state
    from edge_runtime.commands import uplink as command
    from edge_runtime.config import read_config

    flags["state"] = flags["state"] or state.default_state()
    config = read_config(flags.pop("config"), flags["state"])
    place = config.site
    if explain:
        told = shown.run(flags["state"], site=place, limit=limit)
        show(told, as_json, shown.lines(told))
        return
    if flags["broker"] is None:
        raise ConfigError("uplink: want --broker mqtt[s]://HOST:PORT, or --explain; see --help")
    notice = _quiet if flags["once"] and not sys.stderr.isatty() else _say
    report = command.run(
        **flags, tenant=place.tenant, site=place.site, journal=config.journal, on_notice=notice
    )
    show(report, as_json, command.lines(report))
    if flags["once"] and report.remaining:
        _fail(f"uplink: stopped with {report.remaining} rows in the outbox", 1)


@app.command(
    epilog=example(
        "edge-runtime command --new-key operator.pem\n"
        "edge-runtime command dev-d71ae590 send_state --broker mqtt://127.0.0.1:1883 --key operator.pem"
    )
)
@click.argument("device", required=False)
@click.argument("name", required=False)
@click.option("--args", default="{}", metavar="JSON", help="The command's arguments (docs/wire.md).")
@click.option("--broker", default=None, metavar="mqtt[s]://HOST:PORT")
@click.option("--key", type=FILE, default=None, help="PEM of the Ed25519 key that signs.")
@click.option("--tenant", default="local", show_default=True)
@click.option("--site", default="site", show_default=True)
@click.option("--ca", type=FILE, default=None)
@click.option("--cert", type=FILE, default=None, help="PEM of this operator's TLS certificate.")
@click.option("--cert-key", type=FILE, default=None, help="PEM of that certificate's key.")
@click.option("--timeout", "timeout_s", type=float, default=30.0, show_default=True)
@click.option(
    "--new-key", type=FILE, default=None, metavar="FILE", help="Makes a key to sign with, and nothing else."
)
@as_json
def command(as_json: bool, new_key: Path | None, **flags: Any) -> None:
    """Have a device send its state or log, send records again, or change its ways: signed, answered, audited there."""
    from edge_runtime.commands import command as job

    if new_key is not None:
        made = job.make_key(new_key)
        show(made, as_json, job.key_lines(made))
        return
    missing = [what for what in ("device", "name", "broker", "key") if flags[what] is None]
    if missing:
        raise ConfigError(
            f"command: want DEVICE NAME --broker URL --key FILE, without {', '.join(missing)}; see --help"
        )
    answer = job.run(**flags)
    show(answer, as_json, job.lines(answer))
    if answer.outcome != "done":
        _fail(f"command {flags['name']}: {answer.outcome} ({answer.code}): {answer.text}", 1)


@app.command(epilog=example("edge-runtime receive --broker mqtt://127.0.0.1:1883 --store sqlite:///cloud.db"))
@click.option("--broker", required=True, metavar="mqtt[s]://HOST:PORT")
@click.option("--store", required=True, metavar="sqlite:///FILE|postgresql://...")
@click.option("--ca", type=FILE, default=None)
@click.option("--cert", type=FILE, default=None)
@click.option("--key", type=FILE, default=None)
@click.option("--limit", type=int, default=None, help="Stop after this many stored records.")
@click.option(
    "--idle-exit",
    "idle_exit_s",
    type=float,
    default=None,
    metavar="S",
    help="Stop after this long without one.",
)
@click.option("--http", default=None, metavar="HOST:PORT", help="Answer /metrics and /healthz there.")
@as_json
def receive(as_json: bool, **flags: Any) -> None:
    """The cloud side: store findings once, then send the receipt."""
    from edge_runtime.commands import receive as command

    ends_by_itself = flags["limit"] is not None or flags["idle_exit_s"] is not None
    report = command.run(**flags, on_notice=_quiet if ends_by_itself and not sys.stderr.isatty() else _say)
    show(report, as_json, command.lines(report))


@app.command(epilog=example("edge-runtime mark last --urgent --state state"))
@click.argument("finding", metavar="FINDING")
@click.option("--urgent", is_flag=True, required=True, help="It cannot wait: send it before all else.")
@state_option
@as_json
def mark(finding: str, urgent: bool, state: Path | None, as_json: bool) -> None:
    """A person's mark on a finding, by its id or `last`."""
    from edge_runtime.commands import mark as command
    from edge_runtime.commands.state import default_state

    report = command.run(finding=finding, state=state or default_state())
    show(report, as_json, command.lines(report))


@app.group(epilog=example("edge-runtime outbox stats --state state"))
def outbox() -> None:
    """What waits for the cloud, and what was delivered."""


@outbox.command("list", epilog=example("edge-runtime outbox list --state state"))
@state_option
@which_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@as_json
def outbox_list(state: Path | None, which: Any, limit: int, as_json: bool) -> None:
    """The oldest records that wait, were delivered or were rejected."""
    from edge_runtime.commands import outbox as command
    from edge_runtime.commands.state import default_state

    rows = command.list_rows(state or default_state(), which=which, limit=limit)
    show({"rows": rows}, as_json, command.row_lines(rows))


@outbox.command("stats", epilog=example("edge-runtime outbox stats --state state"))
@state_option
@as_json
def outbox_stats(state: Path | None, as_json: bool) -> None:
    """Counts, and the age of the oldest record that waits."""
    from edge_runtime.commands import outbox as command
    from edge_runtime.commands.state import default_state

    stats = command.stats(state or default_state())
    show(stats, as_json, command.stats_lines(stats))


@outbox.command("requeue", epilog=example("edge-runtime outbox requeue --state state"))
@state_option
@as_json
def outbox_requeue(state: Path | None, as_json: bool) -> None:
    """Send again what the cloud rejected, after its cause was mended."""
    from edge_runtime.commands import outbox as command
    from edge_runtime.commands.state import default_state

    count = command.requeue(state or default_state())
    show({"requeued": count}, as_json, [f"{count} wait for delivery again"])


@outbox.command("export", epilog=example("edge-runtime outbox export --state state > journal.jsonl"))
@state_option
@which_option
def outbox_export(state: Path | None, which: Any) -> None:
    """Records as they were reported, as JSON lines on stdout."""
    from edge_runtime.commands import outbox as command
    from edge_runtime.commands.state import default_state

    if sys.stdout is None:
        raise ConfigError("outbox export: stdout is closed")
    for line in command.lines(state or default_state(), which=which):
        sys.stdout.buffer.write(line)
    sys.stdout.flush()


@app.command(
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

    with _watched() as progress:
        report = command.evaluate(**flags, progress=progress)
    show(report, as_json, command.lines(report))


@app.command(epilog=example("edge-runtime bench --model fetal_head --scenario stream --frames 500 --json"))
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


@app.command(epilog=example("edge-runtime doctor"))
@state_option
@as_json
def doctor(state: Path | None, as_json: bool) -> None:
    """What is installed, what is missing, and how to mend it."""
    from edge_runtime.commands import doctor as command

    report = command.doctor(state)
    show(report, as_json, command.lines(report))
    if not report.ok:
        raise SystemExit(1)


@app.command(epilog=example("edge-runtime selftest --state state"))
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

    report = command.selftest(command.Options(**flags), say=_say if sys.stderr.isatty() else None)
    show(report, as_json, command.lines(report))
    if not report.ok:
        _fail_with(command.failures(report))


@app.command(epilog=example("edge-runtime lint model.int8.onnx"))
@click.argument("model", type=FILE)
@as_json
def lint(model: Path, as_json: bool) -> None:
    """Check an ONNX graph against TensorRT's rules, without a GPU: node, reason, fix."""
    from edge_runtime.commands import lint as command

    report = command.lint(model)
    show(report, as_json, command.lines(report))
    if report.errors:
        raise SystemExit(1)


@app.command(epilog=example("edge-runtime models"))
@as_json
def models(as_json: bool) -> None:
    """The shipped models."""
    from edge_runtime.commands import models as command

    found = command.models()
    show({"models": found}, as_json, command.lines(found))


@app.command(epilog=example("edge-runtime inspect model.onnx --frames images --out my_model"))
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


@app.command(epilog=example("edge-runtime quantize model.onnx --frames images --out bundle"))
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

    with _watched() as progress:
        report = command.run(**flags, progress=progress)
    show(report, as_json, command.lines(report))


@app.command(
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

    with _watched() as progress:
        report = command.calibrate(Options(**flags), progress)
    show(report, as_json, command.lines(report))


@app.command("compile", epilog=example("edge-runtime compile fetal_head --validate-only"))
@click.argument("model", metavar="NAME|BUNDLE")
@click.option(
    "--validate-only", is_flag=True, help="Check every graph for TensorRT without a GPU; build no engine."
)
@as_json
def compile_model(model: str, validate_only: bool, as_json: bool) -> None:
    """TensorRT engines for this device: built, gated, timed; the faster that is right is kept."""
    from edge_runtime.commands import compile as command

    with _watched() as progress:
        report = command.run(model, validate_only, say=_say if progress else _quiet, progress=progress)
    show(report, as_json, command.lines(report))


def _say(text: str) -> None:
    """A line of progress, for a person."""
    print(text, file=sys.stderr, flush=True)


def _quiet(text: str) -> None:
    """Nobody watches a command that ends by itself: its exit code and the one line of an error are enough."""


def _progress(text: str) -> None:
    """A line that replaces itself, on a terminal only."""
    print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


@contextmanager
def _watched() -> Iterator[Callable[[str], None] | None]:
    """The progress line where a person watches, cleared at the end; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield _progress
    finally:
        _progress("")


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _fail_with(problems: list[str]) -> NoReturn:
    """The first few of several problems, in one line."""
    more = len(problems) - PROBLEMS_TOLD
    _fail("; ".join(problems[:PROBLEMS_TOLD]) + (f"; and {more} more" if more > 0 else ""), 1)


class _Interrupt:
    """SIGINT and SIGTERM as KeyboardInterrupt, so that every `finally` runs; remembered, because a library that is
    being imported turns it into an ImportError."""

    came = False

    def __call__(self, number: int, frame: object) -> None:
        self.came = True
        raise KeyboardInterrupt


def _invoke() -> None:
    """Runs the command that the arguments name; click's own errors become ours."""
    try:
        with app.make_context("edge-runtime", sys.argv[1:]) as context:
            app.invoke(context)
    except click.exceptions.Exit as exc:
        raise SystemExit(exc.exit_code) from None
    except click.exceptions.NoArgsIsHelpError as exc:
        print(exc.format_message(), file=sys.stderr)
        raise SystemExit(2) from None
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx else "edge-runtime"
        raise ConfigError(f"{exc.format_message()} (see {command} --help)") from None
    except click.ClickException as exc:
        raise ConfigError(exc.format_message()) from None


def _open_descriptors() -> None:
    """A descriptor 0 to 2 that is closed would be given to the next file that is opened, and printed into."""
    for _ in range(3):
        if (spare := os.open(os.devnull, os.O_RDWR)) > 2:
            os.close(spare)
    if sys.stderr is None:  # print would take that for stdout
        sys.stderr = os.fdopen(2, "w")


def main() -> NoReturn:
    """The `edge-runtime` command."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    _open_descriptors()
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        _invoke()
    except EdgeError as exc:
        if interrupt.came and isinstance(exc.__cause__, ImportError):
            raise SystemExit(130) from None
        _fail(str(exc), exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our stdout has left: nothing is owed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        barred = isinstance(exc, PermissionError)
        what = "mend its owner or its mode" if barred else "free some space or name another place"
        _fail(f"{exc.filename or 'stdout'}: {exc.strerror}; {what}", 1)
    except Exception as exc:
        if interrupt.came:
            raise SystemExit(130) from None
        if os.environ.get("EDGE_RUNTIME_DEBUG"):
            raise
        _fail(
            f"internal: {type(exc).__name__}: {exc}; please report it (EDGE_RUNTIME_DEBUG=1 shows where)", 1
        )
    raise SystemExit(0)
