"""The state of the link and the patience that follows from it: a pure machine, events in, state and pause out.

    offline      no connection: not begun, stopped, or the line fails and is tried again
    connecting   being made
    online       rows are sent
    slow         the same, on a line that carries little (see `sync/link/speed.py`)
    refused_certificate (also where the broker ends the line right after the TLS handshake, twice), refused_authorisation
                 a person must mend it. Tried again once a minute, never given up, never without TLS instead

Knows nothing about sockets, files or messages.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from edge_runtime.sync.link.reason_codes import Trouble

_NS = 1_000_000_000
# within `TAKEOVER_S`: another device connects under this id. Fewer: our own last connection's remains
TAKEOVERS = 3
TAKEOVER_S = 600.0
EARLY_ENDS = 2  # in a row: once may be a broker that was just stopped


class LinkState(str, Enum):
    """The words of `link.json` and `doctor`."""

    OFFLINE = "offline"
    CONNECTING = "connecting"
    REFUSED_CERTIFICATE = "refused_certificate"
    REFUSED_AUTHORISATION = "refused_authorisation"
    SLOW = "slow"
    ONLINE = "online"

    @property
    def connected(self) -> bool:
        return self in (LinkState.SLOW, LinkState.ONLINE)

    @property
    def refused(self) -> bool:
        return self in (LinkState.REFUSED_CERTIFICATE, LinkState.REFUSED_AUTHORISATION)


@dataclass(frozen=True, slots=True)
class Patience:
    """Pauses between connections, before their jitter."""

    backoff_s: float = 0.5  # the first, doubled each time
    backoff_max_s: float = 60.0
    refused_s: float = 60.0  # the least where a person must mend something


class LinkMachine:
    """What happened comes in by the method of its name; `state` and `why` say what that makes of the link."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.state = LinkState.OFFLINE
        self.why = "not begun"
        self.next_try_ns: int | None = None  # by the monotonic clock, while it waits for one
        self._tries = 0
        self._took_rows = False
        self._early_ends = 0  # in a row
        self._taken_over_ns: deque[int] = deque(maxlen=TAKEOVERS)

    def connecting(self) -> None:
        """A refusal stays in sight while the next try goes on."""
        self.next_try_ns = None
        if not self.state.refused:
            self._be(LinkState.CONNECTING, self.why)

    def connected(self, slow: bool) -> None:
        self._took_rows = False
        self._early_ends = 0
        self.speed(slow)

    def speed(self, slow: bool) -> None:
        self._be(LinkState.SLOW if slow else LinkState.ONLINE, "connected")

    def took_a_row(self) -> None:
        """Only this proves the line: a broker may accept connections and end each at once."""
        self._took_rows = True

    def stopped(self) -> None:
        self._be(LinkState.OFFLINE, "stopped")

    def failed(self, trouble: Trouble, why: str, now_ns: int, *, by_peer: bool = False) -> float:
        """The connection ended or could not be made; how long to wait before the next try, before jitter.

        Where there are two of us, a line that was ended from there without a word was probably taken by the other.
        """
        if trouble is Trouble.TAKEN_OVER:
            self._taken_over_ns.append(now_ns)
        if self._took_rows and trouble is not Trouble.BUSY:
            self._tries = 0
        self._took_rows = False
        taken = trouble is Trouble.TAKEN_OVER or (trouble is Trouble.LINE and by_peer)
        pause_s = min(self._patience.backoff_max_s, self._patience.backoff_s * 2.0 ** min(self._tries, 16))
        self._tries += 1
        self._early_ends = self._early_ends + 1 if trouble is Trouble.EARLY else 0
        if trouble is Trouble.CERTIFICATE or self._early_ends >= EARLY_ENDS:
            self._be(LinkState.REFUSED_CERTIFICATE, why)
        elif trouble is Trouble.AUTHORISATION or (taken and self.two_of_one_id(now_ns)):
            self._be(LinkState.REFUSED_AUTHORISATION, why)
        else:
            self._be(LinkState.OFFLINE, why)
            return pause_s
        return max(pause_s, self._patience.refused_s)

    def waits_until(self, next_try_ns: int) -> None:
        """After `failed`, with its jitter; until the next try begins or none is to come."""
        self.next_try_ns = next_try_ns

    def another_was_here(self, now_ns: int) -> None:
        """Between our last connection and this one the broker had another under our id."""
        self._taken_over_ns.append(now_ns)

    def two_of_one_id(self, now_ns: int) -> bool:
        """Whether the broker gave this id's connection to another so often that there must be two of us."""
        times = self._taken_over_ns
        return len(times) == TAKEOVERS and now_ns - times[0] <= TAKEOVER_S * _NS

    def _be(self, state: LinkState, why: str) -> None:
        self.state, self.why, self.next_try_ns = state, why, None
