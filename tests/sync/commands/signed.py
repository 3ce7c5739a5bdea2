"""Keys and signed commands for tests: each test names only what it is about."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edge_runtime.codes import Clock
from edge_runtime.sync.commands.authority import Arrived, Now
from edge_runtime.sync.commands.command import SIGNATURE_PROPERTY, Command, encode_command
from edge_runtime.sync.commands.signing import Signer, TrustedKeys, new_key
from edge_runtime.sync.topics import DeviceTopics

TOPICS = DeviceTopics("local", "site", "dev-1")
BEGAN = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@lru_cache(maxsize=4)
def signer(which: int = 0) -> Signer:
    """One of a few keys, the same one for the same number."""
    with TemporaryDirectory() as folder:
        new_key(Path(folder) / "key.pem")
        return Signer.load(Path(folder) / "key.pem")


def trusted(*signers: Signer) -> TrustedKeys:
    return TrustedKeys({each.key_id: each.key.public_key() for each in signers})


def moment(seconds: float = 0.0, clock: Clock = Clock.NTP) -> Now:
    """`seconds` after the tests' beginning of time."""
    return Now(int(seconds * 1e9), BEGAN + timedelta(seconds=seconds), clock)


def a_command(session: str, **over: Any) -> Command:
    fields: dict[str, Any] = {
        "command": "send_state",
        "arguments": {},
        "nonce": "0123456789abcdef0123456789abcdef",
        "issued_at": BEGAN,
        "expires_at": BEGAN + timedelta(seconds=60),
        "session": session,
        "key_id": signer().key_id,
    }
    return Command(**{**fields, **over})


def arrived(
    command: Command, topics: DeviceTopics = TOPICS, by: Signer | None = None, **over: Any
) -> Arrived:
    """A command as it arrives, signed by the key that it names."""
    payload = encode_command(command)
    return signed(topics.command(command.command), payload, by, **over)


def signed(topic: str, payload: bytes, by: Signer | None = None, **over: Any) -> Arrived:
    """These bytes on this topic, with a good signature over both."""
    signature = (by or signer()).sign(topic, payload)
    return Arrived(
        **{"topic": topic, "payload": payload, "properties": ((SIGNATURE_PROPERTY, signature),), **over}
    )
