"""`link.json` in the state directory: the link as the uplink sees it, for other processes of this device.

Written whole and only when something changed. It is the uplink's last word: whether that process still lives, the
reader asks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime import clock
from edge_runtime.files import json_bytes, write_whole
from edge_runtime.sync.link.link_state import LinkState
from edge_runtime.sync.wire import Alert, one_line

NAME = "link.json"
MOST_BYTES = 2**16  # there is an alert of each code, and each is a few lines


class LinkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content."""

    v: int = 1
    state: LinkState
    why: str
    since: str  # UTC, by this device's clock
    broker: str
    alerts: tuple[Alert, ...] = ()
    # by this boot's monotonic clock; null while connected, connecting or stopped
    next_try_ns: int | None = None
    remembered: tuple[Alert, ...] = ()  # stood when the uplink before ended; neither seen again nor mended
    pid: int
    boot_id: str

    @property
    def lives(self) -> bool:
        """Whether the uplink that wrote it is still there."""
        return self.boot_id == clock.boot_id() and Path(f"/proc/{self.pid}").exists()

    @property
    def next_try_s(self) -> float | None:
        """In how many seconds the uplink tries again at the latest; null where it does not wait for that."""
        if self.next_try_ns is None or not self.lives:
            return None
        return max(0.0, (self.next_try_ns - clock.monotonic_ns()) / 1e9)

    def line(self) -> str:
        """For a person."""
        if not self.lives:
            return f"link: offline (no uplink runs; the last said {self.state.value} at {self.since})"
        why = "" if self.state.connected else f" ({self.why})"
        left_s = self.next_try_s
        again = "" if left_s is None else f"; tries again {f'in {left_s:.0f} s' if left_s >= 1 else 'now'}"
        return f"link: {self.state.value} since {self.since}, {self.broker}{why}{again}"


@dataclass(frozen=True, slots=True)
class LinkNow:
    """What of the link may change."""

    state: LinkState
    why: str
    alerts: tuple[Alert, ...] = ()
    remembered: tuple[Alert, ...] = ()
    next_try_ns: int | None = None


class LinkFile:
    """Writes the file of one state directory."""

    def __init__(self, state_dir: Path, broker: str) -> None:
        self._state_dir, self._broker = state_dir, broker
        self._written: LinkNow | None = None
        self._since = ""

    def show(self, now: LinkNow) -> None:
        """A disk that takes nothing is somebody else's to report; the next change tries again."""
        last = self._written
        if now == last:
            return
        same = last is not None and (last.state is now.state or _both_away(last.state, now.state))
        since = self._since if same else clock.utc_now()
        record = LinkRecord(
            state=now.state,
            why=now.why,
            alerts=now.alerts,
            remembered=now.remembered,
            next_try_ns=now.next_try_ns,
            since=since,
            broker=self._broker,
            pid=os.getpid(),
            boot_id=clock.boot_id(),
        )
        try:
            if not self._state_dir.is_dir():
                return
            write_whole(self._state_dir / NAME, json_bytes(record))
        except OSError:
            return
        self._written, self._since = now, since


def _both_away(before: LinkState, now: LinkState) -> bool:
    """A try in between does not make the time without a link begin again."""
    away = (LinkState.OFFLINE, LinkState.CONNECTING)
    return before in away and now in away


def alerts_before(state_dir: Path) -> tuple[Alert, ...]:
    """What stood when the last uplink of this directory ended."""
    last = read_link(state_dir)
    return () if last is None else (*last.remembered, *last.alerts)


def read_link(state_dir: Path) -> LinkRecord | None:
    """The last word of an uplink of this directory; None where there was none, or what is there cannot be one."""
    try:
        with (state_dir / NAME).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            return None
        found = msgspec.json.decode(content, type=LinkRecord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.structs.replace(
        found,
        **{name: one_line(getattr(found, name)) for name in ("why", "since", "broker")},
        alerts=tuple(map(_tamed, found.alerts)),
        remembered=tuple(map(_tamed, found.remembered)),
    )


def _tamed(alert: Alert) -> Alert:
    """Fit to be shown and sent, whoever wrote it."""
    return msgspec.structs.replace(
        alert, **{name: one_line(getattr(alert, name)) for name in ("id", "text", "since")}
    )
