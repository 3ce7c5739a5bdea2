"""From a frame to a model's input slot, and the exact way back. Knows nothing about what the model finds.

The region is fitted into the grid with its shape kept (letterbox), or stretched where a model was trained
so. Shrinking first averages blocks of whole pixels (no aliasing of speckle), the rest is bilinear: at
800x540 a tenth of the time of an exact area average, at a mean difference of 0.4 grey levels. Normalisation
is best the model's own, in its graph: a uint8 slot takes 8-bit grey as it is. A float slot gets (grey * scale
- mean) / std, one table of 256 values for each channel; a model of three channels gets the grey three times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.model import Model
from edge_runtime.types import Box, Frame, Geometry

Fit = Literal["letterbox", "stretch"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a model wants its input; `into` is the only step of the run that writes into a slot. One thread
    calls it.
    """

    grid_hw: tuple[int, int]
    fit: Fit = "letterbox"
    scale: float | None = None  # grey is multiplied by this for a float input; None: the input is uint8
    mean: tuple[float, ...] = ()  # then taken off, for each channel or once for all; none: 0
    std: tuple[float, ...] = ()  # then it is divided by this; none: 1
    _tables: tuple[NDArray[np.float32], ...] = field(init=False, repr=False, compare=False)  # grey -> value
    _grey: NDArray[np.uint8] = field(init=False, repr=False, compare=False)  # (h, w), of a float input

    def __post_init__(self) -> None:
        set_once = object.__setattr__
        if self.scale is None:
            set_once(self, "_tables", ())
            set_once(self, "_grey", np.zeros((0, 0), np.uint8))
            return
        grey = np.arange(256, dtype=np.float64) * self.scale
        count = max(1, len(self.mean), len(self.std))
        means, stds = self.mean or (0.0,) * count, self.std or (1.0,) * count
        tables = (((grey - m) / s).astype(np.float32) for m, s in zip(means, stds, strict=True))
        set_once(self, "_tables", tuple(tables))
        set_once(self, "_grey", np.zeros(self.grid_hw, np.uint8))

    def into(self, frame: Frame, slot_input: NDArray[Any]) -> Geometry:
        """Writes `frame` into `slot_input`, (1, 1 or 3, h, w) uint8 or float32, and returns the way back."""
        region = frame.region or Box(0, 0, frame.pixels.shape[1], frame.pixels.shape[0])
        geometry = fit_region(region, self.grid_hw, self.fit)
        grid = self._grey if self._tables else slot_input[0, 0]
        content = geometry.content
        target = grid[content.y0 : content.y1, content.x0 : content.x1]
        if target.shape != grid.shape:
            grid[: content.y0] = 0
            grid[content.y1 :] = 0
            grid[:, : content.x0] = 0
            grid[:, content.x1 :] = 0
        resize_grey(frame.pixels[region.y0 : region.y1, region.x0 : region.x1], target)
        if self._tables:
            for k, plane in enumerate(slot_input[0]):
                cv2.LUT(grid, self._tables[k % len(self._tables)], dst=plane)
        elif slot_input.shape[1] > 1:
            slot_input[0, 1:] = grid
        return geometry

    def grey(self, slot_input: NDArray[Any]) -> NDArray[np.uint8]:
        """What `into` wrote, as 8-bit grey, (h, w): the slot's own memory where its input is uint8."""
        first: NDArray[Any] = slot_input[0, 0]
        if self.scale is None:
            return first
        std, mean = (self.std or (1.0,))[0], (self.mean or (0.0,))[0]
        back: NDArray[np.uint8] = cv2.convertScaleAbs(first, alpha=std / self.scale, beta=mean / self.scale)
        return back


def preprocess_for(model: Model, backend: Backend) -> Preprocess:
    """How `backend` wants the input of `model`. Raises ConfigError for a normalisation that cannot be meant."""
    spec, slot_input = model.manifest.input, backend.slots[0].input
    channels = slot_input.shape[1]
    if slot_input.dtype == np.uint8 and (spec.mean or spec.std):
        raise ConfigError(
            f"{model.home}: [input] mean and std are for a float input, the graph's is uint8; leave them out"
        )
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) not in (0, channels) or not all(map(math.isfinite, values)):
            raise ConfigError(
                f"{model.home}: [input] {name} is {list(values)}, want {channels} finite numbers, one a channel"
            )
    if not all(value > 1e-9 for value in spec.std):
        raise ConfigError(f"{model.home}: [input] std is {list(spec.std)}, want numbers above 0")
    grid_hw = (slot_input.shape[2], slot_input.shape[3])
    if slot_input.dtype == np.uint8:
        return Preprocess(grid_hw, spec.fit)
    return Preprocess(grid_hw, spec.fit, spec.scale, spec.mean, spec.std)


def fit_region(region: Box, grid_hw: tuple[int, int], fit: Fit) -> Geometry:
    """Where `region` of an image comes to lie on the grid."""
    grid_h, grid_w = grid_hw
    height, width = region.size_hw
    content_h, content_w = grid_hw
    if fit == "letterbox":
        zoom = min(grid_h / height, grid_w / width)
        content_h = min(grid_h, max(1, round(height * zoom)))
        content_w = min(grid_w, max(1, round(width * zoom)))
    x0, y0 = (grid_w - content_w) // 2, (grid_h - content_h) // 2
    step_x, step_y = width / content_w, height / content_h
    return Geometry(
        grid_hw=grid_hw,
        content=Box(x0, y0, x0 + content_w, y0 + content_h),
        step_x=step_x,
        step_y=step_y,
        offset_x=region.x0 - x0 * step_x,
        offset_y=region.y0 - y0 * step_y,
    )


def resize_grey(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Resizes `image` (H, W) into `target` (h, w).

    Edges stay edges in both steps, so the geometry is that of one exact resize.
    """
    height, width = target.shape
    whole = min(image.shape[0] // height, image.shape[1] // width)
    if whole >= 2:
        image = cv2.resize(
            image, (image.shape[1] // whole, image.shape[0] // whole), interpolation=cv2.INTER_AREA
        )
    if image.shape == target.shape:
        np.copyto(target, image)
    else:
        cv2.resize(image, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
