"""Is a chest X-ray whole: both lungs in it, none clipped, upright, black and white as they should be.

For the minute in which the patient is still there. It says what the picture shows, never how the lungs are, and
it corrects nothing: a picture that is turned or inverted is refused, not turned back.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import Hint, Reason, Status, status_of
from edge_runtime.measure.lungs import LABELS
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Acquisition, Box, Edge, Mask, Side, Turn

MIN_SHARE = 0.1  # of the larger lung: a smaller one is a scrap, not a lung

# A lung that lies within this share of the side of an edge, over more than `MAX_CONTACT` of the square root of its
# area, goes on beyond it. By the true masks of 110 Montgomery X-rays 9 do; cut by 10 % of the lungs' extent, all.
# A network draws a lung round: where the picture ends in the middle of one, the mask may end two rows before it. So the
# reach is never less than `REACH_CELLS`. By the masks of `lungs` 1.0.0, with one or two cells, 33 of 110 that were cut off by
# 10 % at the bottom were called whole, and 14 of those cut off by 35 %; with four, none, and 3 more of the whole are refused.
REACH = 0.008
REACH_CELLS = 4
MAX_CONTACT = 0.04

DARK, BRIGHT = 10, 245  # grey of a collimated band, of a shutter or of unexposed film
BAND_REST = 0.06  # share of a row of it that may be otherwise: a side marker, a name
MIN_SEEN = 0.1  # of the side, between two bands: with less there is no telling what is band

NOT_A_CHEST = frozenset(
    {
        Reason.BLANK,
        Reason.MODALITY_MISMATCH,
        Reason.BODY_PART_MISMATCH,
        Reason.VIEW_MISMATCH,
        Reason.IMAGE_TOO_SMALL,
        Reason.IMAGE_TOO_ELONGATED,
        Reason.FOREIGN_IMAGE,
    }
)

_SIDES: tuple[Side, Side] = ("right", "left")
_TURNS: tuple[Turn, Turn, Turn] = (90, 180, 270)
_MISSING: dict[Side, Reason] = {"right": Reason.LUNG_RIGHT_MISSING, "left": Reason.LUNG_LEFT_MISSING}
_TURNED = {90: Reason.ROTATED_90, 180: Reason.ROTATED_180, 270: Reason.ROTATED_270}
_CLIPPED: dict[Edge, tuple[Reason, Hint]] = {
    "top": (Reason.CLIPPED_TOP_EDGE, Hint.INCLUDE_TOP_EDGE),
    "bottom": (Reason.CLIPPED_BOTTOM_EDGE, Hint.INCLUDE_BOTTOM_EDGE),
    "left": (Reason.CLIPPED_LEFT_EDGE, Hint.INCLUDE_LEFT_EDGE),
    "right": (Reason.CLIPPED_RIGHT_EDGE, Hint.INCLUDE_RIGHT_EDGE),
}


def check(
    mask: Mask, picture: NDArray[np.uint8], frame_reasons: tuple[Reason, ...], settings: MeasureSettings
) -> Acquisition | None:
    """What `mask` and the model's other words say about how `picture`, (h, w), was taken; both on the model's grid.

    None where the frame's own reasons say that it is no chest X-ray: then there is nothing to check. `ok` wants
    every part to have been checked and the frame to be one that may be measured.
    """
    if NOT_A_CHEST & set(frame_reasons):
        return None
    sides = [mask.of(label) for label in LABELS]
    counts = [np.count_nonzero(side) for side in sides]
    there = [count > 0 and count >= MIN_SHARE * max(counts) for count in counts]
    edges = clipped_edges(
        [side for side, is_there in zip(sides, there, strict=True) if is_there], mask, picture
    )
    rotation, inverted = _rotation(mask, settings), None
    if mask.inverted is not None:
        inverted = mask.inverted > settings.max_inverted
    measurable = status_of(frame_reasons) is not Status.WITHHELD
    return Acquisition(
        both_lungs=all(there),
        missing=tuple(side for side, is_there in zip(_SIDES, there, strict=True) if not is_there),
        clipped_edges=edges,
        rotation_deg=rotation,
        inverted=inverted,
        ok=measurable and all(there) and not edges and rotation == 0 and inverted is False,
    )


def reasons_of(found: Acquisition) -> tuple[Reason, ...]:
    """Why nothing may be measured in a picture that was taken so; () where it may."""
    return (
        *((_TURNED[found.rotation_deg],) if found.rotation_deg else ()),
        *((Reason.INVERTED_POLARITY,) if found.inverted else ()),
        *(_MISSING[side] for side in found.missing),
        *(_CLIPPED[edge][0] for edge in found.clipped_edges),
    )


def hint_of(found: Acquisition) -> Hint:
    """The one thing to do about it, `none` where there is nothing."""
    if found.rotation_deg:
        return Hint.ROTATE_IMAGE
    if found.inverted:
        return Hint.CHECK_POLARITY
    if found.missing:
        return Hint.INCLUDE_BOTH_LUNGS
    return _CLIPPED[found.clipped_edges[0]][1] if found.clipped_edges else Hint.NONE


def clipped_edges(lungs: list[NDArray[np.bool_]], mask: Mask, picture: NDArray[np.uint8]) -> tuple[Edge, ...]:
    """The edges of the picture, or of the collimation in it, beyond which one of `lungs` goes on."""
    content = mask.geometry.content
    seen = visible(picture, content)
    reach_y, reach_x = (max(REACH_CELLS, round(REACH * side)) for side in content.size_hw)
    found: set[Edge] = set()
    for lung in lungs:
        limit = MAX_CONTACT * np.count_nonzero(lung) ** 0.5
        beyond: dict[Edge, int] = {
            "top": _cells(np.any(lung[: seen.y0 + reach_y], axis=0)),
            "bottom": _cells(np.any(lung[seen.y1 - reach_y :], axis=0)),
            "left": _cells(np.any(lung[:, : seen.x0 + reach_x], axis=1)),
            "right": _cells(np.any(lung[:, seen.x1 - reach_x :], axis=1)),
        }
        found |= {edge for edge, cells in beyond.items() if cells > limit}
    return tuple(edge for edge in _CLIPPED if edge in found)


def _cells(touched: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(touched))


def visible(picture: NDArray[np.uint8], content: Box, dark: int = DARK, bright: int = BRIGHT) -> Box:
    """The part of `content` without the bands at its edges that are black, or white, from end to end."""
    inside = picture[content.y0 : content.y1, content.x0 : content.x1]
    height, width = inside.shape
    black, white = cv2.inRange(inside, 0, dark), cv2.inRange(inside, bright, 255)
    top, bottom = _bands(_shares(black, 1), _shares(white, 1))
    left, right = _bands(_shares(black, 0), _shares(white, 0))
    return Box(content.x0 + left, content.y0 + top, content.x0 + width - right, content.y0 + height - bottom)


def _shares(marked: NDArray[np.generic], axis: int) -> NDArray[np.float32]:
    """The share of each row (axis 1) or column (axis 0) that is marked with 255."""
    means: NDArray[np.float32] = cv2.reduce(marked, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel() / 255
    return means


def shows_nothing(dark: NDArray[np.float32], bright: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which lines belong to a band, by the shares of them that are dark and bright."""
    return np.maximum(dark, bright) >= 1 - BAND_REST


def _bands(dark: NDArray[np.float32], bright: NDArray[np.float32]) -> tuple[int, int]:
    """How many lines at the beginning and at the end belong to a band."""
    band = shows_nothing(dark, bright)
    first, last = (int(np.argmin(np.append(way, False))) for way in (band, band[::-1]))
    if first + last > (1 - MIN_SEEN) * len(band):
        return 0, 0
    return first, last


def _rotation(mask: Mask, settings: MeasureSettings) -> Turn | None:
    """How far the picture is turned clockwise, in degrees; None where the model does not say."""
    if mask.rotation is None:
        return None
    if mask.rotation[0] >= settings.min_upright:
        return 0
    return _TURNS[int(np.argmax(mask.rotation[1:]))]
