"""The last lines that the uplink said, for `send_log`: bounded, and without what may name a person.

Knows no other log of the machine: nothing but what is added here can be sent.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

import msgspec

from edge_runtime.sync.commands.command import MOST_LOG_LINES
from edge_runtime.sync.wire import one_line

_PATH = re.compile(r"(?<![\w:/.])~?/[^\s'\",;:()]*")  # a home directory is a name; `mqtt://host` is none


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, and when it was said by this device's clock."""

    at: str
    text: str


class Discretion:
    """Takes out of a line what may name a person: the paths of this machine."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """`paths` that this process was given, which may hold spaces or be one word; others are recognised."""
        named = sorted({path for path in paths if len(path) > 1}, key=len, reverse=True)
        self._named = re.compile(
            "|".join(rf"(?<![\w.-]){re.escape(path)}(?![\w-])" for path in named) or r"(?!)"
        )

    def line(self, text: str) -> str:
        return one_line(_PATH.sub("<path>", self._named.sub("<path>", text)))


class Said:
    """Keeps the last `MOST_LOG_LINES` lines."""

    def __init__(self, discretion: Discretion) -> None:
        self._discretion = discretion
        self._lines: deque[Line] = deque(maxlen=MOST_LOG_LINES)

    def add(self, at: str, text: str) -> None:
        self._lines.append(Line(at=at, text=self._discretion.line(text)))

    def last(self, count: int) -> list[Line]:
        """At most `count` lines, the oldest first."""
        return list(self._lines)[-count:]
