"""One connection of the uplink, from the first row sent to the last receipt noted. Knows nothing about reconnecting.

What is next is `backlog`'s to say, what may fly `flight`'s, what an answer means `verdicts`': here they meet the
connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_runtime import clock
from edge_runtime.errors import UplinkError
from edge_runtime.sync.commands.authority import Arrived
from edge_runtime.sync.commands.commander import Commander
from edge_runtime.sync.link.certificates import Certificates
from edge_runtime.sync.link.link import Acked, Event, Link, Message, Received
from edge_runtime.sync.link.reason_codes import LinkError, Trouble
from edge_runtime.sync.outbox import Outbox, OutboxRow
from edge_runtime.sync.uplink.backlog import Backlog
from edge_runtime.sync.uplink.device_state import StateMessages
from edge_runtime.sync.uplink.flight import Flight, Pace
from edge_runtime.sync.uplink.ledger import Ledger
from edge_runtime.sync.uplink.parcels import parcel
from edge_runtime.sync.uplink.verdicts import Proof, Verdicts
from edge_runtime.sync.wire import decode_state, one_line

POLL_S = 0.1
QUIET_S = 0.03
CALM_S = 0.2
CALM_ROWS = 20  # sent since the last pause: fewer is a calm time
LOOK_NS = 250_000_000  # between two looks at everything but the rows
AROUND_NS = 1_000_000_000  # at certificates, clock and other alerts
AGAIN_NS = 50_000_000  # and at the rows that fly

End = Literal["over", "empty", "replaced", "certificates"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How connections are used; of one uplink all are used alike."""

    pace: Pace
    proof: Proof
    puback_timeout_s: float
    state_every_s: float


class Session:
    """Sends rows of one outbox over one link. `drain` raises LinkError when the link is lost."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        say: StateMessages,
        ledger: Ledger,
        commander: Commander,
        manner: Manner,
    ) -> None:
        self._outbox, self._link, self._say, self._ledger = outbox, link, say, ledger
        self._topics = say.topics
        self._commander, self._manner = commander, manner
        self._answers: deque[Message] = deque()
        self._alone = ledger.one_by_one
        pace = Pace(window=1) if self._alone else manner.pace
        self._flight = Flight(pace, clock.monotonic_ns(), ledger.speed.profile)
        self._backlog = Backlog(outbox.pages)
        self._verdicts = Verdicts(outbox, ledger, self._flight, self._backlog, manner.proof)
        self._rested_at, self._calm = ledger.report.sent, False
        self._said: object = None  # what the last state message was about
        self._state_due_ns = self._look_due_ns = self._around_due_ns = self._again_due_ns = 0

    def drain(self, *, until_empty: bool, certificates: Certificates, look_around: Callable[[], None]) -> End:
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
                    self._watch()
                if now_ns >= self._around_due_ns:
                    self._around_due_ns = now_ns + AROUND_NS
                    look_around()
                self._tell_state()
                self._answer()
                self._fill()
                if self._backlog.dry:
                    self._rest(calm=not until_empty)
                self._take_in(self._link.poll(POLL_S))
                self._verdicts.note()
                if until_empty and self._nothing_left():
                    return "empty"
            return "over"
        except LinkError as exc:
            self._ended(exc)
            raise
        finally:
            self._verdicts.note(now=True)
            self._ledger.report.remaining = self._outbox.pending_count()

    def _rest(self, *, calm: bool) -> None:
        """Nothing presses: what comes in is taken together, not one at each awakening, and so is what goes out."""
        self._link.flush()
        sent = self._ledger.report.sent
        calm = calm and sent - self._rested_at < CALM_ROWS
        if calm and not self._calm:  # a burst is over
            self._verdicts.note(now=True)
        self._rested_at, self._calm = sent, calm
        clock.sleep_s(CALM_S if calm else QUIET_S)

    def _watch(self) -> None:
        timeout_s = max(self._manner.puback_timeout_s, self._ledger.speed.profile.puback_timeout_s)
        if self._link.silent_s() > timeout_s:
            raise LinkError(f"the broker has acknowledged nothing for {timeout_s:.0f} s; connecting anew")

    def _ended(self, error: LinkError) -> None:
        unacked = self._flight.unacked
        shows = (
            bool(unacked) and not self._verdicts.proven and error.by_peer and error.trouble is Trouble.LINE
        )
        seq = unacked[0] if shows else None
        if self._ledger.lost_over(seq, self._alone, error) and seq is not None:
            self._verdicts.hold(seq, "the broker ended every connection over it")

    def _tell_state(self) -> None:
        about = (self._ledger.link.state, self._ledger.alerts.standing, self._commander.session)
        now_ns = clock.monotonic_ns()
        if (now_ns >= self._state_due_ns or about != self._said) and self._link.room():
            self._said, self._state_due_ns = about, now_ns + int(self._manner.state_every_s * 1e9)
            self._link.publish(self._say.message(self._say.online(self._ledger.report.remaining or 0)))

    def _count(self) -> None:
        self._ledger.report.remaining = self._outbox.pending_count()
        self._ledger.progress()

    def _nothing_left(self) -> bool:
        """Nothing flies and nothing is to be noted: what remains, if anything, is held."""
        if self._flight or self._answers or not self._backlog.dry:
            return False
        self._verdicts.note(now=True)
        if self._verdicts.settling:
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
        return (
            row.seq not in self._ledger.held
            and row.seq not in self._verdicts.settling
            and self._flight.wants(row)
        )

    def _send(self, row: OutboxRow) -> None:
        sendings = self._ledger.sendings
        sendings.about_to_send(self._outbox.epoch, row.seq)
        short = self._ledger.speed.profile.short
        try:
            message = parcel(
                row,
                self._topics,
                self._outbox.epoch,
                sendings.sender,
                short=short,
                packed=short and not self._ledger.plain,
            )
        except UplinkError as exc:
            self._verdicts.unsendable(row.seq, one_line(str(exc)))
            return
        if not self._link.fits(message):
            size, most = len(message.payload), self._link.max_packet
            self._verdicts.hold(row.seq, f"{size} bytes, the broker takes {most}; raise its limit")
            return
        mid = self._link.publish(message)
        self._ledger.report.sent += 1
        if self._manner.proof == "receipt":
            sendings.sent(self._outbox.epoch, row.seq)
        self._flight.sent(row, mid)

    # ------------------------------------------------------------ in

    def _take_in(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Acked):
                self._puback(event)
            elif event.topic == self._topics.receipts:
                self._verdicts.receipt(event.payload)
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
        self._verdicts.puback(acked, now_ns)

    def _command(self, received: Received) -> None:
        self._verdicts.note(now=True)  # else a receipt from before would take away what is to be sent again
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
