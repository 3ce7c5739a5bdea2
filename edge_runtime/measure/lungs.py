"""Both lungs of a frontal chest X-ray: their areas, the ratio of these, and the inner width of the chest.

The mask's labels are `lung_right` and `lung_left`, the patient's own sides. Millimetres are those of the
detector plane unless the file says otherwise, in which anatomy reads 5 to 20 % large: `frames/spacing.py`
gives the reason for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import MeasurementName, Reason
from edge_runtime.measure.ellipse import border_contact
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.measure.values import Scale, measured, part_reasons, scale_of
from edge_runtime.types import Box, Mask, Measurement, Spacing, Unit

LABELS = ("lung_right", "lung_left")

RATIO_RANGE = (0.4, 2.5)  # area right over left
# Adults: 181 to 368 mm in 110 Montgomery X-rays. A file that was shrunk and kept its tag says 137 of a man's chest.
WIDTH_RANGE_MM = (160.0, 450.0)
MAX_BORDER_SHARE = 0.1  # of the square root of a lung's area; 8 of 110 Montgomery X-rays touch further

_AREA = "pixel-count-area"
_RATIO = "right-per-left-area"
_WIDTH = "largest-row-extent-edge-to-edge"


def measure(
    mask: Mask, spacing: Spacing | None, spacing_reason: Reason | None, settings: MeasureSettings
) -> tuple[Measurement, ...]:
    """Areas right and left (cm2), the inner width of the chest (mm), or both in source pixels under their own
    names, and the ratio of the areas.

    A lung that is missing or cut by the picture's border withholds all four: the picture does not show the
    chest. How the picture was taken, with the edge and the side, is `measure/acquisition.py`'s to say.
    """
    scale = scale_of(mask.geometry, spacing, spacing_reason, settings)
    sides = [mask.of(label) for label in LABELS]
    right, left, width = _sizes(sides, scale.cell)
    ratio = right / left if left else None
    shape = {reason for label in LABELS for reason in part_reasons(mask, label, settings)}
    shape |= _missing_or_cut(sides, mask.geometry.content, scale.cell)
    if ratio is not None and not RATIO_RANGE[0] <= ratio <= RATIO_RANGE[1]:
        shape.add(Reason.OUT_OF_RANGE)
    if scale.used is not None and not WIDTH_RANGE_MM[0] <= width <= WIDTH_RANGE_MM[1]:
        shape.add(Reason.OUT_OF_RANGE)
    found = [
        measured(which, value, unit, formula, scale, (*shape, *scale.length), settings)
        for which, value, unit, formula in _lengths(right, left, width, scale)
    ]
    # Pixel areas cancel in the ratio, their shape too: no spacing touches it but one the model was not made
    # for.
    beyond = {Reason.SPACING_OUTSIDE_MODEL_RANGE} & set(scale.length)
    found.append(
        measured(MeasurementName.LUNG_AREA_RATIO, ratio, "1", _RATIO, scale, shape | beyond, settings)
    )
    return tuple(found)


def raw_values(mask: Mask, spacing: Spacing | None) -> dict[str, float]:
    """The values of `measure`, whether or not they may be shown; without those of a lung that is not there."""
    scale = scale_of(mask.geometry, spacing, None, MeasureSettings())
    right, left, width = _sizes([mask.of(label) for label in LABELS], scale.cell)
    values = {name.value: value for name, value, _, _ in _lengths(right, left, width, scale) if value > 0}
    if right > 0 and left > 0:
        values[MeasurementName.LUNG_AREA_RATIO.value] = right / left
    return values


def _sizes(sides: Sequence[NDArray[np.bool_]], cell: tuple[float, float]) -> tuple[float, float, float]:
    """Areas right and left and the inner width, in the unit of `cell` = (row, column)."""
    right, left = (int(np.count_nonzero(side)) * cell[0] * cell[1] for side in sides)
    return right, left, _inner_width(sides[0] | sides[1]) * cell[1]


def _lengths(
    right: float, left: float, width: float, scale: Scale
) -> tuple[tuple[MeasurementName, float, Unit, str], ...]:
    """Name, value, unit and formula of each measurement that a spacing gives its unit."""
    name = MeasurementName
    if scale.used is not None:
        return (
            (name.LUNG_AREA_RIGHT, right / 100, "cm2", _AREA),
            (name.LUNG_AREA_LEFT, left / 100, "cm2", _AREA),
            (name.LUNG_WIDTH, width, "mm", _WIDTH),
        )
    return (
        (name.LUNG_AREA_RIGHT_PX, right, "{pixel}2", _AREA),
        (name.LUNG_AREA_LEFT_PX, left, "{pixel}2", _AREA),
        (name.LUNG_WIDTH_PX, width, "{pixel}", _WIDTH),
    )


def _missing_or_cut(
    sides: Sequence[NDArray[np.bool_]], content: Box, cell: tuple[float, float]
) -> set[Reason]:
    """Whether a lung, or both, is not there or not whole."""
    reasons = set()
    counts = [np.count_nonzero(side) for side in sides]
    if not any(counts):
        reasons.add(Reason.STRUCTURE_NOT_FOUND)
    elif not all(counts):
        reasons.add(Reason.LUNG_MISSING)
    for side, count in zip(sides, counts, strict=True):
        root = (count * cell[0] * cell[1]) ** 0.5
        if border_contact(side, content, cell) > MAX_BORDER_SHARE * root:
            reasons.add(Reason.CUT_BY_BORDER)
    return reasons


def _inner_width(lungs: NDArray[np.bool_]) -> int:
    """Cells from the outer edge of one lung to that of the other, in the row where it is largest; both edges
    count.
    """
    rows = np.flatnonzero(cv2.reduce(lungs.view(np.uint8), 1, cv2.REDUCE_MAX)[:, 0])
    if rows.size == 0:
        return 0
    within = lungs[rows[0] : rows[-1] + 1]
    first, last = within.argmax(axis=1), lungs.shape[1] - 1 - within[:, ::-1].argmax(axis=1)
    return int(np.where(within.any(axis=1), last - first + 1, 0).max())
