"""Which rows are on their way, and what to send next. A pure state machine: time comes in, no socket and no database.

A row flies from its PUBLISH to its receipt; the broker's PUBACK lands nothing. When receipts stop (the consumer is
down, or lost what it had), one row at a time is sent as a probe, ever more rarely, instead of the whole backlog again
and again; the first receipt opens the window again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.sync.wire import SeqRange

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How many rows fly at once and how long to be patient."""

    window: int = 100
    receipt_timeout_s: float = 5.0
    probe_s: float = 1.0  # the first pause between probes; it doubles
    probe_max_s: float = 30.0


@dataclass(slots=True)
class _Flown:
    row: OutboxRow
    acked_ns: int | None = None  # when the broker had it; from then on a receipt is due
    came_back: bool = False  # the broker had nobody to give it to, or would not take it


class Flight:
    """The rows of one connection that are sent and not settled."""

    def __init__(self, pace: Pace, now_ns: int) -> None:
        self._pace = pace
        self._flown: dict[int, _Flown] = {}  # by seq, oldest first
        self._seq_of: dict[int, int] = {}  # MQTT message id -> seq, until its PUBACK
        self._last_receipt_ns = now_ns
        self._probe_wait_ns = int(pace.probe_s * _NS)
        self._next_probe_ns: int | None = None  # set: receipts have stopped

    def __len__(self) -> int:
        return len(self._flown)

    def __contains__(self, seq: int) -> bool:
        return seq in self._flown

    @property
    def stalled(self) -> bool:
        """True while only probes are sent."""
        return self._next_probe_ns is not None

    @property
    def unacked(self) -> list[int]:
        """The rows that the broker has not acknowledged, in the order they were sent."""
        return list(self._seq_of.values())

    def room(self) -> int:
        """How many new rows may be sent now."""
        return 0 if self.stalled else max(0, self._pace.window - len(self._flown))

    def sent(self, row: OutboxRow, mid: int) -> None:
        """A row was published. Its time runs from the PUBACK: on a slow line that may be a minute later."""
        self._flown[row.seq] = _Flown(row)
        self._seq_of[mid] = row.seq

    def again(self, now_ns: int) -> list[OutboxRow]:
        """Flown rows that are to be sent again now; each call for a probe puts the next one off."""
        if self._next_probe_ns is None:
            overdue = [flown for flown in self._flown.values() if self._overdue(flown, now_ns)]
            lost = [flown.row for flown in overdue if flown.came_back or self._receipts_since(flown)]
            if lost or not overdue:
                return lost  # others arrive: these were lost on the way
            self._next_probe_ns = now_ns
        oldest = min(self._flown.values(), key=lambda flown: flown.row.seq, default=None)
        if oldest is None or now_ns < self._next_probe_ns or not self._answered(oldest):
            return []
        self._next_probe_ns = now_ns + self._probe_wait_ns
        self._probe_wait_ns = min(2 * self._probe_wait_ns, int(self._pace.probe_max_s * _NS))
        return [oldest.row]

    def _answered(self, flown: _Flown) -> bool:
        return flown.came_back or flown.acked_ns is not None

    def _overdue(self, flown: _Flown, now_ns: int) -> bool:
        waited_ns = 0 if flown.acked_ns is None else now_ns - flown.acked_ns
        return flown.came_back or waited_ns > self._pace.receipt_timeout_s * _NS

    def _receipts_since(self, flown: _Flown) -> bool:
        return flown.acked_ns is not None and flown.acked_ns < self._last_receipt_ns

    def acked(self, mid: int, now_ns: int) -> int | None:
        """The row that a PUBACK of any kind is about; None when it is not ours."""
        seq = self._seq_of.pop(mid, None)
        if seq in self._flown:
            self._flown[seq].acked_ns = now_ns
        return seq

    def came_back(self, seq: int, now_ns: int) -> None:
        """The broker did not deliver it and said so: wait, then probe."""
        if seq in self._flown:
            self._flown[seq].came_back = True
        if self._next_probe_ns is None:
            self._next_probe_ns = now_ns + self._probe_wait_ns

    def settled(self, ranges: Iterable[SeqRange], now_ns: int) -> None:
        """A receipt: these have landed, and the way is open."""
        for first, last in ranges:
            wide = last - first > len(self._flown)
            for seq in [s for s in self._flown if first <= s <= last] if wide else range(first, last + 1):
                self._flown.pop(seq, None)
        self._last_receipt_ns = now_ns
        self._next_probe_ns = None
        self._probe_wait_ns = int(self._pace.probe_s * _NS)
