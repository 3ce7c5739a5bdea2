"""`edge-runtime receive`: the cloud's end, from the broker into a database."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings, ReceiveReport
from edge_runtime.cloud.store import open_store
from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.errors import ConfigError
from edge_runtime.sync.link import Broker, Tls


def run(
    broker: str,
    store: str,
    *,
    limit: int | None = None,
    idle_exit_s: float | None = None,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    client_id: str | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[ReceiveReport], None] = lambda report: None,
) -> ReceiveReport:
    """Runs until SIGINT, SIGTERM, `limit` new findings or `idle_exit_s` without a message.

    Raises ConfigError for a wrong URL, UplinkError when the store or the broker was never reached.
    """
    if idle_exit_s is not None and not 0 < idle_exit_s < math.inf:
        raise ConfigError(f"--idle-exit: want a number of seconds above 0, got {idle_exit_s}")
    tls = Tls(ca, cert, key)
    where = Broker.parse(broker)
    if where.secure:
        tls.context()
    name = client_id or f"receive-{socket.gethostname()}-{os.getpid()}"
    with closing(open_store(store)) as opened, stop_on_signals() as stop:
        consumer = Consumer(
            ConsumerSettings(where, name, tls), opened, stop, on_notice=on_notice, on_progress=on_progress
        )
        return consumer.run(limit=limit, idle_exit_s=idle_exit_s)


def lines(report: ReceiveReport) -> list[str]:
    """The report for a person."""
    return [
        f"{report.stored} findings and {report.events} events stored, {report.repeated} came again, "
        f"{report.rejected} could not be read, {report.seconds:.1f} s"
    ]
