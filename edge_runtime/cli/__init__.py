"""The command line: flags in, one JSON object or a few lines out. The only part that prints.

Each command is a function in `edge_runtime.commands`, imported when it is called. An error is one line on stderr,
exit 2 for a wrong flag, file or model, exit 1 for a job that failed; never a traceback (set EDGE_RUNTIME_DEBUG=1
to have one).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn

import click

from edge_runtime import __version__
from edge_runtime.cli.building import calibrate, compile_model, inspect, lint, quantize
from edge_runtime.cli.checking import bench, doctor, evaluate, models, selftest
from edge_runtime.cli.recording import demo, mark, run
from edge_runtime.cli.syncing import command, outbox, receive, uplink
from edge_runtime.cli.terminal import fail
from edge_runtime.errors import ConfigError, EdgeError

ROOMS = {  # and in each the commands in the order in which somebody who begins needs them
    "Frames to findings": [demo, run, mark, outbox],
    "Findings to the cloud": [uplink, receive, command],
    "This machine": [doctor, selftest, bench],
    "Models": [models, evaluate, calibrate],
    "A model of your own": [inspect, quantize, compile_model, lint],
}


class Rooms(click.Group):
    """Commands under headings, in the order given; those of the contract that are yet to come say so."""

    LATER = ("replay",)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.LATER:
            raise ConfigError(f"edge-runtime {args[0]}: not in this version")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        indent = max(len(name) for name in self.commands)
        for heading, room in ROOMS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(f"{one.name or '':{indent}}", one.get_short_help_str(limit=200)) for one in room]
                )


@click.group(
    cls=Rooms,
    commands=[one for room in ROOMS.values() for one in room],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="edge-runtime")
def app() -> None:
    """Real-time segmentation and measured findings for portable ultrasound and X-ray devices.

    Research use only. Not a medical device.
    """


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
        fail(str(exc), exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our stdout has left: nothing is owed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        barred = isinstance(exc, PermissionError)
        what = "mend its owner or its mode" if barred else "free some space or name another place"
        fail(f"{exc.filename or 'stdout'}: {exc.strerror}; {what}", 1)
    except Exception as exc:
        if interrupt.came:
            raise SystemExit(130) from None
        if os.environ.get("EDGE_RUNTIME_DEBUG"):
            raise
        fail(f"internal: {type(exc).__name__}: {exc}; please report it (EDGE_RUNTIME_DEBUG=1 shows where)", 1)
    raise SystemExit(0)
