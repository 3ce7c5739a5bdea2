"""What the uplink knows beyond one connection: its counts, the state of its link, what a person should mend, and the
row that connections may be ending over. Knows nothing about sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from edge_runtime.sync.link.link_state import LinkMachine
from edge_runtime.sync.link.reason_codes import OVER_ONE_MESSAGE, LinkError
from edge_runtime.sync.link.speed import Speed
from edge_runtime.sync.uplink.alerts import Alerts
from edge_runtime.sync.uplink.sendings import Sendings

STRIKES = 2  # connections lost over the same unacknowledged row before rows are sent one by one
ENDINGS = 3  # and, alone, before it is held; the broker's own word that a message was wrong counts at once


class UplinkReport(msgspec.Struct, kw_only=True):
    """What an uplink has done so far."""

    device_id: str | None = None
    sent: int = 0  # PUBLISHes, with those that were sent again
    delivered: int = 0  # rows with a receipt that says stored
    rejected: int = 0  # rows that the cloud cannot read: kept here as dead letters
    held: int = 0  # rows that this broker does not take: kept here until the next start
    remaining: int | None = None  # rows still in the outbox; null before there is one
    connects: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Ledger:
    """What outlives a connection; owned by the uplink, written by its sessions."""

    notice: Callable[[str], None]  # one line for a person
    progress: Callable[[], None]
    over: Callable[[], bool]  # stopped, or out of time
    link: LinkMachine
    speed: Speed
    alerts: Alerts = field(default_factory=Alerts)
    sendings: Sendings = field(default_factory=Sendings)
    report: UplinkReport = field(default_factory=UplinkReport)
    wills: set[str] = field(default_factory=set)  # the sessions that this process's wills name
    plain: bool = False  # the cloud cannot unpack: send no packed payload again
    # rows that this broker cannot take; also where the disk is full
    held: set[int] = field(default_factory=set)
    refusals: dict[int, int] = field(default_factory=dict)  # of single rows, how often
    suspect: int | None = None  # the row over which connections were lost
    strikes: int = 0

    @property
    def one_by_one(self) -> bool:
        """Whether the next connection should send rows alone, to find the one that ends it."""
        return self.strikes >= STRIKES

    def unheard(self) -> None:
        """The broker has nobody who takes what was sent."""
        told = "the broker has no consumer for findings (`edge-runtime receive`); they wait here"
        self.notice(told)
        self.alerts.sound("no_consumer", told)

    def lost_over(self, seq: int | None, alone: bool, error: LinkError) -> bool:
        """A connection ended; `seq` was its oldest row without a PUBACK, None where it shows nothing.

        True when that row is to be held: the broker ends every connection over it.
        """
        if seq is None or seq != self.suspect:
            self.suspect, self.strikes = seq, 0 if seq is None else 1
        else:
            self.strikes += 1
        told = error.code in OVER_ONE_MESSAGE
        if not alone or self.strikes < (STRIKES if told else ENDINGS):
            return False
        self.suspect, self.strikes = None, 0
        return True
