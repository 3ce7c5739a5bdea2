"""What comes back for the rows that were sent: the broker's word and the cloud's, and what becomes of each row.

Knows nothing about connections.
"""

from __future__ import annotations

from typing import Literal

from edge_runtime import clock
from edge_runtime.errors import JournalError, UplinkError
from edge_runtime.sync.link.incoming import Acked
from edge_runtime.sync.link.reason_codes import Verdict, verdict_of
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.uplink.backlog import Backlog
from edge_runtime.sync.uplink.flight import Flight
from edge_runtime.sync.uplink.ledger import Ledger
from edge_runtime.sync.uplink.settling import Settling
from edge_runtime.sync.wire import decode_receipt, one_line

REFUSALS = 8  # of the row that asks for its kind, before the next one asks
ROW_REFUSALS = 3  # of a row that the broker refuses for itself

Proof = Literal["receipt", "puback"]  # what counts as delivered


class Verdicts:
    """On the rows of one connection."""

    def __init__(
        self, outbox: Outbox, ledger: Ledger, flight: Flight, backlog: Backlog, proof: Proof
    ) -> None:
        self._outbox, self._ledger, self._flight, self._backlog = outbox, ledger, flight, backlog
        self._proof = proof
        self.settling = Settling(outbox)
        self.proven = False  # the broker has answered for at least one row

    def unsendable(self, seq: int, reason: str) -> None:
        """No cloud can have the row: it is not of this schema."""
        self._ledger.notice(f"row {seq}: {reason}; kept here as a dead letter")
        self._flight.forget(seq)
        self.settling.rejected(seq, seq, reason)

    def puback(self, acked: Acked, now_ns: int) -> None:
        """The broker's word on one row."""
        row = self._flight.acked(acked.mid, now_ns)
        if row is None:
            return
        self.proven = True
        self._ledger.link.took_a_row()
        verdict = verdict_of(acked.code)
        if verdict is Verdict.TAKEN:
            self._taken(row, now_ns)
        elif verdict is Verdict.UNHEARD:
            self._ledger.unheard()
            self._flight.came_back(row.seq, now_ns)
        else:
            self._refused(row, verdict, acked.text, now_ns)

    def _taken(self, row: OutboxRow, now_ns: int) -> None:
        self._ledger.refusals.pop(row.seq, None)
        if self._flight.accepted(row):
            self._ledger.notice(f"the broker takes {row.kind} records again")
            if not self._flight.refused_kinds:
                self._ledger.alerts.mended("not_authorised")
            self._backlog.rewind()
        if self._proof == "puback":
            self._flight.settled([(row.seq, row.seq)], now_ns)
            self.settling.stored(row.seq, row.seq)

    def _refused(self, row: OutboxRow, verdict: Verdict, text: str, now_ns: int) -> None:
        what = f"the broker refuses to take {row.kind} records ({text})"
        if verdict is Verdict.LATER:
            self._ledger.notice(what)
            self._flight.came_back(row.seq, now_ns)
        elif verdict is Verdict.NOT_THIS_KIND:
            self._ledger.notice(f"{what}; check its access list")
            self._ledger.alerts.sound("not_authorised", f"{what}; check its access list")
            if self._flight.refused(row, now_ns) >= REFUSALS:
                self.hold(row.seq, f"the broker refused it {REFUSALS} times ({text})")
                self._backlog.rewind()
        else:
            times = self._ledger.refusals[row.seq] = self._ledger.refusals.get(row.seq, 0) + 1
            self._flight.forget(row.seq)  # and read again when its lane is
            if times >= ROW_REFUSALS or verdict is Verdict.NEVER_THIS_ROW:
                often = f" {times} times" if times > 1 else ""
                self.hold(row.seq, f"the broker refused it{often} ({text})")

    def receipt(self, payload: bytes) -> None:
        """The cloud's word on many; any other payload is passed over."""
        try:
            receipt = decode_receipt(payload)
        except UplinkError as exc:
            self._ledger.notice(str(exc))
            return
        sendings = self._ledger.sendings
        turn = sendings.turn_of(receipt.sender)
        if receipt.epoch != self._outbox.epoch or turn is None:
            return  # of a database that was set aside, or of another device with this one's name
        if self._flight.stalled:
            self._ledger.notice("receipts arrive again")
        self._ledger.alerts.mended("no_consumer")
        ranges = sendings.owed(receipt.epoch, turn, receipt.ranges)
        self._flight.settled(ranges, clock.monotonic_ns())
        if not ranges:  # a consumer is there, and says nothing new
            return
        if receipt.code != "encoding":
            sendings.settled(receipt.epoch, ranges, rejected=receipt.status == "rejected")
        if receipt.status == "stored":
            for first, last in ranges:
                self.settling.stored(first, last)
        elif receipt.code == "encoding":
            self._ledger.plain = True
            self._ledger.notice("the cloud cannot unpack what was sent; sending it again as plain JSON")
            self._backlog.rewind()
        else:
            reason = one_line(receipt.reason or "no reason given")
            self._ledger.notice(f"the cloud rejects {len(ranges)} range(s) of rows: {reason}; kept here")
            for first, last in ranges:
                self.settling.rejected(first, last, reason)

    def hold(self, seq: int, reason: str) -> None:
        """This broker cannot have the row; the others go on."""
        self._flight.forget(seq)
        self._ledger.held.add(seq)
        self._ledger.report.held += 1
        self._ledger.notice(f"row {seq}: {reason}; held back until the next start")
        try:
            self._outbox.hold(seq, reason)
        except JournalError as exc:
            self._ledger.notice(str(exc))

    def note(self, *, now: bool = False) -> None:
        """Settles what receipts said, in one transaction, some times a second."""
        now_ns = clock.monotonic_ns()
        if not (self.settling if now else self.settling.due(now_ns)):
            return
        try:
            delivered, dead = self.settling.note(now_ns)
        except JournalError as exc:
            self._ledger.notice(str(exc))
            return
        self._ledger.report.delivered += delivered
        self._ledger.report.rejected += dead
