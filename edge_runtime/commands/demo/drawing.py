"""The demo's pictures: frames with their own contour and words burned in.

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

from edge_runtime.codes import SEVERITY, Status
from edge_runtime.commands.demo.findings import circumference
from edge_runtime.commands.demo.words import RESEARCH, SIZE_ONLY, in_words
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import Ellipse
from edge_runtime.measure.findings import mask_from
from edge_runtime.pictures import overlay
from edge_runtime.types import Finding, Frame

PANEL_W, IMAGE_H, WORDS_H, MARGIN, GAP = 800, 540, 196, 28, 24
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
    """One panel, 800 pixels wide: the image, its contour, then what was said of it."""
    card = Image.new("RGB", (PANEL_W, IMAGE_H + WORDS_H), CARD)
    card.paste(_picture(panel), (0, 0))
    pen = ImageDraw.Draw(card)
    _burn(pen, (MARGIN - 8, 16), panel.title, 21, INK)
    _burn(pen, (MARGIN - 8, IMAGE_H - 36), RESEARCH, 17, QUIET)
    status, head = panel.finding.status, circumference(panel.finding)
    top = IMAGE_H + 22
    badge = status.value.upper()
    width = pen.textlength(badge, font=_font(17))
    right = PANEL_W - MARGIN
    pen.rounded_rectangle((right - width - 28, top + 6, right, top + 38), 16, outline=TONE[status], width=2)
    pen.text((right - width - 14, top + 12), badge, font=_font(17), fill=TONE[status])
    if head is not None and head.value is not None:
        low, high = head.interval or (head.value, head.value)
        said = f"{head.value:.1f} mm"
        pen.text((MARGIN, top - 4), said, font=_font(44), fill=INK)
        beside = MARGIN + pen.textlength(said, font=_font(44)) + 16
        pen.text((beside, top + 18), f"{low:.1f} to {high:.1f}", font=_font(21), fill=QUIET)
        pen.text((MARGIN, top + 60), f"Head circumference{panel.truth}", font=_font(21), fill=INK)
    else:
        pen.text((MARGIN, top - 4), "No measurement", font=_font(44), fill=INK)
    _reasons(pen, panel.finding, top + (94 if head is not None else 66))
    return card


def _reasons(pen: ImageDraw.ImageDraw, finding: Finding, top: int) -> None:
    """At most two reasons, the severest first, and what no number here can say."""
    ordered = sorted(finding.reasons, key=lambda reason: SEVERITY[reason] is not Status.WITHHELD)
    shown = [in_words(reason) for reason in ordered if reason.value != "interval_uncalibrated"][:2]
    text = "; ".join(shown)
    pen.text((MARGIN, top), f"{text[:1].upper()}{text[1:]}", font=_font(18), fill=TONE[finding.status])
    pen.text((MARGIN, top + 28), SIZE_ONLY, font=_font(18), fill=QUIET)


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


def _burn(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, fill: tuple[int, ...]) -> None:
    """Text on the image itself, on a dark plate so that bright tissue cannot hide it."""
    left, top, right, bottom = pen.textbbox(at, text, font=_font(size))
    pen.rounded_rectangle((left - 10, top - 7, right + 10, bottom + 7), 7, fill=PAPER)
    pen.text(at, text, font=_font(size), fill=fill)


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
