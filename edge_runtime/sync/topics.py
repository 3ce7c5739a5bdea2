"""The topics of the wire, as values that are checked where they are made. Knows nothing about payloads.

    er/v1/{tenant}/{site}/{device}/evt/{kind}      device to cloud, one record: finding, event, mask, telemetry, gap, audit
    er/v1/{tenant}/{site}/{device}/state           retained; online, offline, and offline again as the will
    er/v1/{tenant}/{site}/{device}/rcpt            cloud to device, receipts; only a consumer may publish
    er/v1/{tenant}/{site}/{device}/cmd/{name}      cloud to device, signed commands; only an operator may publish
    er/v1/{tenant}/{site}/{device}/rsp             device to cloud, the answers to commands

A major version of the schema is a new second level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from edge_runtime.errors import ConfigError
from edge_runtime.records import RecordKind

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

    def event(self, kind: RecordKind) -> str:
        """Where records of this kind go."""
        return f"{self.prefix}/evt/{kind}"

    @property
    def state(self) -> str:
        return f"{self.prefix}/state"

    @property
    def receipts(self) -> str:
        return f"{self.prefix}/rcpt"

    def command(self, name: str) -> str:
        """Where the command of this name is awaited; `+` for all of them."""
        return f"{self.prefix}/cmd/{name}"

    @property
    def responses(self) -> str:
        return f"{self.prefix}/rsp"


@dataclass(frozen=True, slots=True)
class EventTopic:
    """A topic that a consumer received a record on."""

    device: DeviceTopics
    kind: RecordKind


_KINDS: dict[str, RecordKind] = {kind: kind for kind in get_args(RecordKind)}


def parse_event(topic: str) -> EventTopic | None:
    """The device and kind that `topic` names; None when it is not a record's topic of this version."""
    levels = topic.split("/")
    if len(levels) != 7 or "/".join(levels[:2]) != ROOT or levels[5] != "evt" or levels[6] not in _KINDS:
        return None
    try:
        return EventTopic(DeviceTopics(*levels[2:5]), _KINDS[levels[6]])
    except ConfigError:
        return None
