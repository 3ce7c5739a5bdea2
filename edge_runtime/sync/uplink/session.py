"""One connection of the uplink, from the first row sent to the last receipt noted. Knows nothing about reconnecting.

What is next is `lanes`' to say, what may fly `flight`'s, what a refusal means `reason_codes`': here they meet the
connection and the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from edge_runtime import clock
from edge_runtime.errors import JournalError, UplinkError
from edge_runtime.sync.commands.authority import Arrived
from edge_runtime.sync.commands.commander import Commander
from edge_runtime.sync.link.certificates import Certificates
from edge_runtime.sync.link.link import Acked, Event, Link, Message, Received
from edge_runtime.sync.link.reason_codes import LinkError, Trouble, Verdict, verdict_of
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.backlog import Backlog
from edge_runtime.sync.uplink.flight import Flight, Pace
from edge_runtime.sync.uplink.ledger import Ledger
from edge_runtime.sync.uplink.parcels import parcel
from edge_runtime.sync.uplink.settling import Settling, hold
from edge_runtime.sync.wire import decode_receipt, decode_state, one_line

POLL_S = 0.1
QUIET_S = 0.03
CALM_S = 0.2
CALM_ROWS = 20  # sent since the last pause: fewer is a calm time
LOOK_NS = 250_000_000  # between two looks at everything but the rows
AROUND_NS = 1_000_000_000  # at certificates, clock and other alerts
AGAIN_NS = 50_000_000  # and at the rows that fly
REFUSALS = 8  # of the row that asks for its kind, before the next one asks
ROW_REFUSALS = 3  # of a row that the broker refuses for itself

Proof = Literal["receipt", "puback"]  # what counts as delivered
End = Literal["over", "empty", "replaced", "certificates"]


class Session:
    """Sends rows of one outbox over one link. `drain` raises LinkError when the link is lost."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        topics: DeviceTopics,
        state_message: Callable[[int], Message],
        ledger: Ledger,
        pace: Pace,
        proof: Proof = "receipt",
        commander: Commander | None = None,
    ) -> None:
        self._outbox, self._link, self._topics, self._ledger = outbox, link, topics, ledger
        self._state_message = state_message  # of the number of waiting rows
        self._proof = proof
        self._commander = commander
        self._answers: deque[Message] = deque()
        self._alone = ledger.one_by_one
        pace = Pace(window=1) if self._alone else pace
        self._flight = Flight(pace, clock.monotonic_ns(), ledger.speed.profile)
        self._backlog = Backlog(outbox.pages)
        self._settling = Settling(outbox)
        self._proven = False  # the broker has taken at least one row
        self._rested_at = ledger.report.sent
        self._said: object = None  # what the last state message was about
        self._state_due_ns = self._look_due_ns = self._around_due_ns = self._again_due_ns = 0

    def drain(
        self,
        *,
        until_empty: bool,
        puback_timeout_s: float,
        state_every_s: float,
        certificates: Certificates,
        look_around: Callable[[], None],
    ) -> End:
        """Sends and settles until there is a reason to end: stopped, nothing left, another database or certificate."""
        try:
            while not self._ledger.over():
                now_ns = clock.monotonic_ns()
                if now_ns >= self._look_due_ns:
                    self._look_due_ns = now_ns + LOOK_NS
                    if self._outbox.replaced():
                        return "replaced"
                    if certificates.replaced(now_ns):
                        return "certificates"
                    self._count()
                    self._watch(puback_timeout_s)
                if now_ns >= self._around_due_ns:
                    self._around_due_ns = now_ns + AROUND_NS
                    look_around()
                self._tell_state(state_every_s)
                self._answer()
                self._fill()
                if self._backlog.dry:
                    self._rest(calm=not until_empty)
                self._take_in(self._link.poll(POLL_S))
                self._note()
                if until_empty and self._nothing_left():
                    return "empty"
            return "over"
        except LinkError as exc:
            self._ended(exc)
            raise
        finally:
            self._note(now=True)
            self._ledger.report.remaining = self._outbox.pending_count()

    def _rest(self, *, calm: bool) -> None:
        """Nothing presses: what comes in is taken together, not one at each awakening, and so is what goes out."""
        sent = self._ledger.report.sent
        calm = calm and sent - self._rested_at < CALM_ROWS
        self._rested_at = sent
        clock.sleep_s(CALM_S if calm else QUIET_S)

    def _watch(self, puback_timeout_s: float) -> None:
        timeout_s = max(puback_timeout_s, self._ledger.speed.profile.puback_timeout_s)
        if self._link.silent_s() > timeout_s:
            raise LinkError(f"the broker has acknowledged nothing for {timeout_s:.0f} s; connecting anew")

    def _ended(self, error: LinkError) -> None:
        unacked = self._flight.unacked
        shows = bool(unacked) and not self._proven and error.by_peer and error.trouble is Trouble.LINE
        seq = unacked[0] if shows else None
        if self._ledger.lost_over(seq, self._alone, error) and seq is not None:
            self._hold(seq, "the broker ended every connection over it")

    def _tell_state(self, every_s: float) -> None:
        session = self._commander and self._commander.session
        about = (self._ledger.link.state, self._ledger.alerts.standing, session)
        now_ns = clock.monotonic_ns()
        if (now_ns >= self._state_due_ns or about != self._said) and self._link.room():
            self._said, self._state_due_ns = about, now_ns + int(every_s * 1e9)
            self._link.publish(self._state_message(self._ledger.report.remaining or 0))

    def _count(self) -> None:
        self._ledger.report.remaining = self._outbox.pending_count()
        self._ledger.progress()

    def _nothing_left(self) -> bool:
        """Nothing flies and nothing is to be noted: what remains, if anything, is held."""
        if self._flight or self._answers or not self._backlog.dry:
            return False
        self._note(now=True)
        if self._settling:
            return False
        self._ledger.report.remaining = self._outbox.pending_count()
        return self._ledger.report.remaining <= len(self._ledger.held)

    # ------------------------------------------------------------ out

    def _fill(self) -> None:
        now_ns = clock.monotonic_ns()
        if now_ns >= self._again_due_ns:
            self._again_due_ns = now_ns + AGAIN_NS
            for row in self._flight.again(now_ns):
                if not self._link.room():
                    return
                self._send(row)
        if not (self._link.room() and self._flight.open_lanes()):
            return
        self._backlog.look(now_ns, self._wanted)
        while self._link.room():
            following = self._backlog.take(self._flight.open_lanes(), self._wanted)
            if following is None:
                return
            self._send(following)

    def _wanted(self, row: OutboxRow) -> bool:
        return row.seq not in self._ledger.held and row.seq not in self._settling and self._flight.wants(row)

    def _send(self, row: OutboxRow) -> None:
        short = self._ledger.speed.profile.short
        try:
            message = parcel(
                row,
                self._topics,
                self._outbox.epoch,
                self._ledger.sender,
                short=short,
                packed=short and not self._ledger.plain,
            )
        except UplinkError as exc:
            reason = one_line(str(exc))
            self._ledger.notice(f"row {row.seq}: {reason}; kept here as a dead letter")
            self._flight.forget(row.seq)
            self._settling.rejected(row.seq, row.seq, reason)
            return
        if not self._link.fits(message):
            size, most = len(message.payload), self._link.max_packet
            self._hold(row.seq, f"{size} bytes, the broker takes {most}; raise its limit")
            return
        mid = self._link.publish(message)
        self._ledger.report.sent += 1
        if self._proof == "receipt":
            self._ledger.sent.setdefault(self._outbox.epoch, set()).add(row.seq)
        self._flight.sent(row, mid)

    def _hold(self, seq: int, reason: str) -> None:
        """This broker cannot have the row; the others go on."""
        self._flight.forget(seq)
        self._ledger.held.add(seq)
        self._ledger.report.held += 1
        failed = hold(self._outbox, seq, reason)
        self._ledger.notice(f"row {seq}: {reason}; held back until the next start")
        self._ledger.alerts.sound("dead_letters", f"{self._ledger.report.held} rows held back: {reason}")
        if failed:
            self._ledger.notice(failed)

    # ------------------------------------------------------------ in

    def _take_in(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Acked):
                self._puback(event)
            elif event.topic == self._topics.receipts:
                self._receipt(event.payload)
                self._link.ack(event)
            elif event.topic == self._topics.state:
                self._link.ack(event)
                self._last_words(event.payload)
            else:
                self._command(event)
                self._link.ack(event)

    def _last_words(self, payload: bytes) -> None:
        """The retained state, as this connection found it. A will of a session that is not ours, where ours was the last
        that we know of: another connected under our id. Mosquitto 2.0 ends the older of the two without saying why. This
        one goes on: of two that each left at the sight of the other, neither would deliver anything.
        """
        try:
            before = decode_state(payload)
        except UplinkError:
            return
        wills = self._ledger.wills
        if before.why != "lost" or before.session is None or before.session in wills or len(wills) < 2:
            return
        self._ledger.link.another_was_here(clock.monotonic_ns())

    def _puback(self, acked: Acked) -> None:
        now_ns = clock.monotonic_ns()
        if self._ledger.speed.acked(acked.waited_ns, acked.size, now_ns):
            self._change_profile()
        row = self._flight.acked(acked.mid, now_ns)
        if row is None:
            return
        self._proven = True
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
            self._settling.stored(row.seq, row.seq)

    def _refused(self, row: OutboxRow, verdict: Verdict, text: str, now_ns: int) -> None:
        what = f"the broker refuses to take {row.kind} records ({text})"
        if verdict is Verdict.LATER:
            self._ledger.notice(what)
            self._flight.came_back(row.seq, now_ns)
        elif verdict is Verdict.NOT_THIS_KIND:
            self._ledger.notice(f"{what}; check its access list")
            self._ledger.alerts.sound("not_authorised", f"{what}; check its access list")
            if self._flight.refused(row, now_ns) >= REFUSALS:
                self._hold(row.seq, f"the broker refused it {REFUSALS} times ({text})")
                self._backlog.rewind()
        else:
            times = self._ledger.refusals[row.seq] = self._ledger.refusals.get(row.seq, 0) + 1
            self._flight.forget(row.seq)  # and read again when its lane is
            if times >= ROW_REFUSALS or verdict is Verdict.NEVER_THIS_ROW:
                often = f" {times} times" if times > 1 else ""
                self._hold(row.seq, f"the broker refused it{often} ({text})")

    def _command(self, received: Received) -> None:
        if self._commander is None:
            return
        self._note(now=True)  # else a receipt from before would take away what is to be sent again
        slow = self._ledger.speed.slow
        arrived = Arrived(
            received.topic,
            received.payload,
            received.properties,
            received.retained,
            received.correlation,
            received.response_topic,
        )
        answer = self._commander.take(arrived, self._link.fits)
        if answer is not None:
            self._answers.append(answer)
        if self._ledger.speed.slow != slow:
            self._change_profile()

    def _answer(self) -> None:
        if self._commander is not None:
            self._commander.tick()
        while self._answers and self._link.room():
            self._link.publish(self._answers.popleft())

    def _change_profile(self) -> None:
        slow = self._ledger.speed.slow
        self._flight.profile = self._ledger.speed.profile
        self._ledger.link.speed(slow)
        self._ledger.notice(
            "the line is slow: small window, packed, masks wait" if slow else "the line is no longer slow"
        )

    def _receipt(self, payload: bytes) -> None:
        try:
            receipt = decode_receipt(payload)
        except UplinkError as exc:
            self._ledger.notice(str(exc))
            return
        if (receipt.epoch, receipt.sender) != (self._outbox.epoch, self._ledger.sender):
            return  # of a database that was set aside, or of another device with this one's name
        if self._flight.stalled:
            self._ledger.notice("receipts arrive again")
        self._ledger.alerts.mended("no_consumer")
        ranges = self._ledger.owed(receipt.epoch, receipt.ranges)
        self._flight.settled(ranges, clock.monotonic_ns())
        if receipt.code != "encoding":
            self._ledger.settled(receipt.epoch, ranges)
        if receipt.status == "stored":
            for first, last in ranges:
                self._settling.stored(first, last)
        elif receipt.code == "encoding":
            self._ledger.plain = True
            self._ledger.notice("the cloud cannot unpack what was sent; sending it again as plain JSON")
            self._backlog.rewind()
        else:
            reason = one_line(receipt.reason or "no reason given")
            self._ledger.notice(f"the cloud rejects {len(ranges)} range(s) of rows: {reason}; kept here")
            for first, last in ranges:
                self._settling.rejected(first, last, reason)

    def _note(self, *, now: bool = False) -> None:
        """Settles what receipts said, in one transaction, some times a second."""
        now_ns = clock.monotonic_ns()
        if not (self._settling if now else self._settling.due(now_ns)):
            return
        try:
            delivered, dead = self._settling.note(now_ns)
        except JournalError as exc:
            self._ledger.notice(str(exc))
            return
        self._ledger.report.delivered += delivered
        self._ledger.report.rejected += dead
        if dead:
            rejected = self._ledger.report.rejected
            self._ledger.alerts.sound("dead_letters", f"{rejected} rows rejected by the cloud")
