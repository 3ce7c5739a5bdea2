"""What a person should mend, as the uplink knows it. Each code stands at most once, from its first sight to its mending,
and over a restart of the uplink in between: what comes up again before it was mended is the alert that it was.

Knows nothing about who is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import msgspec

from edge_runtime import clock
from edge_runtime.sync.wire import Alert, AlertCode


class Alerts:
    """The alerts that stand now, the oldest first."""

    def __init__(self, now: Callable[[], str] = clock.utc_now, before: Iterable[Alert] = ()) -> None:
        """`before`: those that stood when the last uplink ended."""
        self._now = now
        self._before: dict[AlertCode, Alert] = {alert.code: alert for alert in before}
        self._standing: dict[AlertCode, Alert] = {}

    @property
    def standing(self) -> tuple[Alert, ...]:
        return tuple(self._standing.values())

    @property
    def remembered(self) -> tuple[Alert, ...]:
        """Those that stood before this start, and of which nothing is known yet."""
        return tuple(self._before.values())

    def sound(self, code: AlertCode, text: str) -> bool:
        """True when it is new; the text of one that stands already is brought up to date."""
        if known := self._standing.get(code):
            self._standing[code] = msgspec.structs.replace(known, text=text)
            return False
        known = self._before.pop(code, None) or Alert(
            id=secrets.token_hex(4), code=code, text=text, since=self._now()
        )
        self._standing[code] = msgspec.structs.replace(known, text=text)
        return True

    def mended(self, code: AlertCode) -> bool:
        """True when it stood until now."""
        self._before.pop(code, None)
        return self._standing.pop(code, None) is not None

    def keep(self, code: AlertCode, text: str | None) -> None:
        """It stands while there is something to say of it."""
        if text is None:
            self.mended(code)
        else:
            self.sound(code, text)

    def acknowledge(self, alert_id: str) -> bool:
        """A person has seen it; it stands until it is mended. False when there is none of this id."""
        for code, alert in self._standing.items():
            if alert.id == alert_id:
                self._standing[code] = msgspec.structs.replace(alert, acknowledged=True)
                return True
        return False
