"""`edge-runtime uplink`: sends what the journal holds, for ever or until the outbox is empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.config import JournalLimits, Site
from edge_runtime.errors import ConfigError
from edge_runtime.sync.commands.signing import TrustedKeys
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.speed import LinkChoice
from edge_runtime.sync.link.tls import Tls
from edge_runtime.sync.state import only_uplink
from edge_runtime.sync.uplink.ledger import UplinkReport
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from edge_runtime.sync.uplink.verdicts import Proof

HERE = Site()


def run(
    state: Path,
    broker: str,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    tenant: str = HERE.tenant,
    site: str = HERE.site,
    once: bool = False,
    timeout_s: float = 60.0,
    link: LinkChoice = "auto",
    ack: Proof = "receipt",
    command_keys: Path | None = None,
    journal: JournalLimits | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[UplinkReport], None] = lambda report: None,
) -> UplinkReport:
    """Runs until SIGINT or SIGTERM; with `once`, until all is delivered.

    With `once`, UplinkError when rows remain after `timeout_s`, or when the cloud rejected some.

    `on_notice` gets one line whenever something changes, `on_progress` the figures four times a second.
    """
    if not 0 < timeout_s < math.inf:
        raise ConfigError(f"--timeout: want a number of seconds above 0, got {timeout_s}")
    tls = Tls(ca, cert, key)
    settings = UplinkSettings(
        Broker.parse(broker),
        tls,
        tenant,
        site,
        link=link,
        ack=ack,
        command_keys=command_keys,
        journal=journal or JournalLimits(),
    )
    if command_keys is not None:
        TrustedKeys.load(command_keys)
    if settings.broker.secure:
        tls.context()  # a wrong file is a usage error, not something to retry
    with only_uplink(state), stop_on_signals() as stop:
        uplink = Uplink(state, settings, stop, on_notice=on_notice, on_progress=on_progress)
        return uplink.run(once=once, timeout_s=timeout_s)


def lines(report: UplinkReport) -> list[str]:
    """The report for a person."""
    return [
        f"{report.device_id or 'no device yet'}: {report.delivered} stored in the cloud, {report.rejected} rejected, "
        f"{report.remaining if report.remaining is not None else 0} still wait; {report.sent} sent in {report.seconds:.1f} s"
    ]
