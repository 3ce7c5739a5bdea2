"""The gate's pictures as SVG inside a page: differences against their limits, frames with both outlines, bars.

Each is a string that stands by itself, drawn in the page's own colours (`gate_page.py`). Knows no verdict.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.gate_report import FrameRow
from edge_runtime.build.readings import Reading
from edge_runtime.pictures import full_mask
from edge_runtime.types import Box, Frame, Mask

PICTURE_PX = 420  # across, of a frame on the page: what a printed third of A4 can show
MARGIN = 0.15  # around the structure, of its longer side
BINS = 15


# ---------------------------------------------------------------- differences


def differences(rows: Sequence[FrameRow], name: str, p99: float | None, most: float | None, unit: str) -> str:
    """Every judged frame's difference of `name` over the reference's value, between the limits, with a
    histogram at its side; empty without a frame that counts.
    """
    points = [
        (value.reference, math.copysign(value.counted, value.difference or 0.0), row.name)
        for row in rows
        if (value := row.values.get(name)) is not None
        and value.reference is not None
        and value.counted is not None
    ]
    if not points:
        return ""
    reach = 1.12 * max([abs(y) for _, y, _ in points] + [limit for limit in (p99, most) if limit] + [1e-9])
    low, high = min(x for x, _, _ in points), max(x for x, _, _ in points)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 1, high + 1

    def at(x: float, y: float) -> tuple[float, float]:
        return 46 + 280 * (x - low) / (high - low), 110 - 90 * y / reach

    lines, room = [], [110.0]
    for limit, kind in ((most, "limit"), (p99, "limit soft")):
        for y in (limit, -limit) if limit else ():
            height = at(low, y)[1]
            free = all(abs(height - other) > 11 for other in room)
            lines.append(_level(height, kind, f"{y:+.3g}" if free else ""))
            room.append(height)
    dots = [
        f'<circle class="dot" cx="{at(x, y)[0]:.1f}" cy="{at(x, y)[1]:.1f}" r="3"><title>'
        f"{escape(who)}: {y:+.3g} {escape(unit)}</title></circle>"
        for x, y, who in points
    ]
    words = f"difference of {name.replace('_', ' ')}, candidate minus reference, for each frame"
    return "".join(
        (
            f'<svg viewBox="0 0 420 236" role="img" aria-label="{escape(words)}">',
            _level(110, "axis", "0"),
            *lines,
            *dots,
            _histogram([y for _, y, _ in points], reach),
            f'<text x="46" y="214">{low:.4g}</text><text x="326" y="214" class="end">{high:.4g}</text>',
            f'<text x="186" y="230" class="mid">reference{_in(rows, name)}</text>',
            f'<text x="2" y="10">{escape(unit)}</text><text x="342" y="214">frames</text></svg>',
        )
    )


def _in(rows: Sequence[FrameRow], name: str) -> str:
    unit = next((row.values[name].unit for row in rows if name in row.values), "")
    return f", {escape(unit)}" if unit else ""


def _level(y: float, kind: str, text: str) -> str:
    return (
        f'<line class="{kind}" x1="46" x2="410" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="42" y="{y + 3.5:.1f}" class="end">{text}</text>'
    )


def _histogram(values: Sequence[float], reach: float) -> str:
    made, edges = np.histogram(values, bins=BINS, range=(-reach, reach))
    counts: list[int] = made.tolist()
    most, bars = max(1, *counts), []
    for count, low, high in zip(counts, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            top, bottom = 110 - 90 * high / reach, 110 - 90 * low / reach
            bars.append(
                f'<rect class="bar" x="342" y="{top + 0.7:.1f}" width="{66 * count / most:.1f}" '
                f'height="{bottom - top - 1.4:.1f}"><title>{count} frames</title></rect>'
            )
    return "".join(bars)


# ---------------------------------------------------------------- frames


def panels(key: str, reference: Reading, candidate: Reading) -> tuple[str, str, str]:
    """The same part of a frame three times: the reference's outline, the candidate's, the cells where they
    differ. `key` is unlike that of any other frame on the page.
    """
    box = _around(reference.frame, (reference.mask, candidate.mask))
    height, width = box.size_hw
    view = f'viewBox="{box.x0 - 0.5} {box.y0 - 0.5} {width} {height}"'
    again = f'<use href="#{key}"/>'
    image = (
        f'<image id="{key}" x="{box.x0 - 0.5}" y="{box.y0 - 0.5}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none" href="{_png(reference.frame.pixels, box)}"/>'
    )
    drawn = (
        (image + _outlines(reference, "theirs"), "outline of the reference"),
        (again + _outlines(candidate, "ours"), "outline of the candidate"),
        (f'<g class="dim">{again}</g>' + _changed(reference.mask, candidate.mask), "where they differ"),
    )
    first, second, third = (
        f'<svg class="frame" {view} role="img" aria-label="{words}">{inner}</svg>' for inner, words in drawn
    )
    return first, second, third


def cells_that_differ(one: Mask | None, other: Mask | None) -> int | None:
    """On the model's grid; None where there is a mask too few."""
    if one is None or other is None:
        return None
    return int(np.count_nonzero(one.labels != other.labels))


def _around(frame: Frame, masks: Sequence[Mask | None]) -> Box:
    """The part of the image that shows what either mask found, with a margin; the whole image without any."""
    height, width = frame.size_hw
    corners = []
    for mask in masks:
        if mask is not None and mask.labels.any():
            x, y, w, h = cv2.boundingRect((mask.labels > 0).view(np.uint8))
            corners.append(mask.geometry.to_image(np.array([[x - 0.5, y - 0.5], [x + w - 0.5, y + h - 0.5]])))
    if not corners:
        return Box(0, 0, width, height)
    (left, top), (right, bottom) = np.min(corners, axis=(0, 1)), np.max(corners, axis=(0, 1))
    margin = max(8.0, MARGIN * max(right - left, bottom - top))
    x0, y0 = max(0, int(left - margin)), max(0, int(top - margin))
    x1, y1 = min(width, math.ceil(right + margin) + 1), min(height, math.ceil(bottom + margin) + 1)
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def _png(pixels: NDArray[np.uint8], box: Box) -> str:
    part = pixels[box.y0 : box.y1, box.x0 : box.x1]
    height, width = part.shape
    if width > PICTURE_PX:
        size = PICTURE_PX, max(1, round(height * PICTURE_PX / width))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".png", part, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"


def _outlines(reading: Reading, kind: str) -> str:
    """The outline of each label at the image's resolution, simplified to a third of a pixel."""
    if reading.mask is None:
        return ""
    labels, paths = full_mask(reading.mask, reading.frame.size_hw), []
    for value in range(1, len(reading.mask.names) + 1):
        contours, _ = cv2.findContours(
            (labels == value).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        for contour in contours:
            points = cv2.approxPolyDP(contour, 0.34, True)[:, 0].tolist()
            paths.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return f'<path class="outline {kind}" d="{"".join(paths)}"/>' if paths else ""


def _changed(one: Mask | None, other: Mask | None) -> str:
    """The cells that only the reference, or only the candidate, gives to a label."""
    if one is None or other is None:
        return ""
    unlike = one.labels != other.labels
    return _cells(one, unlike & (one.labels > 0), "theirs") + _cells(
        other, unlike & (other.labels > 0), "ours"
    )


def _cells(mask: Mask, inside: NDArray[np.bool_], kind: str) -> str:
    """Cells of the grid in image coordinates, a rectangle for each run along a row."""
    way, runs = mask.geometry, []
    for y in np.flatnonzero(inside.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(inside[y].astype(np.int8), prepend=0, append=0)).tolist()
        top = way.offset_y + y * way.step_y - 0.5
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            left, across = way.offset_x + start * way.step_x - 0.5, (end - start) * way.step_x
            runs.append(f"M{left:.1f} {top:.1f}h{across:.1f}v{way.step_y:.2f}h{-across:.1f}z")
    return f'<path class="cells {kind}" d="{"".join(runs)}"/>' if runs else ""


# ---------------------------------------------------------------- bars


def bars(entries: Sequence[tuple[str, float, bool]], limit: float | None, unit: str) -> str:
    """A bar for each (name, value, marked), a line at the limit where it is in reach; "" without any."""
    known = [value for _, value, _ in entries if math.isfinite(value)]
    if not entries:
        return ""
    reach = 1.08 * max([abs(value) for value in known] + [1e-9])
    if limit is not None and limit <= 4 * reach:
        reach = max(reach, 1.08 * limit)
    height = 18 * len(entries) + 22
    drawn = []
    for at, (name, value, marked) in enumerate(entries):
        long = 200.0 if not math.isfinite(value) else max(1.0, 200 * abs(value) / reach)
        said = f"{value:.3g}" if math.isfinite(value) else "not a number"
        kind = "bar marked" if marked else "bar"
        drawn.append(
            f'<text x="154" y="{18 * at + 13}" class="end"><title>{escape(name)}</title>{escape(_short(name))}</text>'
            f'<rect class="{kind}" x="160" y="{18 * at + 4}" width="{long:.1f}" height="11"/>'
            f'<text x="{164 + long:.1f}" y="{18 * at + 13}">{said}</text>'
        )
    line = ""
    if limit is not None and limit <= reach:
        x = 160 + 200 * limit / reach
        line = (
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 18}"/>'
            f'<text x="{x:.1f}" y="{height - 6}" class="mid">limit {limit:.3g} {escape(unit)}</text>'
        )
    return f'<svg class="bars" viewBox="0 0 420 {height}" role="img">{"".join(drawn)}{line}</svg>'


def _short(name: str, most: int = 24) -> str:
    """The end of a long name: graphs put what tells nodes apart there."""
    return name if len(name) <= most else f"…{name[-most + 1 :]}"
