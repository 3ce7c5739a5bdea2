"""`edge-runtime receive`: the cloud's end, from the broker into a database."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings, ReceiveReport
from edge_runtime.cloud.http import address, serving
from edge_runtime.cloud.metrics import Metrics
from edge_runtime.cloud.store import open_store
from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.errors import ConfigError
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.tls import Tls


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
    http: str | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[ReceiveReport], None] = lambda report: None,
) -> ReceiveReport:
    """Runs until SIGINT, SIGTERM, `limit` new findings or `idle_exit_s` without a message.

    Raises ConfigError for a wrong URL, UplinkError when the store or the broker was never reached.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"--limit: want a number of findings, got {limit}")
    if idle_exit_s is not None and not 0 < idle_exit_s < math.inf:
        raise ConfigError(f"--idle-exit: want a number of seconds above 0, got {idle_exit_s}")
    tls = Tls(ca, cert, key)
    where = Broker.parse(broker)
    if where.secure:
        tls.context()
    name = client_id or f"receive-{socket.gethostname()}-{os.getpid()}"
    at = address(http) if http is not None else None
    metrics = Metrics() if at is not None else None
    with ExitStack() as stack:
        opened = stack.enter_context(closing(open_store(store)))
        stop = stack.enter_context(stop_on_signals())
        consumer = Consumer(
            ConsumerSettings(where, name, tls),
            opened,
            stop,
            on_notice=on_notice,
            on_progress=on_progress,
            metrics=metrics,
        )
        if at is not None and metrics is not None:
            shown = stack.enter_context(serving(at, metrics.text, consumer.health.troubles))
            on_notice(f"{shown}: /metrics and /healthz")
        return consumer.run(limit=limit, idle_exit_s=idle_exit_s)


def lines(report: ReceiveReport) -> list[str]:
    """The report for a person."""
    return [
        f"{report.stored} findings, {report.events} events and {report.records} other records stored, "
        f"{report.repeated} came again, {report.rejected} could not be stored, {report.seconds:.1f} s"
    ]
