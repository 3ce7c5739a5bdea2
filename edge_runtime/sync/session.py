"""One connection of the uplink, from the first row sent to the last receipt noted. Knows nothing about reconnecting.

Receipts are noted in the database before more is sent; a note that fails (a full disk) is kept and tried again, and
its rows are not sent meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from edge_runtime import clock
from edge_runtime.errors import JournalError, UplinkError
from edge_runtime.sync.flight import Flight, Pace
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.link import NO_SUBSCRIBERS, Acked, Event, Link, Message
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import CONTENT_TYPE, SeqRange, decode_receipt, one_line, outgoing
from edge_runtime.types import SCHEMA_VERSION

POLL_S = 0.1
PROGRESS_S = 0.25
NOTE_RETRY_S = 1.0
STRIKES = 2  # connections lost over the same unacknowledged row before rows are sent one by one
FAILURE = 0x80  # MQTT v5 reason codes from here on are refusals


class UplinkReport(msgspec.Struct, kw_only=True):
    """What an uplink has done so far."""

    device_id: str | None = None
    sent: int = 0  # PUBLISHes, with those that were sent again
    delivered: int = 0  # rows with a receipt that says stored
    rejected: int = 0  # rows that the cloud cannot read: kept here as dead letters
    remaining: int | None = None  # rows still in the outbox; null before there is one
    connects: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Ledger:
    """What outlives a connection; owned by the uplink, written by its sessions."""

    notice: Callable[[str], None]  # one line for a person
    progress: Callable[[], None]
    over: Callable[[], bool]  # stopped, or out of time
    report: UplinkReport = field(default_factory=UplinkReport)
    held: set[int] = field(
        default_factory=set
    )  # rows that this broker cannot take: too large, or they end the connection
    suspect: int | None = None  # the row over which connections were lost
    strikes: int = 0

    def lost_over(self, seq: int | None, alone: bool) -> None:
        """A connection ended; `seq` was its oldest row without a PUBACK, None when the broker had taken all or any."""
        if seq is None or seq != self.suspect:
            self.suspect, self.strikes = seq, 0 if seq is None else 1
            return
        self.strikes += 1
        if alone and self.strikes > STRIKES:
            self.held.add(seq)
            self.notice(
                f"row {seq}: the broker ended {self.strikes} connections over it; held back until the next start"
            )
            self.suspect, self.strikes = None, 0


class Session:
    """Sends rows of one outbox over one link. `drain` raises UplinkError when the link is lost."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        topics: DeviceTopics,
        state_message: Callable[[int], Message],
        ledger: Ledger,
        pace: Pace,
    ) -> None:
        self._outbox, self._link, self._topics, self._ledger = outbox, link, topics, ledger
        self._state_message = state_message  # of the number of waiting rows
        self._alone = ledger.strikes >= STRIKES
        self._flight = Flight(Pace(window=1) if self._alone else pace, clock.monotonic_ns())
        self._cursors = dict.fromkeys(Lane, 0)
        self.fruitful = False  # the broker has acknowledged at least one row
        self._stored: list[SeqRange] = []
        self._rejected: list[tuple[SeqRange, str]] = []
        self._note_after_ns = 0
        self._count_due_ns = 0

    def drain(self, *, until_empty: bool, puback_timeout_s: float, state_every_s: float) -> None:
        """Sends and settles until stopped, until the database was replaced, or until nothing more can be done."""
        state_due_ns = 0
        try:
            while not self._ledger.over() and not self._outbox.replaced():
                if clock.monotonic_ns() >= state_due_ns and self._link.room():
                    state_due_ns = clock.monotonic_ns() + int(state_every_s * 1e9)
                    self._link.publish(self._state_message(self._outbox.pending_count()))
                self._fill()
                self._take_in(self._link.poll(POLL_S))
                self._note()
                self._count()
                if self._link.silent_s() > puback_timeout_s:
                    raise UplinkError(
                        f"the broker has acknowledged nothing for {puback_timeout_s:.0f} s; connecting anew"
                    )
                if until_empty and self._nothing_left():
                    return
        except UplinkError:
            unacked = self._flight.unacked
            self._ledger.lost_over(unacked[0] if unacked and not self.fruitful else None, self._alone)
            raise
        finally:
            self._ledger.report.remaining = self._outbox.pending_count()

    def _count(self) -> None:
        if clock.monotonic_ns() >= self._count_due_ns:
            self._count_due_ns = clock.monotonic_ns() + int(PROGRESS_S * 1e9)
            self._ledger.report.remaining = self._outbox.pending_count()
            self._ledger.progress()

    def _nothing_left(self) -> bool:
        """Nothing flies and nothing is to be noted: what remains, if anything, is held."""
        if self._flight or self._stored or self._rejected:
            return False
        self._ledger.report.remaining = self._outbox.pending_count()
        return self._ledger.report.remaining <= len(self._ledger.held)

    # ------------------------------------------------------------ out

    def _fill(self) -> None:
        for row in self._flight.again(clock.monotonic_ns()):
            if not self._link.room():
                return
            self._send(row)
        for lane in Lane:
            while (room := self._flight.room()) and self._link.room():
                rows = self._outbox.pending(lane, self._cursors[lane], room)
                for row in rows:
                    if not self._link.room():
                        return
                    self._cursors[lane] = row.seq
                    if row.seq not in self._ledger.held:
                        self._send(row)
                if len(rows) < room:
                    break

    def _send(self, row: OutboxRow) -> None:
        try:
            payload = outgoing(row.kind, row.body)
        except UplinkError as exc:
            reason = one_line(str(exc))
            self._ledger.notice(f"row {row.seq}: {reason}; kept here as a dead letter")
            self._rejected.append(((row.seq, row.seq), reason))
            return
        message = Message(
            self._topics.event(row.kind),
            payload,
            CONTENT_TYPE[row.kind],
            properties=(("schema", SCHEMA_VERSION), ("epoch", self._outbox.epoch), ("seq", str(row.seq))),
        )
        if not self._link.fits(message):
            self._ledger.held.add(row.seq)
            self._ledger.notice(
                f"row {row.seq}: {len(payload)} bytes, the broker takes {self._link.max_packet}; held back, raise its limit"
            )
            return
        mid = self._link.publish(message)
        self._ledger.report.sent += 1
        self._flight.sent(row, mid)

    # ------------------------------------------------------------ in

    def _take_in(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Acked):
                self._puback(event)
            else:
                self._receipt(event.payload)
                self._link.ack(event)

    def _puback(self, acked: Acked) -> None:
        self.fruitful = True
        seq = self._flight.acked(acked.mid, clock.monotonic_ns())
        if acked.code < NO_SUBSCRIBERS:
            return
        if acked.code >= FAILURE:
            self._ledger.notice(f"the broker refuses to take findings ({acked.text}); check its access list")
        if seq is not None:
            if acked.code < FAILURE:
                self._ledger.notice(
                    "the broker has no consumer for findings (`edge-runtime receive`); they wait here"
                )
            self._flight.came_back(seq, clock.monotonic_ns())

    def _receipt(self, payload: bytes) -> None:
        try:
            receipt = decode_receipt(payload)
        except UplinkError as exc:
            self._ledger.notice(str(exc))
            return
        if receipt.epoch != self._outbox.epoch:
            return  # of a database that was set aside
        if self._flight.stalled:
            self._ledger.notice("receipts arrive again")
        self._flight.settled(receipt.ranges, clock.monotonic_ns())
        if receipt.status == "stored":
            self._stored.extend(receipt.ranges)
        else:
            reason = one_line(receipt.reason or "no reason given")
            self._ledger.notice(
                f"the cloud rejects {len(receipt.ranges)} range(s) of rows: {reason}; kept here"
            )
            self._rejected.extend((found, reason) for found in receipt.ranges)

    def _note(self) -> None:
        """Settles what receipts said, in one transaction."""
        if not (self._stored or self._rejected) or clock.monotonic_ns() < self._note_after_ns:
            return
        try:
            delivered, dead = self._outbox.settle(self._stored, self._rejected)
        except JournalError as exc:
            self._ledger.notice(str(exc))
            self._note_after_ns = clock.monotonic_ns() + int(NOTE_RETRY_S * 1e9)
            return
        self._stored, self._rejected = [], []
        self._ledger.report.delivered += delivered
        self._ledger.report.rejected += dead
