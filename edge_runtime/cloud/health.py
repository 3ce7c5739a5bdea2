"""Whether this receiver does its work, as `/healthz` says it: broker, store, and a loop that turns.

A part is well when it works, or did so within the last 30 seconds: a connection that is made anew, or a database that is
restarted, is no reason to restart the receiver. Before a part first worked it is not well: nobody should count on it.
Written by the receiver's thread and read by others; each value is replaced as a whole. Knows nothing about HTTP.
"""

from __future__ import annotations

from typing import Literal

from edge_runtime import clock

Part = Literal["broker", "store"]
GRACE_S = 30.0
_STUCK_S = 60.0  # a commit that takes this long helps nobody


class Health:
    """What is wrong with each part, and when it last worked."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._wrong: dict[Part, str] = {"broker": "not connected yet", "store": "not reached yet"}
        self._worked_ns: dict[Part, int] = {}
        self._beat_ns = clock.monotonic_ns()

    def beat(self) -> None:
        """The loop turns."""
        self._beat_ns = clock.monotonic_ns()

    def works(self, part: Part) -> None:
        self._worked_ns[part] = clock.monotonic_ns()
        self._wrong[part] = ""

    def fails(self, part: Part, why: str) -> None:
        if not self._wrong[part]:
            self._worked_ns[part] = clock.monotonic_ns()  # it did until now
        self._wrong[part] = why

    def wrong(self, part: Part) -> str:
        """What is wrong with it at this moment; empty when nothing is."""
        return self._wrong[part]

    def troubles(self) -> dict[str, str]:
        """What has been wrong for too long, by part; empty when all is well."""
        now_ns = clock.monotonic_ns()
        found: dict[str, str] = {}
        for part, why in dict(self._wrong).items():
            worked_ns = self._worked_ns.get(part)
            if why and (worked_ns is None or now_ns - worked_ns > self._grace_s * 1e9):
                found[part] = why
        silent_s = (now_ns - self._beat_ns) / 1e9
        if silent_s > _STUCK_S:
            found["loop"] = f"has not turned for {silent_s:.0f} s"
        return found
