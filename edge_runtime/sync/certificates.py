"""This device's certificate over time: a new one is taken into use, an old one is told of before it ends.

Knows nothing about connections; whoever holds one asks.
"""

from __future__ import annotations

from datetime import datetime

from edge_runtime import clock
from edge_runtime.errors import ConfigError
from edge_runtime.sync.tls import Tls

SOON_DAYS = 14


class Certificates:
    """The files of `Tls`, looked at now and then."""

    def __init__(self, tls: Tls, every_s: float) -> None:
        self._tls = tls
        self._every_ns = int(every_s * 1e9)
        self._due_ns = 0
        self._used = tls.mark()

    def taken_into_use(self) -> None:
        """A connection is about to be made with the files as they are now."""
        self._used = self._tls.mark()

    def replaced(self, now_ns: int) -> bool:
        """`changed`, asked at most once in `every_s`."""
        if now_ns < self._due_ns:
            return False
        self._due_ns = now_ns + self._every_ns
        return self.changed()

    def changed(self) -> bool:
        """Whether there are other files than those in use, whole and fitting each other."""
        if self._tls.mark() == self._used:
            return False
        try:
            self._tls.context()
        except ConfigError:  # the key is still to come, or half of a file
            return False
        return True

    def ended(self) -> bool:
        """By this device's clock: a broker that cuts the line without a word may do so for this."""
        days = self._days_left()
        return days is not None and days < 0

    def warning(self) -> str | None:
        """What to say of a certificate that has ended or soon will."""
        days = self._days_left()
        if days is None or days >= SOON_DAYS:
            return None
        what = "has ended" if days < 0 else f"ends in {days:.0f} days"
        return f"this device's certificate {self._tls.cert} {what}; put a new one in its place"

    def _days_left(self) -> float | None:
        return self._tls.days_left(datetime.fromisoformat(clock.utc_now().replace("Z", "+00:00")))
