"""How often something may happen: a budget for bursts and one for the long run. Pure: time comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

_NS = 1_000_000_000


@dataclass(slots=True)
class Bucket:
    """At most `most` at once, and in the long run `most` in each `per_s`."""

    most: int
    per_s: float
    _left: float = field(init=False)
    _at_ns: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._left = self.most

    def fill(self, now_ns: int) -> float:
        """How many it holds now."""
        grown = max(0, now_ns - self._at_ns) / _NS * self.most / self.per_s
        self._left = min(float(self.most), self._left + grown)
        self._at_ns = now_ns
        return self._left

    def spend(self) -> None:
        self._left -= 1.0


class Budget:
    """Buckets that must all hold one; and how many found one of them empty and were not told of yet."""

    def __init__(self, *buckets: Bucket) -> None:
        self._buckets = buckets
        self.over = 0

    def takes(self, now_ns: int) -> bool:
        """Takes one, if every bucket has one; else it is counted."""
        if self._take(now_ns):
            return True
        self.over += 1
        return False

    def count_told(self, now_ns: int) -> int:
        """How many went over, once there is room to tell of them; 0 before, and when there were none."""
        if self.over == 0 or not self._take(now_ns):
            return 0
        told, self.over = self.over, 0
        return told

    def _take(self, now_ns: int) -> bool:
        held = [bucket.fill(now_ns) for bucket in self._buckets]
        if min(held) < 1.0:
            return False
        for bucket in self._buckets:
            bucket.spend()
        return True
