"""Where millimetres come from: the rules, each with its name, and what is refused.

Pure functions over tag values; nothing here opens a file. Order and traps: DICOM PS3.3 C.8.5.5 (ultrasound
regions), 10.7 and C.8.7.1.1.1 (pixel spacing of projection X-ray), and for X-ray the order of cornerstone's
`calculateRadiographicPixelSpacing`. A tag that is wrong gives no millimetre: it is never repaired by a
guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.codes import Reason, SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.types import Box, Spacing

PLAUSIBLE_MM = (0.01, 3.0)  # finest intravascular ultrasound to the coarsest thumbnail of a chest X-ray
MAX_AXIS_RATIO = 4.0
MAX_CONTRADICTION = 0.02  # between the operator's spacing and the file's

_SPATIAL_2D = 1  # (0018,6012) Region Spatial Format
_ULTRASOUND = {"US", "IVUS"}
_CENTIMETRES = 3  # (0018,6024) and (0018,6026) Physical Units; the only code that is a length


@dataclass(frozen=True, slots=True)
class Resolved:
    """A frame's millimetres: a spacing, or why there is none (or wants caution), and where the anatomy is."""

    spacing: Spacing | None
    reason: Reason | None = None
    region: Box | None = None  # None = the whole image


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """One item of Sequence of Ultrasound Regions (0018,6011); the box's ends are included, as there."""

    x0: int
    y0: int
    x1: int
    y1: int
    spatial_format: int
    unit_x: int
    unit_y: int
    delta_x: float  # physical units per pixel, negative where the axis runs the other way
    delta_y: float

    @property
    def is_image(self) -> bool:
        return self.spatial_format == _SPATIAL_2D

    @property
    def in_centimetres(self) -> bool:
        return self.is_image and self.unit_x == _CENTIMETRES and self.unit_y == _CENTIMETRES

    def box(self, size_hw: tuple[int, int]) -> Box | None:
        """Its place in an image of `size_hw`, None where it reaches outside."""
        inside = 0 <= self.x0 < self.x1 < size_hw[1] and 0 <= self.y0 < self.y1 < size_hw[0]
        return Box(self.x0, self.y0, self.x1 + 1, self.y1 + 1) if inside else None


@dataclass(frozen=True, slots=True)
class SpacingTags:
    """The tags that speak of millimetres, as they stand in a file; None = absent, NaN = not a number."""

    modality: str | None = None  # upper case; one that names several keeps its backslashes
    regions: tuple[UltrasoundRegion, ...] = ()
    pixel_spacing: tuple[float, float] | None = None  # (0028,0030), (row, column)
    calibration: str | None = None  # (0028,0A02) Pixel Spacing Calibration Type
    imager_spacing: tuple[float, float] | None = None  # (0018,1164)
    scanned_spacing: tuple[float, float] | None = None  # (0018,2010), digitised film
    magnification: float | None = None  # (0018,1114)


def resolve(tags: SpacingTags, size_hw: tuple[int, int], region: int | None = None) -> Resolved:
    """What `tags` say about an image of `size_hw`; `region`, counted from 1, picks an ultrasound region.

    Raises ConfigError when there is no such region.
    """
    if region is not None and region > len(tags.regions):
        raise ConfigError(f"--region {region}: the file has {len(tags.regions)} ultrasound regions")
    if tags.regions:
        return resolve_regions(tags.regions, size_hw, region)
    if _ULTRASOUND & set((tags.modality or "").split("\\")):
        return resolve_calibrated(tags)
    return resolve_projection(tags)


def resolve_regions(
    regions: Sequence[UltrasoundRegion], size_hw: tuple[int, int], pick: int | None = None
) -> Resolved:
    """The rule `ultrasound_region`: the one 2-D region whose axes are both in centimetres.

    Format and units first: a region without units may enclose the real one. The region must lie inside the
    image; one that does not says that the picture was resized after the tags were written.
    """
    asked = [regions[pick - 1]] if pick is not None else list(regions)
    real = [item for item in asked if item.in_centimetres]
    if not real:
        images = [item for item in asked if item.is_image or pick is not None]
        box = images[0].box(size_hw) if len(images) == 1 else None
        return Resolved(None, Reason.SPACING_REGION_WITHOUT_UNITS, box)
    if len(real) > 1:
        return Resolved(None, Reason.SPACING_SEVERAL_REGIONS)
    found = real[0]
    box = found.box(size_hw)
    if box is None:
        return Resolved(None, Reason.SPACING_REGION_OUTSIDE_IMAGE)
    row_mm, col_mm = 10 * abs(found.delta_y), 10 * abs(found.delta_x)
    return replace(_judge((row_mm, col_mm), SpacingSource.ULTRASOUND_REGION, None), region=box)


def resolve_calibrated(tags: SpacingTags) -> Resolved:
    """The rules `pixel_spacing_fiducial` and `pixel_spacing_geometry`: (0028,0030) with its calibration."""
    sources = {
        "FIDUCIAL": SpacingSource.PIXEL_SPACING_FIDUCIAL,
        "GEOMETRY": SpacingSource.PIXEL_SPACING_GEOMETRY,
    }
    source = sources.get(tags.calibration or "")
    if tags.pixel_spacing is None or source is None:
        return Resolved(None, Reason.SPACING_MISSING)
    return _judge(tags.pixel_spacing, source, None)


def resolve_projection(tags: SpacingTags) -> Resolved:
    """The rules of projection X-ray, best first.

    Calibrated Pixel Spacing; Imager Pixel Spacing over the magnification; Imager Pixel Spacing or scanned
    film, in the detector's plane where anatomy over-reads; Pixel Spacing without a word on its calibration,
    which is the detector's where it equals Imager Pixel Spacing.
    """
    if tags.pixel_spacing is not None and tags.calibration in ("FIDUCIAL", "GEOMETRY"):
        return resolve_calibrated(tags)
    imager = tags.imager_spacing or tags.scanned_spacing
    if imager is not None and tags.magnification is not None and 1.0 <= tags.magnification <= 3.0:
        corrected = imager[0] / tags.magnification, imager[1] / tags.magnification
        return _judge(corrected, SpacingSource.IMAGER_CORRECTED, None)
    if imager is not None and (tags.pixel_spacing is None or not _differ(tags.pixel_spacing, imager, 1e-3)):
        return _judge(imager, SpacingSource.DETECTOR_PLANE, Reason.SPACING_AT_DETECTOR)
    if tags.pixel_spacing is not None:
        return _judge(
            tags.pixel_spacing, SpacingSource.PIXEL_SPACING_UNKNOWN, Reason.SPACING_CALIBRATION_UNKNOWN
        )
    return Resolved(None, Reason.SPACING_MISSING)


def from_meta_csv(row_mm: float | None, col_mm: float | None) -> Resolved:
    """The rule `meta_csv`: values of a table beside the images; None = blank, NaN = not a number."""
    if row_mm is None or col_mm is None:
        return Resolved(None, Reason.SPACING_MISSING)
    return _judge((row_mm, col_mm), SpacingSource.META_CSV, None)


def prefer(first: Resolved, second: Resolved) -> Resolved:
    """`first` where it has a spacing, else `second`'s in `first`'s region; without any, `first`."""
    if first.spacing is not None or second.spacing is None:
        return first
    return replace(second, region=first.region)


def with_operator(found: Resolved, operator: Spacing | None, force: bool, where: str) -> Resolved:
    """`found` after the rule `operator`: the operator's spacing comes first and is never better than caution.

    Raises ConfigError where it contradicts the file by more than 2 % and is not forced.
    """
    if operator is None:
        return found
    given = (operator.row_mm, operator.col_mm)
    if not _plausible(given):
        raise ConfigError(
            f"--spacing-mm {given[0]:g},{given[1]:g}: not plausible, want {PLAUSIBLE_MM[0]:g} to "
            f"{PLAUSIBLE_MM[1]:g} mm per pixel and axes within a factor of {MAX_AXIS_RATIO:g}"
        )
    if found.spacing is not None and not force:
        said = (found.spacing.row_mm, found.spacing.col_mm)
        if _differ(given, said, MAX_CONTRADICTION):
            raise ConfigError(
                f"{where}: --spacing-mm {given[0]:g},{given[1]:g} contradicts the file's "
                f"{said[0]:.4g},{said[1]:.4g} mm ({found.spacing.source.value}) by more than 2 %; "
                "leave it out, or add --force-spacing"
            )
    spacing = Spacing(operator.row_mm, operator.col_mm, SpacingSource.OPERATOR)
    return Resolved(spacing, Reason.SPACING_OPERATOR, found.region)


def without_operator(found: Resolved, operator: Spacing | None) -> Resolved:
    """`found` for a picture of another size than the operator's spacing was given for, and says so.

    A caution that `found`'s own spacing carries is kept instead: it says more about these millimetres.
    """
    if operator is None or (found.spacing is not None and found.reason is not None):
        return found
    return replace(found, reason=Reason.SPACING_GEOMETRY_CHANGED)


def read_tags(dataset: Any) -> SpacingTags:
    """The spacing tags of a pydicom dataset. A value that is no number becomes NaN, never an error."""
    return SpacingTags(
        modality=_code(dataset, "Modality"),
        regions=tuple(_region(item) for item in dataset.get("SequenceOfUltrasoundRegions") or ()),
        pixel_spacing=_pair(dataset, "PixelSpacing"),
        calibration=_code(dataset, "PixelSpacingCalibrationType"),
        imager_spacing=_pair(dataset, "ImagerPixelSpacing"),
        scanned_spacing=_pair(dataset, "NominalScannedPixelSpacing"),
        magnification=_number(dataset, "EstimatedRadiographicMagnificationFactor"),
    )


def _judge(pair: tuple[float, float], source: SpacingSource, caution: Reason | None) -> Resolved:
    """`pair` (row, column) as a spacing, or why it cannot be one."""
    if 0.0 in pair:
        return Resolved(None, Reason.SPACING_ZERO)
    if not _plausible(pair):
        return Resolved(None, Reason.SPACING_IMPLAUSIBLE)
    return Resolved(Spacing(pair[0], pair[1], source), caution)


def _plausible(pair: tuple[float, float]) -> bool:
    low, high = PLAUSIBLE_MM
    return all(low <= value <= high for value in pair) and max(pair) <= MAX_AXIS_RATIO * min(pair)


def _differ(first: tuple[float, float], second: tuple[float, float], share: float) -> bool:
    return any(not abs(a - b) <= share * abs(b) for a, b in zip(first, second, strict=True))


def _region(item: Any) -> UltrasoundRegion:
    def whole(keyword: str) -> int:
        value = _number(item, keyword)
        return -1 if value is None or not math.isfinite(value) else int(value)

    def real(keyword: str) -> float:
        value = _number(item, keyword)
        return math.nan if value is None else value

    return UltrasoundRegion(
        x0=whole("RegionLocationMinX0"),
        y0=whole("RegionLocationMinY0"),
        x1=whole("RegionLocationMaxX1"),
        y1=whole("RegionLocationMaxY1"),
        spatial_format=whole("RegionSpatialFormat"),
        unit_x=whole("PhysicalUnitsXDirection"),
        unit_y=whole("PhysicalUnitsYDirection"),
        delta_x=real("PhysicalDeltaX"),
        delta_y=real("PhysicalDeltaY"),
    )


def _code(dataset: Any, keyword: str) -> str | None:
    """A code string; several values, where the standard has one, as the file writes them."""
    value = dataset.get(keyword) or ""
    parts = [value] if isinstance(value, str) else list(value)
    return "\\".join(str(part).strip().upper() for part in parts).strip("\\") or None


def _number(dataset: Any, keyword: str) -> float | None:
    try:
        value = dataset.get(keyword)
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError, OverflowError):  # pydicom converts when asked, and text is not a number
        return math.nan


def _pair(dataset: Any, keyword: str) -> tuple[float, float] | None:
    try:
        value = dataset.get(keyword)
        if value in (None, ""):
            return None
        row, column = (float(part) for part in value)
    except (TypeError, ValueError, OverflowError):
        return math.nan, math.nan
    return row, column
