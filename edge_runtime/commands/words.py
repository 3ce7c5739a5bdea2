"""Reason codes in plain words, for every command that talks to a person.

The codes themselves stay in every file. Knows no model: what is said here must hold of a head, a lung and an artery.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge_runtime.codes import Reason
from edge_runtime.measure.acquisition import reasons_of
from edge_runtime.types import Acquisition

RESEARCH = "Research use only. Not a medical device."
SIZE_ONLY = "Size only, not checked for abnormality."

_NOTHING: Mapping[str, str] = {}
_WORDS: dict[Reason, str] = {
    Reason.FRAME_UNREADABLE: "the frame cannot be read",
    Reason.IMAGE_TOO_SMALL: "the image is too small",
    Reason.IMAGE_TOO_LARGE: "the image is too large",
    Reason.IMAGE_TOO_ELONGATED: "the image is too long for its width",
    Reason.COLOUR_IMAGE: "it is a colour image",
    Reason.BLANK: "the image is blank",
    Reason.FROZEN: "the image is frozen",
    Reason.SATURATED: "the gain is too high",
    Reason.BLURRED: "the image is blurred",
    Reason.LOW_GAIN: "the gain is too low",
    Reason.MODALITY_MISMATCH: "it is another kind of imaging",
    Reason.BODY_PART_MISMATCH: "the file says that it shows another part of the body",
    Reason.VIEW_MISMATCH: "the file says that it was taken from another side",
    Reason.FOREIGN_IMAGE: "it does not look like what this model was made for",
    Reason.DRAWN_IMAGE: "it looks drawn, like a test pattern, not like an ultrasound picture",
    Reason.STRUCTURE_NOT_FOUND: "nothing was found to measure",
    Reason.LOW_CONFIDENCE: "the model is not sure enough",
    Reason.MODEL_OUTPUT_INVALID: "the model's answer cannot be used",
    Reason.NO_MEASUREMENT_DEFINED: "this model gives masks only, no measurement is defined",
    Reason.ROTATED_90: "the picture is turned by 90 degrees clockwise",
    Reason.ROTATED_180: "the picture is upside down",
    Reason.ROTATED_270: "the picture is turned by 90 degrees counter-clockwise",
    Reason.INVERTED_POLARITY: "black and white are exchanged",
    Reason.CLIPPED_TOP_EDGE: "it goes on beyond the top edge of the picture",
    Reason.CLIPPED_BOTTOM_EDGE: "it goes on beyond the bottom edge of the picture",
    Reason.CLIPPED_LEFT_EDGE: "it goes on beyond the left edge of the picture",
    Reason.CLIPPED_RIGHT_EDGE: "it goes on beyond the right edge of the picture",
    Reason.LUNG_RIGHT_MISSING: "the patient's right lung was not found",
    Reason.LUNG_LEFT_MISSING: "the patient's left lung was not found",
    Reason.CUT_BY_BORDER: "the outline is cut off by the border",
    Reason.SHAPE_NOT_ELLIPTIC: "the outline is not the ellipse it should be",
    Reason.SEVERAL_PARTS: "the outline is in several parts",
    Reason.LUNG_MISSING: "only one lung was found",
    Reason.OUT_OF_RANGE: "the value is outside the plausible range",
    Reason.ATYPICAL_RATIO: "width and length do not go together as they mostly do",
    Reason.SPACING_MISSING: "nothing says how large a pixel is",
    Reason.SPACING_ZERO: "the file says that a pixel has no size",
    Reason.SPACING_IMPLAUSIBLE: "the file's pixel size is implausible",
    Reason.SPACING_REGION_OUTSIDE_IMAGE: "the file's scale is for a region that reaches outside its image",
    Reason.SPACING_REGION_WITHOUT_UNITS: "the file's scale has no units",
    Reason.SPACING_SEVERAL_REGIONS: "the file has several regions with different scales",
    Reason.SPACING_OPERATOR: "the pixel size was typed in by a person",
    Reason.SPACING_GEOMETRY_CHANGED: "the pixel size that was typed in is for a picture of another size",
    Reason.SPACING_CALIBRATION_UNKNOWN: "how the pixel size was calibrated is not known",
    Reason.SPACING_AT_DETECTOR: "the pixel size holds at the detector, not in the body",
    Reason.SPACING_OUTSIDE_MODEL_RANGE: "the model was not made for pixels of this size",
    Reason.PIXEL_ASPECT_ASSUMED: "square pixels had to be assumed",
    Reason.PLANE_UNCONFIRMED: "nobody has confirmed the standard plane",
    Reason.AGE_OUT_OF_VALIDITY: "too small or too large for an age",
    Reason.AGE_TERM_NOT_EXCLUDED: "the age would reach beyond the table",
    Reason.GA_NOT_INDEPENDENT: "the age was derived from this very size",
    Reason.INTERVAL_UNCALIBRATED: "its interval is not calibrated",
}


def in_words(reason: Reason | str) -> str:
    """The reason in plain words; a code of a later version as it is, without its underscores."""
    try:
        return _WORDS[Reason(reason)]
    except (ValueError, KeyError):
        return str(reason.value if isinstance(reason, Reason) else reason).replace("_", " ")


def acquisition_in_words(found: Acquisition) -> str:
    """How an X-ray was taken, in one line: what is wrong with it, else what was looked at."""
    wrong = [in_words(reason) for reason in reasons_of(found)]
    unknown = [
        word
        for word, value in (("how far it is turned", found.rotation_deg), ("its polarity", found.inverted))
        if value is None
    ]
    unsure = not (wrong or unknown or found.ok)  # the frame's own reasons forbid a verdict
    whole = (
        "the model is not sure enough to say"
        if unsure
        else "both lungs are in the picture and none is clipped"
    )
    told = joined(wrong) if wrong else whole
    return f"{told}; not checked: {joined(unknown)}" if unknown else told


def listed(counts: dict[str, int], most: int = 3, by_how_much: Mapping[str, str] = _NOTHING) -> str:
    """The commonest reasons in words with how often each came: `the image is blurred (21), ...`, and by how much where
    that is known: `the model is not sure enough (3: 0.91 to 0.94, want 0.953)`."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])[:most]
    much = {reason: f": {by_how_much[reason]}" for reason, _ in ordered if reason in by_how_much}
    return ", ".join(f"{in_words(reason)} ({times}{much.get(reason, '')})" for reason, times in ordered)


def joined(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *before, last = list(parts) or [""]
    return f"{', '.join(before)} and {last}" if before else last
