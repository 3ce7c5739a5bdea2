"""Masks as pictures: at an image's resolution, as its truth, as a contour on it. Knows where a mask lies in its image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError, OutputError
from edge_runtime.measure.ellipse import filled
from edge_runtime.measure.lungs import LABELS as LUNGS
from edge_runtime.types import Box, Frame, Geometry, Mask

COLOURS_BGR = ((80, 220, 60), (60, 160, 255), (255, 140, 60), (220, 80, 220))
SMOOTH_CELLS = 0.8  # of the grid: takes the steps out of an enlarged mask without moving its edge


def full_mask(mask: Mask, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The labels of `mask` at the image's resolution, (H, W), by the exact geometry.

    Each label's area is smoothed, enlarged and cut at one half, which leaves edges where they were: a
    straight edge crosses one half in its own place. Where ellipses stand for the parts, those are drawn.
    """
    geometry = mask.geometry
    full: NDArray[np.uint8] = np.zeros(size_hw, np.uint8)
    if mask.outlines is not None:
        for value, outline in enumerate(mask.outlines, start=1):
            if outline is not None:
                full[filled(outline.on_image(geometry), size_hw)] = value
        return _within(geometry, full)
    to_grid = np.array(
        [
            [1 / geometry.step_x, 0, (0.5 - geometry.offset_x) / geometry.step_x - 0.5],
            [0, 1 / geometry.step_y, (0.5 - geometry.offset_y) / geometry.step_y - 0.5],
        ]
    )
    for value in range(1, len(mask.names) + 1):
        part = (mask.labels == value).astype(np.float32)
        soft = cv2.GaussianBlur(part, (0, 0), SMOOTH_CELLS, borderType=cv2.BORDER_REPLICATE)
        large = cv2.warpAffine(
            soft,
            to_grid,
            (size_hw[1], size_hw[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        full[large > 0.5] = value
    return _within(geometry, full)


def _within(geometry: Geometry, full: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`full` with nothing outside the region that the grid shows: what lies there was never looked at."""
    content = geometry.content
    left, right = (
        max(0, round(geometry.offset_x + edge * geometry.step_x)) for edge in (content.x0, content.x1)
    )
    top, bottom = (
        max(0, round(geometry.offset_y + edge * geometry.step_y)) for edge in (content.y0, content.y1)
    )
    full[:top] = 0
    full[bottom:] = 0
    full[:, :left] = 0
    full[:, right:] = 0
    return full


def read_truth(path: Path, labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """The labelled mask (H, W) of a PNG, as `truth_of` reads it. Raises ConfigError."""
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ConfigError(f"{path}: not an image")
    return truth_of(np.asarray(mask, np.uint8), labels)


def truth_of(mask: NDArray[np.uint8], labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """The labels (H, W) in the greys of a mask, above 127 is foreground.

    With two lungs, the part left in the image is the patient's right, the first label. With other labels than
    one, the greys are their numbers: k for the k-th.
    """
    if len(labels) > 1 and labels[:2] != LUNGS and int(np.max(mask)) <= len(labels):
        return mask
    truth: NDArray[np.uint8] = (mask > 127).astype(np.uint8)
    if labels[:2] != LUNGS:
        return truth
    count, parts, stats, centres = cv2.connectedComponentsWithStats(truth, connectivity=8)
    largest = sorted(range(1, count), key=lambda part: -stats[part, cv2.CC_STAT_AREA])[:2]
    out: NDArray[np.uint8] = np.zeros_like(truth)
    for value, part in enumerate(sorted(largest, key=lambda part: centres[part][0]), start=1):
        out[parts == part] = value
    return out


def whole_mask(labels: NDArray[np.uint8], names: tuple[str, ...]) -> Mask:
    """True labels (H, W) as a mask whose grid is the image itself."""
    height, width = labels.shape
    geometry = Geometry((height, width), Box(0, 0, width, height), step_x=1, step_y=1, offset_x=0, offset_y=0)
    return Mask(labels, names, geometry, (1.0,) * len(names), (0.0,) * len(names), presence=1.0)


def overlay(frame: Frame, mask: Mask | None) -> NDArray[np.uint8]:
    """The image (H, W, 3) BGR with the contour of each label drawn on it; without one where there is no
    mask.
    """
    picture = cv2.cvtColor(frame.pixels, cv2.COLOR_GRAY2BGR)
    if mask is not None:
        labels = full_mask(mask, frame.size_hw)
        for value in range(1, len(mask.names) + 1):
            contours, _ = cv2.findContours(
                (labels == value).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(
                picture, contours, -1, COLOURS_BGR[(value - 1) % len(COLOURS_BGR)], 2, cv2.LINE_AA
            )
    return np.asarray(picture, np.uint8)


def picture_name(frame: Frame) -> str:
    """`<stem>` of a still, `<stem>_<index>` of a frame in a cine."""
    path = Path(frame.origin.name)
    stem = "_".join((*path.parts[:-1], path.stem)).strip("/_") or "frame"
    if frame.origin.frame_time_ms is None and frame.origin.kind.value == "folder":
        return stem
    return f"{stem}_{frame.index:06d}"


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes the picture whole or not at all. Raises OutputError."""
    _, encoded = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(encoded.tobytes())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written ({exc.strerror}); free some space or name another folder"
        ) from exc
