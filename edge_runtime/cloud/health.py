"""Whether this receiver does its work, as `/healthz` says it: broker, store, and a loop that turns.

Written by the receiver's thread and read by others; each field is replaced as a whole. Knows nothing about HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime import clock

_STUCK_S = 60.0  # a commit that takes this long helps nobody


@dataclass(slots=True)
class Health:
    broker: str = "not connected yet"  # what is wrong; empty when nothing is
    store: str = ""
    beat_ns: int = 0  # when the loop last turned, monotonic

    def beat(self) -> None:
        self.beat_ns = clock.monotonic_ns()

    def troubles(self) -> dict[str, str]:
        """What is wrong, by part; empty when all is well."""
        found = {"broker": self.broker, "store": self.store}
        silent_s = (clock.monotonic_ns() - self.beat_ns) / 1e9
        if silent_s > _STUCK_S:
            found["loop"] = f"has not turned for {silent_s:.0f} s"
        return {part: trouble for part, trouble in found.items() if trouble}
