"""`edge-runtime command`: one signed command to one device, and its answer; or a new key to sign with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.cloud.operator import Operator
from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.config import Site
from edge_runtime.errors import ConfigError
from edge_runtime.sync.commands.command import COMMAND_NAMES, Answer
from edge_runtime.sync.commands.signing import Signer, new_key
from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.tls import Tls
from edge_runtime.sync.topics import DeviceTopics

HERE = Site()


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was made."""

    private: str
    public: str
    key_id: str


def make_key(path: Path) -> NewKey:
    """Makes a key to sign with at `path`; ConfigError when something is there already."""
    public, name = new_key(path)
    return NewKey(private=str(path), public=str(public), key_id=name)


def key_lines(made: NewKey) -> list[str]:
    """Where its parts are, for a person."""
    return [
        f"key {made.key_id}: {made.private} signs, keep it to yourself",
        f"copy {made.public} to each device and name it there: edge-runtime uplink --command-keys",
    ]


def run(
    device: str,
    name: str,
    *,
    args: str,
    broker: str,
    key: Path,
    tenant: str = HERE.tenant,
    site: str = HERE.site,
    ca: Path | None = None,
    cert: Path | None = None,
    cert_key: Path | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """The device's answer. ConfigError for what cannot be asked, UplinkError when no answer comes."""
    if name not in COMMAND_NAMES:
        raise ConfigError(f"command {name!r}: want one of {', '.join(COMMAND_NAMES)}")
    if not 0 < timeout_s < math.inf:
        raise ConfigError(f"--timeout: want a number of seconds above 0, got {timeout_s}")
    topics, arguments = DeviceTopics(tenant, site, device), _arguments(args)
    tls, where = Tls(ca, cert, cert_key), Broker.parse(broker)
    if where.secure:
        tls.context()
    signer = Signer.load(key)
    with stop_on_signals() as stop:
        answer = Operator(where, signer, tls, timeout_s, stop).ask(topics, name, arguments)
    if answer is None:
        raise KeyboardInterrupt
    return answer


def _arguments(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise ConfigError(
            f'--args: want a JSON object, as \'{{"profile": "slow"}}\', got {text[:40]!r} ({exc})'
        ) from exc


def lines(answer: Answer) -> list[str]:
    """The answer for a person."""
    told = [f"{answer.device_id}: {answer.outcome}: {answer.text}"]
    if log := answer.result.get("lines"):
        told += [f"{line['at']}  {line['text']}" for line in log]
    elif answer.result:
        told.append(msgspec.json.format(msgspec.json.encode(answer.result), indent=1).decode())
    return [*told, f"on its record as {answer.audit.epoch}/{answer.audit.seq}"]
