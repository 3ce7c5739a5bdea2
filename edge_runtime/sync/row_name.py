"""Which row a message carries, as its MQTT user properties say it: each fact by its name, or on a slow line all in one.

    epoch = ff1992da70e9, seq = 12, sender = 5f0c2a91, encoding = zd1
    r = zd1 ff1992da70e9 12 5f0c2a91

Knows nothing about what the row says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

SHORT = "r"
SHORT_PATTERN = "([0-9a-z]{1,16}) ([0-9a-f]{1,64}) ([1-9][0-9]{0,17}) ([0-9a-zA-Z_-]{1,64})"
_short = re.compile(SHORT_PATTERN)
_epoch = re.compile(r"[^\x00-\x1f\x7f]{1,200}")  # more would not fit into an index of the cloud's database
_seq = re.compile("[1-9][0-9]{0,17}")
_word = re.compile("[0-9a-zA-Z_-]{1,64}")

Properties = tuple[tuple[str, str], ...]


class RowName(NamedTuple):
    """What a receipt needs, and how the payload was packed."""

    epoch: str
    seq: int
    sender: str | None  # of the process that sends, said back to it: two devices may have one name
    encoding: str | None = None


def spelled(name: RowName) -> Properties:
    """By names; for a packed payload in the short form."""
    epoch, seq, sender, encoding = name
    if encoding is not None and sender is not None:
        return ((SHORT, f"{encoding} {epoch} {seq} {sender}"),)
    told = (("epoch", epoch), ("seq", str(seq)), ("sender", sender), ("encoding", encoding))
    return tuple((key, value) for key, value in told if value is not None)


def read(properties: Iterable[tuple[str, str]]) -> RowName | None:
    """Of a message in either form; None when it names no row."""
    told = dict(properties)
    if SHORT in told:
        found = _short.fullmatch(told[SHORT])
        return None if found is None else RowName(found[2], int(found[3]), found[4], found[1])
    epoch, seq, word = told.get("epoch", ""), told.get("seq", ""), told.get("sender", "")
    if not _epoch.fullmatch(epoch) or not _seq.fullmatch(seq):
        return None
    return RowName(epoch, int(seq), word if _word.fullmatch(word) else None, told.get("encoding"))
