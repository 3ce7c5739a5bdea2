"""How a connection is made. Knows nothing about the one that is."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.link.tls import Tls


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every try."""

    broker: Broker
    client_id: str
    tls: Tls = field(default_factory=Tls)
    will: Message | None = None
    keepalive_s: int = 30
    receive_maximum: int = 1000  # mosquitto sends 20 at a time to those who do not say
    maximum_packet: int | None = None  # the broker sends us nothing larger
    subscribe: str | tuple[str, ...] | None = None
    needed: int = 1  # of these filters; refusing one of the others is not refusing us

    @property
    def filters(self) -> tuple[str, ...]:
        return (self.subscribe,) if isinstance(self.subscribe, str) else self.subscribe or ()
