"""Is this frame worth measuring: a score from 0 to 100, one hint for the operator, and reason codes.

Cheap numbers on the model's own input grid (about 0.1 ms). Each check grades from 0 to 100, with 50 at the
limit where its reason is raised; the score is the lowest grade, the hint is that of the lowest grade. The
limits are defaults from the 760 images of HC18 (ultrasound) and 110 chest X-rays: no frame of theirs is
called blurred or dark. They depend on the device: a site calibrates its own. Knows no anatomy and no
millimetres.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import Hint, Reason
from edge_runtime.measure.values import in_order
from edge_runtime.types import MAX_COLOURED, Box, Frame, Mask

SHOWN_BELOW = 70  # a lower score comes with the hint that would raise it

BLANK_STD = 4.0  # grey levels
BLANK_BIN = 0.98  # share of pixels of one grey level
LIT_FROM = 5  # grey level from which a pixel shows tissue, not the black around the sector
# Each limit is (none, limit, good).
LIT_MEDIAN = (5.0, 10.0, 20.0)  # HC18: least 10, 5th percentile 21; X-ray darkness is no fault
NEAR_FIELD = (1.0, 0.75, 0.5)  # share of all grey in the top 15 % of rows; HC18: most 0.37, carotid 0.60
OFF_CENTRE = (0.5, 0.4, 0.3)  # of the side; HC18 and X-ray: most 0.24, carotid 0.36; a hint, no reason

# Variance of the Laplacian after a mild Gaussian, over the variance of the grey: the ratio does not change
# with gain. HC18: least 0.019, 0.2th percentile 0.020; blurred by sigma 5 px at 800x540 all are below 0.010.
# X-ray: least 0.005.
SHARPNESS_ULTRASOUND = (0.0, 0.015, 0.03)
SHARPNESS_XRAY = (0.0, 0.004, 0.006)
SATURATED_ULTRASOUND = (0.5, 0.05, 0.02)  # share of pixels >= 250; HC18: most 0.018
SATURATED_XRAY = (0.8, 0.2, 0.12)  # burnt-out air beside the body is usual: most 0.12

# The numbers of a picture that a site may grade itself (measure/profile.py): True where more is better.
GRADED = {"sharpness": True, "saturated": False, "lit_median": True, "near_field": False}

# Words for a projection (PS3.3 C.8.1.2.1.3, and what is written in their place): one that a model does not accept
# is another view, whatever stands beside it.
PROJECTIONS = {
    *("AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"),
    *("LAT", "LATERAL", "OBLIQUE", "AXIAL", "MIRRORED"),
}

_DENIED = re.compile("(?<![A-Z0-9])(?:NO|NOT|NON|WITHOUT|EXCEPT|EXCLUDING)[^A-Z0-9]+[A-Z0-9]+")

_GREY = np.arange(256, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a model's word ends: its manifest's limits, and what it was made for."""

    modality: tuple[str, ...] = ()  # DICOM (0008,0060) accepted; empty: any
    body_part: tuple[str, ...] = ()  # words of DICOM (0018,0015) accepted; empty: any
    view_position: tuple[str, ...] = ()  # words of DICOM (0018,5101) accepted; empty: any
    min_size_px: tuple[int, int] | None = None  # (rows, columns) of the region; None: any
    max_aspect: float | None = None  # of the region's longer side over its shorter one; None: any
    min_presence: float = 0.0
    min_confidence: float = 0.0
    plane_to_confirm: bool = False  # by a person: worth a hint when all else is well
    # A site's own (limit, good) by the names in `GRADED`, in place of the defaults of the modality.
    grades: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def ultrasound(self) -> bool:
        """Checks of gain and contact make sense."""
        return not self.modality or "US" in self.modality


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good a frame is. `reasons` are the frame's, for all of its measurements."""

    score: int  # 0 to 100
    hint: Hint
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Numbers of an 8-bit grey picture."""

    std: float  # grey levels
    largest_bin: float  # share of the commonest grey level
    saturated: float  # share of pixels >= 250
    lit_median: float  # median grey of the pixels from `LIT_FROM` on
    near_field: float  # share of all grey that is in the top 15 % of rows
    sharpness: float  # variance of the Laplacian over the variance of the grey


@dataclass(frozen=True, slots=True)
class _Check:
    grade: float  # 0 to 100, below 50 the reason holds
    hint: Hint
    reason: Reason | None = None


def judge(
    grid: NDArray[np.uint8], mask: Mask | None, frame: Frame, limits: Limits, frozen: bool = False
) -> Verdict:
    """Judges a frame by `grid`, (h, w), what the model was given of it, and `mask`, what it found there.

    `frozen` is `FreezeWatch`'s word. Nothing is kept.
    """
    content = Box(0, 0, grid.shape[1], grid.shape[0]) if mask is None else mask.geometry.content
    picture = look(grid[content.y0 : content.y1, content.x0 : content.x1])
    if picture.std < BLANK_STD or picture.largest_bin > BLANK_BIN:
        return Verdict(0, Hint.NO_SIGNAL, (Reason.BLANK,))
    checks = [*_source_checks(frame, limits, frozen), *_picture_checks(picture, limits)]
    if mask is not None:
        checks += _mask_checks(mask, limits)
    worst = min(checks, key=lambda check: check.grade)  # the first of equals
    reasons = in_order(check.reason for check in checks if check.reason is not None and check.grade < 50)
    hint = worst.hint if worst.grade < SHOWN_BELOW else _standing_hint(frame, limits)
    return Verdict(int(worst.grade), hint, reasons)


def spoilt(verdict: Verdict, reasons: tuple[Reason, ...], hint: Hint) -> Verdict:
    """`verdict` on a frame that nothing may be measured in for `reasons` besides; itself without any."""
    if not reasons:
        return verdict
    return Verdict(0, hint, in_order((*verdict.reasons, *reasons)))


def look(picture: NDArray[np.uint8]) -> Picture:
    """The numbers of `picture`, (h, w)."""
    counts: NDArray[np.float64] = (
        cv2.calcHist([picture], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    )
    pixels = picture.size
    mean = float(counts @ _GREY) / pixels
    variance = max(0.0, float(counts @ (_GREY * _GREY)) / pixels - mean * mean)
    lit = np.cumsum(counts[LIT_FROM:])
    rows = cv2.reduce(picture, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    top = int(rows[: round(0.15 * len(rows))].sum())
    curved = cv2.Laplacian(cv2.GaussianBlur(picture, (3, 3), 0), cv2.CV_16S)
    return Picture(
        std=variance**0.5,
        largest_bin=float(np.max(counts)) / pixels,
        saturated=float(counts[250:].sum()) / pixels,
        lit_median=LIT_FROM + float(np.searchsorted(lit, lit[-1] / 2)) if lit[-1] else 0.0,
        near_field=top / max(1.0, mean * pixels),
        sharpness=cv2.norm(curved, cv2.NORM_L2SQR) / pixels / variance if variance else 0.0,
    )


@dataclass(slots=True)
class FreezeWatch:
    """Tells when a live source shows the same picture over and over. Only for live or paced sources: a folder
    of equal stills is not frozen. One per stream."""

    hold: int = 15  # equal frames in a row
    _last: str = ""
    _run: int = 0

    def see(self, frame: Frame) -> bool:
        """Whether `frame` is the `hold`-th equal picture in a row or a later one; `frame_id` carries the
        hash.
        """
        content = frame.frame_id.partition(".")[2]
        self._run = self._run + 1 if content and content == self._last else 1
        self._last = content
        return self._run >= self.hold


def _source_checks(frame: Frame, limits: Limits, frozen: bool) -> list[_Check]:
    checks = [_Check(0, Hint.NONE, reason) for reason in outside_contract(frame, limits)]
    if frozen:
        checks.append(_Check(0, Hint.FROZEN, Reason.FROZEN))
    if frame.coloured > MAX_COLOURED:
        checks.append(_Check(0, Hint.TURN_COLOUR_OFF, Reason.COLOUR_IMAGE))
    return checks


def outside_contract(frame: Frame, limits: Limits) -> tuple[Reason, ...]:
    """Why this frame is none that the model was made for, by what its file says and by its size.

    A file that says nothing contradicts nothing: then the model's own presence output decides.
    """
    origin = frame.origin
    height, width = frame.size_hw if frame.region is None else frame.region.size_hw
    least, aspect = limits.min_size_px, limits.max_aspect
    outside = {
        Reason.MODALITY_MISMATCH: bool(limits.modality and _words(origin.modality) - set(limits.modality)),
        Reason.BODY_PART_MISMATCH: _contradicts(origin.body_part, limits.body_part),
        Reason.VIEW_MISMATCH: _contradicts(origin.view, limits.view_position)
        or bool(limits.view_position and _words(origin.view) & PROJECTIONS - set(limits.view_position)),
        Reason.IMAGE_TOO_SMALL: least is not None and (height < least[0] or width < least[1]),
        Reason.IMAGE_TOO_ELONGATED: aspect is not None and max(height, width) > aspect * min(height, width),
    }
    return tuple(reason for reason, holds in outside.items() if holds)


def _contradicts(said: str | None, accepted: tuple[str, ...]) -> bool:
    """Whether a tag that says something has none of the accepted words: `CHEST_PA` has CHEST and PA."""
    words = _words(said)
    return bool(accepted and words) and not words & set(accepted)


def _words(said: str | None) -> set[str]:
    """The words of a tag but those it denies (`NO CHEST`); its whole text where none is left, so that it still says
    something.
    """
    text = (said or "").strip().upper()
    return set(re.findall("[A-Z0-9]+", _DENIED.sub(" ", text))) or ({text} if text else set())


def _picture_checks(picture: Picture, limits: Limits) -> list[_Check]:
    ultrasound = limits.ultrasound
    sharp = _site("sharpness", limits, SHARPNESS_ULTRASOUND if ultrasound else SHARPNESS_XRAY)
    burnt = _site("saturated", limits, SATURATED_ULTRASOUND if ultrasound else SATURATED_XRAY)
    checks = [
        _Check(_grade(picture.sharpness, sharp), Hint.HOLD_STILL, Reason.BLURRED),
        _Check(_grade(picture.saturated, burnt), Hint.REDUCE_GAIN, Reason.SATURATED),
    ]
    if ultrasound:
        checks += [
            _Check(_grade(picture.near_field, _site("near_field", limits, NEAR_FIELD)), Hint.ADD_GEL),
            _Check(
                _grade(picture.lit_median, _site("lit_median", limits, LIT_MEDIAN)),
                Hint.INCREASE_GAIN,
                Reason.LOW_GAIN,
            ),
        ]
    return checks


def _mask_checks(mask: Mask, limits: Limits) -> list[_Check]:
    foreign = _Check(
        _grade(mask.presence, _upwards(limits.min_presence)), Hint.FIND_STRUCTURE, Reason.FOREIGN_IMAGE
    )
    x, y, width, height = cv2.boundingRect(mask.labels)
    if width == 0:
        return [foreign, _Check(0, Hint.FIND_STRUCTURE, Reason.STRUCTURE_NOT_FOUND)]
    least, content = lowest_confidence(mask), mask.geometry.content
    full_h, full_w = content.size_hw
    beside = abs(x + width / 2 - (content.x0 + content.x1) / 2) / full_w
    above = abs(y + height / 2 - (content.y0 + content.y1) / 2) / full_h
    return [
        foreign,
        _Check(_grade(least, _upwards(limits.min_confidence)), Hint.FIND_STRUCTURE, Reason.LOW_CONFIDENCE),
        _Check(_grade(max(beside, above), OFF_CENTRE), Hint.CENTER_STRUCTURE),
    ]


def lowest_confidence(mask: Mask) -> float:
    """Of the labels that were found, what `min_confidence` is held against; 0 where none was."""
    return min((confidence for confidence in mask.confidence if confidence > 0), default=0.0)


def _standing_hint(frame: Frame, limits: Limits) -> Hint:
    """What is left to do on a good picture."""
    if limits.plane_to_confirm:
        return Hint.CONFIRM_PLANE
    return Hint.CALIBRATE_SPACING if frame.spacing is None else Hint.NONE


def default_limits(ultrasound: bool) -> dict[str, float]:
    """The limit of each number that a site may grade itself, where it does not."""
    return {
        "sharpness": (SHARPNESS_ULTRASOUND if ultrasound else SHARPNESS_XRAY)[1],
        "saturated": (SATURATED_ULTRASOUND if ultrasound else SATURATED_XRAY)[1],
        "lit_median": LIT_MEDIAN[1],
        "near_field": NEAR_FIELD[1],
    }


def _site(name: str, limits: Limits, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """(none, limit, good) of one number of a picture: a site's own, else the default."""
    own = limits.grades.get(name)
    if own is None:
        return default
    return (0.0 if GRADED[name] else 2 * own[0], *own)


def _upwards(limit: float) -> tuple[float, float, float]:
    """The grades of a share of which more is better: full marks six tenths of the way from its limit to 1."""
    return 0.0, limit, limit + 0.6 * (1 - limit)


def _grade(value: float, none_limit_good: tuple[float, float, float]) -> float:
    """0 at `none`, 50 at `limit`, 100 at `good` and beyond, straight in between; either direction."""
    none, limit, good = none_limit_good
    way = 1 if good > none else -1
    if (value - limit) * way >= 0:
        return 100.0 if good == limit else min(100.0, 50 + 50 * (value - limit) / (good - limit))
    return 0.0 if limit == none else max(0.0, 50 * (value - none) / (limit - none))
