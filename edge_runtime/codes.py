"""The closed enumerations of a finding: every word a machine may read, in one place.

A new member is a minor version of the finding's schema, a changed or removed one a major version.
"""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """How far a value may be relied on. There is no "good" and no "normal": size only, never a verdict."""

    USABLE = "usable"
    CAUTION = "caution"
    WITHHELD = "withheld"


class Kind(str, Enum):
    """Why a finding exists."""

    FRAME = "frame"  # one frame of a finite source, policy `every`
    CAPTURE = "capture"  # a person captured
    AUTO_CAPTURE = "auto_capture"  # quality and stability held
    FLUSH = "flush"  # the last frame of an exam that ended without a capture


class Priority(str, Enum):
    """Only ever raised, and by a person: no shipped model can raise it."""

    ROUTINE = "routine"
    URGENT = "urgent"


class SourceKind(str, Enum):
    DICOM = "dicom"
    VIDEO = "video"
    FOLDER = "folder"
    PHANTOM = "phantom"
    MEMORY = "memory"


class SpacingSource(str, Enum):
    """Where millimetres come from; the rule that fired, in the words of the standard."""

    OPERATOR = "operator"
    ULTRASOUND_REGION = "ultrasound_region"  # (0018,6011), units cm on both axes
    PIXEL_SPACING_FIDUCIAL = "pixel_spacing_fiducial"  # (0028,0030) with calibration type FIDUCIAL
    PIXEL_SPACING_GEOMETRY = "pixel_spacing_geometry"  # (0028,0030) with calibration type GEOMETRY
    IMAGER_CORRECTED = "imager_corrected"  # (0018,1164) / (0018,1114)
    DETECTOR_PLANE = "detector_plane"  # (0018,1164) alone: mm at the detector, anatomy over-reads
    PIXEL_SPACING_UNKNOWN = "pixel_spacing_unknown"  # (0028,0030) without a word on its calibration
    META_CSV = "meta_csv"
    PHANTOM = "phantom"


class Clock(str, Enum):
    NTP = "ntp"
    RTC = "rtc"
    UNSYNCED = "unsynced"


class MeasurementName(str, Enum):
    HEAD_CIRCUMFERENCE = "head_circumference"
    HEAD_CIRCUMFERENCE_PX = "head_circumference_px"
    BIPARIETAL_DIAMETER = "biparietal_diameter"
    BIPARIETAL_DIAMETER_PX = "biparietal_diameter_px"
    OCCIPITOFRONTAL_DIAMETER = "occipitofrontal_diameter"
    OCCIPITOFRONTAL_DIAMETER_PX = "occipitofrontal_diameter_px"
    CEPHALIC_INDEX = "cephalic_index"
    GESTATIONAL_AGE = "gestational_age"
    LUMEN_AREA = "lumen_area"
    LUMEN_AREA_PX = "lumen_area_px"
    LUMEN_DIAMETER_MAJOR = "lumen_diameter_major"
    LUMEN_DIAMETER_MAJOR_PX = "lumen_diameter_major_px"
    LUMEN_DIAMETER_MINOR = "lumen_diameter_minor"
    LUMEN_DIAMETER_MINOR_PX = "lumen_diameter_minor_px"
    LUNG_AREA_RIGHT = "lung_area_right"
    LUNG_AREA_RIGHT_PX = "lung_area_right_px"
    LUNG_AREA_LEFT = "lung_area_left"
    LUNG_AREA_LEFT_PX = "lung_area_left_px"
    LUNG_AREA_RATIO = "lung_area_ratio"
    LUNG_WIDTH = "lung_width"
    LUNG_WIDTH_PX = "lung_width_px"


class Hint(str, Enum):
    """The one most useful thing the operator can do now."""

    NONE = "none"
    NO_SIGNAL = "no_signal"
    FROZEN = "image_frozen"
    ADD_GEL = "check_contact_add_gel"
    REDUCE_GAIN = "reduce_gain"
    INCREASE_GAIN = "increase_gain"
    HOLD_STILL = "hold_still"
    CENTER_STRUCTURE = "center_structure"
    FIND_STRUCTURE = "find_structure"
    TURN_COLOUR_OFF = "turn_colour_off"
    CONFIRM_PLANE = "confirm_plane"
    CALIBRATE_SPACING = "calibrate_spacing"
    ROTATE_IMAGE = "rotate_image"
    CHECK_POLARITY = "check_polarity"
    INCLUDE_BOTH_LUNGS = "include_both_lungs"
    INCLUDE_TOP_EDGE = "include_more_at_top"  # edges of the image as it came, not of the patient
    INCLUDE_BOTTOM_EDGE = "include_more_at_bottom"
    INCLUDE_LEFT_EDGE = "include_more_at_left"
    INCLUDE_RIGHT_EDGE = "include_more_at_right"


class Reason(str, Enum):
    """Why a value is not simply usable. `SEVERITY` says what each does to it."""

    # the frame
    FRAME_UNREADABLE = "frame_unreadable"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_ELONGATED = "image_too_elongated"  # longer for its width than the model's contract allows
    COLOUR_IMAGE = "colour_image"
    BLANK = "blank"
    FROZEN = "frozen"
    SATURATED = "saturated"
    BLURRED = "blurred"
    LOW_GAIN = "low_gain"
    # what the model sees
    MODALITY_MISMATCH = "modality_mismatch"
    BODY_PART_MISMATCH = "body_part_mismatch"  # the file names another part of the body
    VIEW_MISMATCH = "view_mismatch"  # the file names another projection
    FOREIGN_IMAGE = "foreign_image"
    DRAWN_IMAGE = (
        "drawn_image"  # an outline as even, or greys as flat, as no probe shows them: a test pattern
    )
    STRUCTURE_NOT_FOUND = "structure_not_found"
    LOW_CONFIDENCE = "low_confidence"
    MODEL_OUTPUT_INVALID = "model_output_invalid"
    NO_MEASUREMENT_DEFINED = "no_measurement_defined"
    # how the picture was taken; edges are those of the image as it came, turns are clockwise
    ROTATED_90 = "rotated_90"
    ROTATED_180 = "rotated_180"
    ROTATED_270 = "rotated_270"
    INVERTED_POLARITY = "inverted_polarity"
    CLIPPED_TOP_EDGE = "clipped_top_edge"
    CLIPPED_BOTTOM_EDGE = "clipped_bottom_edge"
    CLIPPED_LEFT_EDGE = "clipped_left_edge"
    CLIPPED_RIGHT_EDGE = "clipped_right_edge"
    LUNG_RIGHT_MISSING = "lung_right_missing"  # the patient's own sides
    LUNG_LEFT_MISSING = "lung_left_missing"
    # the shape
    CUT_BY_BORDER = "cut_by_border"
    SHAPE_NOT_ELLIPTIC = "shape_not_elliptic"
    SEVERAL_PARTS = "several_parts"
    LUNG_MISSING = "lung_missing"
    OUT_OF_RANGE = "out_of_range"
    ATYPICAL_RATIO = "atypical_ratio"
    # millimetres
    SPACING_MISSING = "spacing_missing"
    SPACING_ZERO = "spacing_zero"
    SPACING_IMPLAUSIBLE = "spacing_implausible"
    SPACING_REGION_OUTSIDE_IMAGE = "spacing_region_outside_image"
    SPACING_REGION_WITHOUT_UNITS = "spacing_region_without_units"
    SPACING_SEVERAL_REGIONS = "spacing_several_regions"
    SPACING_OPERATOR = "spacing_operator"
    SPACING_GEOMETRY_CHANGED = "spacing_geometry_changed"
    SPACING_CALIBRATION_UNKNOWN = "spacing_calibration_unknown"
    SPACING_AT_DETECTOR = "spacing_at_detector"
    SPACING_OUTSIDE_MODEL_RANGE = "spacing_outside_model_range"
    PIXEL_ASPECT_ASSUMED = "pixel_aspect_assumed"
    # the plane and the age
    PLANE_UNCONFIRMED = "plane_unconfirmed"
    AGE_OUT_OF_VALIDITY = "age_out_of_validity"
    AGE_TERM_NOT_EXCLUDED = "age_term_not_excluded"
    GA_NOT_INDEPENDENT = "ga_not_independent"
    # the interval
    INTERVAL_UNCALIBRATED = "interval_uncalibrated"


_CAUTION = {
    Reason.BLURRED,
    Reason.LOW_GAIN,
    Reason.SATURATED,
    Reason.ATYPICAL_RATIO,
    Reason.SEVERAL_PARTS,
    Reason.SPACING_MISSING,  # the pixel value is shown under its own name
    Reason.SPACING_ZERO,
    Reason.SPACING_IMPLAUSIBLE,
    Reason.SPACING_REGION_OUTSIDE_IMAGE,
    Reason.SPACING_REGION_WITHOUT_UNITS,
    Reason.SPACING_SEVERAL_REGIONS,
    Reason.SPACING_OPERATOR,
    Reason.SPACING_GEOMETRY_CHANGED,  # the operator's word was for a picture of another size
    Reason.SPACING_CALIBRATION_UNKNOWN,
    Reason.SPACING_AT_DETECTOR,
    Reason.PIXEL_ASPECT_ASSUMED,
    Reason.INTERVAL_UNCALIBRATED,
    Reason.PLANE_UNCONFIRMED,  # on a length; an age is never given at all (measure/fetal_head.py)
}

SEVERITY: dict[Reason, Status] = {
    reason: Status.CAUTION if reason in _CAUTION else Status.WITHHELD for reason in Reason
}


def status_of(reasons: tuple[Reason, ...]) -> Status:
    """The status that `reasons` leave a value: the worst of theirs, `usable` with none."""
    found = {SEVERITY[reason] for reason in reasons}
    return worst(found)


def worst(statuses: set[Status]) -> Status:
    """The worst of `statuses`; `usable` of an empty set."""
    for status in (Status.WITHHELD, Status.CAUTION):
        if status in statuses:
            return status
    return Status.USABLE
