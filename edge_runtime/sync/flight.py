"""Which rows are on their way, and what to send again. A pure state machine: time comes in, no socket and no database.

A row flies from its PUBLISH to its receipt; the broker's PUBACK lands nothing. When receipts stop (the consumer is
down, or lost what it had), one row at a time is sent as a probe, ever more rarely, instead of the whole backlog again
and again; the first receipt opens the window again. Where the broker refuses one kind of record, one row of that kind
probes, and the other kinds go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.sync.speed import NORMAL, Profile
from edge_runtime.sync.wire import SeqRange

_NS = 1_000_000_000
FIRST_WINDOW = 8  # of a new connection; one more with each PUBACK: a slow line is known before it is stuffed
URGENT_MORE = 4  # urgent rows that fly beyond a full window, and while only probes are sent
ALL_LANES = tuple(Lane)
ALL_BUT_MASKS = tuple(lane for lane in Lane if lane is not Lane.MASK)
URGENT_ONLY = (Lane.URGENT,)


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


@dataclass(slots=True)
class _Refused:
    """A kind of record that the broker does not take now, and the row that asks whether it does again."""

    row: OutboxRow | None
    times: int  # that this row was refused
    wait_ns: int
    next_ns: int


class Flight:
    """The rows of one connection that are sent and not settled."""

    def __init__(self, pace: Pace, now_ns: int, profile: Profile = NORMAL) -> None:
        self._pace = pace
        self.profile = profile
        self._flown: dict[int, _Flown] = {}  # by seq, in the order they were first sent
        self._seq_of: dict[int, int] = {}  # MQTT message id -> seq, until its PUBACK
        self._refused: dict[str, _Refused] = {}  # by kind
        self._opened = FIRST_WINDOW
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

    @property
    def refused_kinds(self) -> list[str]:
        """What the broker does not take now."""
        return list(self._refused)

    # ------------------------------------------------------------ out

    def room(self) -> int:
        """How many rows of any lane may be sent now."""
        window = min(self._pace.window, self.profile.window, self._opened)
        return 0 if self.stalled else max(0, window - len(self._flown))

    def open_lanes(self) -> tuple[Lane, ...]:
        """The lanes that may send one more row now."""
        if not self.room():
            urgent = sum(flown.row.lane == Lane.URGENT for flown in self._flown.values())
            return URGENT_ONLY if urgent < URGENT_MORE else ()
        if self.profile.masks_wait and any(f.row.kind not in self._refused for f in self._flown.values()):
            return ALL_BUT_MASKS
        return ALL_LANES

    def wants(self, row: OutboxRow) -> bool:
        """Whether this row may be sent for the first time; the next of a refused kind is kept to ask with."""
        if row.seq in self._flown:
            return False
        refused = self._refused.get(row.kind)
        if refused is not None and refused.row is None:
            refused.row, refused.times = row, 0
            self._flown[row.seq] = _Flown(row, came_back=True)
        return refused is None

    def sent(self, row: OutboxRow, mid: int) -> None:
        """A row was published. Its time runs from the PUBACK: on a slow line that may be a minute later."""
        self._flown[row.seq] = _Flown(row)
        self._seq_of[mid] = row.seq

    def again(self, now_ns: int) -> list[OutboxRow]:
        """Rows to publish once more: lost among others that arrived, or probes while no receipt comes at all."""
        asking = [self._ask(refused, now_ns) for refused in self._refused.values()]
        return [row for row in asking if row is not None] + self._overdue_rows(now_ns)

    def _overdue_rows(self, now_ns: int) -> list[OutboxRow]:
        mine = [flown for flown in self._flown.values() if flown.row.kind not in self._refused]
        if not self.stalled:
            overdue = [flown for flown in mine if self._overdue(flown, now_ns)]
            lost = [flown.row for flown in overdue if flown.came_back or self._receipts_since(flown)]
            if lost or not overdue:
                return lost  # others arrive: these were lost on the way
            self._next_probe_ns = now_ns
        oldest = min(mine, key=lambda flown: (flown.row.lane, flown.row.seq), default=None)
        if oldest is None or now_ns < (self._next_probe_ns or 0) or not self._answered(oldest):
            return []
        self._next_probe_ns = now_ns + self._probe_wait_ns
        self._probe_wait_ns = self._longer(self._probe_wait_ns)
        return [oldest.row]

    def _ask(self, refused: _Refused, now_ns: int) -> OutboxRow | None:
        if refused.row is None or now_ns < refused.next_ns or refused.row.seq in self._seq_of.values():
            return None
        refused.wait_ns = self._longer(refused.wait_ns)
        refused.next_ns = now_ns + refused.wait_ns
        return refused.row

    def _longer(self, wait_ns: int) -> int:
        return min(2 * wait_ns, int(self._pace.probe_max_s * _NS))

    def _answered(self, flown: _Flown) -> bool:
        return flown.came_back or flown.acked_ns is not None

    def _overdue(self, flown: _Flown, now_ns: int) -> bool:
        timeout_s = max(self._pace.receipt_timeout_s, self.profile.receipt_timeout_s)
        waited_ns = 0 if flown.acked_ns is None else now_ns - flown.acked_ns
        return flown.came_back or waited_ns > timeout_s * _NS

    def _receipts_since(self, flown: _Flown) -> bool:
        return flown.acked_ns is not None and flown.acked_ns < self._last_receipt_ns

    # ------------------------------------------------------------ in

    def acked(self, mid: int, now_ns: int) -> OutboxRow | None:
        """The row that a PUBACK of any kind is about; None when it is not ours."""
        seq = self._seq_of.pop(mid, None)
        flown = None if seq is None else self._flown.get(seq)
        if flown is None:
            return None
        flown.acked_ns, flown.came_back = now_ns, False
        self._opened = min(self._opened + 1, self._pace.window)
        return flown.row

    def came_back(self, seq: int, now_ns: int) -> None:
        """The broker did not deliver it and said so: wait, then probe."""
        if seq in self._flown:
            self._flown[seq].came_back = True
        if self._next_probe_ns is None:
            self._next_probe_ns = now_ns + self._probe_wait_ns

    def refused(self, row: OutboxRow, now_ns: int) -> int:
        """The broker does not take this kind; how often it has refused the row that asks. Others of the kind wait in
        the outbox.
        """
        refused = self._refused.get(row.kind)
        if refused is None:
            wait_ns = int(self._pace.probe_s * _NS)
            refused = self._refused[row.kind] = _Refused(row, 0, wait_ns, now_ns + wait_ns)
            for seq in [seq for seq, flown in self._flown.items() if flown.row.kind == row.kind]:
                if seq != row.seq:
                    self.forget(seq)
        if refused.row is None or refused.row.seq != row.seq:
            self.forget(row.seq)
            return 0
        refused.times += 1
        self._flown[row.seq].came_back = True
        return refused.times

    def accepted(self, row: OutboxRow) -> bool:
        """The broker took this row; True when its kind was refused until now."""
        return self._refused.pop(row.kind, None) is not None

    def forget(self, seq: int) -> None:
        """This row flies no longer; its PUBACK, if one comes, is nobody's."""
        self._flown.pop(seq, None)
        for refused in self._refused.values():
            if refused.row is not None and refused.row.seq == seq:
                refused.row = None

    def settled(self, ranges: Iterable[SeqRange], now_ns: int) -> None:
        """A receipt: these have landed, and the way is open."""
        for first, last in ranges:
            wide = last - first > len(self._flown)
            for seq in [s for s in self._flown if first <= s <= last] if wide else range(first, last + 1):
                if seq in self._flown:
                    self.forget(seq)
        self._last_receipt_ns = now_ns
        self._next_probe_ns = None
        self._probe_wait_ns = int(self._pace.probe_s * _NS)
