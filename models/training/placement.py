"""Where things lie in an example: zoom, turn, shift, bend, crop and paste, on the store grid. Knows no grey level."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.data import Grey, Stored
from models.training.recipe import VarySpec

Floats = NDArray[np.float32]
BEND_CELLS = 6  # nodes along each side of a smooth displacement
BEND_SHARE = 0.012  # of the side: its standard deviation


def placed(item: Stored, vary: VarySpec, rng: np.random.Generator, light: bool) -> tuple[Grey, Grey]:
    """(image, masks) of an item at another place; most of its structure stays in the picture."""
    height, width = item.image.shape
    matrix = _light(item, rng) if light else _free(item, vary, rng)
    if rng.random() < vary.flip:
        matrix = np.asarray(np.array([[-1, 0, width - 1], [0, 1, 0]]) @ _square(matrix), np.float32)
    if rng.random() < vary.upside_down and not light:
        matrix = np.asarray(np.array([[1, 0, 0], [0, -1, height - 1]]) @ _square(matrix), np.float32)
    flipped = np.linalg.det(matrix[:, :2]) < 0
    if not light and rng.random() < vary.bend:
        image, masks = _bent(item, matrix, rng)
    else:
        image, masks = warped(item, matrix)
    return image, masks[::-1] if flipped and len(masks) == 2 else masks


def warped(item: Stored, matrix: Floats) -> tuple[Grey, Grey]:
    """(image, masks) by an affine map of the store grid; black where nothing was."""
    size = item.image.shape[1], item.image.shape[0]
    image = cv2.warpAffine(item.image, matrix, size, flags=cv2.INTER_LINEAR)
    if not item.own:
        return np.asarray(image, np.uint8), item.masks
    masks = [cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR) for mask in item.masks]
    return np.asarray(image, np.uint8), np.stack(masks).astype(np.uint8, copy=False)


def _bent(item: Stored, matrix: Floats, rng: np.random.Generator) -> tuple[Grey, Grey]:
    """As `warped`, with a smooth random displacement on top."""
    height, width = item.image.shape
    back = cv2.invertAffineTransform(matrix)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    nodes = rng.normal(0, BEND_SHARE * max(width, height), (2, BEND_CELLS, BEND_CELLS)).astype(np.float32)
    move_x, move_y = (cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in nodes)
    x, y = x + move_x, y + move_y
    map_x = back[0, 0] * x + back[0, 1] * y + back[0, 2]
    map_y = back[1, 0] * x + back[1, 1] * y + back[1, 2]
    map_x, map_y = map_x.astype(np.float32), map_y.astype(np.float32)
    image = cv2.remap(item.image, map_x, map_y, cv2.INTER_LINEAR)
    if not item.own:
        return np.asarray(image, np.uint8), item.masks
    masks = [cv2.remap(mask, map_x, map_y, cv2.INTER_LINEAR) for mask in item.masks]
    return np.asarray(image, np.uint8), np.stack(masks).astype(np.uint8, copy=False)


def _free(item: Stored, vary: VarySpec, rng: np.random.Generator) -> Floats:
    height, width = item.image.shape
    if item.own:
        x, y, w, h = cv2.boundingRect(item.masks.max(0))
        centre = (x + w / 2, y + h / 2)
        largest = min(vary.zoom[1], max(0.75, 0.95 * min(width / w, height / h)))
        zoom = math.exp(rng.uniform(math.log(vary.zoom[0]), math.log(largest))) if rng.random() < 0.7 else 1.0
        shift = rng.normal(0, 0.05, 2) * (width, height)
    else:
        box = item.content
        centre = (0.5 * (box.x0 + box.x1), 0.5 * (box.y0 + box.y1))
        zoom = math.exp(rng.uniform(-0.35, 0.6))
        shift = rng.uniform(-0.15, 0.15, 2) * (width, height)
    angle = rng.uniform(-180, 180) if rng.random() < vary.any_turn else rng.normal(0, vary.turn_deg)
    return affine(angle, zoom, centre, shift, math.exp(rng.normal(0, 0.06)))


def _light(item: Stored, rng: np.random.Generator) -> Floats:
    """A small turn and a small change of size around the structure."""
    box = item.content
    centre = (0.5 * (box.x0 + box.x1), 0.5 * (box.y0 + box.y1))
    if item.own:
        x, y, w, h = cv2.boundingRect(item.masks.max(0))
        centre = (x + w / 2, y + h / 2)
    return affine(rng.normal(0, 6), math.exp(rng.normal(0, 0.05)), centre, rng.normal(0, 4, 2), 1.0)


def affine(
    angle: float, zoom: float, centre: tuple[float, float], shift: NDArray[np.float64], aspect: float
) -> Floats:
    """A turn by `angle` degrees and a zoom around `centre` (x, y), then a stretch of x by `aspect` and a shift."""
    turn = cv2.getRotationMatrix2D(centre, angle, zoom)
    stretch = np.array([[aspect, 0], [0, 1 / aspect]])
    turned = stretch @ turn
    turned[:, 2] += np.array(centre) - stretch @ np.array(centre) + shift
    return np.asarray(turned, np.float32)


def _square(matrix: Floats) -> NDArray[np.float64]:
    return np.vstack([matrix, [0, 0, 1]])


def pasted(piece: Grey, frame: Grey, where: Grey, rng: np.random.Generator) -> Grey:
    """`piece` inside a soft, slightly larger copy of `where`, `frame` outside it; brightness about alike."""
    grow = int(rng.integers(9, 61))
    near = cv2.dilate(where, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow)))
    share = cv2.GaussianBlur(near, (0, 0), rng.uniform(2, 14)).astype(np.float32) / 255
    inside = piece.astype(np.float32)
    if rng.random() < 0.7:
        wanted, has = frame[frame > 8], piece[where > 127]
        if wanted.size and has.size:
            inside *= np.clip(wanted.mean() / max(1.0, float(has.mean())), 0.4, 2.0)
    return np.clip(np.rint(inside * share + frame * (1 - share)), 0, 255).astype(np.uint8)


def windowed(image: Grey, masks: Grey, own: bool, rng: np.random.Generator) -> Grey:
    """Black outside a random rectangle that leaves the structure: another crop, another probe."""
    height, width = image.shape
    left, right = rng.uniform(0, 0.35, 2) if own else rng.uniform(0, 0.3, 2)
    top, low = rng.uniform(0, 0.3, 2)
    box = [left * width, top * height, (1 - right) * width, (1 - low) * height]
    if own:
        x, y, w, h = cv2.boundingRect(masks.max(0))
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


def cut_off(image: Grey, masks: Grey, rng: np.random.Generator) -> tuple[Grey, Grey]:
    """(image, masks) with black from an edge, or two, to some way into the structure, whose mask ends there too; half of
    them moved so that the cut lies at the border."""
    height, width = image.shape
    x, y, w, h = cv2.boundingRect(masks.max(0))
    shown = np.zeros_like(image)
    box = [0, 0, width, height]  # left, top, right, bottom
    extent = (w, h)
    edges = rng.choice(4, 2 if rng.random() < 0.25 else 1, replace=False)
    for edge in edges:
        deep = rng.uniform(0.02, 0.3) * extent[edge % 2]
        box[edge] = round((x, y)[edge % 2] + (deep if edge < 2 else extent[edge % 2] - deep))
    shown[max(0, box[1]) : box[3], max(0, box[0]) : box[2]] = 255
    image, masks = cv2.bitwise_and(image, shown), np.stack([cv2.bitwise_and(mask, shown) for mask in masks])
    if rng.random() < 0.5:
        by = (width - box[2] if 2 in edges else -box[0], height - box[3] if 3 in edges else -box[1])
        move = np.array([[1, 0, by[0]], [0, 1, by[1]]], np.float32)
        image = np.asarray(cv2.warpAffine(image, move, (width, height)), np.uint8)
        masks = np.stack([cv2.warpAffine(mask, move, (width, height)) for mask in masks]).astype(np.uint8)
    return image, masks


def enlarged_part(item: Stored, rng: np.random.Generator) -> Grey | None:
    """A part of a picture with less than a fifth of the structure in it, enlarged to fill the frame."""
    box, (high, wide) = item.content, item.image.shape
    marked = item.masks.max(0)
    for _ in range(8):
        width = rng.uniform(0.2, 0.6) * (box.x1 - box.x0)
        height = min(width * rng.uniform(0.55, 1.0), box.y1 - box.y0)
        x = rng.uniform(box.x0, max(box.x0 + 1, box.x1 - width))
        y = rng.uniform(box.y0, max(box.y0 + 1, box.y1 - height))
        inside = (slice(int(y), int(y + height)), slice(int(x), int(x + width)))
        if marked[inside].sum() < 0.2 * marked.sum() and item.image[inside].std() > 8:
            break
    else:
        return None
    zoom = min(wide / width, high / height)
    size = (min(wide, round(width * zoom)), min(high, round(height * zoom)))
    canvas = np.zeros((high, wide), np.uint8)
    top, left = (high - size[1]) // 2, (wide - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(item.image[inside], size)
    return canvas if rng.random() < 0.5 else canvas[:, ::-1].copy()
