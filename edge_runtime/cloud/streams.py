"""Which numbers of a stream are missing: kept as its holes, so that what is whole costs nothing.

A stream is all that one device numbered within one epoch. A record that comes in its order touches no hole; one that
comes late or leaves some out touches its neighbours, however many others there are. A device that scatters its numbers
pays with its own rows, and nobody waits for it. Pure values: knows neither MQTT nor SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_runtime.cloud.rows import Heard, united
from edge_runtime.sync.wire import SeqRange


@dataclass(slots=True)
class Known:
    """What the database has of one stream, as far as a batch is about it."""

    highest: int  # of the numbers that were stored
    missing: int  # how many below it did not come
    holes: list[SeqRange] = field(default_factory=list)  # those that what came is in
    ahead: list[int] = field(
        default_factory=list
    )  # refused numbers up to what came, asked for where it leaps


class Settled(NamedTuple):
    """What is to be written of it."""

    highest: int
    missing: int
    closed: tuple[int, ...]  # holes that are gone or have become others, by their first number
    opened: tuple[SeqRange, ...]
    reached: tuple[int, ...]  # of `ahead`
    ahead: tuple[int, ...]  # refused, and above the highest: they will be no holes once it is above them


def within_holes(known: Known, heard: Heard) -> list[SeqRange]:
    """What of what came may be in a hole; nothing, where all is in its order."""
    return [part for part in heard.known if part[0] <= known.highest] if known.missing else []


def leaps(known: Known, heard: Heard) -> bool:
    """Whether numbers are left out above the highest: those that were refused before are no hole then.

    Only then is anything asked of them, and those that are reached let go; where all came in its order they may lie.
    """
    above = (known.highest + 1, heard.highest)
    return above[0] <= above[1] and any(without([above], heard.known))


def settle(known: Known, heard: Heard) -> Settled:
    """Takes what came out of the holes; above the highest that was stored a new one is opened first."""
    highest = max(known.highest, heard.highest)
    holes = list(known.holes)
    if highest > known.highest:
        holes.append((known.highest + 1, highest))
    came = united([*heard.known, *((seq, seq) for seq in known.ahead)])
    before, after = set(known.holes), set(without(sorted(holes), came))
    closed, opened = before - after, sorted(after - before)
    return Settled(
        highest,
        known.missing + count(opened) - count(closed),
        tuple(sorted(first for first, _ in closed)),
        tuple(opened),
        tuple(known.ahead),
        tuple(seq for first, last in came for seq in range(max(first, highest + 1), last + 1)),
    )


def without(ranges: Sequence[SeqRange], taken: Sequence[SeqRange]) -> Iterable[SeqRange]:
    """What `taken` leaves of `ranges`; both ascending, none of either touching another of its own."""
    at = 0
    for first, last in ranges:
        while at < len(taken) and taken[at][1] < first:
            at += 1
        here = at  # the last one taken may reach into the next range
        while here < len(taken) and taken[here][0] <= last:
            if first < taken[here][0]:
                yield first, taken[here][0] - 1
            first = taken[here][1] + 1
            here += 1
        if first <= last:
            yield first, last


def count(ranges: Iterable[SeqRange]) -> int:
    """How many numbers they are."""
    return sum(last - first + 1 for first, last in ranges)
