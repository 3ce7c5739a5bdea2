"""One conversation of a device, a consumer and an operator, heard by a bystander; many tests ask about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.commands import mark
from edge_runtime.sync.commands.command import Answer
from edge_runtime.sync.database import MIN_QUOTA_BYTES
from edge_runtime.sync.masks import add_finding
from tests.brokers import MOSQUITTO, Mosquitto
from tests.builders import finding
from tests.faults.processes import until
from tests.parties.device import Device, receiver
from tests.parties.ear import Ear, Heard, records
from tests.parties.place import Place

PIXELS = "Pn2K5" * 800  # masks so large that the quota has no room for all


@pytest.fixture
def place(tmp_path: Path, broker: Mosquitto) -> Place:
    return Place(tmp_path, broker)


@dataclass
class Conversation:
    """What was said, by whom, and what became of it."""

    device: Device
    broker_log: str
    heard: list[Heard]
    store: Path
    answer: Answer
    urgent: str  # the id of the finding that a person marked
    said: list[str]  # the uplink's own lines

    def records(self, kind: str = "") -> list[Heard]:
        return records(self.heard, kind)


@pytest.fixture(scope="package")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversation]:
    """Two exams, of which some masks had to go; an urgent mark; delivery; one command; a clean stop."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    folder = tmp_path_factory.mktemp("conversation")
    device, store = Device(folder), folder / "cloud.db"
    device.examine(30)
    large_masks(device, 120)
    urgent = mark.run(finding="last", state=device.state).finding_id
    with Mosquitto(folder) as broker, Ear(broker.port) as ear:
        with receiver(broker.url, store), device.uplink(broker.url) as said:
            until(lambda: device.stats().pending == 0)
            answer = device.ask(broker.url, "send_state")
            ear.until(lambda heard: records(heard, "audit"))
            until(lambda: device.stats().pending == 0)
        ear.until(
            lambda heard: [one for one in heard if one.kind == "state" and one.body["state"] == "offline"]
        )
        yield Conversation(device, broker.log(), list(ear.heard), store, answer, urgent, said)


def large_masks(device: Device, count: int) -> None:
    import msgspec

    with device.journal(quota_bytes=2 * MIN_QUOTA_BYTES) as journal:
        for _ in range(count):
            with journal.batch() as batch:
                made: Any = finding(batch.stamp())
                masks = (msgspec.structs.replace(made.masks[0], data=PIXELS),)
                add_finding(batch, msgspec.structs.replace(made, masks=masks))
