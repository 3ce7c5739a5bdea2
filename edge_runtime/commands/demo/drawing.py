"""The demo's pictures: frames with their own contour, and words beside them.

A contour is the mask of a reported finding, not a second inference. Which finding is shown, `exhibits.py` decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge_runtime.codes import SEVERITY, Reason, Status
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY, in_words
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import Ellipse, Truth
from edge_runtime.measure.findings import mask_from
from edge_runtime.pictures import COLOURS_BGR, full_mask, overlay
from edge_runtime.types import Finding, Frame, Mask

PANEL_W, TITLE_H, IMAGE_H, WORDS_H, MARGIN, GAP = 800, 68, 540, 338, 28, 24
LARGE, SMALL, LINE, REASON_LINES = 64, 33, 44, 2
DASH_PX, WHITE = (9, 16), (245, 245, 245)  # a dash, and from one to the next
INK, QUIET, PAPER, CARD = (236, 240, 243), (148, 160, 172), (11, 15, 20), (20, 26, 33)
Colour = tuple[int, int, int]
TONE = {Status.USABLE: (94, 200, 170), Status.CAUTION: (236, 184, 92), Status.WITHHELD: (150, 160, 174)}


@dataclass(frozen=True, slots=True)
class Panel:
    """A frame with what was reported of it."""

    title: str
    frame: Frame
    finding: Finding
    said: str = "No measurement"  # the main thing, large
    values: tuple[str, ...] = ()  # what it is made of, a line each
    truth: Truth | None = None  # of a phantom, to be drawn


def draw(panel: Panel) -> Image.Image:
    """One panel, 800 pixels wide: title, image with its contour, what was said of it. Nothing lies on the image.

    The letters are large: three panels beside each other, or one on a phone, show them at two fifths.
    """
    card = Image.new("RGB", (PANEL_W, TITLE_H + IMAGE_H + WORDS_H), CARD)
    card.paste(_picture(panel), (0, TITLE_H))
    pen = ImageDraw.Draw(card)
    pen.text((MARGIN, 14), panel.title, font=_font(SMALL), fill=INK)
    status, top = panel.finding.status, TITLE_H + IMAGE_H + 20
    room = _badge(pen, status, top + 10) - MARGIN
    size = next(size for size in range(LARGE, 0, -1) if _font(size).getlength(panel.said) <= room)
    _write(pen, (MARGIN, top - 4 + (LARGE - size) // 2), panel.said, size, INK)
    lines = [(line, INK) for line in panel.values] + [
        (line, TONE[status]) for line in _reasons(panel.finding)
    ]
    for at, (line, tone) in enumerate(lines):
        _write(pen, (MARGIN, top + 78 + at * LINE), line, SMALL, tone)
    pen.text((MARGIN, card.height - 92), SIZE_ONLY, font=_font(28), fill=QUIET)
    pen.text((MARGIN, card.height - 54), RESEARCH, font=_font(28), fill=QUIET)
    return card


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, tone: Colour) -> None:
    """Writes one line. The font has no raised 2: a small one stands for it."""
    x, y = at
    for part in re.split("(²)", text):
        font = _font(round(0.6 * size) if part == "²" else size)
        pen.text((x, y), part.replace("²", "2"), font=font, fill=tone)
        x += font.getlength(part.replace("²", "2"))


def _badge(pen: ImageDraw.ImageDraw, status: Status, top: int) -> float:
    """The status in a rounded frame at the right; the place where the room for other words ends."""
    text, font, right = status.value.upper(), _font(28), PANEL_W - MARGIN
    width = pen.textlength(text, font=font)
    pen.rounded_rectangle((right - width - 40, top, right, top + 54), 27, outline=TONE[status], width=3)
    pen.text((right - width - 20, top + 10), text, font=font, fill=TONE[status])
    return right - width - 64


def _reasons(finding: Finding) -> list[str]:
    """The severest reason and, where there is room for it, the next, in at most two lines."""
    ordered = sorted(finding.reasons, key=lambda reason: SEVERITY[reason] is not Status.WITHHELD)
    shown = [in_words(reason) for reason in ordered if reason is not Reason.INTERVAL_UNCALIBRATED]
    both = _wrapped("; ".join(shown[:2]))
    return both if len(both) <= REASON_LINES else _wrapped(shown[0])


def _wrapped(text: str) -> list[str]:
    """The text as a sentence, in lines that fit a panel."""
    lines: list[str] = []
    for word in f"{text[:1].upper()}{text[1:]}".split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(SMALL).getlength(longer) <= PANEL_W - 2 * MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _picture(panel: Panel) -> Image.Image:
    """The frame with its contour, scaled into the panel's place without changing its shape.

    Withheld: no contour, but dashes around what the check of an acquisition looked at.
    """
    found, held = mask_from(panel.finding.masks), panel.finding.status is Status.WITHHELD
    bgr = overlay(panel.frame, None if held else found)
    if held and found is not None and panel.finding.acquisition is not None:
        _add_dashes(bgr, found)
    if not held and panel.truth is not None:
        _add_truth(bgr, panel.truth)
    scale = min(PANEL_W / bgr.shape[1], IMAGE_H / bgr.shape[0])
    size = (round(bgr.shape[1] * scale), round(bgr.shape[0] * scale))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    scaled = cv2.cvtColor(cv2.resize(bgr, size, interpolation=how), cv2.COLOR_BGR2RGB)
    place = Image.new("RGB", (PANEL_W, IMAGE_H), (0, 0, 0))
    place.paste(Image.fromarray(scaled), ((PANEL_W - size[0]) // 2, (IMAGE_H - size[1]) // 2))
    return place


def _add_truth(bgr: NDArray[np.uint8], true: Truth) -> None:
    """A thin line around what is known; around an ellipse to a sixteenth of a pixel."""
    if not isinstance(true, Ellipse):
        for _, contour in _contours(true.mask(bgr.shape[:2])):
            cv2.polylines(bgr, [contour], True, WHITE, 1, cv2.LINE_AA)
        return
    centre = (round(true.center_x * 16), round(true.center_y * 16))
    axes = (round(true.semi_major * 16), round(true.semi_minor * 16))
    cv2.ellipse(bgr, centre, axes, math.degrees(true.angle_rad), 0, 360, WHITE, 1, cv2.LINE_AA, 4)


def _add_dashes(bgr: NDArray[np.uint8], found: Mask) -> None:
    """A broken line around each label."""
    dash, step = DASH_PX
    for value, contour in _contours(full_mask(found, (bgr.shape[0], bgr.shape[1]))):
        dashes = [contour[at : at + dash] for at in range(0, len(contour), step)]
        cv2.polylines(bgr, dashes, False, COLOURS_BGR[value - 1], 2, cv2.LINE_AA)


def _contours(labels: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Each label with each of its outlines, point by point."""
    for value in range(1, int(np.max(labels)) + 1):
        part = (labels == value).astype(np.uint8)
        for contour in cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            yield value, np.asarray(contour, np.int32)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Aileron, inside Pillow: the same letters on every machine


def save_sheet(path: Path, *rows: Sequence[Image.Image | None], shrink: int = 1) -> None:
    """Writes the panels of each row beside each other, the rows below each other; nothing where there are none."""
    there = [[panel for panel in row if panel is not None] for row in rows]
    there = [row for row in there if row]
    if not there:
        return
    width, height = (PANEL_W + GAP, TITLE_H + IMAGE_H + WORDS_H + GAP)
    paper = Image.new("RGB", (GAP + width * max(map(len, there)), GAP + height * len(there)), PAPER)
    for down, row in enumerate(there):
        for along, panel in enumerate(row):
            paper.paste(panel, (GAP + along * width, GAP + down * height))
    save(paper.reduce(shrink), path)


def save(picture: Image.Image, path: Path) -> None:
    """Writes the picture as PNG. Raises ConfigError."""
    try:
        picture.save(path, format="PNG", optimize=False, compress_level=6)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written ({exc.strerror}); free some space") from exc
