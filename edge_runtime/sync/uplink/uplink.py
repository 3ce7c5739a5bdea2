"""The process that empties the outbox: rows to the broker, receipts back, for ever or once.

One thread owns the connection and the database; no transaction spans a network wait. A row leaves the outbox on the
consumer's receipt and on nothing else, so whatever dies on the way, the row is sent again and stored once. Knows
nothing about how findings are made.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from edge_runtime import clock
from edge_runtime.config import JournalLimits, Site
from edge_runtime.errors import ConfigError, EdgeError, JournalError, UplinkError
from edge_runtime.sync.commands.audits import Audits
from edge_runtime.sync.commands.commander import Commander
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.commands.handlers import PROFILE_KEY
from edge_runtime.sync.commands.recent_log import Discretion, Said
from edge_runtime.sync.commands.signing import NO_KEYS, TrustedKeys
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.certificates import Certificates
from edge_runtime.sync.link.link import CONNECT_TIMEOUT_S, Broker, Link, Settings, Tls
from edge_runtime.sync.link.link_file import LinkFile, alerts_before
from edge_runtime.sync.link.link_state import LinkMachine, LinkState, Patience
from edge_runtime.sync.link.reason_codes import LinkError, Trouble
from edge_runtime.sync.link.speed import LinkChoice, Speed
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import site_key
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.alerts import Alerts
from edge_runtime.sync.uplink.device_state import StateMessages, UplinkWays
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.ledger import Ledger, UplinkReport
from edge_runtime.sync.uplink.lookout import Lookout
from edge_runtime.sync.uplink.session import Manner, Session
from edge_runtime.sync.uplink.verdicts import Proof

_TELL_NS = 10 * 10**9  # between two tries to tell of what had to go
LONGEST_S = 1e9  # thirty years
MOST_RECEIVED = 128 * 2**10  # a receipt of 1000 ranges has 40 kB, a command 4


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """Where to and how patiently; the defaults suit a device on a shared line."""

    broker: Broker
    tls: Tls = field(default_factory=Tls)
    tenant: str = Site().tenant
    site: str = Site().site
    pace: Pace = field(default_factory=Pace)
    link: LinkChoice = "auto"
    ack: Proof = "receipt"
    backoff_s: float = 0.5  # the first pause between connection tries, doubled, each with 50 % jitter
    backoff_max_s: float = 60.0
    refused_s: float = 60.0  # the least pause where a person must mend something
    certificates_s: float = 30.0  # between two looks at the TLS files
    puback_timeout_s: float = 20.0  # a broker that owes a PUBACK this long is gone: drop the line
    state_every_s: float = 300.0
    keepalive_s: int = 30
    command_keys: Path | None = None  # a file or folder of PEM; without one every command is refused
    journal: JournalLimits = field(default_factory=JournalLimits)


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
        link = LinkMachine(Patience(settings.backoff_s, settings.backoff_max_s, settings.refused_s))
        alerts = Alerts(before=alerts_before(state_dir))
        self._ledger = Ledger(self._notice, self._progress, self._over, link, Speed(settings.link), alerts)
        self._certificates = Certificates(settings.tls, settings.certificates_s)
        self._lookout = Lookout(
            state_dir,
            settings.journal,
            self._certificates,
            self._ledger,
            LinkFile(state_dir, str(settings.broker)),
        )
        private = (state_dir, state_dir.absolute(), settings.tls.ca, settings.tls.cert, settings.tls.key)
        self._discretion = Discretion(str(path) for path in private if path is not None)
        self._said = Said(self._discretion)
        self._audits = Audits(self._journal)
        self._commander = Commander(self._audits, self._notice)
        self._manner = Manner(settings.pace, settings.ack, settings.puback_timeout_s, settings.state_every_s)
        self._last_notice = ""
        self._started_ns = clock.monotonic_ns()
        self._deadline_ns: int | None = None
        self._released = False
        self._tell_due_ns = 0

    @property
    def report(self) -> UplinkReport:
        """What has been done so far; read from any thread."""
        return self._ledger.report

    def run(self, *, once: bool = False, timeout_s: float = 60.0) -> UplinkReport:
        """With `once`, raises UplinkError, saying how many rows remain after `timeout_s` or were rejected.

        Without, it lives until stopped, and waits where there is no database yet.
        """
        report = self._ledger.report
        if once:
            self._deadline_ns = self._started_ns + int(min(timeout_s, LONGEST_S) * 1e9)
            with Outbox(self._state_dir):  # raises JournalError at once: there is nothing to wait for
                site_key(self._state_dir)
        try:
            finished = self._until_done(once)
        finally:
            self._audits.close()
            self._ledger.link.stopped()
            self._lookout.show()
        self._progress()
        if once and not self._stop.is_set():
            if report.remaining or not finished:
                raise UplinkError(self._what_remains(report.remaining, report.seconds))
            if report.rejected or report.held:
                raise UplinkError(
                    f"uplink: {report.rejected} rows rejected by the cloud, {report.held} not taken by the broker,"
                    " kept here; see `outbox list --which dead`"
                )
        return report

    def _until_done(self, once: bool) -> bool:
        """Connection after connection; True when nothing is left to do, False when stopped or out of time."""
        report = self._ledger.report
        while not self._over():
            try:
                with Outbox(self._state_dir) as outbox:
                    self._release(outbox)
                    report.device_id, report.remaining = outbox.device_id, outbox.pending_count()
                    if (once and report.remaining == 0) or self._session(outbox, once):
                        return True
            except JournalError as exc:
                self._notice(f"{exc}; waiting for it")
                self._stop.wait(0.5)
            except LinkError as exc:
                self._failed(exc)
        return False

    def _release(self, outbox: Outbox) -> None:
        """What an earlier uplink's broker did not take is tried again, once."""
        if not self._released:
            outbox.release()
            self._released = True

    def _what_remains(self, remaining: int | None, seconds: float) -> str:
        if not remaining:
            return (
                f"uplink: not done after {seconds:.0f} s ({self._last_notice or 'the outbox was not read'})"
            )
        held = f", {self._ledger.report.held} held back besides" if self._ledger.report.held else ""
        why = f" ({self._last_notice})" if self._last_notice else ""
        return f"uplink: {remaining} rows remain in the outbox after {seconds:.0f} s{held}{why}"

    def _session(self, outbox: Outbox, once: bool) -> bool:
        """One connection, from its start to its end; True when there is nothing left to do."""
        say = self._state_messages(outbox)
        self._begin_commands(outbox, say)
        self._ledger.link.connecting()
        self._lookout.look(outbox)
        link = self._connect(say)
        if link is None:
            return True
        self._connected(link, say.topics)
        session = Session(outbox, link, say, self._ledger, self._commander, self._manner)
        try:
            end = session.drain(
                until_empty=once,
                certificates=self._certificates,
                look_around=lambda: self._look_around(outbox),
            )
        except EdgeError:
            link.drop()
            raise
        if end == "certificates":
            self._notice("there are new TLS files; connecting anew with them")
            link.close()
            return False
        link.close(last=say.message(say.offline("stopped")))
        return end != "replaced"

    def _state_messages(self, outbox: Outbox) -> StateMessages:
        return StateMessages(
            DeviceTopics(self._settings.tenant, self._settings.site, outbox.device_id),
            outbox.epoch,
            site_key(self._state_dir).key_id,
            self._ledger,
            lambda: self._commander.session,
            self._discretion,
        )

    def _connect(self, say: StateMessages) -> Link | None:
        """Connected and subscribed, the will left with the broker; None when stopped meanwhile."""
        settings, topics, will = self._settings, say.topics, say.offline("lost")
        self._certificates.taken_into_use()
        receipts = (topics.receipts,) if settings.ack == "receipt" else ()
        link = Link.open(
            Settings(
                broker=settings.broker,
                client_id=topics.device,
                tls=settings.tls,
                will=say.message(will),
                keepalive_s=settings.keepalive_s,
                maximum_packet=MOST_RECEIVED,
                subscribe=(*receipts, topics.command("+"), topics.state),
                needed=len(receipts),
            ),
            self._stop,
            self._seconds_left(CONNECT_TIMEOUT_S),
        )
        if link is not None and will.session is not None:
            self._ledger.wills.add(will.session)
        return link

    def _look_around(self, outbox: Outbox) -> None:
        self._lookout.look(outbox)
        now_ns = clock.monotonic_ns()
        if now_ns < self._tell_due_ns or not outbox.untold():
            return
        self._tell_due_ns = now_ns + _TELL_NS
        with suppress(JournalError), self._journal() as journal:  # too full: it is told later
            journal.tell_losses()

    def _journal(self) -> Journal:
        """For the audits of commands, and for gaps that no run is there to tell of; never one in a directory that is gone."""
        with Outbox(self._state_dir):
            return Journal.open_within(self._state_dir, self._settings.journal, self._notice)

    def _begin_commands(self, outbox: Outbox, say: StateMessages) -> None:
        """A session of its own for each connection, the keys as they are now, the profile that was last commanded."""
        keys = NO_KEYS
        if self._settings.command_keys is not None:
            try:
                keys = TrustedKeys.load(self._settings.command_keys)
            except ConfigError as exc:  # they were good at the start
                self._notice(f"{exc}; every command is refused")
        for choice in get_args(LinkChoice):
            if outbox.facts.get(PROFILE_KEY) == choice:
                self._ledger.speed.choose(choice)
        ways = UplinkWays(self._said, self._ledger, lambda: say.online(outbox.pending_count()))
        self._commander.begin(say.topics, keys, DeviceRecords(outbox), ways)

    def _connected(self, link: Link, topics: DeviceTopics) -> None:
        self._ledger.link.connected(self._ledger.speed.slow)
        self._ledger.report.connects += 1
        waiting = self._ledger.report.remaining
        self._notice(f"broker {self._settings.broker}: connected, {waiting} rows wait")
        self._lookout.show()
        if topics.command("+") in link.not_subscribed:
            self._notice(f"the broker keeps commands from this device ({topics.command('+')})")

    def _over(self) -> bool:
        return self._stop.is_set() or (
            self._deadline_ns is not None and clock.monotonic_ns() > self._deadline_ns
        )

    def _seconds_left(self, at_most: float) -> float:
        if self._deadline_ns is None:
            return at_most
        return min(at_most, max(0.1, (self._deadline_ns - clock.monotonic_ns()) / 1e9))

    def _failed(self, error: LinkError) -> None:
        """Says it, and waits before the next try; the jitter keeps a fleet from coming back as one."""
        trouble, why = error.trouble, str(error)
        if trouble in (Trouble.LINE, Trouble.EARLY) and self._certificates.ended():
            trouble, why = Trouble.CERTIFICATE, f"{why}; {self._certificates.warning()}"
        pause_s = self._ledger.link.failed(trouble, why, clock.monotonic_ns(), by_peer=error.by_peer)
        pause_s *= random.uniform(1.0 if self._ledger.link.state.refused else 0.5, 1.5)
        until_ns = clock.monotonic_ns() + int(self._seconds_left(pause_s) * 1e9)
        self._ledger.link.waits_until(until_ns)
        self._notice(why)
        self._lookout.look()
        while (left_ns := until_ns - clock.monotonic_ns()) > 0:
            if self._stop.wait(min(0.5, left_ns / 1e9)):
                return
            refused = self._ledger.link.state is LinkState.REFUSED_CERTIFICATE
            if refused and self._certificates.changed():
                return

    def _notice(self, line: str) -> None:
        if line != self._last_notice:
            self._last_notice = line
            self._said.add(clock.utc_now(), line)
            self._on_notice(line)

    def _progress(self) -> None:
        self._ledger.report.seconds = (clock.monotonic_ns() - self._started_ns) / 1e9
        self._on_progress(self._ledger.report)
