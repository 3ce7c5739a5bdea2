"""`edge-runtime uplink --explain`: what would leave this device now, for a person to read. Nothing is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_runtime.config import Site
from edge_runtime.errors import ConfigError
from edge_runtime.sync.uplink.explain import Explained, Explanation, explain


def run(state: Path, *, site: Site, limit: int = 10) -> Explanation:
    """The first `limit` waiting records as messages, and the device's state message. JournalError without a journal."""
    if limit < 1:
        raise ConfigError(f"--limit: want a number above 0, got {limit}")
    return explain(state, site, limit)


def lines(told: Explanation) -> list[str]:
    """For a person: each message whole, then what stays here."""
    kinds = Counter(one.kind for one in told.messages)
    shown = ", ".join(
        f"{count} {kind}{'s' * (count > 1 and kind != 'telemetry')}" for kind, count in kinds.items()
    )
    text = [
        f"device {told.device_id}, epoch {told.epoch}: {told.waiting} records wait. Nothing was sent.",
        f"Below {shown} as they would be published, then the state message."
        if shown
        else "The state message:",
    ]
    for message in (*told.messages, told.state, told.will):
        text += ["", *_message(message)]
    more = told.waiting - len(told.messages) - len(told.unsendable)
    if more > 0:
        text += ["", f"and {more} more records; --limit {told.waiting} shows all"]
    text += ["", *(f"never sent: number {one.seq}, {one.kind}: {one.why}" for one in told.unsendable)]
    text += ["The state says at other times:", *(f"  {what}" for what in told.state_more)]
    text += ["Random, and another when it is sent:", *(f"  {what}" for what in told.new)]
    text += ["Stays here, always:", *(f"  {what}" for what in told.never)]
    return [*text, "Leaves as somebody typed it:", *(f"  {what}" for what in told.typed)]


_HEADS = {
    "state": "STATE, retained, on every connect and change",
    "will": "WILL, retained, by the broker when it loses this device",
}


def _message(message: Explained) -> Iterator[str]:
    yield _HEADS.get(message.kind) or f"RECORD {message.seq}, {message.kind}"
    yield f"  topic         {message.topic}"
    yield f"  content type  {message.content_type}"
    for name, value in message.properties.items():
        yield f"  property      {name} = {value}"
    size = f"{len(message.payload.encode())} bytes, {message.packet_bytes} with topic and properties"
    if message.slow_bytes is not None:
        size += f"; on a slow line {message.slow_bytes}, packed and with its topic by number"
    yield f"  payload       {size}"
    for line in msgspec.json.format(message.payload, indent=2).splitlines():
        yield f"    {line}"
    for one in message.left_out:
        yield f"  left out      {one.path}: {one.why}"
    for one in message.left_out_slow:
        yield f"  left out      {one.path}, on a slow line: {one.why}"
