"""The cloud's end of the wire: records in, one database transaction, receipts out, then the broker's acknowledgements.

In that order, so that a crash at any point costs a second delivery and never a finding. Knows nothing about how
findings are made, nor which database it is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from edge_runtime import clock
from edge_runtime.cloud.health import Health
from edge_runtime.cloud.judging import Judged, judge, poisoned, receipts_for
from edge_runtime.cloud.metrics import Metrics
from edge_runtime.cloud.rows import StoreRow
from edge_runtime.cloud.store import RowRefusedError, Store
from edge_runtime.cloud.waiting import MOST_S, pause_s
from edge_runtime.errors import UplinkError
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.incoming import Received
from edge_runtime.sync.link.link import Link, Settings
from edge_runtime.sync.link.tls import Tls
from edge_runtime.sync.topics import EVENTS_FILTER
from edge_runtime.sync.wire import one_line

_POLL_S = 0.1
_PUBACK_TIMEOUT_S = 20.0
_CHECK_S = 15.0  # how often an idle database is asked whether it is there, and what is missing
MOST_PACKET_BYTES = 1 << 20  # a record of two X-ray masks is 3 kB; a thousand of 60 MB would fill the memory


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    broker: Broker
    client_id: str
    tls: Tls = field(default_factory=Tls)
    batch_rows: int = 500
    batch_s: float = 0.05  # the longest that the first message of a batch waits
    quiet_s: float = 0.005  # nothing for this long: no need to wait for more
    backoff_max_s: float = MOST_S


class ReceiveReport(msgspec.Struct, kw_only=True):
    """What has been done so far."""

    messages: int = 0
    stored: int = 0  # findings that were new
    events: int = 0
    records: int = 0  # masks, telemetry, gaps, audits
    repeated: int = 0  # had been stored before: a receipt goes out all the same
    rejected: int = 0  # messages that cannot be stored; most are kept in the table `quarantine`
    batches: int = 0
    connects: int = 0
    seconds: float = 0.0


class Consumer:
    """`run` returns when stopped, at its limit, or after a time without messages."""

    def __init__(
        self,
        settings: ConsumerSettings,
        store: Store,
        stop: threading.Event,
        *,
        on_notice: Callable[[str], None] = lambda line: None,
        on_progress: Callable[[ReceiveReport], None] = lambda report: None,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        self.report = ReceiveReport()
        self.health = health or Health()
        self.health.works("store")  # it was opened
        self._settings, self._store, self._stop = settings, store, stop
        self._on_notice, self._on_progress, self._metrics = on_notice, on_progress, metrics
        self._last_notice = ""
        self._limit: int | None = None
        self._idle_exit_s: float | None = None
        self._heard_ns = self._started_ns = clock.monotonic_ns()
        self._checked_ns = 0

    def run(self, *, limit: int | None = None, idle_exit_s: float | None = None) -> ReceiveReport:
        """Ends after `limit` new findings, or `idle_exit_s` without a message. UplinkError if it never connected, or
        has lost its database.
        """
        self._limit, self._idle_exit_s = limit, idle_exit_s
        tries = 0
        while not self._over():
            done = self.report.batches
            self.health.beat()
            try:
                self._connection()
            except UplinkError as exc:
                self._notice(str(exc))
                if not self.health.wrong("store"):
                    self.health.fails("broker", str(exc))
                tries = 0 if self.report.batches > done else tries + 1
                wait_s = pause_s(tries, self._settings.backoff_max_s)
                self._stop.wait(min(wait_s, self._idle_left_s()))
        self._progress()
        if self.report.connects == 0 and not self._stop.is_set() and self._limit != 0:
            raise UplinkError(self._last_notice or f"broker {self._settings.broker}: never connected")
        if (lost := self.health.wrong("store")) and not self._stop.is_set():
            raise UplinkError(lost)
        return self.report

    def _over(self) -> bool:
        full = self._limit is not None and self.report.stored >= self._limit
        return self._stop.is_set() or full or self._idle_left_s() <= 0

    def _idle_left_s(self) -> float:
        if self._idle_exit_s is None:
            return 1e6
        return self._idle_exit_s - (clock.monotonic_ns() - self._heard_ns) / 1e9

    # ------------------------------------------------------------ one connection

    def _connection(self) -> None:
        settings = self._settings
        self._check_store()  # without it this receiver would only take messages away from others
        link = Link.open(
            Settings(
                broker=settings.broker,
                client_id=settings.client_id,
                tls=settings.tls,
                subscribe=EVENTS_FILTER,
                maximum_packet=MOST_PACKET_BYTES,
            ),
            self._stop,
            max(0.1, min(60.0, self._idle_left_s())),
        )
        if link is None:
            return
        self.report.connects += 1
        self.health.works("broker")
        if self._metrics is not None:
            self._metrics.connected()
        self._notice(f"broker {settings.broker}: connected, listening")
        try:
            self._serve(link)
        except UplinkError:
            link.drop()
            raise
        finally:
            self.health.fails("broker", "not connected")
        link.close()

    def _check_store(self) -> None:
        """Asks the database what is missing, now and then: UplinkError, and no health, when it does not answer."""
        if clock.monotonic_ns() - self._checked_ns < _CHECK_S * 1e9 and not self.health.wrong("store"):
            return
        try:
            missing = self._store.missing()
        except UplinkError as exc:
            self.health.fails("store", str(exc))
            raise
        self.health.works("store")
        self._checked_ns = clock.monotonic_ns()
        if self._metrics is not None:
            self._metrics.missing(missing)

    def _serve(self, link: Link) -> None:
        """Gathers messages for a moment and settles them together: one commit for all of a batch."""
        waiting: deque[Received] = deque()
        first_ns = 0
        while not self._over():
            self.health.beat()
            self._check_store()
            came = [
                one
                for one in link.poll(self._settings.quiet_s if waiting else _POLL_S)
                if isinstance(one, Received)
            ]
            if came:
                first_ns = first_ns if waiting else clock.monotonic_ns()
                self._heard_ns = clock.monotonic_ns()
                waiting.extend(came)
            aged = clock.monotonic_ns() - first_ns > self._settings.batch_s * 1e9
            if waiting and (not came or aged or len(waiting) >= self._settings.batch_rows):
                self._settle(link, waiting)
                self._progress()

    def _settle(self, link: Link, waiting: deque[Received]) -> None:
        """Commit, receipts, acknowledgements: in this order and no other."""
        take = min(len(waiting), self._settings.batch_rows)
        if self._limit is not None:
            take = min(take, self._limit - self.report.stored)
        now = clock.utc_now()
        batch = self._stored([judge(waiting.popleft(), now) for _ in range(take)])
        for message in receipts_for(batch):
            while not link.room():
                if link.silent_s() > _PUBACK_TIMEOUT_S:
                    raise UplinkError(f"broker {self._settings.broker}: takes no receipts; connecting anew")
                waiting.extend(one for one in link.poll(_POLL_S) if isinstance(one, Received))
            link.publish(message)
        for one in batch:
            link.ack(one.received)

    def _stored(self, batch: list[Judged]) -> list[Judged]:
        """Puts the batch into the store; a row that the database itself refuses becomes poison, found by halving."""
        try:
            taken = self._put(batch)
            return self._turned(batch, taken) if taken else batch
        except RowRefusedError as exc:
            if len(batch) > 1:
                half = len(batch) // 2
                return self._stored(batch[:half]) + self._stored(batch[half:])
            bad = batch[0]
            if bad.row is None:  # not even as poison: an outage, whatever the driver calls it
                raise UplinkError(str(exc)) from exc
            poison = poisoned(bad.received, bad.sender, "refused", str(exc), clock.utc_now())
        return self._stored([Judged(bad.received, bad.sender, None, poison)])

    def _turned(self, batch: list[Judged], taken: frozenset[StoreRow]) -> list[Judged]:
        """The batch with the rows whose id is another's as poison: a receipt that says stored would be a lie."""
        turned = {one: self._of_another(one) for one in batch if one.row in taken}
        self._put(list(turned.values()))
        return [turned.get(one, one) for one in batch]

    def _of_another(self, one: Judged) -> Judged:
        reason = "the id is that of another record, stored before"
        poison = poisoned(one.received, one.sender, "refused", reason, clock.utc_now())
        return Judged(one.received, one.sender, None, poison)

    def _put(self, batch: list[Judged]) -> frozenset[StoreRow]:
        rows = [one.row for one in batch if one.row is not None]
        poison = [one.poison for one in batch if one.poison is not None]
        kept = [one for one in poison if one.code != "encoding"]  # the others come again, as plain JSON
        began_ns = clock.monotonic_ns()
        try:
            result = self._store.put(rows, kept)
        except RowRefusedError:
            raise
        except UplinkError as exc:
            self.health.fails("store", str(exc))
            raise
        if poison:
            done = "quarantined" if kept else "sent back"
            self._notice(f"{one_line(poison[-1].topic)}: {done}, {poison[-1].reason}")
        if self._metrics is not None:
            self._metrics.settled(batch, result, (clock.monotonic_ns() - began_ns) / 1e9)
        report = self.report
        report.messages += len(batch) - len(result.taken)  # those are put once more
        report.stored += result.findings
        report.events += result.events
        report.records += result.records
        report.repeated += len(rows) - result.new - len(result.taken)
        report.rejected += len(poison)
        report.batches += 1
        return result.taken

    def _notice(self, line: str) -> None:
        if line != self._last_notice:
            self._last_notice = line
            self._on_notice(line)

    def _progress(self) -> None:
        self.report.seconds = (clock.monotonic_ns() - self._started_ns) / 1e9
        self._on_progress(self.report)
