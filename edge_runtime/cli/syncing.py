"""Commands between a device and its cloud: the two ends of the line, what one asks of the other, what waits."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.options import FILE, as_json, config_option, example, state_option, which_option
from edge_runtime.cli.terminal import fail, notices, show
from edge_runtime.errors import ConfigError


@click.command(
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
    notice, last = notices(ends_by_itself=flags["once"]), deque[str](maxlen=1)

    def on_notice(line: str) -> None:
        last.append(line)
        notice(line)

    report = command.run(
        **flags, tenant=place.tenant, site=place.site, journal=config.journal, on_notice=on_notice
    )
    show(report, as_json, command.lines(report))
    if flags["once"] and report.remaining:
        fail("; ".join([f"uplink: stopped with {report.remaining} rows in the outbox", *last]), 1)


@click.command(
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
        fail(f"command {flags['name']}: {answer.outcome} ({answer.code}): {answer.text}", 1)


@click.command(
    epilog=example("edge-runtime receive --broker mqtt://127.0.0.1:1883 --store sqlite:///cloud.db")
)
@click.option("--broker", required=True, metavar="mqtt[s]://HOST:PORT")
@click.option("--store", required=True, metavar="sqlite:///FILE|postgresql://...")
@click.option("--ca", type=FILE, default=None)
@click.option("--cert", type=FILE, default=None)
@click.option("--key", type=FILE, default=None)
@click.option("--limit", type=int, default=None, help="Stop after this many new findings.")
@click.option(
    "--idle-exit",
    "idle_exit_s",
    type=float,
    default=None,
    metavar="S",
    help="Stop after this long without a message.",
)
@click.option("--http", default=None, metavar="HOST:PORT", help="Answer /metrics and /healthz there.")
@click.option(
    "--accept-unsafe-store",
    is_flag=True,
    help="Take a PostgreSQL server with fsync or full_page_writes off: a power cut may take what was receipted.",
)
@as_json
def receive(as_json: bool, **flags: Any) -> None:
    """The cloud side: store findings once, then send the receipt."""
    from edge_runtime.commands import receive as command

    ends_by_itself = flags["limit"] is not None or flags["idle_exit_s"] is not None
    report = command.run(**flags, on_notice=notices(ends_by_itself))
    show(report, as_json, command.lines(report))


@click.group(epilog=example("edge-runtime outbox stats --state state"))
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
