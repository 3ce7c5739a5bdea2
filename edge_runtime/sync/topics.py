"""The topics of the wire, as values that are checked where they are made. Knows nothing about payloads.

    er/v1/{tenant}/{site}/{device}/evt/finding     device to cloud, one finding
    er/v1/{tenant}/{site}/{device}/evt/event       device to cloud, one exam event
    er/v1/{tenant}/{site}/{device}/state           retained; online, offline, and offline again as the will
    er/v1/{tenant}/{site}/{device}/rcpt            cloud to device, receipts; only a consumer may publish

A major version of the schema is a new second level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edge_runtime.errors import ConfigError

EventKind = Literal["finding", "event"]

ROOT = "er/v1"
EVENTS_FILTER = f"$share/er/{ROOT}/+/+/+/evt/#"  # one group: each message reaches one consumer
_LEVEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_level(value: str, what: str) -> str:
    """`value` if it can be one level of a topic; raises ConfigError naming `what` if not."""
    if not _LEVEL.fullmatch(value):
        raise ConfigError(f"{what} {value!r}: want 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first")
    return value


@dataclass(frozen=True, slots=True)
class DeviceTopics:
    """The topics of one device."""

    tenant: str
    site: str
    device: str

    def __post_init__(self) -> None:
        for what in ("tenant", "site", "device"):
            check_level(getattr(self, what), what)

    @property
    def prefix(self) -> str:
        return f"{ROOT}/{self.tenant}/{self.site}/{self.device}"

    def event(self, kind: EventKind) -> str:
        """Where findings or exam events go."""
        return f"{self.prefix}/evt/{kind}"

    @property
    def state(self) -> str:
        return f"{self.prefix}/state"

    @property
    def receipts(self) -> str:
        return f"{self.prefix}/rcpt"


@dataclass(frozen=True, slots=True)
class EventTopic:
    """A topic that a consumer received an event on."""

    device: DeviceTopics
    kind: EventKind


def parse_event(topic: str) -> EventTopic | None:
    """The device and kind that `topic` names; None when it is not an event's topic of this version."""
    levels = topic.split("/")
    if len(levels) != 7 or "/".join(levels[:2]) != ROOT or levels[5] != "evt":
        return None
    try:
        device = DeviceTopics(*levels[2:5])
    except ConfigError:
        return None
    if levels[6] == "finding":
        return EventTopic(device, "finding")
    return EventTopic(device, "event") if levels[6] == "event" else None
