"""Draws moving B-mode fetal heads of exactly known circumference, `phantom:fetal_head?hc_mm=250&seed=1`.

The picture is made the way a convex scanner makes it. Scatterers (complex white noise shaped by tissue) and
mirror-like surfaces are sampled along diverging beams, shadowed by the bone in front of them, blurred by a
point spread that is constant in angle and so widens with depth, given depth gain and receiver noise,
log-compressed and scan-converted. The outer border of the skull is an ellipse with the asked circumference
(Ramanujan II) in every frame, whatever its place, turn and shape.
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import MeasurementName
from edge_runtime.frames.phantom.spec import CEPHALIC_INDEX, PhantomSpec
from edge_runtime.frames.phantom.truth import Ellipse, semi_axes
from edge_runtime.frames.phantom.ultrasound import (
    NOISE_PAD,
    Floats,
    add_noise,
    detect,
    point_spread,
    smooth,
    speckle,
)

_ROW_PX = 1.3  # depth samples are this many image pixels apart
_BEAMS = 320
_MARGIN = 1.2  # half width of the head's texture, in semi-axes
_NOISE = 0.0016  # of the receiver, in the unit of echoes


class HeadScene:
    """One phantom's tissue, probe and motion, prepared once; `render` then draws any frame of it.

    Arrays over beams have the axes (depth sample, beam); lengths are in image pixels unless named `_mm`.
    """

    def __init__(self, spec: PhantomSpec) -> None:
        self.spec = spec
        rng = np.random.default_rng(spec.seed)
        self._motion = _Motion(spec, rng)
        self._place_probe(rng)
        self._noise = speckle(rng, (self._rows + NOISE_PAD, _BEAMS + NOISE_PAD), 0.9, 0.6)
        self._gain = self._depth_gain(rng)
        self._background = self._tissue(rng)
        self._haze = speckle(rng, (self._rows, _BEAMS), 1.5, 4.0)
        self._texture = _head_texture(rng)

    def truth(self, index: int) -> Ellipse | None:
        """The outer ellipse of the skull in frame `index`, None where there is no head."""
        return None if self.spec.empty else self._motion.ellipse(index / self.spec.fps)

    def render(self, index: int) -> tuple[NDArray[np.uint8], Ellipse | None]:
        """Frame `index`, (H, W) uint8, and its true ellipse."""
        head = self.truth(index)
        echo = self._background if head is None else self._with_head(head)
        echo = point_spread(echo)
        add_noise(echo, self._noise, index, _NOISE)
        grey = detect(echo, self._gain)
        pixels = cv2.remap(grey, self._to_beam, self._to_beam_frac, cv2.INTER_LINEAR)  # 0 outside the sector
        return cast("NDArray[np.uint8]", pixels), head

    def _place_probe(self, rng: np.random.Generator) -> None:
        """Where beams run, and the fixed way back from image pixels to (beam, depth sample)."""
        height, width = self.spec.height, self.spec.width
        self._apex_x = width * (0.5 + rng.uniform(-0.02, 0.02))
        self._apex_y = -height * rng.uniform(0.42, 0.56)
        near = -self._apex_y + height * 0.015
        far = (height - self._apex_y) * 1.02
        half_angle = math.asin(min(0.95, 0.52 * width / far)) * rng.uniform(1.0, 1.45)
        self._rows = int((far - near) / _ROW_PX)
        self._depth = (near + _ROW_PX * np.arange(self._rows, dtype=np.float32))[:, None]  # from the apex
        theta = np.linspace(-half_angle, half_angle, _BEAMS, dtype=np.float32)[None, :]
        self._sin, self._cos = np.sin(theta), np.cos(theta)
        self._x = self._apex_x + self._depth * self._sin
        self._y = self._apex_y + self._depth * self._cos
        self._share = (self._depth - near) / (far - near)  # of the depth, 0 to 1
        dy, dx = np.mgrid[:height, :width].astype(np.float32)
        dx, dy = dx - np.float32(self._apex_x), dy - np.float32(self._apex_y)
        beam = (np.arctan2(dx, dy) + half_angle) * ((_BEAMS - 1) / (2 * half_angle))
        sample = (np.hypot(dx, dy) - near) / _ROW_PX
        outside = (beam < 0) | (beam > _BEAMS - 1) | (sample < 0) | (sample > self._rows - 1)
        beam[outside], sample[outside] = -9, -9
        maps = cv2.convertMaps(beam.astype(np.float32), sample.astype(np.float32), cv2.CV_16SC2)
        self._to_beam, self._to_beam_frac = maps

    def _depth_gain(self, rng: np.random.Generator) -> Floats:
        """A factor: what attenuation leaves, what time gain gives back too coarsely, poor contact."""
        sliders = np.interp(self._share[:, 0], np.linspace(0, 1, 8), rng.uniform(-3.5, 2.5, 8))
        left_over_db = sliders - 7.0 * self._share[:, 0] ** 1.5
        beams = np.interp(np.arange(_BEAMS), np.linspace(0, _BEAMS - 1, 7), rng.uniform(-7.0, 1.0, 7))
        beams -= 7.0 * np.abs(np.linspace(-1, 1, _BEAMS)) ** 6
        decibel = left_over_db[:, None] + beams[None, :]
        return cast("Floats", (10 ** (decibel / 20)).astype(np.float32))

    def _tissue(self, rng: np.random.Generator) -> Floats:
        """Abdominal and uterine wall, placenta, fluid: the echo without a head, 2 channels."""
        size = (self._rows, _BEAMS)
        rest = self._motion.rest
        wall = self._share + 0.03 * smooth(rng, size, (30, 90))
        layers = 1.0 + 0.55 * np.sin(38.0 * wall + 1.5 * smooth(rng, size, (25, 70))) * np.exp(-wall / 0.10)
        clumps = np.exp(0.45 * smooth(rng, size, (18, 12)) + 0.25 * smooth(rng, size, (4, 5)))
        amplitude = 0.030 * layers * clumps
        amplitude *= 1.0 + 0.8 * np.exp(-(((self._share - 0.05) / 0.05) ** 2))
        cavity, edge = self._cavity(rng, rest)
        amplitude = amplitude * (1 - cavity) + 0.0010 * cavity
        echo = speckle(rng, size, 0.7, 0.7) * amplitude[..., None].astype(np.float32)
        echo[..., 0] += 0.10 * edge * np.exp(0.6 * smooth(rng, size, (9, 16)))
        # sound loses nothing in fluid: what lies behind it is brighter (posterior enhancement)
        fluid = np.cumsum(cavity, axis=0) * (_ROW_PX / self.spec.height)
        echo *= (1.0 + 0.9 * fluid)[..., None].astype(np.float32)
        return np.ascontiguousarray(echo, dtype=np.float32)

    def _cavity(self, rng: np.random.Generator, rest: Ellipse) -> tuple[Floats, Floats]:
        """(share of fluid 0 to 1, wall that faces the beam) per sample, around the head's resting place."""
        long, short = rest.semi_major * rng.uniform(1.18, 1.5), rest.semi_minor * rng.uniform(0.98, 1.1)
        shift = rng.uniform(-0.22, 0.22) * rest.semi_major
        cos, sin = math.cos(rest.angle_rad * 0.5), math.sin(rest.angle_rad * 0.5)
        dx, dy = self._x - rest.center_x - shift, self._y - rest.center_y - 0.03 * rest.semi_minor
        u, v = (cos * dx + sin * dy) / long, (cos * dy - sin * dx) / short
        radius = np.sqrt(u * u + v * v) + 0.05 * smooth(rng, u.shape, (35, 30))
        cavity = 1 / (1 + np.exp(np.clip((radius - 1) * 60, -40, 40)))
        edge = np.exp(-(((radius - 1) / 0.018) ** 2)) * np.abs(v / np.maximum(radius, 1e-3)) ** 3
        return cavity.astype(np.float32), edge.astype(np.float32)

    def _with_head(self, head: Ellipse) -> Floats:
        """The echo before the point spread, 2 channels, with `head` in place."""
        pixel_mm = self.spec.pixel_mm
        cos, sin = np.float32(math.cos(head.angle_rad)), np.float32(math.sin(head.angle_rad))
        dx, dy = self._x - np.float32(head.center_x), self._y - np.float32(head.center_y)
        u = (cos * dx + sin * dy) * np.float32(1 / head.semi_major)
        v = (cos * dy - sin * dx) * np.float32(1 / head.semi_minor)
        normal_u, normal_v = u * np.float32(1 / head.semi_major), v * np.float32(1 / head.semi_minor)
        slope = cv2.magnitude(normal_u, normal_v) + np.float32(1e-6)
        # distance from the outer border, first order
        outside_mm = (u * u + v * v - 1) / (2 * slope) * np.float32(pixel_mm)
        beam_u, beam_v = cos * self._sin + sin * self._cos, cos * self._cos - sin * self._sin
        facing = np.abs(normal_u * beam_u + normal_v * beam_v) / slope  # 1 square on the bone, 0 along it

        scale = np.float32((_TEXTURE_PX - 1) / (2 * _MARGIN))
        texture = cv2.remap(
            self._texture,
            (u + np.float32(_MARGIN)) * scale,
            (v + np.float32(_MARGIN)) * scale,
            cv2.INTER_LINEAR,
        )
        inside = np.clip(0.5 - outside_mm * np.float32(0.7 / pixel_mm), 0, 1)
        before, within, reverb = self._shadows(head)
        echo = self._background * ((1 - inside) * before)[..., None]
        echo += texture[..., :2] * (inside * within)[..., None]
        echo += self._haze * (inside * reverb)[..., None]
        bone = _bone_profile(outside_mm, self.spec.hc_mm)
        facing = facing * facing * facing
        bone *= (0.012 + 1.1 * facing * np.sqrt(facing)) * texture[..., 2] * within
        echo[..., 0] += bone
        return cast("Floats", echo)

    def _shadows(self, head: Ellipse) -> tuple[Floats, Floats, Floats]:
        """Per sample: what bone leaves of the sound (outside the head, within it), haze under near bone."""
        cos, sin = math.cos(head.angle_rad), math.sin(head.angle_rad)
        long, short = head.semi_major, head.semi_minor
        ox, oy = self._apex_x - head.center_x, self._apex_y - head.center_y
        start_u, start_v = (cos * ox + sin * oy) / long, (cos * oy - sin * ox) / short
        beam_u = (cos * self._sin[0].astype(np.float64) + sin * self._cos[0]) / long
        beam_v = (cos * self._cos[0].astype(np.float64) - sin * self._sin[0]) / short
        square = beam_u**2 + beam_v**2
        half = beam_u * start_u + beam_v * start_v
        root = half**2 - square * (start_u**2 + start_v**2 - 1)
        hit = root > 0
        root = np.sqrt(np.maximum(root, 0))
        far = 4.0 * (self._depth[-1, 0] + self.spec.height)
        entry = np.where(hit, (-half - root) / square, far).astype(np.float32)[None, :]
        leave = np.where(hit, (-half + root) / square, far).astype(np.float32)[None, :]

        def passed(along: Floats) -> Floats:
            """Amplitude that passes the bone where the beams meet it at `along`: little when oblique."""
            normal_u, normal_v = (start_u + along * beam_u) / long, (start_v + along * beam_v) / short
            facing = root / np.maximum(np.hypot(normal_u, normal_v), 1e-9)
            share = np.where(hit, 0.10 + 0.62 * np.clip((facing - 0.15) / 0.6, 0, 1) ** 1.3, 1.0)
            wide = np.convolve(np.pad(share, 2, mode="edge"), [0.1, 0.2, 0.4, 0.2, 0.1], "valid")
            return cast("Floats", wide.astype(np.float32)[None, :])  # a beam is wider than its line

        passed_in, passed_out = passed((-half - root) / square), passed((-half + root) / square)
        bone = np.float32(_bone_mm(self.spec.hc_mm) / self.spec.pixel_mm)
        since = self._depth - entry
        inner = np.clip(since / (2 * bone) - np.float32(0.5), 0, 1)
        within = 1 + inner * (passed_in - 1)
        behind = np.clip((self._depth - leave) * np.float32(0.25), 0, 1)
        before = np.where(self._depth < leave, np.float32(1), 1 + behind * (passed_in * passed_out - 1))
        reverb = np.exp(np.minimum(since, 0) - np.maximum(since, 0) * np.float32(3.2 / head.semi_minor)) * (
            np.float32(0.014) * hit[None, :] * passed_in
        )
        return cast("tuple[Floats, Floats, Floats]", (before, within, reverb.astype(np.float32)))


class _Motion:
    """A slow drift, turn and breath of shape, smooth in time; the circumference never changes."""

    def __init__(self, spec: PhantomSpec, rng: np.random.Generator) -> None:
        self._hc_mm = spec.hc_mm
        self._hc_px = spec.hc_mm / spec.pixel_mm
        self._phase = rng.uniform(0, 2 * math.pi, 4)
        self._rate = 2 * math.pi / rng.uniform(3.5, 8.0, 4)  # rad/s
        self._angle = rng.uniform(-0.30, 0.30)
        self._drift_px = 0.012 * spec.width
        self._center = (
            spec.width * (0.5 + rng.uniform(-0.03, 0.03)),
            spec.height * (0.54 + rng.uniform(-0.02, 0.03)),
        )
        self._index = CEPHALIC_INDEX + rng.uniform(-0.015, 0.015)

    @property
    def rest(self) -> Ellipse:
        return Ellipse(*self._center, *semi_axes(self._hc_px, self._index), self._angle)

    def ellipse(self, time_s: float) -> Ellipse:
        """The head's outer border at `time_s`."""
        sway_x, sway_y, turn, breath = np.sin(self._rate * time_s + self._phase).tolist()
        index = self._index + 0.008 * breath
        return Ellipse(
            self._center[0] + self._drift_px * sway_x,
            self._center[1] + 0.6 * self._drift_px * sway_y,
            *semi_axes(self._hc_px, index),
            self._angle + 0.05 * turn,
            self._values(index),
        )

    def _values(self, cephalic_index: float) -> dict[str, float]:
        long, short = semi_axes(self._hc_mm, cephalic_index)
        return {
            MeasurementName.HEAD_CIRCUMFERENCE.value: self._hc_mm,
            MeasurementName.BIPARIETAL_DIAMETER.value: 2 * short,
            MeasurementName.OCCIPITOFRONTAL_DIAMETER.value: 2 * long,
            MeasurementName.CEPHALIC_INDEX.value: 100 * cephalic_index,
        }


_TEXTURE_PX = 640


def _bone_mm(hc_mm: float) -> float:
    """Thickness of the skull between the middles of its two tables, growing with the head."""
    return min(max(hc_mm / 250.0 * 1.5, 0.4), 2.4)


def _bone_profile(outside_mm: Floats, hc_mm: float) -> Floats:
    """Echo of the two tables over the distance from the outer border (negative = inside)."""
    bone = _bone_mm(hc_mm)
    width = np.float32(1 / (0.42 * bone))
    outer = np.minimum((outside_mm + np.float32(0.35 * bone)) * width, 6)
    inner = np.minimum((outside_mm + np.float32(1.35 * bone)) * width, 6)
    np.maximum(outer, -6, out=outer)
    np.maximum(inner, -6, out=inner)
    return cast("Floats", cv2.exp(-outer * outer) + np.float32(0.6) * cv2.exp(-inner * inner))


def _head_texture(rng: np.random.Generator) -> Floats:
    """What moves with the head, (n, n, 3) over u, v of -1.2 to 1.2 semi-axes: echo (2 channels), bone.

    u runs along the midline, v across. Brain with gyri, an interrupted midline, cavum, thalami, ventricles
    with their choroid plexus, insulae: what a trans-thalamic plane shows.
    """
    size = (_TEXTURE_PX, _TEXTURE_PX)
    axis = np.linspace(-_MARGIN, _MARGIN, _TEXTURE_PX, dtype=np.float32)
    u: Floats
    v: Floats
    u, v = axis[None, :], axis[:, None]
    if rng.random() < 0.5:
        u = -u  # the face looks the other way
    bend = 0.015 * smooth(rng, size, (60, 60))
    v = v + bend
    u = u + 0.02 * smooth(rng, size, (40, 40))

    def blob(at_u: float, at_v: float, half_u: float, half_v: float) -> Floats:
        steep = 14.0
        radius = np.sqrt(((u - at_u) / half_u) ** 2 + ((v - at_v) / half_v) ** 2)
        return cast("Floats", 1 / (1 + np.exp(np.clip((radius - 1) * steep, -40, 40))))

    def line(at_v: float, from_u: float, to_u: float, half: float) -> Floats:
        ends = 1 / (1 + np.exp(-np.clip(np.minimum(u - from_u, to_u - u) * 60, -40, 40)))
        return cast("Floats", np.exp(-(((v - at_v) / half) ** 2)) * ends)

    gyri = np.exp(0.40 * smooth(rng, size, (6, 9)) + 0.45 * smooth(rng, size, (40, 46)))
    brain = 0.0105 * gyri
    brain *= 1 - 0.7 * blob(-0.36, 0.0, 0.13, 0.06)  # cavum septi pellucidi
    for side in (-1, 1):
        brain *= 1 - 0.55 * blob(0.02, 0.17 * side, 0.17, 0.13)  # thalamus
        brain *= 1 - 0.75 * blob(0.42, 0.42 * side, 0.30, 0.10)  # lateral ventricle
        brain += 0.030 * blob(0.48, 0.43 * side, 0.19, 0.065) * gyri**0.3  # choroid plexus
    surface = 0.06 * line(0.0, -0.90, -0.52, 0.012) + 0.08 * line(0.0, 0.20, 0.86, 0.012)
    surface = surface + 0.06 * (line(0.062, -0.48, -0.24, 0.012) + line(-0.062, -0.48, -0.24, 0.012))
    for side in (-1, 1):
        surface = (
            surface
            + 0.045 * line(0.53 * side, 0.22, 0.58, 0.012)
            + 0.03 * line(0.31 * side, 0.28, 0.62, 0.011)
        )
        surface = surface + 0.03 * line(0.66 * side, -0.28, 0.06, 0.013)  # insula
    surface = surface * np.exp(0.9 * smooth(rng, size, (9, 20)) - 0.4)
    echo = speckle(rng, size, 0.9, 0.9) * brain[..., None]
    echo[..., 0] += surface
    density = np.exp(0.40 * smooth(rng, size, (34, 34)) + 0.25 * smooth(rng, size, (5, 5)))
    return np.ascontiguousarray(np.dstack((echo, density)), dtype=np.float32)
