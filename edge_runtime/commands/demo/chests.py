"""One drawn chest X-ray, taken in four ways, and what the check of its acquisition said of each.

What it must say follows from how the phantom was drawn. Runs nothing; judges the findings that were reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from edge_runtime.codes import Reason
from edge_runtime.commands.demo.findings import gives_a_size
from edge_runtime.commands.demo.known import Known, complaints, held_against
from edge_runtime.commands.words import acquisition_in_words, in_words, joined
from edge_runtime.frames.phantom import parse_spec, render
from edge_runtime.measure.acquisition import reasons_of
from edge_runtime.types import Finding


@dataclass(frozen=True, slots=True)
class Taken:
    """A way to take a chest X-ray, and what must be said of it."""

    how: str
    uri: str
    wanted: tuple[Reason, ...] = ()  # (): nothing is wrong with it


CHEST = "phantom:lungs?chest_mm=290&seed=4&frames=1"
WAYS = (
    Taken("upright", CHEST),
    Taken("turned", f"{CHEST}&rotate=90", (Reason.ROTATED_90,)),
    Taken("inverted", f"{CHEST}&invert=1", (Reason.INVERTED_POLARITY,)),
    # the patient's right lung is cut off, and that is on the left of the picture
    Taken("clipped", f"{CHEST}&clip=right", (Reason.CLIPPED_LEFT_EDGE,)),
)


class ChestPart(msgspec.Struct, frozen=True, kw_only=True):
    """One X-ray and what was said of it."""

    how: str
    wanted: list[str]  # reasons of the acquisition check; none: all is as it should be
    came: list[str]
    said: str  # the finding's acquisition, in words
    number: bool  # whether it gave any: wanted of a whole chest, and of no other
    values: list[Known]  # none where a part of the chest is missing


def chest_part(taken: Taken, finding: Finding, tolerance: Mapping[str, float]) -> ChestPart:
    """What `finding` says of an X-ray `taken` so."""
    found = finding.acquisition
    wrong_with_it = () if found is None else reasons_of(found)
    came = wrong_with_it or (() if found is not None and found.ok else finding.reasons)
    _, truth = render(parse_spec(taken.uri.removeprefix("phantom:")), 0)
    true = truth.values if truth is not None and not taken.wanted else {}
    return ChestPart(
        how=taken.how,
        wanted=[reason.value for reason in taken.wanted],
        came=[reason.value for reason in came],
        said=acquisition_in_words(found) if found and (found.ok or wrong_with_it) else _words(came),
        number=gives_a_size(finding),
        values=held_against(finding, true, tolerance),
    )


def wrong(part: ChestPart) -> list[str]:
    """A line for each thing that is not as the phantom was drawn."""
    what, found = f"chest X-ray, {part.how}", []
    if part.came != part.wanted:
        found.append(f"{what}: wanted {_quoted(part.wanted)}, came {_quoted(part.came)}")
    if part.wanted and part.number:
        found.append(f"{what}: wanted no number, came one")
    return [*found, *complaints(what, part.values)]


def _words(reasons: Sequence[str]) -> str:
    return joined(map(in_words, reasons))


def _quoted(reasons: Sequence[str]) -> str:
    return f"'{_words(reasons)}'" if reasons else "nothing wrong with it"
