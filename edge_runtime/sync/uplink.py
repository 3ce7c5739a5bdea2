"""The process that empties the outbox: rows to the broker, receipts back, for ever or once.

One thread owns the connection and the database; no transaction spans a network wait. A row leaves the outbox on the
consumer's receipt and on nothing else, so whatever dies on the way, the row is sent again and stored once. Knows
nothing about how findings are made.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_runtime import __version__, clock
from edge_runtime.config import Site
from edge_runtime.errors import EdgeError, JournalError, UplinkError
from edge_runtime.sync.flight import Pace
from edge_runtime.sync.link import CONNECT_TIMEOUT_S, Broker, Link, Message, Settings, Tls
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.session import Ledger, Session, UplinkReport
from edge_runtime.sync.state import site_key
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import DeviceState, encode_state

LONGEST_S = 1e9  # thirty years


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """Where to and how patiently; the defaults suit a device on a shared line."""

    broker: Broker
    tls: Tls = field(default_factory=Tls)
    tenant: str = Site().tenant
    site: str = Site().site
    pace: Pace = field(default_factory=Pace)
    backoff_s: float = 0.5  # the first pause between connection tries, doubled, each with 50 % jitter
    backoff_max_s: float = 60.0
    puback_timeout_s: float = 20.0  # a broker that owes a PUBACK this long is gone: drop the line
    state_every_s: float = 300.0
    keepalive_s: int = 30


class Uplink:
    """`run` returns when stopped, or when the outbox is empty if it is asked to drain once."""

    def __init__(
        self,
        state_dir: Path,
        settings: UplinkSettings,
        stop: threading.Event,
        *,
        on_notice: Callable[[str], None] = lambda line: None,
        on_progress: Callable[[UplinkReport], None] = lambda report: None,
    ) -> None:
        self._state_dir, self._settings, self._stop = state_dir, settings, stop
        self._on_notice, self._on_progress = on_notice, on_progress
        self._ledger = Ledger(notice=self._notice, progress=self._progress, over=self._over)
        self._last_notice = ""
        self._started_ns = clock.monotonic_ns()
        self._deadline_ns: int | None = None
        self._tries = 0

    def run(self, *, once: bool = False, timeout_s: float = 60.0) -> UplinkReport:
        """With `once`, raises UplinkError, saying how many rows remain after `timeout_s` or were rejected.

        Without, it lives until stopped, and waits where there is no database yet.
        """
        report = self._ledger.report
        if once:
            self._deadline_ns = self._started_ns + int(min(timeout_s, LONGEST_S) * 1e9)
            with Outbox(self._state_dir):  # raises JournalError at once: there is nothing to wait for
                site_key(self._state_dir)
        finished = False
        while not finished and not self._over():
            try:
                with Outbox(self._state_dir) as outbox:
                    report.device_id, report.remaining = outbox.device_id, outbox.pending_count()
                    finished = (once and report.remaining == 0) or self._session(outbox, once)
            except JournalError as exc:
                self._notice(f"{exc}; waiting for it")
                self._stop.wait(0.5)
            except UplinkError as exc:
                self._notice(str(exc))
                self._pause()
        self._progress()
        if once and not self._stop.is_set():
            if report.remaining or not finished:
                raise UplinkError(self._what_remains(report.remaining, report.seconds))
            if report.rejected:
                raise UplinkError(
                    f"uplink: the cloud rejected {report.rejected} rows, kept here; see `outbox list --which dead`"
                )
        return report

    def _what_remains(self, remaining: int | None, seconds: float) -> str:
        if not remaining:
            return (
                f"uplink: not done after {seconds:.0f} s ({self._last_notice or 'the outbox was not read'})"
            )
        held = f", {len(self._ledger.held)} of them held back" if self._ledger.held else ""
        why = f" ({self._last_notice})" if self._last_notice else ""
        return f"uplink: {remaining} rows remain in the outbox after {seconds:.0f} s{held}{why}"

    def _session(self, outbox: Outbox, once: bool) -> bool:
        """One connection, from its start to its end; True when there is nothing left to do."""
        settings = self._settings
        topics = DeviceTopics(settings.tenant, settings.site, outbox.device_id)
        say = _StateMessages(topics, outbox.epoch, site_key(self._state_dir).key_id)
        link = Link.open(
            Settings(
                broker=settings.broker,
                client_id=outbox.device_id,
                tls=settings.tls,
                will=say("offline", "lost"),
                keepalive_s=settings.keepalive_s,
                subscribe=topics.receipts,
            ),
            self._stop,
            self._seconds_left(CONNECT_TIMEOUT_S),
        )
        if link is None:
            return True
        self._connected()
        session = Session(
            outbox,
            link,
            topics,
            lambda pending: say("online", "connected", pending),
            self._ledger,
            settings.pace,
        )
        try:
            session.drain(
                until_empty=once,
                puback_timeout_s=settings.puback_timeout_s,
                state_every_s=settings.state_every_s,
            )
        except EdgeError:
            link.drop()
            if session.fruitful:
                self._tries = 0
            raise
        link.close(last=say("offline", "stopped"))
        return not outbox.replaced()

    def _connected(self) -> None:
        self._ledger.report.connects += 1
        waiting = self._ledger.report.remaining
        self._notice(f"broker {self._settings.broker}: connected, {waiting} rows wait")

    def _over(self) -> bool:
        return self._stop.is_set() or (
            self._deadline_ns is not None and clock.monotonic_ns() > self._deadline_ns
        )

    def _seconds_left(self, at_most: float) -> float:
        if self._deadline_ns is None:
            return at_most
        return min(at_most, max(0.1, (self._deadline_ns - clock.monotonic_ns()) / 1e9))

    def _pause(self) -> None:
        """Waits before the next try, longer each time; the jitter keeps a fleet from coming back as one."""
        wait_s = min(self._settings.backoff_max_s, self._settings.backoff_s * 2 ** min(self._tries, 10))
        self._tries += 1
        self._stop.wait(self._seconds_left(wait_s * random.uniform(0.5, 1.5)))

    def _notice(self, line: str) -> None:
        if line != self._last_notice:
            self._last_notice = line
            self._on_notice(line)

    def _progress(self) -> None:
        self._ledger.report.seconds = (clock.monotonic_ns() - self._started_ns) / 1e9
        self._on_progress(self._ledger.report)


class _StateMessages:
    """Makes the retained state messages of one device."""

    def __init__(self, topics: DeviceTopics, epoch: str, site_key_id: str) -> None:
        self._topics, self._epoch, self._site_key_id = topics, epoch, site_key_id

    def __call__(
        self,
        state: Literal["online", "offline"],
        why: Literal["connected", "stopped", "lost"],
        pending: int | None = None,
    ) -> Message:
        state_now = DeviceState(
            device_id=self._topics.device,
            state=state,
            why=why,
            version=__version__,
            at=None if why == "lost" else clock.utc_now(),
            epoch=self._epoch,
            site_key_id=self._site_key_id,
            pending=pending,
        )
        return Message(self._topics.state, encode_state(state_now), retain=True)
