"""The last lines that the uplink said, for `send_log`: bounded, and without what may name a person.

Knows no other log of the machine: nothing but what is added here can be sent.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

import msgspec

from edge_runtime.sync.command import MOST_LOG_LINES
from edge_runtime.sync.wire import one_line

_PATH = re.compile(r"(?<![\w:/.])~?/[^\s'\",;:()]*")  # a home directory is a name; `mqtt://host` is none


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, and when it was said by this device's clock."""

    at: str
    text: str


class Said:
    """Keeps the last `MOST_LOG_LINES` lines."""

    def __init__(self, hide: Iterable[str] = ()) -> None:
        """`hide`: paths of this machine, which may hold spaces; other paths are recognised."""
        self._hide = sorted({path for path in hide if len(path) > 1}, key=len, reverse=True)
        self._lines: deque[Line] = deque(maxlen=MOST_LOG_LINES)

    def add(self, at: str, text: str) -> None:
        for path in self._hide:
            text = text.replace(path, "<path>")
        self._lines.append(Line(at=at, text=one_line(_PATH.sub("<path>", text))))

    def last(self, count: int) -> list[Line]:
        """At most `count` lines, the oldest first."""
        return list(self._lines)[-count:]
