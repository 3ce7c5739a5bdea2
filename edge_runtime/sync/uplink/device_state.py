"""What this device says of itself in its retained state message, and what a command may change in its uplink.

Knows nothing about connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from edge_runtime import __version__, clock
from edge_runtime.sync.commands.recent_log import Discretion, Said
from edge_runtime.sync.link.link_state import LinkState
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.link.speed import LinkChoice
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.ledger import Ledger
from edge_runtime.sync.wire import DeviceState, encode_state


@dataclass(frozen=True, slots=True)
class StateMessages:
    """Makes the retained state messages of one connection."""

    topics: DeviceTopics
    epoch: str
    site_key_id: str
    ledger: Ledger
    session: Callable[[], str | None]  # that a command must name now
    discretion: Discretion

    def online(self, pending: int) -> DeviceState:
        return DeviceState(
            device_id=self.topics.device,
            state="online",
            why="connected",
            version=__version__,
            at=clock.utc_now(),
            clock=clock.clock_quality(),
            epoch=self.epoch,
            site_key_id=self.site_key_id,
            session=self.session(),
            link="slow" if self.ledger.link.state is LinkState.SLOW else "online",
            pending=pending,
            alerts=tuple(
                msgspec.structs.replace(alert, text=self.discretion.line(alert.text))
                for alert in self.ledger.alerts.standing
            ),
        )

    def offline(self, why: Literal["stopped", "lost"]) -> DeviceState:
        """`lost` is the will, which is written before it is true: it says no time, but whose it was."""
        told = why == "stopped"
        return DeviceState(
            device_id=self.topics.device,
            state="offline",
            why=why,
            version=__version__,
            at=clock.utc_now() if told else None,
            clock=clock.clock_quality() if told else None,
            epoch=self.epoch,
            site_key_id=self.site_key_id,
            session=None if told else self.session(),
        )

    def message(self, state: DeviceState) -> Message:
        return Message(self.topics.state, encode_state(state), retain=True)


@dataclass(frozen=True, slots=True)
class UplinkWays:
    """The uplink as commands see it (`handlers.Ways`)."""

    said: Said
    ledger: Ledger
    state_now: Callable[[], DeviceState]

    def send_anew(self) -> None:
        self.ledger.sendings.anew()

    def choose_profile(self, profile: LinkChoice) -> None:
        self.ledger.speed.choose(profile)

    def acknowledge(self, alert: str) -> None:
        self.ledger.alerts.acknowledge(alert)
