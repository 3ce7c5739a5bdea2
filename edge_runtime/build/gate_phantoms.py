"""The phantoms of a shipped model's gate frames: which ones, and how one is drawn. Knows no model and no limit.

A recipe is text, `phantom:fetal_head?hc_mm=250&seed=1#40`: a phantom and the number of a frame of it. It gives the
same pixels on one machine only (another OpenCV or processor rounds otherwise), so a bundle keeps the pixels too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edge_runtime.codes import Reason, SourceKind, SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import ANATOMICAL, CEPHALIC_INDEX, parse_spec, render, semi_axes
from edge_runtime.frames.source import frame_id
from edge_runtime.types import Frame, Origin, Spacing

SCHEME = "phantom:"

_COUNT, _POSES = 20, (0, 53)  # phantoms, and frames of each: it drifts, turns, beats in between

_HEAD_SIZES = ((320, 240), (300, 210), (320, 220), (288, 216))  # width, height of the pictures, in turn
_SMALLEST_MM, _LARGEST_MM = 80.0, 340.0
_COARSEST_MM = 0.49  # per pixel: within the limits of the shipped model
_ROOM = (0.78, 0.50, 0.62)  # of the picture's width or 1.3 heights, the head's long axis
_NECK_SIZES = ((300, 316), (284, 300), (320, 300))
_THINNEST_MM, _WIDEST_MM = 4.5, 9.0
_CHEST_SIZES = ((294, 240), (240, 294), (266, 266))
_NARROWEST_MM, _BROADEST_MM = 230.0, 320.0

_PATTERNS = (
    "noise?seed=211&width=320&height=240",
    "noise?seed=212&width=300&height=210",
    "text?seed=213&width=320&height=240",
    "text?seed=214&width=288&height=216",
)
_NO_HEAD = (
    "fetal_head?empty=1&seed=201&width=300&height=210",
    "fetal_head?empty=1&seed=204&width=320&height=240",
    "fetal_head?empty=1&seed=206&width=320&height=220",
    "fetal_head?empty=1&seed=213&width=300&height=210",
    *_PATTERNS,
)
_NO_ARTERY = (
    "carotid?empty=1&seed=201&width=300&height=316",
    "carotid?empty=1&seed=202&width=284&height=300",
    "carotid?empty=1&seed=203&width=320&height=300",
    "carotid?empty=1&seed=204&width=300&height=316",
    *_PATTERNS,
)
_NO_CHEST = tuple(  # the patterns are ultrasound: a model of X-rays would withhold them for that alone
    f"lungs?empty=1&seed={seed}&width=266&height=240" for seed in range(201, 209)
)


def recipes_for(anatomy: str) -> tuple[str, ...]:
    """The 48 recipes for a model of `anatomy`: 40 pictures with its structure, then 8 without.

    The 40 span the structure's sizes, small and large in the picture, 20 phantoms in two poses or, of X-rays,
    40 patients. The 8 are there so that what must stay withheld is asked for too. Raises ConfigError for an anatomy
    that is not drawn.
    """
    if anatomy not in _RECIPES:
        raise ConfigError(
            f"gate.phantoms: nothing is drawn for the anatomy {anatomy!r}, only for {', '.join(_RECIPES)}; "
            "leave it out of the manifest"
        )
    pictured, without = _RECIPES[anatomy]
    return (*(SCHEME + text for text in pictured()), *(f"{SCHEME}{text}#0" for text in without))


def _heads() -> Iterator[str]:
    for number in range(_COUNT):
        hc_mm = _SMALLEST_MM + (_LARGEST_MM - _SMALLEST_MM) * number / (_COUNT - 1)
        long_mm = 2 * semi_axes(hc_mm, CEPHALIC_INDEX)[0]
        room = [(size, 0.8 * min(size[0], 1.3 * size[1])) for size in _HEAD_SIZES]
        fitting = [size for size, room_px in room if long_mm / _COARSEST_MM <= room_px]
        width, height = fitting[number % len(fitting)]
        wanted_px = _ROOM[number % len(_ROOM)] * min(width, 1.3 * height)
        spacing_mm = min(long_mm / wanted_px, _COARSEST_MM)
        text = f"fetal_head?hc_mm={hc_mm:.1f}&spacing_mm={spacing_mm:.4f}&seed={101 + number}"
        yield from (f"{text}&width={width}&height={height}#{pose}" for pose in _POSES)


def _arteries() -> Iterator[str]:
    for number in range(_COUNT):
        lumen_mm = _THINNEST_MM + (_WIDEST_MM - _THINNEST_MM) * number / (_COUNT - 1)
        width, height = _NECK_SIZES[number % len(_NECK_SIZES)]
        text = f"carotid?lumen_mm={lumen_mm:.2f}&seed={101 + number}&width={width}&height={height}"
        yield from (f"{text}#{pose}" for pose in _POSES)


def _chests() -> Iterator[str]:
    count = _COUNT * len(_POSES)  # an X-ray has no other pose
    for number in range(count):
        chest_mm = _NARROWEST_MM + (_BROADEST_MM - _NARROWEST_MM) * number / (count - 1)
        width, height = _CHEST_SIZES[number % len(_CHEST_SIZES)]
        yield f"lungs?chest_mm={chest_mm:.1f}&seed={101 + number}&width={width}&height={height}#0"


# by the manifest's anatomy: the pictures with the structure, those without
_RECIPES: dict[str, tuple[Callable[[], Iterator[str]], tuple[str, ...]]] = {
    "fetal_head": (_heads, _NO_HEAD),
    "vessel": (_arteries, _NO_ARTERY),
    "lungs": (_chests, _NO_CHEST),
}


def draw(recipe: str) -> Frame:
    """The frame that `phantom:fetal_head?hc_mm=250&seed=1#40` describes: after the # the frame's number.

    Raises ConfigError for what is no such recipe.
    """
    text, _, number = recipe.removeprefix(SCHEME).partition("#")
    if not recipe.startswith(SCHEME) or not number.isdecimal():
        raise ConfigError(f"recipe {recipe!r}: want phantom:PATTERN?...#FRAME")
    spec = parse_spec(text)
    pixels, _ = render(spec, int(number))
    known = spec.pattern in ANATOMICAL
    return Frame(
        pixels,
        0,
        0,
        Origin(SourceKind.PHANTOM, recipe, spec.modality),
        frame_id(0, pixels),
        spacing=Spacing(spec.pixel_mm, spec.pixel_mm, SpacingSource.PHANTOM) if known else None,
        spacing_reason=None if known else Reason.SPACING_MISSING,
    )
