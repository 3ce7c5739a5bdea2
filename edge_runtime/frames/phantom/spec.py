"""What a phantom URI says, `fetal_head?hc_mm=250&seed=1`, and how large a millimetre is in its picture.

Knows the range of every parameter and nothing of how a picture is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom.truth import semi_axes

CEPHALIC_INDEX = 0.78
CHEST_HEIGHT = 0.86  # of a drawn chest's lungs, apex to angle, over the inner width

ROTATIONS = (0, 90, 180, 270)
CLIPS = ("none", "right", "left", "top", "bottom")


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One drawing: what it is filed under, its picture's size, and the parameters that only it has."""

    modality: str
    width: int
    height: int
    own: tuple[str, ...] = ()
    frames: int = 300


_PATTERNS = {
    "fetal_head": _Pattern("US", 800, 540, ("hc_mm",)),
    "carotid": _Pattern("US", 700, 740, ("lumen_mm",)),
    "lungs": _Pattern("DX", 616, 504, ("chest_mm", "rotate", "invert", "clip"), frames=8),
    "noise": _Pattern("US", 800, 540),
    "text": _Pattern("US", 800, 540),
}
PATTERNS = tuple(_PATTERNS)
ANATOMICAL = ("fetal_head", "carotid", "lungs")  # have millimetres, and a truth unless empty=1

# (lowest, highest) of each number a URI may give
_RANGES: dict[str, tuple[float, float]] = {
    "hc_mm": (40.0, 400.0),
    "lumen_mm": (2.0, 20.0),
    "chest_mm": (80.0, 400.0),
    "invert": (0, 1),
    "frames": (1, 1_000_000),
    "fps": (0.1, 1000.0),
    "seed": (0, 2**32 - 1),
    "width": (160, 2048),
    "height": (120, 2048),
    "spacing_mm": (0.02, 2.0),
    "empty": (0, 1),
}
_CHOICES: dict[str, tuple[object, ...]] = {"rotate": ROTATIONS, "clip": CLIPS}
_COMMON = ("frames", "fps", "seed", "width", "height", "spacing_mm", "empty")


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """What a phantom URI says; `spacing_mm` None lets the structure fill the picture as an examiner would.

    `frames`, `width` and `height` of 0 become the pattern's own. Raises ConfigError for what cannot be drawn.
    """

    pattern: str = "fetal_head"
    hc_mm: float = 250.0  # circumference of the skull's outer border
    lumen_mm: float = 6.5  # diameter of the circle of the lumen's area, the mean over a beat
    chest_mm: float = 290.0  # inner width of the chest: from the edge of one lung to that of the other
    frames: int = 0
    fps: float = 30.0
    seed: int = 1
    width: int = 0  # of the upright picture
    height: int = 0
    spacing_mm: float | None = None
    rotate: int = 0  # degrees clockwise by which the upright picture is turned
    invert: int = 0  # 1 = bone dark
    clip: str = "none"  # the patient's side, or the end, that the picture's border cuts off
    empty: int = 0  # 1 = the same tissue without the structure

    def __post_init__(self) -> None:
        if self.pattern not in _PATTERNS:
            raise ConfigError(f"phantom:{self.pattern}: unknown, choose one of {', '.join(PATTERNS)}")
        for name in ("frames", "width", "height"):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, getattr(_PATTERNS[self.pattern], name))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # also refuses NaN
                raise ConfigError(f"phantom:{self.pattern}: {name}={value:g}, want {low:g} to {high:g}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = ", ".join(map(str, choices))
                raise ConfigError(
                    f"phantom:{self.pattern}: {name}={getattr(self, name)}, want one of {wanted}"
                )
        if self.pattern in ANATOMICAL and not self.empty:
            self._require_room()

    @property
    def modality(self) -> str:
        """DICOM (0008,0060) of a picture like this."""
        return _PATTERNS[self.pattern].modality

    @property
    def pixel_mm(self) -> float:
        """Millimetres per pixel, both axes."""
        if self.spacing_mm is not None:
            return self.spacing_mm
        if self.pattern == "carotid":  # 40 mm deep for 6.5 mm, as in the pictures of a real scanner
            return round((30.0 + 1.6 * self.lumen_mm) / min(self.height, 1.1 * self.width), 4)
        if self.pattern == "lungs":
            return round(self.chest_mm / min(0.68 * self.width, 0.80 * self.height / CHEST_HEIGHT), 4)
        # small heads are seen smaller, as in HC18: 28 % of the width at 56 mm, 62 % from 180 mm on
        share = 0.28 + 0.34 * min(max((self.hc_mm - 56.0) / 124.0, 0.0), 1.0)
        length_px = share * min(self.width, 1.48 * self.height)
        return round(2 * semi_axes(self.hc_mm, CEPHALIC_INDEX)[0] / length_px, 4)

    def _require_room(self) -> None:
        """Raises ConfigError where the structure does not fit into the picture at this spacing."""
        if self.pattern == "fetal_head":
            said = f"a head of hc_mm={self.hc_mm:g}"
            needed_px = 2 * semi_axes(self.hc_mm, CEPHALIC_INDEX)[0] / self.pixel_mm
            room_px = 0.8 * min(self.width, 1.3 * self.height)
        elif self.pattern == "carotid":
            said, needed_px = f"a lumen of lumen_mm={self.lumen_mm:g}", self.lumen_mm / self.pixel_mm
            room_px = 0.4 * min(self.width, self.height)
        else:
            said, needed_px = f"a chest of chest_mm={self.chest_mm:g}", self.chest_mm / self.pixel_mm
            room_px = min(0.8 * self.width, 0.88 * self.height / CHEST_HEIGHT)
        if needed_px > room_px:
            raise ConfigError(
                f"phantom:{self.pattern}: {said} is {needed_px:.0f} pixels long at "
                f"spacing_mm={self.pixel_mm:g}, {self.width}x{self.height} has room for {room_px:.0f}; "
                "give a larger spacing_mm"
            )


def parse_spec(text: str) -> PhantomSpec:
    """Reads `fetal_head?hc_mm=250&seed=1`. Raises ConfigError naming what is unknown or out of range."""
    pattern, _, query = text.partition("?")
    known = (*_PATTERNS[pattern].own, *_COMMON) if pattern in _PATTERNS else (*_RANGES, *_CHOICES)
    types = {field.name: field.type for field in fields(PhantomSpec)}
    values: dict[str, Any] = {}
    for name, raw in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ConfigError(f"phantom:{pattern}: unknown parameter {name!r}; known: {', '.join(known)}")
        values[name] = raw if types[name] == "str" else _number(pattern, name, raw, types[name] == "int")
    for name in values.keys() & {"frames", "width", "height"}:
        if values[name] == 0:
            low, high = _RANGES[name]
            raise ConfigError(f"phantom:{pattern}: {name}=0, want {low:g} to {high:g}")
    return PhantomSpec(pattern=pattern, **values)


def _number(pattern: str, name: str, raw: str, whole: bool) -> float | int:
    try:
        return int(raw) if whole else float(raw)
    except ValueError as exc:
        wanted = "a whole number" if whole else "a number"
        raise ConfigError(f"phantom:{pattern}: {name}={raw!r}, want {wanted}") from exc
