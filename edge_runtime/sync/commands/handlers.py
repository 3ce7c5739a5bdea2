"""The closed list: what each command from the cloud does on this device. There is no other.

Each reads what it needs and says what is to change; what changes in the database is committed together with the
command's audit, so that neither is there without the other. Knows nothing about who may command, nor about MQTT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from edge_runtime.sync.commands.command import (
    AcknowledgeAlert,
    Arguments,
    Code,
    Resend,
    ResendResult,
    SendLog,
    SendState,
    SetProfile,
)
from edge_runtime.sync.commands.device_records import Change, Kept
from edge_runtime.sync.commands.recent_log import Said
from edge_runtime.sync.link.speed import LinkChoice
from edge_runtime.sync.wire import DeviceState, SeqRange, ranges_of

PROFILE_KEY = "link_profile"  # in the database's table of facts


class Failed(Exception):  # noqa: N818 - an answer, not a fault
    """A command that was let in cannot be done; nothing was changed."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Records(Protocol):
    """The database, as far as commands read it and say what should change in it."""

    @property
    def epoch(self) -> str: ...

    def kept(self, ranges: Sequence[SeqRange]) -> Kept:
        """What became of each of these numbers."""

    def resend(self, ranges: Sequence[SeqRange]) -> tuple[Change, ...]:
        """What makes those that are here wait for delivery again."""

    def remember(self, key: str, value: str) -> tuple[Change, ...]:
        """What writes a fact that outlives a restart."""


class Ways(Protocol):
    """The uplink, as far as commands ask it or change its ways."""

    @property
    def said(self) -> Said: ...

    def state_now(self) -> DeviceState:
        """What the retained state message would say now."""

    def send_anew(self) -> None:
        """Rows that had their receipt wait again: an old receipt is not theirs."""

    def choose_profile(self, profile: LinkChoice) -> None:
        """From now on, treat the line so."""

    def acknowledge(self, alert: str) -> None:
        """A person has seen this alert, which stands."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What a command comes to: its answer, the changes to commit, and what follows once they are."""

    text: str
    result: dict[str, Any]
    changes: tuple[Change, ...] = ()
    then: Callable[[], None] = lambda: None


def do(arguments: Arguments, records: Records, ways: Ways) -> Deed:
    """What the command with these arguments comes to; raises Failed. Changes nothing by itself."""
    return _DEEDS[type(arguments)](arguments, records, ways)


def _send_state(arguments: SendState, records: Records, ways: Ways) -> Deed:
    return Deed("the state as of now", {"state": msgspec.to_builtins(ways.state_now())})


def _send_log(arguments: SendLog, records: Records, ways: Ways) -> Deed:
    lines = ways.said.last(arguments.lines)
    return Deed(f"the last {len(lines)} lines", {"lines": msgspec.to_builtins(lines)})


def _resend(arguments: Resend, records: Records, ways: Ways) -> Deed:
    if arguments.epoch != records.epoch:
        raise Failed("other_epoch", f"this device's records are of epoch {records.epoch}")
    kept = records.kept(arguments.ranges)
    result = ResendResult(
        resent=ranges_of(kept.delivered),
        waiting=ranges_of(kept.waiting),
        dead=ranges_of(kept.dead),
        lost=ranges_of(kept.lost),
        gone=ranges_of(kept.gone),
        never=ranges_of(kept.never),
    )
    counts = (
        (kept.waiting, "still wait"),
        (kept.dead, "are dead letters"),
        (kept.lost, "were lost and told in a gap"),
        (kept.gone, "were delivered and are gone"),
        (kept.never, "were never given"),
    )
    others = "".join(f", {len(seqs)} {what}" for seqs, what in counts if seqs)
    return Deed(
        f"{len(kept.delivered)} records are sent again{others}",
        msgspec.to_builtins(result),
        records.resend(arguments.ranges),
        ways.send_anew,
    )


def _set_profile(arguments: SetProfile, records: Records, ways: Ways) -> Deed:
    profile = arguments.profile
    return Deed(
        f"the link's profile is {profile}",
        {"profile": profile},
        records.remember(PROFILE_KEY, profile),
        lambda: ways.choose_profile(profile),
    )


def _acknowledge_alert(arguments: AcknowledgeAlert, records: Records, ways: Ways) -> Deed:
    standing = [alert.id for alert in ways.state_now().alerts]
    if arguments.alert not in standing:
        raise Failed("unknown_alert", f"alerts that stand: {', '.join(standing) or 'none'}")
    return Deed(
        "acknowledged; it stands until its cause is gone",
        {"alert": arguments.alert},
        then=lambda: ways.acknowledge(arguments.alert),
    )


_DEEDS: dict[type[Arguments], Callable[[Any, Records, Ways], Deed]] = {
    SendState: _send_state,
    SendLog: _send_log,
    Resend: _resend,
    SetProfile: _set_profile,
    AcknowledgeAlert: _acknowledge_alert,
}
