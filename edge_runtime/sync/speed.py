"""Whether a line is slow, judged by how long the broker's PUBACKs take; and how rows are sent on either kind.

The rule is two-sided and reluctant: a line becomes slow when messages take long for their size, and ordinary again
when they do not, for a while, and for longer each time that it was wrong. Pure: times and sizes come in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

LinkChoice = Literal["auto", "normal", "slow"]
_NS = 1_000_000_000

SEEN = 8  # PUBACKs that a judgement rests on
SLOW_ROUND_S = 1.0  # a line with a long way but room (a satellite's: 0.6 s) is not slow
SLOW_BYTES_S = 4000.0  # 32 kbit/s
QUICK_ROUND_S = 0.2
QUICK_BYTES_S = 12_000.0  # three times the other limit: what is in between changes nothing
DWELL_S = 30.0  # the least time in the slow profile; doubles with each return to it
DWELL_MAX_S = 1800.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How rows are sent."""

    window: int  # rows without a receipt, at most
    receipt_timeout_s: float  # at least
    puback_timeout_s: float  # at least
    short: bool = False  # packed, with topic aliases and no property that can be left out
    masks_wait: bool = False  # until nothing else waits or flies; then one at a time


NORMAL = Profile(window=65535, receipt_timeout_s=0.0, puback_timeout_s=0.0)
SLOW = Profile(window=5, receipt_timeout_s=60.0, puback_timeout_s=90.0, short=True, masks_wait=True)


class Speed:
    """The judgement on one device's line; it outlives connections, since the line does."""

    def __init__(self, choice: LinkChoice = "auto") -> None:
        self._choice = choice
        self._rounds: deque[tuple[float, float]] = deque(maxlen=SEEN)  # (seconds, bytes per second)
        self._dwell_s = DWELL_S
        self._since_ns = 0
        self.slow = choice == "slow"

    @property
    def profile(self) -> Profile:
        return SLOW if self.slow else NORMAL

    def choose(self, choice: LinkChoice) -> None:
        """From now on so; with `auto` the line is judged from what it is treated as now."""
        self._choice = choice
        self._rounds.clear()
        if choice != "auto":
            self.slow = choice == "slow"

    def acked(self, waited_ns: int, size: int, now_ns: int) -> bool:
        """A PUBACK came after `waited_ns`, `size` bytes having been unanswered with its message; True when that changes
        the profile.
        """
        seconds = max(waited_ns, 1) / _NS
        self._rounds.append((seconds, size / seconds))
        clear = not self.slow and seconds < SLOW_ROUND_S  # the usual case, told without counting
        if clear or self._choice != "auto" or len(self._rounds) < SEEN:
            return False
        round_s = median(seconds for seconds, _ in self._rounds)
        bytes_s = median(rate for _, rate in self._rounds)
        if not self.slow and round_s > SLOW_ROUND_S and bytes_s < SLOW_BYTES_S:
            return self._become(True, now_ns)
        rested = now_ns - self._since_ns >= self._dwell_s * _NS
        if self.slow and rested and (round_s < QUICK_ROUND_S or bytes_s > QUICK_BYTES_S):
            self._dwell_s = min(2 * self._dwell_s, DWELL_MAX_S)
            return self._become(False, now_ns)
        return False

    def _become(self, slow: bool, now_ns: int) -> bool:
        self.slow, self._since_ns = slow, now_ns
        self._rounds.clear()
        return True
