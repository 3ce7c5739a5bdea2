"""Which waiting row is next: the urgent first, the masks last, and nobody starved.

A lane that waits while others are served gets at least one of any twenty turns. Knows nothing about SQLite: rows are
read through a function, page by page, and a lane is read again from its beginning once it has run dry, since rows come
back into an outbox with numbers that lie behind (a requeue, a gap that is sent again).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping

from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import OutboxRow

LANES = tuple(Lane)  # an enumeration is slow to walk through
TURNS = 20
# passed over so often, a lane is due: early enough for all lanes to be due at once
_DUE = TURNS - len(Lane) + 1
PAGE = 100
_PAGES_A_LOOK = 10  # of rows that nobody wants now
_REST_NS = 100_000_000  # a lane that held less than a page is not read again sooner
_AGAIN_NS = 1_000_000_000  # nor from its beginning

# above which number of each lane, at most how many
Read = Callable[[Mapping[Lane, int], int], list[OutboxRow]]


class Turns:
    """Strict priority with a bound on starving."""

    def __init__(self) -> None:
        self._passed = dict.fromkeys(Lane, 0)

    def choose(self, waiting: Collection[Lane]) -> Lane:
        """One of the lanes in `waiting`, which must not be empty."""
        due = [lane for lane in waiting if self._passed[lane] >= _DUE]
        chosen = max(due, key=lambda lane: self._passed[lane]) if due else min(waiting)
        for lane in LANES:
            self._passed[lane] = self._passed[lane] + 1 if lane in waiting and lane != chosen else 0
        return chosen


class Backlog:
    """The rows that wait, in the order of their turns."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._turns = Turns()
        self._ready: dict[Lane, deque[OutboxRow]] = {lane: deque() for lane in LANES}
        self._above = dict.fromkeys(Lane, 0)  # the last number read
        self._rest_until_ns = dict.fromkeys(Lane, 0)
        self._at_end = dict.fromkeys(LANES, False)
        self._pages = dict.fromkeys(Lane, 0)  # since its beginning
        self._again_ns = dict.fromkeys(Lane, 0)

    def look(self, now_ns: int, wanted: Callable[[OutboxRow], bool]) -> None:
        """Reads what may have come. A row that is not `wanted` is passed over until its lane is read again."""
        for _ in range(_PAGES_A_LOOK):
            due = [lane for lane in LANES if not self._ready[lane] and now_ns >= self._rest_until_ns[lane]]
            if not due:
                return
            for lane in due:
                if not self._above[lane] or now_ns >= self._again_ns[lane]:
                    self._begin_again(lane, now_ns)
            self._take_in(due, self._read({lane: self._above[lane] for lane in due}, PAGE), now_ns, wanted)

    def _take_in(
        self, due: list[Lane], rows: list[OutboxRow], now_ns: int, wanted: Callable[[OutboxRow], bool]
    ) -> None:
        counted = dict.fromkeys(due, 0)
        for row in rows:
            lane = LANES[row.lane]
            counted[lane] += 1
            self._above[lane] = row.seq
            if wanted(row):
                self._ready[lane].append(row)
        for lane, count in counted.items():
            self._pages[lane] += count > 0  # an empty one costs nothing, and is read ten times a second
            self._at_end[lane] = count < PAGE
            if self._at_end[lane]:
                self._rest_until_ns[lane] = now_ns + _REST_NS

    def _begin_again(self, lane: Lane, now_ns: int) -> None:
        """The more had to be read last time, the later the next."""
        self._again_ns[lane] = now_ns + _AGAIN_NS * max(1, self._pages[lane])
        self._above[lane] = self._pages[lane] = 0

    def take(self, lanes: Collection[Lane], wanted: Callable[[OutboxRow], bool]) -> OutboxRow | None:
        """The next row among `lanes`; None when they hold none."""
        while waiting := [lane for lane in lanes if self._ready[lane]]:
            row = self._ready[self._turns.choose(waiting)].popleft()
            if wanted(row):
                return row
        return None

    @property
    def dry(self) -> bool:
        """Whether every lane was read to its end and nothing of it is left to take."""
        return all(self._at_end.values()) and not any(self._ready.values())

    def rewind(self) -> None:
        """Reads everything from its beginning: rows that were passed over are wanted now."""
        for lane in LANES:
            self._ready[lane].clear()
            self._at_end[lane] = False
            self._above[lane] = self._rest_until_ns[lane] = 0
