"""Makes training examples: stored images varied the way ultrasound varies, and pictures of nothing.

A network must not learn which machine or crop a head comes from, since all heads come from one centre and the
negatives do not: so negatives get parts of the heads' pictures, heads get the negatives' frames, and borders,
text and contrast vary alike on both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.data import GRID_HW, STORE_HW, Grey, Stored

Floats = NDArray[np.float32]


class Example(NamedTuple):
    image: Grey  # (h, w) on the grid
    mask: Grey  # (h, w), share of each cell that is head, 0 to 255
    presence: float  # 1 a head in a measuring plane, 0 anything else


def head(item: Stored, other: Stored | None, rng: np.random.Generator) -> Example:
    """A head, varied, three in ten only a little; where `other` is given, inside that picture's frame."""
    image, mask = item.image, item.mask
    if other is not None:
        image = _paste(image, other.image, mask, rng)
    elif rng.random() < 0.3:
        image, mask = _warp(image, mask, _matrix_near(mask, rng))
        return Example(_to_grid(image), _to_grid(mask), 1.0)
    image, mask = _warp(image, mask, _placement(item, rng, keep=mask))
    if rng.random() < 0.35:
        image = _window(image, rng, keep=mask)
    return Example(_to_grid(_vary(image, rng)), _to_grid(mask), 1.0)


def negative(item: Stored, other: Stored | None, rng: np.random.Generator) -> Example:
    """What is no head, varied; where `other` is given, with an oval piece of that in it."""
    image = item.image
    if other is not None:
        where = np.zeros_like(image)
        centre = (int(rng.uniform(0.3, 0.7) * STORE_HW[1]), int(rng.uniform(0.3, 0.7) * STORE_HW[0]))
        axes = (int(rng.uniform(40, 200)), int(rng.uniform(40, 150)))
        cv2.ellipse(where, centre, axes, rng.uniform(0, 180), 0, 360, 255, cv2.FILLED)
        image = _paste(other.image, image, where, rng)
    image, mask = _warp(image, np.zeros_like(image), _placement(item, rng, keep=None))
    if rng.random() < 0.35:
        image = _window(image, rng, keep=None)
    return Example(_to_grid(_vary(image, rng)), _to_grid(mask), 0.0)


def replaced(item: Stored, other: Stored, rng: np.random.Generator) -> Example:
    """The frame of a head's picture with a piece of `other` where the head was."""
    size = STORE_HW[1], STORE_HW[0]
    zoom = rng.uniform(0.9, 2.0)
    matrix = _matrix(rng.uniform(-40, 40), zoom, (size[0] / 2, size[1] / 2), rng.uniform(-60, 60, 2), 1.0)
    piece = cv2.warpAffine(other.image, matrix, size, borderMode=cv2.BORDER_REFLECT)
    image = _paste(piece, item.image, item.mask, rng)
    return negative(Stored(image, item.mask, item.content, "replaced"), None, rng)


def beside(item: Stored, rng: np.random.Generator) -> Example:
    """A part of a head's picture with less than a fifth of the head in it, enlarged to fill the frame."""
    box = item.content
    for _ in range(8):
        width = rng.uniform(0.2, 0.6) * (box.x1 - box.x0)
        height = width * rng.uniform(0.55, 1.0)
        x = rng.uniform(box.x0, max(box.x0 + 1, box.x1 - width))
        y = rng.uniform(box.y0, max(box.y0 + 1, box.y1 - height))
        inside = (slice(int(y), int(y + height)), slice(int(x), int(x + width)))
        if item.mask[inside].sum() < 0.2 * item.mask.sum() and item.image[inside].std() > 8:
            break
    else:
        return nothing(rng)
    zoom = min(STORE_HW[1] / width, STORE_HW[0] / height)
    size = (min(STORE_HW[1], round(width * zoom)), min(STORE_HW[0], round(height * zoom)))
    canvas = np.zeros(STORE_HW, np.uint8)
    top, left = (STORE_HW[0] - size[1]) // 2, (STORE_HW[1] - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(item.image[inside], size)
    image = _to_grid(_vary(canvas if rng.random() < 0.5 else canvas[:, ::-1].copy(), rng))
    return Example(image, np.zeros(GRID_HW, np.uint8), 0.0)


def nothing(rng: np.random.Generator) -> Example:
    """Blank, noise, stripes, text, speckle in a sector, or an ellipse without anatomy."""
    height, width = STORE_HW
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.full(STORE_HW, rng.uniform(0, 255) if rng.random() < 0.3 else 0.0, np.float32)
    kind = rng.integers(6)
    if kind == 1:
        image = rng.normal(rng.uniform(20, 200), rng.uniform(5, 80), STORE_HW).astype(np.float32)
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 8))
    elif kind == 2:
        angle, period = rng.uniform(0, math.pi), rng.uniform(6, 120)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period)
        image = (128 + rng.uniform(20, 127) * (np.sign(wave) if rng.random() < 0.5 else wave)).astype(
            np.float32
        )
    elif kind == 3:
        written = _as_grey(image)
        for _ in range(int(rng.integers(3, 25))):
            _text(written, rng)
        image = written.astype(np.float32)
    elif kind >= 4:
        image = _speckle(STORE_HW, rng) * rng.uniform(20, 140) * np.exp(-y / rng.uniform(100, 2000))
        if kind == 5:
            for _ in range(int(rng.integers(1, 7))):
                centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
                axes = (int(rng.uniform(8, 160)), int(rng.uniform(8, 120)))
                level, thick = rng.uniform(0, 255), int(rng.choice([-1, 2, 5, 12]))
                start = rng.uniform(0, 360)
                sweep = 360 if thick < 0 else rng.uniform(20, 120)
                cv2.ellipse(image, centre, axes, rng.uniform(0, 180), start, start + sweep, level, thick)
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 3)) * _speckle(STORE_HW, rng)
        image = _sector(image, rng)
    return Example(_to_grid(_as_grey(image)), np.zeros(GRID_HW, np.uint8), 0.0)


# ---------------------------------------------------------------- where things lie


def _placement(item: Stored, rng: np.random.Generator, keep: Grey | None) -> Floats:
    """An affine map of the store grid that leaves most of what `keep` marks in the picture."""
    height, width = STORE_HW
    if keep is None:
        centre = (0.5 * (item.content.x0 + item.content.x1), 0.5 * (item.content.y0 + item.content.y1))
        zoom = math.exp(rng.uniform(-0.35, 0.6))
        shift = rng.uniform(-0.15, 0.15, 2) * (width, height)
    else:
        x, y, w, h = cv2.boundingRect(keep)
        centre = (x + w / 2, y + h / 2)
        largest = min(1.6, max(0.75, 0.95 * min(width / w, height / h)))
        zoom = math.exp(rng.uniform(math.log(0.65), math.log(largest))) if rng.random() < 0.7 else 1.0
        shift = rng.normal(0, 0.05, 2) * (width, height)
    angle = rng.uniform(-180, 180) if rng.random() < 0.15 else rng.normal(0, 15)
    matrix = _matrix(angle, zoom, centre, shift, math.exp(rng.normal(0, 0.06)))
    if rng.random() < 0.5:
        matrix = _flipped(matrix)
    if rng.random() < 0.1:
        matrix = np.array([[1, 0, 0], [0, -1, height - 1]], np.float32) @ np.vstack([matrix, [0, 0, 1]])
    return matrix.astype(np.float32)


def _matrix_near(mask: Grey, rng: np.random.Generator) -> Floats:
    """A flip, a small turn and a small change of size around the head."""
    x, y, w, h = cv2.boundingRect(mask)
    matrix = _matrix(
        rng.normal(0, 8), math.exp(rng.normal(0, 0.05)), (x + w / 2, y + h / 2), np.zeros(2), 1.0
    )
    return _flipped(matrix) if rng.random() < 0.5 else matrix


def _flipped(matrix: Floats) -> Floats:
    mirror = np.array([[-1, 0, STORE_HW[1] - 1], [0, 1, 0]])
    return np.asarray(mirror @ np.vstack([matrix, [0, 0, 1]]), np.float32)


def _matrix(
    angle: float, zoom: float, centre: tuple[float, float], shift: NDArray[np.float64], aspect: float
) -> Floats:
    turn = cv2.getRotationMatrix2D(centre, angle, zoom)
    stretch = np.array([[aspect, 0], [0, 1 / aspect]])
    turned = stretch @ turn
    turned[:, 2] += np.array(centre) - stretch @ np.array(centre) + shift
    return np.asarray(turned, np.float32)


def _warp(image: Grey, mask: Grey, matrix: Floats) -> tuple[Grey, Grey]:
    size = STORE_HW[1], STORE_HW[0]
    border = cv2.BORDER_CONSTANT
    return (
        cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border),
        cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border),
    )


def _paste(piece: Grey, frame: Grey, where: Grey, rng: np.random.Generator) -> Grey:
    """`piece` inside a soft, slightly larger copy of `where`, `frame` outside it; brightness about alike."""
    grow = int(rng.integers(9, 61))
    near = cv2.dilate(where, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow)))
    share = cv2.GaussianBlur(near, (0, 0), rng.uniform(2, 14)).astype(np.float32) / 255
    inside = piece.astype(np.float32)
    if rng.random() < 0.7:
        wanted, has = frame[frame > 8], piece[where > 127]
        if wanted.size and has.size:
            inside *= np.clip(wanted.mean() / max(1.0, float(has.mean())), 0.4, 2.0)
    return _as_grey(inside * share + frame * (1 - share))


def _window(image: Grey, rng: np.random.Generator, keep: Grey | None) -> Grey:
    """Black outside a random rectangle or sector: another crop, another probe."""
    height, width = STORE_HW
    left, right = sorted(rng.uniform(0, 0.35, 2)) if keep is None else rng.uniform(0, 0.35, 2)
    top, low = rng.uniform(0, 0.3, 2)
    box = [left * width, top * height, (1 - right) * width, (1 - low) * height]
    if keep is not None and keep.any():
        x, y, w, h = cv2.boundingRect(keep)
        margin = rng.uniform(-2, 30)
        box = [
            min(box[0], x - margin),
            min(box[1], y - margin),
            max(box[2], x + w + margin),
            max(box[3], y + h + margin),
        ]
    x0, y0, x1, y1 = (max(0, int(value)) for value in box)
    out = np.zeros_like(image)
    out[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    return out


def _to_grid(image: Grey) -> Grey:
    return np.asarray(cv2.resize(image, (GRID_HW[1], GRID_HW[0]), interpolation=cv2.INTER_AREA), np.uint8)


# ---------------------------------------------------------------- how things look


def _vary(image: Grey, rng: np.random.Generator) -> Grey:
    """Gain, contrast, time-gain curve, speckle, blur, shadow, text and marks."""
    x = _sharpness(_grain(_gain(image.astype(np.float32), rng), rng), rng)
    if rng.random() < 0.25:
        x = _shadow(x, rng)
    if rng.random() < 0.7:
        x[image < 2] = 0  # outside the picture stays black
    grey = _as_grey(x)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 7))):
            (_text if rng.random() < 0.5 else _caliper)(grey, rng)
    return grey


def _gain(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.8:
        x = 255 * (x / 255) ** math.exp(rng.normal(0, 0.3)) * math.exp(rng.normal(0, 0.25))
    if rng.random() < 0.3:
        x += rng.normal(0, 12)
    if rng.random() < 0.4:
        knots = np.exp(rng.normal(0, 0.3, 6)).astype(np.float32)
        x *= cv2.resize(knots[:, None], (1, x.shape[0]), interpolation=cv2.INTER_CUBIC)
    return x


def _grain(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.35:
        x *= 1 + rng.uniform(0.05, 0.5) * (_speckle((x.shape[0], x.shape[1]), rng) - 1)
    if rng.random() < 0.25:
        x += rng.normal(0, 1, x.shape).astype(np.float32) * rng.uniform(1, 14)
    return x


def _sharpness(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.3:
        return np.asarray(cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 2.2)), np.float32)
    if rng.random() < 0.15:
        x += rng.uniform(0.3, 1.2) * (x - cv2.GaussianBlur(x, (0, 0), 1.5))
    return x


def _shadow(x: Floats, rng: np.random.Generator) -> Floats:
    height, width = x.shape
    column = np.arange(width, dtype=np.float32)
    dark = 1 - rng.uniform(0.3, 0.95) * np.exp(
        -(((column - rng.uniform(0, width)) / rng.uniform(8, 50)) ** 2)
    )
    begin = int(rng.uniform(0, 0.7) * height)
    x[begin:] *= dark.astype(np.float32)
    return x


def _speckle(size_hw: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Rayleigh multiplicative noise of mean 1, correlated over a few pixels."""
    parts = rng.normal(0, 1, (2, size_hw[0] // 2, size_hw[1] // 2)).astype(np.float32)
    spread = (rng.uniform(0.6, 2.5), rng.uniform(0.4, 1.0))
    amplitude = np.hypot(*(cv2.GaussianBlur(part, (0, 0), *spread) for part in parts))
    amplitude = cv2.resize(amplitude, (size_hw[1], size_hw[0]))
    return np.asarray(amplitude / max(1e-6, float(amplitude.mean())), np.float32)


def _sector(x: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.4:
        return x
    height, width = x.shape
    mask = np.zeros_like(x)
    apex = (int(width * rng.uniform(0.4, 0.6)), int(-height * rng.uniform(0, 0.6)))
    half = rng.uniform(25, 60)
    cv2.ellipse(mask, apex, (int(height * 1.5),) * 2, 90, -half, half, 1.0, -1)
    return x * mask


def _text(x: Grey, rng: np.random.Generator) -> None:
    letters = "".join(rng.choice(list("ABCDEFHMGR0123456789 .:-/cmdB%"), int(rng.integers(2, 18))))
    at = (int(rng.uniform(-20, x.shape[1] * 0.9)), int(rng.uniform(8, x.shape[0])))
    level, size = rng.uniform(120, 255), rng.uniform(0.35, 0.9)
    cv2.putText(x, letters, at, cv2.FONT_HERSHEY_SIMPLEX, size, level, int(rng.integers(1, 3)), cv2.LINE_AA)


def _caliper(x: Grey, rng: np.random.Generator) -> None:
    """A caliper cross, a dotted line or a dotted ellipse, anywhere: it must not draw the mask to itself."""
    level = rng.uniform(150, 255)
    px, py = rng.uniform(0, x.shape[1]), rng.uniform(0, x.shape[0])
    marker = cv2.MARKER_CROSS if rng.random() < 0.5 else cv2.MARKER_TILTED_CROSS
    cv2.drawMarker(x, (int(px), int(py)), level, marker, int(rng.integers(8, 22)), int(rng.integers(1, 3)))
    if rng.random() < 0.5:
        angle, gap = rng.uniform(0, 2 * math.pi), rng.uniform(5, 14)
        for step in range(int(rng.integers(8, 40))):
            at = (int(px + step * gap * math.cos(angle)), int(py + step * gap * math.sin(angle)))
            cv2.circle(x, at, 1, level, -1)


def _as_grey(x: Floats) -> Grey:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
