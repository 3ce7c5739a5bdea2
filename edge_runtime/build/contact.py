"""A contact sheet: what a model finds on nine frames, for a person to confirm by eye. Draws, writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.pictures import COLOURS_BGR, full_mask
from edge_runtime.types import Frame, Mask

ROWS = COLUMNS = 3
TILE_HW = 330, 480
CAPTION = 46  # pixels under each tile
GAP = 6
TINT = 0.25  # of a label's colour over its area
LONGEST_NAME = 46  # signs


class Seen(NamedTuple):
    """One frame, and what the model found on it; no mask where its answer could not be used."""

    frame: Frame
    mask: Mask | None


def contact_sheet(seen: Sequence[Seen]) -> NDArray[np.uint8]:
    """At most nine overlays, each with its frame's name and its labels' areas; (h, w, 3) BGR."""
    cell_h, cell_w = TILE_HW[0] + CAPTION, TILE_HW[1]
    sheet: NDArray[np.uint8] = np.full(
        (ROWS * (cell_h + GAP) + GAP, COLUMNS * (cell_w + GAP) + GAP, 3), 40, np.uint8
    )
    for place, one in enumerate(seen[: ROWS * COLUMNS]):
        row, column = divmod(place, COLUMNS)
        y, x = GAP + row * (cell_h + GAP), GAP + column * (cell_w + GAP)
        sheet[y : y + cell_h, x : x + cell_w] = _tile(one)
    return sheet


def areas(mask: Mask | None) -> dict[str, float]:
    """Label -> share of the part of the grid that shows the picture, 0 to 1; empty without a mask."""
    if mask is None:
        return {}
    size_h, size_w = mask.geometry.content.size_hw
    counts = np.bincount(mask.labels.ravel(), minlength=len(mask.names) + 1)
    return {name: float(counts[k]) / (size_h * size_w) for k, name in enumerate(mask.names, start=1)}


def in_words(mask: Mask | None) -> str:
    """The areas of what was found: `head 31.2 %, neck 2.0 %`."""
    if mask is None:
        return "no answer that can be used"
    found = [f"{name} {100 * share:.1f} %" for name, share in areas(mask).items() if share > 0]
    return ", ".join(found) or "nothing found"


def _tile(one: Seen) -> NDArray[np.uint8]:
    """One overlay with its caption, (TILE_HW[0] + CAPTION, TILE_HW[1], 3)."""
    height, width = one.frame.size_hw
    zoom = min(TILE_HW[0] / height, TILE_HW[1] / width)
    size_hw = max(1, round(height * zoom)), max(1, round(width * zoom))
    way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    picture = cv2.cvtColor(cv2.resize(one.frame.pixels, size_hw[::-1], interpolation=way), cv2.COLOR_GRAY2BGR)
    if one.mask is not None:
        _draw(
            picture,
            cv2.resize(full_mask(one.mask, (height, width)), size_hw[::-1], interpolation=0),
            one.mask,
        )
    tile: NDArray[np.uint8] = np.zeros((TILE_HW[0] + CAPTION, TILE_HW[1], 3), np.uint8)
    y, x = (TILE_HW[0] - size_hw[0]) // 2, (TILE_HW[1] - size_hw[1]) // 2
    tile[y : y + size_hw[0], x : x + size_hw[1]] = picture
    tile[TILE_HW[0] :] = 24
    _write(tile, _short(f"{one.frame.origin.name} [{one.frame.index}]"), TILE_HW[0] + 18, (235, 235, 235))
    _write(tile, _short(in_words(one.mask)), TILE_HW[0] + 38, (170, 210, 170))
    return tile


def _draw(picture: NDArray[np.uint8], labels: NDArray[np.uint8], mask: Mask) -> None:
    """A tint and an outline for each label, on `picture` itself."""
    for value in range(1, len(mask.names) + 1):
        colour = COLOURS_BGR[(value - 1) % len(COLOURS_BGR)]
        part = (labels == value).astype(np.uint8)
        inside = part > 0
        picture[inside] = ((1 - TINT) * picture[inside] + TINT * np.array(colour)).astype(np.uint8)
        contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, colour, 2, cv2.LINE_AA)


def _write(tile: NDArray[np.uint8], text: str, y: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(tile, text, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.47, colour, 1, cv2.LINE_AA)


def _short(text: str) -> str:
    """`text` in the signs that OpenCV draws, its end kept where it is too long: names differ at the end."""
    plain = text.encode("ascii", "replace").decode()
    return plain if len(plain) <= LONGEST_NAME else f"...{plain[3 - LONGEST_NAME :]}"
