"""Draws a carotid artery in cross-section, `phantom:carotid?lumen_mm=6.5&seed=1`, as a linear probe sees it.

Beams run parallel and straight down. Skin, fat, the sternocleidomastoid between its fasciae, thyroid, trachea and
jugular vein are one echo map that drifts; the artery beats in it. Its wall shines where the beam meets it squarely
and drops out at the sides, what lies behind the blood is brighter. The lumen is an ellipse whose area is that of a
circle of `lumen_mm`, the mean over a beat, times the square of the beat's 2.5 % up and down.

Lengths are millimetres from the middle of the probe's face: x to the right, z down.
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import MeasurementName
from edge_runtime.frames.phantom.spec import PhantomSpec
from edge_runtime.frames.phantom.truth import Ellipse
from edge_runtime.frames.phantom.ultrasound import (
    NOISE_PAD,
    Floats,
    add_noise,
    detect,
    point_spread,
    smooth,
    speckle,
)

_SAMPLES = 600  # along a beam
_BEAMS_PER_SAMPLE = 0.68  # in a square picture: a probe has as many however large the picture is shown
_NOISE = 0.0007  # of the receiver, in the unit of echoes
_BLOOD = 0.0007
_BEATS_PER_S = 1.2  # 72 a minute
_BEAT = 0.025  # of the diameter, up and down


class VesselScene:
    """One neck, its probe and its pulse, prepared once; `render` then draws any frame of it."""

    def __init__(self, spec: PhantomSpec) -> None:
        self.spec = spec
        rng = np.random.default_rng((spec.seed, 2))
        self._size = (_SAMPLES, round(_SAMPLES * _BEAMS_PER_SAMPLE * spec.width / spec.height))
        self._step_mm = (
            spec.height * spec.pixel_mm / self._size[0],
            spec.width * spec.pixel_mm / self._size[1],
        )
        self._scale = self._depth_mm / 40.0  # a larger neck is drawn larger
        self._z = ((np.arange(self._size[0], dtype=np.float32) + 0.5) * self._step_mm[0])[:, None]
        self._x = ((np.arange(self._size[1], dtype=np.float32) + 0.5) * self._step_mm[1])[None, :]
        self._x = self._x - np.float32(spec.width * spec.pixel_mm / 2)
        self._side = 1 if rng.random() < 0.5 else -1  # where the thyroid lies
        self._pose(rng)
        self._noise = speckle(rng, (self._size[0] + NOISE_PAD, self._size[1] + NOISE_PAD), 0.8, 0.8)
        self._tissue = self._neck(rng)
        self._blood = speckle(rng, self._size, 0.8, 1.0) * np.float32(_BLOOD * rng.uniform(0.5, 2.2))
        self._rough = np.exp(0.6 * smooth(rng, self._size, (2.5, 6))).astype(np.float32)
        self._gain = self._depth_gain(rng)

    @property
    def _depth_mm(self) -> float:
        return self.spec.height * self.spec.pixel_mm

    def truth(self, index: int) -> Ellipse | None:
        """The lumen of frame `index`, None where there is no artery."""
        if self.spec.empty:
            return None
        time_s, pixel_mm = index / self.spec.fps, self.spec.pixel_mm
        turn = 2 * math.pi * _BEATS_PER_S * time_s + self._phase[0]
        wave = (math.sin(turn) + 0.35 * math.sin(2 * turn + 0.9)) / 1.25
        diameter = self.spec.lumen_mm * (1 + _BEAT * wave)
        long, short = diameter / math.sqrt(self._aspect), diameter * math.sqrt(self._aspect)
        drift_x, drift_z = self._drift(index)
        middle = self.spec.width * pixel_mm / 2
        return Ellipse(  # a pixel's centre has whole coordinates
            (self._at[0] + drift_x + middle) / pixel_mm - 0.5,
            (self._at[1] + drift_z) / pixel_mm - 0.5,
            long / 2 / pixel_mm,
            short / 2 / pixel_mm,
            self._angle,
            {
                MeasurementName.LUMEN_AREA.value: math.pi * diameter**2 / 4,
                MeasurementName.LUMEN_DIAMETER_MAJOR.value: long,
                MeasurementName.LUMEN_DIAMETER_MINOR.value: short,
            },
        )

    def render(self, index: int) -> tuple[NDArray[np.uint8], Ellipse | None]:
        """Frame `index`, (H, W) uint8, and its true lumen."""
        drift_x, drift_z = self._drift(index)
        shift = np.array([[1, 0, drift_x / self._step_mm[1]], [0, 1, drift_z / self._step_mm[0]]], np.float32)
        size_wh = self._size[::-1]
        echo = cv2.warpAffine(self._tissue, shift, size_wh, borderMode=cv2.BORDER_REFLECT)
        lumen = self.truth(index)
        if lumen is not None:
            self._put_artery(echo, lumen)
        echo = point_spread(echo)
        add_noise(echo, self._noise, index, _NOISE)
        grey = detect(echo, self._gain, darkest=0)
        shrinks = self.spec.height < _SAMPLES
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = cv2.resize(grey, (self.spec.width, self.spec.height), interpolation=way)
        pixels[: max(1, round(0.25 / self.spec.pixel_mm))] = self._face
        return cast("NDArray[np.uint8]", pixels), lumen

    def _pose(self, rng: np.random.Generator) -> None:
        """Where the artery rests, its shape, and how it drifts and beats."""
        half = self.spec.width * self.spec.pixel_mm / 2
        self._at = (half * rng.uniform(-0.45, 0.45), self._depth_mm * rng.uniform(0.37, 0.50))
        self._aspect = rng.uniform(0.86, 1.0)
        self._angle = rng.uniform(-0.35, 0.35)
        self._phase = rng.uniform(0, 2 * math.pi, 3)
        self._rate = 2 * math.pi / rng.uniform(3.0, 7.0, 2)  # rad/s
        self._face = int(rng.uniform(110, 200))
        self._wall = rng.uniform(0.35, 1.1)
        self._gap = rng.uniform(0.0, 0.6)  # how dark the media is between the wall's two lines
        self._behind = rng.uniform(1.8, 5.5)  # how much brighter the tissue behind the blood is

    def _drift(self, index: int) -> tuple[float, float]:
        time_s = index / self.spec.fps
        return (
            0.6 * math.sin(self._rate[0] * time_s + self._phase[1]),
            0.35 * math.sin(self._rate[1] * time_s + self._phase[2]),
        )

    def _depth_gain(self, rng: np.random.Generator) -> Floats:
        """A factor: sound that attenuation took and the time gain does not give back, and poor contact."""
        share = self._z[:, 0] / self._depth_mm
        sliders = np.interp(share, np.linspace(0, 1, 7), rng.uniform(-3.0, 3.0, 7))
        reach = rng.uniform(0.50, 0.80)
        decibel = sliders - 34.0 * np.clip((share - reach) / 0.45, 0, 1.5) ** 1.3 + rng.uniform(-8.0, 2.0)
        beams = np.interp(
            np.arange(self._size[1]), np.linspace(0, self._size[1] - 1, 9), rng.uniform(-4, 1, 9)
        )
        if rng.random() < 0.35:  # an edge of the probe stands off the skin
            edge = np.clip(
                (self._x[0] * (1 if rng.random() < 0.5 else -1)) / (0.5 * -self._x[0, 0]) - 1.2, 0, 1
            )
            beams = beams - 30.0 * edge
        return cast("Floats", (10 ** ((decibel[:, None] + beams[None, :]) / 20)).astype(np.float32))

    def _neck(self, rng: np.random.Generator) -> Floats:
        """The echo of all that drifts, 2 channels: layers, muscle, thyroid, veins, sheath."""
        size, scale = self._size, self._scale
        warp = 0.5 * smooth(rng, size, (60, 45)) * scale
        z = self._z + warp
        top = scale * rng.uniform(3.0, 5.5) + 0.05 * rng.uniform(-1, 1) * self._x
        thick = scale * rng.uniform(4.5, 7.0)
        middle = rng.uniform(-8, 8) * scale
        lens = np.sqrt(np.clip(1 - ((self._x - middle) / (scale * rng.uniform(17, 30))) ** 2, 0, 1))
        bottom = np.minimum(top + 1.0 * scale + thick * lens, self._ceiling_mm - 0.8 * scale)
        clumps = np.exp(0.5 * smooth(rng, size, (6, 12)) + 0.35 * smooth(rng, size, (22, 26)))
        deep = 0.0040 * rng.uniform(0.6, 1.9) * clumps
        fat = 0.0026 * clumps
        muscle = 0.0010 * rng.uniform(0.6, 1.6) * np.exp(0.3 * smooth(rng, size, (3, 8)))
        amplitude = np.where(z < top, fat, np.where(z < bottom, muscle, deep))
        amplitude = np.where(z < 1.3 * scale, 0.012, amplitude)
        fascia = _line(z - top, 0.16) + _line(z - bottom, 0.17) + 0.4 * _line(z - bottom - 0.8 * scale, 0.14)
        fascia = fascia + 0.5 * _line(z - 1.3 * scale, 0.12) + 0.5 * _line(z - top + 1.1 * scale, 0.10)
        surface = 0.15 * fascia * np.exp(1.0 * smooth(rng, size, (3, 22)) - 0.4)
        striae = np.clip(smooth(rng, size, (0.9, 7.0)) - 1.5, 0, 2)
        surface += 0.045 * striae * np.where((z > top) & (z < bottom), 1.0, 0.35 * (z > bottom))
        amplitude, surface = self._deep_organs(rng, amplitude, surface, z)
        echo = speckle(rng, size, 0.75, 0.95) * amplitude[..., None].astype(np.float32)
        echo[..., 0] += surface.astype(np.float32)
        return np.ascontiguousarray(echo, dtype=np.float32)

    @property
    def _ceiling_mm(self) -> float:
        """The top of the artery at rest, where the muscle must have ended."""
        return self._at[1] - self.spec.lumen_mm / 2

    def _deep_organs(
        self, rng: np.random.Generator, amplitude: Floats, surface: Floats, z: Floats
    ) -> tuple[Floats, Floats]:
        """Thyroid and trachea on one side, a vein on the other, the sheath, vertebra: amplitude, surfaces."""
        size, scale = self._size, self._scale
        radius = self.spec.lumen_mm / 2
        x0, z0 = self._at
        if rng.random() < 0.7:
            at = self._side * x0 + radius + scale * rng.uniform(4.5, 8.0)
            gland, _ = self._blob(
                rng, at, z0 + rng.uniform(-2, 1) * scale, scale * rng.uniform(5, 8), 5 * scale
            )
            amplitude = amplitude * (1 - gland) + gland * 0.0065 * np.exp(0.25 * smooth(rng, size, (3, 4)))
            if rng.random() < 0.75:
                wind = at + scale * rng.uniform(7.0, 10.0)
                amplitude, surface = self._air(rng, amplitude, surface, wind, z)
        surface = surface + self._fragments(rng, z)
        if not self.spec.empty:
            ring = np.hypot(self._x - x0, self._z - z0) / radius
            sheath = np.exp(
                -(np.clip((ring - 1.05) / 0.45, 0, 9) ** 2) + 0.5 * smooth(rng, size, (12, 12))
            ) * (ring > 0.6)
            amplitude = amplitude * (1 + rng.uniform(0.3, 1.8) * sheath) + 0.002 * sheath
            surface = surface * (1 - 0.8 * (ring < 1.15))
        if rng.random() < 0.75 or self.spec.empty:
            amplitude, surface = self._vein(rng, amplitude, surface)
        if rng.random() < 0.5:
            amplitude, surface = self._vertebra(rng, amplitude, surface, z)
        return amplitude, surface

    def _fragments(self, rng: np.random.Generator, z: Floats) -> Floats:
        """Echoes of short pieces of fascia."""
        found = np.zeros(self._size, np.float32)
        for _ in range(int(rng.integers(2, 7))):
            tilt, where = rng.uniform(-0.35, 0.35), rng.uniform(-18, 18) * self._scale
            level = self._depth_mm * rng.uniform(0.35, 0.75)
            strip = _line(z - level - tilt * (self._x - where), 0.16)
            strip = strip * np.exp(-(((self._x - where) / (self._scale * rng.uniform(1.5, 5.0))) ** 2))
            found += rng.uniform(0.02, 0.10) * strip
        return found

    def _vertebra(
        self, rng: np.random.Generator, amplitude: Floats, surface: Floats, z: Floats
    ) -> tuple[Floats, Floats]:
        """A process of the spine: a bright arc and its shadow."""
        level = self._depth_mm * rng.uniform(0.66, 0.8)
        arc = level + 0.03 * (self._side * self._x - rng.uniform(-6, 6) * self._scale) ** 2 / self._scale
        bone = 0.30 * _line(z - arc, 0.25) * np.exp(0.8 * smooth(rng, self._size, (4, 10)) - 0.3)
        surface = surface + bone * (arc - level < 2.2 * self._scale)
        amplitude = amplitude * np.where((z > arc) & (arc - level < 2.2 * self._scale), 0.15, 1.0)
        return amplitude, surface

    def _air(
        self, rng: np.random.Generator, amplitude: Floats, surface: Floats, at: float, z: Floats
    ) -> tuple[Floats, Floats]:
        """The trachea: a bright front, then shadow with fading repeats."""
        away = self._side * self._x
        front = self._at[1] - 2.0 * self._scale + 0.045 * (away - at) ** 2 / self._scale
        shadow = 1 / (1 + np.exp(-np.clip((away - at + 7.0 * self._scale) * 3.0, -30, 30)))
        below = shadow / (1 + np.exp(-np.clip((z - front) * 5.0, -30, 30)))
        repeats = np.exp(-np.clip(z - front, 0, 60) / (3.0 * self._scale)) * 0.5
        amplitude = amplitude * (1 - below) + below * 0.0030 * repeats
        lines = sum(0.13 * 0.35**n * _line(z - front - 2.6 * n * self._scale, 0.20) for n in range(3))
        surface = surface * (1 - below) + lines * shadow * np.exp(0.4 * smooth(rng, self._size, (4, 12)))
        return amplitude, surface

    def _vein(self, rng: np.random.Generator, amplitude: Floats, surface: Floats) -> tuple[Floats, Floats]:
        """The jugular vein: flat, larger than the artery, its wall weak; brighter tissue behind it."""
        scale, radius = self._scale, self.spec.lumen_mm / 2
        half, flat = scale * rng.uniform(3.2, 6.0), rng.uniform(0.26, 0.55)
        at = self._side * self._at[0] - radius * rng.uniform(0.3, 1.0) - half * rng.uniform(0.6, 1.0)
        level = self._ceiling_mm - half * flat * rng.uniform(0.3, 1.0) - 0.4 * scale
        if rng.random() < 0.35:  # beside the artery, not above
            at = self._side * self._at[0] - radius - half - scale * rng.uniform(0.8, 2.0)
            level = self._at[1] - radius * rng.uniform(0.2, 0.7)
        vein, edge = self._blob(rng, at, level, half, half * flat, tilt=rng.uniform(-0.25, 0.25))
        fluid = np.cumsum(vein, axis=0) * (self._step_mm[0] / (4 * scale))
        amplitude = amplitude * (1 + 0.5 * fluid)
        amplitude = amplitude * (1 - vein) + _BLOOD * 0.8 * vein
        surface = surface * (1 - vein) + rng.uniform(0.01, 0.045) * edge
        return amplitude, surface

    def _blob(
        self,
        rng: np.random.Generator,
        away: float,
        level: float,
        half_x: float,
        half_z: float,
        tilt: float = 0.0,
    ) -> tuple[Floats, Floats]:
        """(share 0 to 1, rim that faces the beam) of an uneven ellipse at `away` mm to the thyroid's side."""
        dx, dz = self._side * self._x - away, self._z - level
        dx, dz = dx + tilt * dz, dz - tilt * dx
        radius = np.sqrt((dx / half_x) ** 2 + (dz / half_z) ** 2) + 0.06 * smooth(rng, self._size, (22, 16))
        share = 1 / (1 + np.exp(np.clip((radius - 1) * 22, -40, 40)))
        facing = np.abs(dz / half_z) / np.maximum(np.hypot(dx * half_z / half_x, dz) / half_z, 1e-3)
        edge = _line((radius - 1) * min(half_x, half_z), 0.2) * np.clip(facing, 0, 1) ** 3
        return share, edge

    def _put_artery(self, echo: Floats, lumen: Ellipse) -> None:
        """Draws the artery of this frame into `echo`, in place."""
        pixel_mm = np.float32(self.spec.pixel_mm)
        middle = np.float32(self.spec.width * self.spec.pixel_mm / 2)
        dx = self._x + middle - np.float32(lumen.center_x + 0.5) * pixel_mm
        dz = self._z - np.float32(lumen.center_y + 0.5) * pixel_mm
        a, b = np.float32(lumen.semi_major) * pixel_mm, np.float32(lumen.semi_minor) * pixel_mm
        cos, sin = np.float32(math.cos(lumen.angle_rad)), np.float32(math.sin(lumen.angle_rad))
        u, v = (cos * dx + sin * dz) / a, (cos * dz - sin * dx) / b
        normal_u, normal_v = u / a, v / b
        slope = cv2.magnitude(normal_u, normal_v) + np.float32(1e-6)
        outside_mm = (u * u + v * v - 1) / (2 * slope)  # from the lumen's border, first order
        facing = np.abs(sin * normal_u + cos * normal_v) / slope  # 1 where the beam meets the wall squarely
        facing = facing * facing
        facing = facing * facing * facing

        chord = np.sqrt(np.clip(1 - (dx / a) ** 2, 0, 1)).astype(np.float32)
        behind = np.clip((dz - 0.7 * b) / (0.4 * b), 0, 1) * np.exp(
            -np.clip(dz - b, 0, 60) / np.float32(4.5 * self._scale)
        )
        rim = np.exp(-(((np.abs(dx) - a) / (0.16 * a)) ** 2)).astype(np.float32)
        factor = (1 + self._behind * chord * chord * behind) * (1 - 0.55 * rim * np.clip(dz / b, 0, 1))
        inside = np.clip(0.5 - outside_mm / np.float32(1.2 * self._step_mm[0]), 0, 1)
        media = np.exp(-(((outside_mm - 0.42) / np.float32(0.26)) ** 2))
        factor *= (1 - inside) * (1 - media * (0.1 + self._gap * facing))
        echo *= factor[..., None].astype(np.float32)
        echo += self._blood * inside[..., None]
        intima = np.exp(-(((outside_mm - 0.10) / np.float32(0.10)) ** 2))
        outer = np.exp(-(((outside_mm - 0.95) / np.float32(0.28)) ** 2))
        lit = np.where(dz > 0, np.float32(1.25), np.float32(0.8)) * np.float32(self._wall)
        echo[..., 0] += lit * self._rough * (0.045 * intima * facing + (0.11 * facing + 0.004) * outer)


def _line(distance_mm: Floats, half_mm: float) -> Floats:
    """A soft line: 1 where `distance_mm` is 0, gone at twice `half_mm`."""
    line: Floats = np.exp(-((distance_mm / half_mm) ** 2))
    return line
