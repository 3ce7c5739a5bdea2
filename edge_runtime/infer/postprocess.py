"""From a model's outputs to a clean mask on its own grid, with the confidence in it. Knows no millimetres.

Per label: the largest connected part with its holes filled; what was left out is said, not hidden.
Confidence is the Soft Dice Confidence 2 sum(p y) / (sum p + sum y) over the probabilities p and the decided
pixels y (Borges et al., arXiv 2402.10665), taken before cleaning: a second head beside the first costs
confidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import Reason
from edge_runtime.errors import BackendError, FrameError
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.model import Model, OutputSpec
from edge_runtime.types import Geometry, Mask

Activation = Literal["none", "sigmoid", "softmax"]

# What a graph gives that has the decision inside; `build/decide.py` appends it and says the shapes.
LABELS, TOTAL, ROWS, COLUMNS = "decided_labels", "decided_total", "decided_rows", "decided_columns"


@dataclass(frozen=True, slots=True)
class Postprocess:
    """How to read one model's outputs."""

    mask: str  # output (1, channels, h, w); one channel: the foreground; more: channel 0 is the background
    activation: Activation
    names: tuple[str, ...]
    presence: str | None  # output (1, 1)
    keep_largest: bool
    decided: bool = False  # the graph gives labels and sums in place of `mask`
    rotation: str | None = None  # output (1, 4)
    polarity: str | None = None  # output (1, 1)

    def read(self, outputs: Mapping[str, NDArray[Any]], geometry: Geometry) -> Mask:
        """The mask in `outputs`, copied out of them. Raises FrameError when they are not finite."""
        presence = 1.0 if self.presence is None else _numbers(outputs, self.presence)[0]
        rotation = None if self.rotation is None else _numbers(outputs, self.rotation)
        inverted = None if self.polarity is None else _numbers(outputs, self.polarity)[0]
        read = _Decided(outputs) if self.decided else _Probabilities(outputs, self)
        if not all(map(math.isfinite, (read.total, presence, *(rotation or ()), inverted or 0.0))):
            raise FrameError(
                "the model gave values that are not finite (NaN or infinity)", Reason.MODEL_OUTPUT_INVALID
            )
        labels = read.labels()
        _clear_padding(labels, geometry)
        confidence, discarded = [], []
        for value in range(1, len(self.names) + 1):
            part = cv2.compare(labels, value, cv2.CMP_EQ)  # 0 or 255
            count = cv2.countNonZero(part)
            confidence.append(read.soft_dice(value, part, count, geometry))
            discarded.append(
                _keep_largest(labels, part, value, count) if self.keep_largest and count else 0.0
            )
        return Mask(
            labels,
            self.names,
            geometry,
            tuple(confidence),
            tuple(discarded),
            min(max(presence, 0.0), 1.0),
            rotation=rotation,
            inverted=inverted,
        )


def _numbers(outputs: Mapping[str, NDArray[Any]], name: str) -> tuple[float, ...]:
    """A small output as numbers of our own."""
    return tuple(float(value) for value in outputs[name].flat)


class _Probabilities:
    """A mask output as it is: the decision and its sums are taken here."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]], post: Postprocess) -> None:
        scores = outputs[post.mask][0]
        with np.errstate(invalid="ignore"):  # infinities of both signs: told by `total`
            self.total = float(scores.sum(dtype=np.float32))
        self._probabilities = activate(scores, post.activation)
        self._foreground = self._probabilities[-len(post.names) :]

    def labels(self) -> NDArray[np.uint8]:
        return decide(self._probabilities)

    def soft_dice(self, value: int, part: NDArray[np.uint8], count: int, geometry: Geometry) -> float:
        return soft_dice(self._foreground[value - 1], part, count)


class _Decided:
    """The outputs of a graph that has the decision inside."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self._labels = outputs[LABELS][0]
        self._totals = outputs[TOTAL][0]
        self._rows, self._columns = outputs[ROWS][0], outputs[COLUMNS][0]
        self.total = float(self._totals.sum(dtype=np.float64))

    def labels(self) -> NDArray[np.uint8]:
        copied: NDArray[np.uint8] = self._labels.copy()
        return copied

    def soft_dice(self, value: int, part: NDArray[np.uint8], count: int, geometry: Geometry) -> float:
        """Padding lies above and below or at the sides: the sums along the other axis leave it out."""
        content, (_, grid_w) = geometry.content, geometry.grid_hw
        if content.x0 == 0 and content.x1 == grid_w:
            sums = self._rows[value - 1, content.y0 : content.y1]
        else:
            sums = self._columns[value - 1, content.x0 : content.x1]
        total = float(self._totals[value - 1 - len(self._rows)])  # a background, if there is one, comes first
        return _soft_dice_of(float(sums.sum(dtype=np.float64)), total, count)


@np.errstate(over="ignore", invalid="ignore")  # exp of a score below -88 is infinite, and its probability 0
def activate(scores: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Probabilities (channels, h, w) of `scores`, which already are some with activation `none`."""
    if activation == "sigmoid":
        squashed: NDArray[np.float32] = np.reciprocal(1 + np.exp(-scores))
        return squashed
    if activation == "softmax":
        raised = np.exp(scores - scores.max(axis=0))
        shared: NDArray[np.float32] = raised / raised.sum(axis=0)
        return shared
    return scores


def decide(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The label of each pixel, (h, w): above one half for one channel, else the largest, the first of
    equals.
    """
    if len(probabilities) == 1:
        above: NDArray[np.uint8] = (probabilities[0] > 0.5).view(np.uint8)
        return above
    best = probabilities[0].copy()
    labels: NDArray[np.uint8] = np.zeros(best.shape, np.uint8)
    for value, channel in enumerate(probabilities[1:], start=1):
        better = cv2.compare(channel, best, cv2.CMP_GT)  # 0 or 255
        cv2.max(labels, cv2.min(better, value), dst=labels)  # values rise, so the last better one stays
        cv2.max(best, channel, dst=best)
    return labels


def soft_dice(probabilities: NDArray[np.float32], part: NDArray[np.uint8], count: int) -> float:
    """Soft Dice Confidence of one label, 0 to 1; 0 where nothing was decided for it."""
    if count == 0:
        return 0.0
    inside = cv2.mean(probabilities, mask=part)[0] * count
    return _soft_dice_of(inside, float(probabilities.sum(dtype=np.float32)), count)


def _soft_dice_of(inside: float, total: float, count: int) -> float:
    """Of the sums of p: over the `count` pixels decided for a label, and over the grid."""
    return min(1.0, max(0.0, 2.0 * inside / (total + count))) if count else 0.0


def _clear_padding(labels: NDArray[np.uint8], geometry: Geometry) -> None:
    """Nothing is found where there is no image."""
    content = geometry.content
    labels[: content.y0] = 0
    labels[content.y1 :] = 0
    labels[:, : content.x0] = 0
    labels[:, content.x1 :] = 0


def _keep_largest(labels: NDArray[np.uint8], part: NDArray[np.uint8], value: int, count: int) -> float:
    """Leaves the largest part of `value` in `labels`, filled; returns the share of `count` pixels that
    went.
    """
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=lambda contour: (cv2.contourArea(contour), len(contour)))
    filled = np.zeros_like(part)
    cv2.drawContours(filled, [largest], 0, 255, cv2.FILLED)
    kept = cv2.countNonZero(cv2.bitwise_and(filled, part))
    if kept < count:
        labels[cv2.bitwise_and(part, cv2.bitwise_not(filled)) > 0] = 0
    np.copyto(labels, value, where=(filled > 0) & (labels == 0))
    return 1.0 - kept / count


def postprocess_for(model: Model, backend: Backend) -> Postprocess:
    """How to read what `backend` gives for `model`. Raises BackendError when the two do not fit."""
    spec = model.manifest.output
    outputs = {name: array.shape for name, array in backend.slots[0].outputs.items()}
    if LABELS in outputs:
        return _postprocess_decided(model, outputs)
    mask = spec.mask or next(iter(outputs))
    for name in (mask, *spec.words):
        if name not in outputs:
            raise BackendError(
                f"{model.home}: no output {name!r}, the graph has {', '.join(outputs)}; see [output] in model.toml"
            )
    shape, grid = outputs[mask], backend.slots[0].input.shape[2:]
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != grid:
        raise BackendError(
            f"{model.home}: output {mask!r} is {shape}, want (1, channels, {grid[0]}, {grid[1]})"
        )
    _require_words(model, outputs)
    classes = max(1, shape[1] - 1)
    names = _names(spec, classes)
    if len(names) != classes:
        raise BackendError(
            f"{model.home}: output {mask!r} has {shape[1]} channels, want {len(names)} labels and a background"
        )
    return _postprocess(model, mask, spec.activation, names)


def _names(spec: OutputSpec, count: int) -> tuple[str, ...]:
    return spec.labels or tuple(f"class_{k}" for k in range(1, count + 1))


def _postprocess(model: Model, mask: str, activation: Activation, names: tuple[str, ...]) -> Postprocess:
    """With what the manifest says, whoever decides."""
    spec = model.manifest.output
    return Postprocess(
        mask,
        activation,
        names,
        spec.presence,
        keep_largest=model.manifest.anatomy != "mask_only",
        decided=mask == LABELS,
        rotation=spec.rotation,
        polarity=spec.polarity,
    )


def _require_words(model: Model, outputs: Mapping[str, tuple[int, ...]]) -> None:
    """Raises BackendError for a presence of more than one number, and the like: which of them would be meant?"""
    for name, count in model.manifest.output.words.items():
        if math.prod(outputs[name]) != count:
            kind = "presence " if name == model.manifest.output.presence else ""
            raise BackendError(f"{model.home}: {kind}output {name!r} is {outputs[name]}, want (1, {count})")


def _postprocess_decided(model: Model, outputs: Mapping[str, tuple[int, ...]]) -> Postprocess:
    """How to read a graph with the decision inside. Raises BackendError where an output of it is missing."""
    spec = model.manifest.output
    for name in (TOTAL, ROWS, COLUMNS, *spec.words):
        if name not in outputs:
            raise BackendError(f"{model.home}: no output {name!r}, the engine has {', '.join(outputs)}")
    _require_words(model, outputs)
    count = outputs[ROWS][1]
    names = _names(spec, count)
    if len(names) != count:
        raise BackendError(f"{model.home}: the engine decides {count} labels, want {len(names)}")
    return _postprocess(model, LABELS, "none", names)
