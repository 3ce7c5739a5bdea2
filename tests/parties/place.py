"""A device that has not said anything yet, a broker, and where a consumer may store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.cloud.operator import Operator
from edge_runtime.sync.commands.command import Answer
from edge_runtime.sync.commands.signing import Signer
from edge_runtime.sync.link.link import Broker
from tests.brokers import Mosquitto
from tests.parties.device import Device
from tests.patience import within


@dataclass
class Place:
    """All of it in one folder."""

    folder: Path
    broker: Mosquitto

    def __post_init__(self) -> None:
        self.device = Device(self.folder)
        self.store = self.folder / "cloud.db"

    def url(self, user: str = "") -> str:
        """The broker's, for one of its users."""
        return self.broker.url.replace("mqtt://", f"mqtt://{user}@" if user else "mqtt://")

    def uplink(self, user: str = "", **over: Any) -> AbstractContextManager[list[str]]:
        return self.device.uplink(self.url(user), **over)

    def operator(self, timeout_s: float = 30.0, user: str = "") -> Operator:
        key = Signer.load(self.device.key)
        return Operator(Broker.parse(self.url(user)), key, timeout_s=within(timeout_s))

    def ask(self, name: str, **arguments: Any) -> Answer:
        """What the device answers to a signed command."""
        return self.device.ask(self.broker.url, name, **arguments)
