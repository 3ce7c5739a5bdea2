"""The demo's pictures: frames with their own contour, and words beside them.

A contour is the mask of a reported finding, not a second inference. Which finding is shown, `exhibits.py` decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge_runtime.codes import SEVERITY, Reason, Status
from edge_runtime.commands.demo.findings import circumference
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY, in_words
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import Ellipse
from edge_runtime.measure.findings import mask_from
from edge_runtime.pictures import overlay
from edge_runtime.types import Finding, Frame

PANEL_W, TITLE_H, IMAGE_H, WORDS_H, MARGIN, GAP = 800, 68, 540, 338, 28, 24
SMALL, LINE, REASON_LINES = 33, 44, 2
INK, QUIET, PAPER, CARD = (236, 240, 243), (148, 160, 172), (11, 15, 20), (20, 26, 33)
TONE = {Status.USABLE: (94, 200, 170), Status.CAUTION: (236, 184, 92), Status.WITHHELD: (150, 160, 174)}


@dataclass(frozen=True, slots=True)
class Panel:
    """A frame with what was reported of it."""

    title: str
    frame: Frame
    finding: Finding
    truth: str = ""  # what the value is to be compared with, in words
    outline: Ellipse | None = None  # the true one, of a phantom


def draw(panel: Panel) -> Image.Image:
    """One panel, 800 pixels wide: title, image with its contour, what was said of it. Nothing lies on the image.

    The letters are large: three panels beside each other, or one on a phone, show them at two fifths.
    """
    card = Image.new("RGB", (PANEL_W, TITLE_H + IMAGE_H + WORDS_H), CARD)
    card.paste(_picture(panel), (0, TITLE_H))
    pen = ImageDraw.Draw(card)
    pen.text((MARGIN, 14), panel.title, font=_font(SMALL), fill=INK)
    status, head = panel.finding.status, circumference(panel.finding)
    top = TITLE_H + IMAGE_H + 20
    _badge(pen, status, top + 10)
    lines = [(line, TONE[status]) for line in _reasons(panel.finding)]
    if head is not None and head.value is not None:
        low, high = head.interval or (head.value, head.value)
        pen.text((MARGIN, top - 4), f"{head.value:.1f} mm", font=_font(64), fill=INK)
        lines.insert(0, (f"Interval {low:.1f} to {high:.1f}{panel.truth}", INK))
    else:
        pen.text((MARGIN, top - 4), "No measurement", font=_font(64), fill=INK)
    for at, (line, tone) in enumerate(lines):
        pen.text((MARGIN, top + 78 + at * LINE), line, font=_font(SMALL), fill=tone)
    pen.text((MARGIN, card.height - 92), SIZE_ONLY, font=_font(28), fill=QUIET)
    pen.text((MARGIN, card.height - 54), RESEARCH, font=_font(28), fill=QUIET)
    return card


def _badge(pen: ImageDraw.ImageDraw, status: Status, top: int) -> None:
    """The status in a rounded frame at the right."""
    text, font, right = status.value.upper(), _font(28), PANEL_W - MARGIN
    width = pen.textlength(text, font=font)
    pen.rounded_rectangle((right - width - 40, top, right, top + 54), 27, outline=TONE[status], width=3)
    pen.text((right - width - 20, top + 10), text, font=font, fill=TONE[status])


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
    """The frame with its contour, scaled into the panel's place without changing its shape. Withheld: no contour."""
    shown = mask_from(panel.finding.masks) if panel.finding.status is not Status.WITHHELD else None
    bgr = overlay(panel.frame, shown)
    if panel.outline is not None:
        _add_outline(bgr, panel.outline)
    scale = min(PANEL_W / bgr.shape[1], IMAGE_H / bgr.shape[0])
    size = (round(bgr.shape[1] * scale), round(bgr.shape[0] * scale))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    scaled = cv2.cvtColor(cv2.resize(bgr, size, interpolation=how), cv2.COLOR_BGR2RGB)
    place = Image.new("RGB", (PANEL_W, IMAGE_H), (0, 0, 0))
    place.paste(Image.fromarray(scaled), ((PANEL_W - size[0]) // 2, (IMAGE_H - size[1]) // 2))
    return place


def _add_outline(bgr: NDArray[np.uint8], true: Ellipse) -> None:
    """A thin line around the true ellipse, to a sixteenth of a pixel."""
    centre = (round(true.center_x * 16), round(true.center_y * 16))
    axes = (round(true.semi_major * 16), round(true.semi_minor * 16))
    cv2.ellipse(bgr, centre, axes, math.degrees(true.angle_rad), 0, 360, (245, 245, 245), 1, cv2.LINE_AA, 4)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Aileron, inside Pillow: the same letters on every machine


def side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    """The panels in a row."""
    width = GAP + sum(panel.width + GAP for panel in panels)
    row = Image.new("RGB", (width, panels[0].height + 2 * GAP), PAPER)
    left = GAP
    for panel in panels:
        row.paste(panel, (left, GAP))
        left += panel.width + GAP
    return row


def save(picture: Image.Image, path: Path) -> None:
    """Writes the picture as PNG. Raises ConfigError."""
    try:
        picture.save(path, format="PNG", optimize=False, compress_level=6)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written ({exc.strerror}); free some space") from exc
