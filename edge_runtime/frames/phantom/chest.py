"""Draws a frontal chest X-ray, `phantom:lungs?chest_mm=290&seed=1`, bone bright, the patient's right on the left.

Every organ adds to one map of attenuation, in lengths of e-fold: the trunk's thickness, less the air of lungs and
trachea, plus heart, spine, ribs, clavicles, shoulder blades and what lies under the diaphragm. The detector sees
exp(-map), a veil of scatter and quantum noise; the picture is its logarithm through a film-like curve. A frame is
another exposure of the same chest: only its noise differs. The outlines of the lungs are closed curves, so their
areas are exact. `empty=1` draws an abdomen or the bones of a limb instead.

Chest coordinates: millimetres, x from the midline to the patient's left, y from the level of the apices down.
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import MeasurementName
from edge_runtime.frames.phantom.canvas import Canvas, Points, soft_step
from edge_runtime.frames.phantom.lung_outline import closed_curve, lung_outlines, span
from edge_runtime.frames.phantom.no_chest import abdomen, limb
from edge_runtime.frames.phantom.spec import CHEST_HEIGHT, PhantomSpec
from edge_runtime.frames.phantom.truth import LabelledTruth, polygon_area
from edge_runtime.frames.phantom.ultrasound import Floats


class ChestScene:
    """One patient and one exposure, prepared once; `render` then adds the noise of any frame."""

    def __init__(self, spec: PhantomSpec) -> None:
        self.spec = spec
        self._size = (spec.height, spec.width)
        rng = np.random.default_rng((spec.seed, 3))
        self._half = spec.chest_mm / 2
        self._tall = spec.chest_mm * CHEST_HEIGHT * rng.uniform(0.88, 1.02)
        self._unit = spec.chest_mm / 290.0  # a larger patient is drawn larger
        self._middle, self._top = self._place(rng)
        self._canvas = Canvas(self._size, spec.pixel_mm, (self._middle, self._top))
        self._x, self._y = self._canvas.x, self._canvas.y
        self._truth: LabelledTruth | None = None
        if spec.empty:
            draw = abdomen if rng.random() < 0.5 else limb
            dense = draw(self._canvas, rng, self._half, self._tall)
        else:
            dense = self._chest(rng)
        self._expose(rng, dense)

    def render(self, index: int) -> tuple[NDArray[np.uint8], LabelledTruth | None]:
        """Frame `index`, (H, W) uint8 (turned, where the spec says so), and its lungs."""
        rng = np.random.default_rng((self.spec.seed, 4, index))
        noise = rng.standard_normal(self._size, dtype=np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), 0.5)
        noise *= self._noise
        noise += self._grey
        pixels = np.clip(noise, 0, 255).astype(np.uint8)
        if self.spec.invert:
            pixels = 255 - pixels
        return np.ascontiguousarray(np.rot90(pixels, -(self.spec.rotate // 90))), self._truth

    # ------------------------------------------------------------ the chest

    def _place(self, rng: np.random.Generator) -> tuple[float, float]:
        """Pixel column of the midline and row of the apices; with `clip` a lung reaches over the border."""
        pixel_mm = self.spec.pixel_mm
        middle = self.spec.width * (0.5 + rng.uniform(-0.02, 0.02))
        spare = self.spec.height - self._tall * 1.03 / pixel_mm
        top = max(spare, 0.0) * rng.uniform(0.3, 0.7)
        cut = rng.uniform(0.25, 0.40)
        side, tall = self._half / pixel_mm, self._tall / pixel_mm
        if self.spec.clip == "right":  # the patient's: the left of the picture
            middle = side * (1 - cut)
        elif self.spec.clip == "left":
            middle = self.spec.width - side * (1 - cut)
        elif self.spec.clip == "top":
            top = -tall * cut * 0.8
        elif self.spec.clip == "bottom":
            top = self.spec.height - tall * (1 - cut * 0.8)
        return middle, top

    def _chest(self, rng: np.random.Generator) -> Floats:
        """The map of attenuation of a chest; sets the truth."""
        lungs = lung_outlines(rng, self.spec.chest_mm, self._tall)
        masks = [self._canvas.inside(lung) for lung in lungs]
        self._truth = self._known(lungs, masks)
        body = self._body(rng)
        dense = 4.1 * body * rng.uniform(0.9, 1.1)
        below = self._below(lungs) * (body > 0)
        dense += 1.5 * rng.uniform(0.8, 1.2) * cv2.GaussianBlur(below, (0, 0), 1.0)
        dense += self._mediastinum(rng)
        dense -= self._air(rng, masks)
        dense += self._bones(rng) * rng.uniform(0.9, 1.9) * np.minimum(4 * body, 1)
        if rng.random() < 0.6:
            dense -= self._stomach(rng, lungs[1]) * below
        return dense * (1 + 0.02 * self._canvas.texture(rng, 22) * (body > 0.02))

    def _known(self, lungs: tuple[Points, Points], masks: list[NDArray[np.bool_]]) -> LabelledTruth:
        right, left = (polygon_area(lung) / 100 for lung in lungs)
        labels = self._canvas.sheet()
        labels[masks[0]], labels[masks[1]] = 1, 2
        name = MeasurementName
        values = {
            name.LUNG_AREA_RIGHT.value: right,
            name.LUNG_AREA_LEFT.value: left,
            name.LUNG_AREA_RATIO.value: right / left,
            name.LUNG_WIDTH.value: self.spec.chest_mm,
        }
        turned = np.ascontiguousarray(np.rot90(labels, -(self.spec.rotate // 90)))
        return LabelledTruth(turned, values if self.spec.clip == "none" else {})

    def _body(self, rng: np.random.Generator) -> Floats:
        """Thickness of the trunk, neck, shoulders and arms, 0 outside and about 1 in the middle."""
        u, half, tall = self._unit, self._half, self._tall
        wall = half + u * rng.uniform(10, 28)
        waist = wall * rng.uniform(0.93, 1.08)
        neck, arm = u * rng.uniform(48, 66), u * rng.uniform(40, 60)
        slope = tall * rng.uniform(0.02, 0.12)
        armpit = tall * rng.uniform(0.24, 0.42)
        side = np.array(
            [
                (neck, -tall),
                (neck, -0.16 * tall),
                (0.75 * half, slope - 0.10 * tall),
                (wall + 0.5 * arm, slope),
                (wall + 1.5 * arm, slope + 0.2 * tall),
                (wall + rng.uniform(1.4, 2.2) * arm, 0.75 * tall),
                (wall + rng.uniform(0.6, 1.4) * arm, 0.75 * tall),
                (wall + 4 * u, armpit),
                (wall, 0.6 * tall),
                (waist, 1.1 * tall),
                (wall, 2.0 * tall),
            ]
        )
        outline = np.vstack((side, (side * (-1, 1))[::-1]))
        mask = self._canvas.inside(outline).astype(np.uint8)
        padded = cv2.copyMakeBorder(mask, 1, 90, 90, 90, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1 : 1 + self._size[0], 90 : 90 + self._size[1]]
        share = np.minimum(depth * np.float32(self.spec.pixel_mm / (75 * u)), 1)
        thick = np.sqrt(np.maximum(1 - (1 - share) ** 2, 0))
        thick *= 0.78 + 0.22 * np.exp(-((self._x / (0.9 * half)) ** 2))
        return cast("Floats", cv2.GaussianBlur(thick.astype(np.float32), (0, 0), 1.5))

    def _air(self, rng: np.random.Generator, masks: list[NDArray[np.bool_]]) -> Floats:
        """What lungs and trachea take away, with the vessels and the haze inside the lungs."""
        air = np.zeros(self._size, np.float32)
        deep = rng.uniform(1.9, 2.9)
        for mask in masks:
            padded = cv2.copyMakeBorder(mask.astype(np.uint8), 60, 60, 60, 60, cv2.BORDER_REPLICATE)
            depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[60:-60, 60:-60]
            share = np.minimum(depth * np.float32(self.spec.pixel_mm / (42 * self._unit)), 1)
            air += deep * (0.30 * (share > 0) + 0.70 * np.sqrt(1 - (1 - share) ** 2)) * mask
        air = cv2.GaussianBlur(air, (0, 0), 0.6)
        either = (masks[0] | masks[1]).astype(np.float32)
        marks = (
            0.08 * np.abs(self._canvas.texture(rng, 2.2))
            + 0.10 * self._canvas.texture(rng, 1.0)
            + 0.10 * self._canvas.texture(rng, 9)
        )
        marks += 0.14 * self._canvas.texture(rng, 40) + self._vessels(rng)
        if rng.random() < 0.2:  # a shadow in one lung
            at_x, at_y = rng.uniform(-0.7, 0.7) * self._half, rng.uniform(0.15, 0.8) * self._tall
            wide = rng.uniform(10, 40) * self._unit
            far = ((self._x - at_x) ** 2 + (self._y - at_y) ** 2) / wide**2
            marks += rng.uniform(0.3, 1.1) * np.exp(-far) * (1 + 0.4 * self._canvas.texture(rng, 4))
        air -= marks * either * np.minimum(air, 1)
        wide = 8.5 * self._unit
        trachea = np.exp(-(((self._x - 3 * self._unit) / wide) ** 4)) / (
            1 + np.exp(np.clip((self._y - 0.30 * self._tall) / (6 * self._unit), -30, 30))
        )
        return cast("Floats", air + 0.55 * trachea)

    def _vessels(self, rng: np.random.Generator) -> Floats:
        """Hila and the branching vessels that leave them, brightest near the midline."""
        sheet = self._canvas.sheet()
        for side in (-1, 1):
            for _ in range(26):
                at = np.array([side * 0.20 * self._half, (0.42 + rng.normal(0, 0.035)) * self._tall])
                turn = rng.uniform(-1.25, 1.35)
                way = np.array([side * math.cos(turn), math.sin(turn)])
                thick = rng.uniform(2.0, 5.0) * self._unit
                for _ in range(int(rng.integers(4, 9))):
                    bend = rng.normal(0, 0.28)
                    way = np.array([way[0] - bend * way[1], way[1] + bend * way[0]])
                    to = at + way / np.hypot(*way) * 13 * self._unit
                    self._canvas.stroke(sheet, np.array([at, to]), thick, int(45 + 22 * thick / self._unit))
                    at, thick = to, thick * 0.78
        return cast("Floats", cv2.GaussianBlur(sheet, (0, 0), 0.7).astype(np.float32) * np.float32(0.0046))

    def _mediastinum(self, rng: np.random.Generator) -> Floats:
        """Heart and great vessels between the lungs, and the spine behind them."""
        u, half, tall = self._unit, self._half, self._tall
        x, y = self._x, self._y
        heart = np.hypot((x - 0.14 * half) / (0.42 * half), (y - 0.66 * tall) / (0.27 * tall))
        dense = rng.uniform(0.7, 1.3) * np.sqrt(np.clip(1 - heart**2, 0, 1))
        dense += 0.45 * np.exp(-(((x - 3 * u) / (0.22 * half)) ** 4)) * soft_step(y / (0.25 * tall) + 0.3)
        dense = cv2.GaussianBlur(dense.astype(np.float32), (0, 0), 4 * u / self.spec.pixel_mm)
        bend = 4 * u * np.sin(y / (0.5 * tall) + rng.uniform(0, 6))
        wide = u * (15 + 6 * np.clip(y / tall, -0.5, 1.3))
        disc = (0.5 + 0.5 * np.cos(2 * math.pi * y / (u * 27) + rng.uniform(0, 6))) ** 4
        column = np.exp(-(((x - bend) / wide) ** 6))
        dense += rng.uniform(0.5, 0.9) * column * (1 - 0.35 * disc)
        dense += 0.18 * np.exp(-(((np.abs(x - bend) - 0.62 * wide) / (3 * u)) ** 2)) * (1 - disc)
        return cast("Floats", dense)

    def _below(self, lungs: tuple[Points, Points]) -> Floats:
        """1 where liver, spleen and bowel lie: under the domes of both lungs."""
        columns = np.arange(self._size[1])
        floor = np.full(self._size[1], -np.inf)
        for lung in lungs:
            pixels = self._canvas.pixels_of(lung)
            floor = np.maximum(floor, span(pixels[:, ::-1], columns)[1])
        known = floor > self._top + 0.74 * self._tall / self.spec.pixel_mm  # not the border of the heart
        floor = np.interp(columns, columns[known], floor[known])
        rows = np.arange(self._size[0])[:, None]
        soft = soft_step(
            (rows - floor - 6) * np.float32(self.spec.pixel_mm / (11 * self._unit))
        )  # under the heart
        under = np.where(known, rows > floor, soft)
        wall = soft_step((0.99 * self._half - np.abs(self._x)) / (5 * self._unit))
        below: Floats = (under * wall).astype(np.float32)
        return below

    def _bones(self, rng: np.random.Generator) -> Floats:
        """Ribs, clavicles, shoulder blades, heads of the arms."""
        dense = np.zeros(self._size, np.float32)
        pace, droop = self._tall * rng.uniform(0.082, 0.094), rng.uniform(0.10, 0.22) * self._tall
        thick = rng.uniform(8.0, 11.0) * self._unit
        for side in (-1, 1):
            dense += self._ribs(side, pace, droop, thick)
            dense += self._shoulder(rng, side)
        return cast("Floats", cv2.GaussianBlur(dense, (0, 0), 0.4 * self._unit / self.spec.pixel_mm))

    def _ribs(self, side: int, pace: float, droop: float, thick: float) -> Floats:
        """Eleven ribs, the next `pace` lower, falling by `droop` to the side, and the front ends of eight."""
        half, tall = self._half, self._tall
        posterior, anterior = self._canvas.sheet(), self._canvas.sheet()
        turn = np.linspace(0, 1, 22)
        for number in range(11):
            reach = half * min(1.02, 0.52 + 0.19 * number**0.75)
            x = side * (0.07 * half + (reach - 0.07 * half) * np.sin(turn * math.pi / 2) ** 0.9)
            rise = 0.055 * tall * np.sin(turn * math.pi * 0.55)
            y = number * pace - 0.045 * tall - rise + droop * turn**2.2 * (0.6 + 0.07 * number)
            self._canvas.bone(posterior, np.column_stack((x, y)), thick)
            if number < 8:
                inner = half * (0.30 + 0.035 * number)
                x = side * (reach - (reach - inner) * turn)
                y = y[-1] + 0.20 * tall * np.sin(turn * math.pi / 2) * (0.75 + 0.03 * number)
                self._canvas.bone(anterior, np.column_stack((x, y)), thick * 1.1)
        dense = posterior * np.float32(0.34 / 255) + anterior * np.float32(0.19 / 255)
        return cast("Floats", dense.astype(np.float32))

    def _shoulder(self, rng: np.random.Generator, side: int) -> Floats:
        """Clavicle, shoulder blade and upper arm."""
        u, half, tall = self._unit, self._half, self._tall
        sheet, along = self._canvas.sheet(), np.linspace(0, 1, 22)
        rise = rng.uniform(-0.08, 0.05) * tall
        x = side * np.linspace(0.11 * half, 1.12 * half, 22)
        y = 0.13 * tall + rise * along + 0.03 * tall * np.sin(2 * math.pi * along)
        self._canvas.bone(sheet, np.column_stack((x, y)), 12 * u)
        head = np.array([side * 1.28 * half, 0.13 * tall + rise])
        ball = np.vstack((head, head)) + np.array([(0.0, 0.0), (side * 14 * u, 0.0)])
        shaft = np.vstack((head, head)) + np.array([(side * 12 * u, 0.0), (side * 42 * u, tall)])
        self._canvas.stroke(sheet, ball, 46 * u, 190)
        self._canvas.stroke(sheet, shaft, 24 * u, 170)
        blade = np.array([(1.15, 0.10), (0.86, 0.16), (0.93, 0.34), (1.05, 0.52), (1.14, 0.34)])
        blade += np.array([rng.uniform(-0.02, 0.14), rng.uniform(-0.03, 0.03)])
        blade *= (side * half, tall)
        flat = self._canvas.inside(closed_curve(blade))
        return cast("Floats", sheet * np.float32(0.55 / 255) + flat * np.float32(0.16))

    def _stomach(self, rng: np.random.Generator, left: Points) -> Floats:
        u = self._unit
        top = left[np.abs(left[:, 0] - 0.65 * self._half) < 15 * u, 1].max(initial=0.9 * self._tall)
        far = np.hypot(
            (self._x - rng.uniform(0.45, 0.75) * self._half) / (rng.uniform(14, 34) * u),
            (self._y - top - rng.uniform(12, 26) * u) / (rng.uniform(7, 18) * u),
        )
        gas: Floats = (rng.uniform(0.6, 1.6) * soft_step((1 - far) * 8)).astype(np.float32)
        return gas

    # ------------------------------------------------------------ the picture

    def _expose(self, rng: np.random.Generator, dense: Floats) -> None:
        """Sets the grey values without noise, and the noise's size, of the exposed map."""
        light = np.exp(-np.maximum(dense, 0).astype(np.float32))
        veil = cv2.GaussianBlur(light, (0, 0), 28 * self._unit / self.spec.pixel_mm)
        light = light + rng.uniform(0.08, 0.20) * veil + np.float32(0.002)
        seen = -np.log(light)
        low, middle, high = np.percentile(seen[::4, ::4], (4, 45, 97))
        low = max(low, middle - rng.uniform(2.0, 3.4))
        level = (seen - low) / max(high - low, 0.5)
        level = np.clip(level * rng.uniform(0.95, 1.12), 0, 1.15) ** rng.uniform(0.85, 1.35)
        grey = 250 * level
        noise = rng.uniform(5.0, 7.5) * (0.4 + np.exp(np.minimum(seen, 5.0) / 2) / 6)
        frame = self._collimation(rng)
        self._mark(rng, grey)
        self._grey = (grey * frame).astype(np.float32)
        self._noise = (noise * frame).astype(np.float32)

    def _collimation(self, rng: np.random.Generator) -> Floats:
        """1 in the exposed field; outside it, on some pictures, 0. It never cuts a lung."""
        field = np.ones(self._size, np.float32)
        if rng.random() < 0.5 or self.spec.clip != "none":
            return field
        lowest = self._top + 1.10 * self._tall / self.spec.pixel_mm
        edge = rng.uniform(lowest, self._size[0] * 1.05) if lowest < self._size[0] else self._size[0]
        rows, columns = np.ogrid[: self._size[0], : self._size[1]]
        lean = rng.uniform(-0.015, 0.015) * (columns - self._size[1] / 2)
        field *= np.clip(edge - rows + lean, 0, 1)
        return field

    def _mark(self, rng: np.random.Generator, grey: Floats) -> None:
        """The side marker on the patient's right and a label on the left, on most pictures; in place."""
        if rng.random() < 0.9:
            at = (int(self._size[1] * rng.uniform(0.02, 0.08)), int(self._size[0] * rng.uniform(0.06, 0.14)))
            sheet = self._canvas.sheet()
            cv2.putText(sheet, "R", at, cv2.FONT_HERSHEY_SIMPLEX, 0.0022 * self._size[0], 250, 2, cv2.LINE_AA)
            np.maximum(grey, sheet, out=grey)
        if rng.random() < 0.9:
            high = max(10, round(self._size[0] * rng.uniform(0.032, 0.046)))
            wide, left = round(2.9 * high), round(self._size[1] * rng.uniform(0.84, 0.88))
            top = round(self._size[0] * rng.uniform(0.02, 0.08))
            label = np.full((high, wide), 250, np.uint8)
            place = (high // 4, round(0.82 * high))
            cv2.putText(label, "PA", place, cv2.FONT_HERSHEY_SIMPLEX, high / 26, 20, 1, cv2.LINE_AA)
            part = grey[top : top + high, left : left + wide]
            part[...] = label[:, : part.shape[1]]
