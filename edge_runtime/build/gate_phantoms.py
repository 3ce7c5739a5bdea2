"""The phantoms of a shipped model's gate frames: which ones, and how one is drawn. Knows no model and no limit.

A recipe is text, `phantom:fetal_head?hc_mm=250&seed=1#40`: a phantom and the number of a frame of it. It gives the
same pixels on one machine only (another OpenCV or processor rounds otherwise), so a bundle keeps the pixels too.
"""

from __future__ import annotations

from edge_runtime.codes import Reason, SourceKind, SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import ANATOMICAL, CEPHALIC_INDEX, parse_spec, render, semi_axes
from edge_runtime.frames.source import frame_id
from edge_runtime.types import Frame, Origin, Spacing

SCHEME = "phantom:"

_SIZES = ((320, 240), (300, 210), (320, 220), (288, 216))  # width, height of the pictures, in turn
_POSES = (0, 53)  # frames of one phantom: it drifts, turns and breathes in between
_HEADS = 20
_SMALLEST_MM, _LARGEST_MM = 80.0, 340.0
_COARSEST_MM = 0.49  # per pixel: within the limits of the shipped model
_ROOM = (0.78, 0.50, 0.62)  # of the picture's width or 1.3 heights, the head's long axis
_WITHOUT = (
    "fetal_head?empty=1&seed=201&width=300&height=210",
    "fetal_head?empty=1&seed=204&width=320&height=240",
    "fetal_head?empty=1&seed=206&width=320&height=220",
    "fetal_head?empty=1&seed=213&width=300&height=210",
    "noise?seed=211&width=320&height=240",
    "noise?seed=212&width=300&height=210",
    "text?seed=213&width=320&height=240",
    "text?seed=214&width=288&height=216",
)


def head_recipes() -> tuple[str, ...]:
    """The 48 recipes for a model of fetal heads.

    40 pictures of heads of 80 to 340 mm, each of 20 phantoms in two poses, small and large on the picture;
    8 without a head, clearly withheld by fp32, so that what must stay withheld is asked for too.
    """
    recipes = []
    for number in range(_HEADS):
        hc_mm = _SMALLEST_MM + (_LARGEST_MM - _SMALLEST_MM) * number / (_HEADS - 1)
        long_mm = 2 * semi_axes(hc_mm, CEPHALIC_INDEX)[0]
        room = [(size, 0.8 * min(size[0], 1.3 * size[1])) for size in _SIZES]
        fitting = [size for size, room_px in room if long_mm / _COARSEST_MM <= room_px]
        width, height = fitting[number % len(fitting)]
        wanted_px = _ROOM[number % len(_ROOM)] * min(width, 1.3 * height)
        spacing_mm = min(long_mm / wanted_px, _COARSEST_MM)
        text = f"fetal_head?hc_mm={hc_mm:.1f}&spacing_mm={spacing_mm:.4f}&seed={101 + number}"
        recipes += [f"{SCHEME}{text}&width={width}&height={height}#{pose}" for pose in _POSES]
    return (*recipes, *(f"{SCHEME}{text}#0" for text in _WITHOUT))


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
