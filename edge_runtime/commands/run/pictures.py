"""The pictures that a run leaves beside its findings, for a person who asked for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge_runtime.codes import Status
from edge_runtime.commands.run.values import plain, with_interval
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY, in_words
from edge_runtime.errors import ConfigError
from edge_runtime.pictures import full_mask, overlay, picture_name, write_png
from edge_runtime.pipeline import Result
from edge_runtime.types import Frame

LETTERS, LINE, INK, PAPER = 15, 22, (236, 240, 243), (11, 15, 20)


@dataclass(slots=True)
class PictureSink:
    """Writes what was asked for of each result, under one name in each folder. Raises ConfigError for a folder."""

    masks: Path | None = None  # labels at the image's resolution
    record: Path | None = None  # pixels as they were analysed
    overlays: Path | None = None  # both, with what was said below
    _names: dict[str, int] = field(default_factory=dict)  # of stills, by the frame that has it

    def __post_init__(self) -> None:
        for folder in (self.masks, self.record, self.overlays):
            if folder is not None:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as exc:
                    raise ConfigError(
                        f"{folder}: cannot be made ({exc.strerror}); name a folder that can be written"
                    ) from exc

    def keep(self, result: Result) -> None:
        """Writes what was asked for of this result; nothing of a frame that could not be read. Raises OutputError."""
        frame = result.frame
        if not isinstance(frame, Frame) or not (self.masks or self.record or self.overlays):
            return
        name = picture_name(frame)
        if self._names.setdefault(name, frame.index) != frame.index:  # a.png after a.jpg
            name = f"{name}_{frame.index:06d}"
        if self.record is not None:
            write_png(self.record / f"{name}.png", frame.pixels)
        if self.masks is not None and result.mask is not None:
            labels = full_mask(result.mask, frame.size_hw)
            step = 255 // len(result.mask.names)
            write_png(self.masks / f"{name}.png", labels * np.uint8(step))
        if self.overlays is not None:
            write_png(self.overlays / f"{name}.png", said_below(frame, result))


def said_below(frame: Frame, result: Result) -> NDArray[np.uint8]:
    """The frame (H, W, 3) BGR with the contour of what was measured, and the finding in words on a strip below it.

    Nothing but the contour lies on the image, and where the finding is withheld not even that.
    """
    withheld = result.status is Status.WITHHELD
    picture, lines = overlay(frame, None if withheld else result.mask), _lines(result)
    strip = Image.new("RGB", (picture.shape[1], LINE * len(lines) + LINE // 2), PAPER)
    pen = ImageDraw.Draw(strip)
    for at, line in enumerate(lines):
        room = LETTERS
        while room > 8 and ImageFont.load_default(room).getlength(line) > strip.width - LINE:
            room -= 1
        pen.text((LINE // 2, LINE * at + LINE // 4), line, font=ImageFont.load_default(room), fill=INK)
    return np.concatenate([picture, np.asarray(strip, np.uint8)[..., ::-1]])


def _lines(result: Result) -> list[str]:
    values = [
        f"{plain(one.name)} {with_interval(one.value, one.interval, one.name)}"
        for one in result.measurements
        if one.value is not None
    ]
    why = "; ".join(in_words(reason) for reason in result.reasons)
    return [*values, f"{result.status.value}{f': {why}' if why else ''}", f"{SIZE_ONLY} {RESEARCH}"]
