"""Endless training examples of one recipe: its own pictures varied, foreign ones, and pictures of nothing.

A network must not learn which machine or crop the anatomy comes from, since all of it comes from one place and the
foreign pictures do not: so foreign pictures get parts of the own ones, own structures get foreign frames, and
borders, text and contrast vary alike on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from edge_runtime.errors import ConfigError
from models.training import hiding, looks, placement
from models.training.data import Grey, Stored
from models.training.recipe import Recipe

MADE = ("beside", "replaced", "nothing")  # kinds that are made while training, not read
BAND = 4  # cells on both sides of an outline that weigh more


class Example(NamedTuple):
    """One example on the grid."""

    image: Grey  # (1, h, w)
    masks: Grey  # (labels, h, w), share of each cell, 0 to 255
    band: Grey  # (1, h, w), 255 near an outline
    known: np.float32  # 1 where `masks` is the truth, 0 where only the view is
    presence: np.float32  # 1 the anatomy is there, 0 anything else
    turned: np.int64  # quarter turns clockwise
    inverted: np.float32  # 1 where grey is inverted


class Examples:
    """An iterator's source, seeded: the same numbers give the same examples.

    Raises ConfigError for a kind of [foreign.mix] that `stored` holds none of.
    """

    def __init__(self, recipe: Recipe, stored: list[Stored], seed: int) -> None:
        self.recipe, self.rng = recipe, np.random.default_rng(seed)
        self.own = [item for item in stored if item.own]
        self.foreign: dict[str, list[Stored]] = {}
        for item in stored:
            if not item.own:
                self.foreign.setdefault(item.kind, []).append(item)
        for kind in recipe.foreign.mix:
            if kind not in self.foreign and kind not in MADE:
                raise ConfigError(
                    f"recipe {recipe.name}: [foreign.mix] names {kind}, of which there is no picture to train on"
                )
        self.kinds, weights = list(recipe.foreign.mix), np.array(list(recipe.foreign.mix.values()))
        self.shares = weights / weights.sum()
        self.strangers = [
            item
            for kind, items in self.foreign.items()
            for item in items
            if kind not in ("phantom_empty", "phantom_other", *recipe.foreign.present)
        ]
        if not self.strangers and ("replaced" in self.kinds or recipe.vary.swap_frame):
            raise ConfigError(
                f"recipe {recipe.name}: `replaced` and swap_frame want real foreign pictures, and there is none"
            )

    def __iter__(self) -> Iterator[Example]:
        order: list[int] = []
        while True:
            if self.rng.random() < self.recipe.foreign.share:
                yield self._foreign(self.kinds[int(self.rng.choice(len(self.kinds), p=self.shares))])
                continue
            if not order:
                order = list(self.rng.permutation(len(self.own)))
            yield self._own(self.own[order.pop()])

    def _own(self, item: Stored) -> Example:
        vary, rng = self.recipe.vary, self.rng
        light = rng.random() < vary.light
        if not light and rng.random() < vary.swap_frame:
            frame = self.strangers[int(rng.integers(len(self.strangers)))]
            image = placement.pasted(item.image, frame.image, item.masks.max(0), rng)
            item = Stored(image, item.masks, item.content, item.kind)
        image, masks = placement.placed(item, vary, rng, light)
        if vary.cut and rng.random() < vary.cut:  # no draw without it: such a recipe keeps its random stream
            image, masks = placement.cut_off(image, masks, rng)
        elif not light and rng.random() < vary.window:
            image = placement.windowed(image, masks, True, rng)
        return self._finished(image, masks, True, 1.0, light)

    def _foreign(self, kind: str) -> Example:
        vary, rng = self.recipe.vary, self.rng
        presence = float(kind in self.recipe.foreign.present)
        if kind == "nothing":
            grid = looks.nothing(self.recipe.network.grid_hw, rng)
            return self._example(
                grid, np.zeros((len(self.recipe.labels), *grid.shape), np.uint8), True, 0.0, 0, 0
            )
        some = self.own[int(rng.integers(len(self.own)))]
        if kind == "beside":
            part = placement.enlarged_part(some, rng)
            if part is None:
                return self._foreign("nothing")
            return self._finished(part, np.zeros_like(some.masks), True, 0.0, False)
        if kind == "replaced":
            image = self._replaced(some)
            item = Stored(image, np.zeros_like(some.masks), some.content, kind)
        else:
            item = self.foreign[kind][int(rng.integers(len(self.foreign[kind])))]
            if not presence and rng.random() < vary.swap_frame:
                item = self._in_own_frame(item, some)
        image, masks = placement.placed(item, vary, rng, rng.random() < 0.15)
        if rng.random() < vary.window:
            image = placement.windowed(image, masks, False, rng)
        return self._finished(image, masks, not presence, presence, False)

    def _replaced(self, own: Stored) -> Grey:
        """An own picture with a piece of a foreign one where the structure was."""
        rng, (height, width) = self.rng, own.image.shape
        other = self.strangers[int(rng.integers(len(self.strangers)))]
        matrix = placement.affine(
            rng.uniform(-40, 40), rng.uniform(0.9, 2.0), (width / 2, height / 2), rng.uniform(-60, 60, 2), 1.0
        )
        piece = cv2.warpAffine(other.image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        return placement.pasted(np.asarray(piece, np.uint8), own.image, own.masks.max(0), rng)

    def _in_own_frame(self, item: Stored, own: Stored) -> Stored:
        """A foreign picture with an oval piece of it in the frame of an own one."""
        rng, (height, width) = self.rng, own.image.shape
        where = np.zeros_like(item.image)
        centre = (int(rng.uniform(0.3, 0.7) * width), int(rng.uniform(0.3, 0.7) * height))
        axes = (int(rng.uniform(40, 200)), int(rng.uniform(40, 150)))
        cv2.ellipse(where, centre, axes, rng.uniform(0, 180), 0, 360, 255, cv2.FILLED)
        frame = own.image.copy()
        frame[own.masks.max(0) > 0] = 0
        return Stored(placement.pasted(item.image, frame, where, rng), item.masks, item.content, item.kind)

    def _finished(self, image: Grey, masks: Grey, known: bool, presence: float, light: bool) -> Example:
        """From the store grid to the model's, then the look, then the views."""
        vary, rng = self.recipe.vary, self.rng
        size = self.recipe.network.grid_hw[1], self.recipe.network.grid_hw[0]
        grid = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        truth = np.stack([cv2.resize(mask, size, interpolation=cv2.INTER_AREA) for mask in masks]).astype(
            np.uint8
        )
        if presence and known and rng.random() < vary.hide:
            grid = (
                hiding.opacified(grid, truth, rng)
                if vary.look == "xray"
                else hiding.veiled(grid, truth[0], rng)
            )
        if not light:
            grid = looks.varied(grid, vary.look, vary.grey, rng)
        turned = int(rng.integers(1, 4)) if vary.views and rng.random() < 0.2 else 0
        inverted = int(vary.views and rng.random() < 0.12)
        if inverted:
            grid = 255 - grid
        if turned:
            grid = np.rot90(grid, -turned).copy()
            truth = np.rot90(truth, -turned, axes=(1, 2)).copy()
        return self._example(grid, truth, known, presence, turned, inverted)

    def _example(
        self, grid: Grey, truth: Grey, known: bool, presence: float, turned: int, inverted: int
    ) -> Example:
        near = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * BAND + 1, 2 * BAND + 1))
        band = np.zeros_like(grid)
        for mask in truth:
            if mask.any():
                band = np.maximum(band, cv2.dilate(mask, near) - cv2.erode(mask, near))
        return Example(
            grid[None],
            truth,
            band[None],
            np.float32(known),
            np.float32(presence),
            np.int64(turned),
            np.float32(inverted),
        )
