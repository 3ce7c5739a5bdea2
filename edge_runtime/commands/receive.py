"""`edge-runtime receive`: the cloud's end, from the broker into a database."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings, ReceiveReport
from edge_runtime.cloud.health import Health
from edge_runtime.cloud.http import address, serving
from edge_runtime.cloud.metrics import Metrics
from edge_runtime.cloud.store import open_store
from edge_runtime.cloud.waiting import wait_for_store
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
    accept_unsafe_store: bool = False,
    on_notice: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[ReceiveReport], None] = lambda report: None,
) -> ReceiveReport:
    """Runs until SIGINT, SIGTERM, `limit` new findings or `idle_exit_s` without a message.

    A database that is not up yet is waited for. Raises ConfigError for a wrong URL and for a server that is not safe
    against a power cut, UplinkError when the store refuses us or, with `idle_exit_s`, was never reached, as the broker.
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
    health = Health()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        if at is not None and metrics is not None:
            shown = stack.enter_context(serving(at, metrics.text, health.troubles))
            on_notice(f"{shown}: /metrics and /healthz")
        opened = wait_for_store(
            lambda: open_store(store, accept_unsafe=accept_unsafe_store, on_notice=on_notice),
            stop,
            health,
            on_notice,
            idle_exit_s,
        )
        if opened is None:
            return ReceiveReport()
        consumer = Consumer(
            ConsumerSettings(where, name, tls),
            stack.enter_context(closing(opened)),
            stop,
            on_notice=on_notice,
            on_progress=on_progress,
            metrics=metrics,
            health=health,
        )
        return consumer.run(limit=limit, idle_exit_s=idle_exit_s)


def lines(report: ReceiveReport) -> list[str]:
    """The report for a person."""
    return [
        f"{report.stored} findings, {report.events} events and {report.records} other records stored, "
        f"{report.repeated} came again, {report.rejected} could not be stored, {report.seconds:.1f} s"
    ]
