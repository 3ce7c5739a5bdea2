"""What flows through the runtime: frames in, a mask on the model's grid, measurements, a finding out.

Everything is frozen and checked where it is made; units are in the names. Images are plain dataclasses
around numpy arrays; what leaves the process (`Finding` and its parts) is msgspec, so that one declaration
is the type, the decoder's check and the JSON Schema (`schema/finding.json`).

Pixel coordinates are (x, y) with the centre of the first pixel at (0, 0), so pixel k covers k - 0.5 to k +
0.5.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.codes import (
    Clock,
    Hint,
    Kind,
    MeasurementName,
    Priority,
    Reason,
    SourceKind,
    SpacingSource,
    Status,
)
from edge_runtime.errors import ConfigError, FrameError

SCHEMA_VERSION = "1.2"

MIN_SIDE_PX = 32  # smaller than any clinical image: a 1x1 is a mistake, not a frame
MAX_COLOURED = 0.02  # of an image's pixels: a caliper or a logo passes, a Doppler box does not
MAX_PIXELS = 48_000_000  # the largest flat panel (43 cm at 0.1 mm: 4300 x 4300) is 18 million


@dataclass(frozen=True, slots=True)
class Spacing:
    """Millimetres per pixel and where they come from."""

    row_mm: float  # between the centres of neighbouring rows (down)
    col_mm: float  # between the centres of neighbouring columns (across)
    source: SpacingSource

    def __post_init__(self) -> None:
        for value in (self.row_mm, self.col_mm):
            if not 1e-3 <= value <= 10.0:  # also refuses NaN
                raise ConfigError(
                    f"spacing {self.row_mm:g},{self.col_mm:g} mm (row, column): want 0.001 to 10 mm per pixel on both axes"
                )


@dataclass(frozen=True, slots=True)
class Box:
    """Columns x0 to x1 and rows y0 to y1 of an image, the ends excluded."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise ValueError(f"box: want 0 <= x0 < x1 and 0 <= y0 < y1, got {self}")

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0


@dataclass(frozen=True, slots=True)
class Origin:
    """What all frames of one file, cine or stream share. `study_uid`, `subject` and `name` never leave as
    they are.
    """

    kind: SourceKind
    name: str  # file name or URI, for people at this machine
    modality: str | None = None  # DICOM (0008,0060): US, CR, DX, XA; None = not said
    study_uid: str | None = None  # DICOM (0020,000D)
    subject: str | None = None  # `subject` of a folder's meta.csv
    frame_time_ms: float | None = None  # nominal, for pacing; None = not known
    body_part: str | None = None  # DICOM (0018,0015), as written; None = not said
    view: str | None = None  # DICOM (0018,5101), else LATERAL by the code of (0054,0220); None = not said

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))

    def listed_in(self, names: Collection[str]) -> bool:
        """Whether its subject is among `names`; of a picture that has none, its file."""
        return (self.subject or self.name.rpartition("/")[2]) in names


def printable(name: str) -> str:
    """`name` in one line that every encoding takes: bytes that are no UTF-8 and controls become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@dataclass(frozen=True, slots=True)
class Frame:
    """One image as a person would see it: 8-bit grey, polarity right, LUTs applied.

    The consumer may keep `pixels` until it asks the source for the frame after next; sources never write
    into an array that they have handed out.
    """

    pixels: NDArray[np.uint8]  # (H, W), 0 black
    index: int  # at the source, gapless from 0: a gap downstream is a drop
    captured_ns: int  # monotonic, when the source had it
    origin: Origin
    frame_id: str  # unique in the run and free of names: "<index>.<content hash>"
    region: Box | None = None  # where the anatomy is; None = the whole image
    spacing: Spacing | None = None  # None = uncalibrated, never 1.0
    spacing_reason: Reason | None = None  # why there is none, or why it wants caution
    coloured: float = 0.0  # share of clearly coloured pixels in `region`, 0 to 1

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise FrameError(
                f"{self.origin.name} frame {self.index}: want (H, W) uint8, got {pixels.shape} {pixels.dtype}",
                Reason.FRAME_UNREADABLE,
            )
        check_image_size(pixels.shape, f"{self.origin.name} frame {self.index}")

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def content_hash(self) -> str:
        """Of the pixels, as in `frame_id`: equal for equal pictures."""
        return self.frame_id.rpartition(".")[2]


def check_image_size(size_hw: tuple[int, ...], where: str) -> None:
    """Raises FrameError for an image that no source may hand out; call it on a header, before decoding."""
    height, width = size_hw[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise FrameError(
            f"{where}: image {width}x{height} is smaller than {MIN_SIDE_PX} pixels a side",
            Reason.IMAGE_TOO_SMALL,
        )
    if height * width > MAX_PIXELS:
        raise FrameError(
            f"{where}: image {width}x{height} is larger than {MAX_PIXELS // 1_000_000} million pixels; scale it down first",
            Reason.IMAGE_TOO_LARGE,
        )


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that could not be had. It is offered and processed like any other and ends as a withheld
    finding.
    """

    index: int
    captured_ns: int
    origin: Origin
    frame_id: str
    error: FrameError


@dataclass(frozen=True, slots=True)
class Geometry:
    """The exact way between an image and a model's grid: x_image = offset_x + (x_grid + 0.5) * step_x - 0.5.

    `content` is the part of the grid that shows the image's region; the rest is padding. Made by
    `infer/preprocess.py`, and inverted nowhere else.
    """

    grid_hw: tuple[int, int]
    content: Box
    step_x: float  # image pixels per grid cell
    step_y: float
    offset_x: float  # of the left edge of grid cell 0, in image pixel edges
    offset_y: float

    def to_image(self, points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Grid points (n, 2) as (x, y) in image pixels, (n, 2)."""
        step = np.array([self.step_x, self.step_y])
        offset = np.array([self.offset_x, self.offset_y])
        moved: NDArray[np.float64] = offset + (points_xy + 0.5) * step - 0.5
        return moved

    def cell_mm(self, spacing: Spacing) -> tuple[float, float]:
        """(row, column) millimetres of one grid cell."""
        return self.step_y * spacing.row_mm, self.step_x * spacing.col_mm


@dataclass(frozen=True, slots=True)
class Outline:
    """An ellipse on a pixel grid: xx X^2 + 2 xy X Y + yy Y^2 <= 1 with (X, Y) measured from its centre."""

    center_xy: tuple[float, float]
    xx: float
    xy: float
    yy: float

    def on_image(self, geometry: Geometry) -> Outline:
        """The same ellipse in image pixels, of one on the model's grid."""
        x, y = geometry.to_image(np.array([self.center_xy]))[0]
        step_x, step_y = geometry.step_x, geometry.step_y
        return Outline(
            (float(x), float(y)), self.xx / step_x**2, self.xy / (step_x * step_y), self.yy / step_y**2
        )


@dataclass(frozen=True, slots=True)
class Mask:
    """What the model found, on its own grid. Owned by whoever holds it: no slot's memory is in it."""

    labels: NDArray[np.uint8]  # (h, w) on the model's grid; 0 is background, k the k-th of `names`
    names: tuple[str, ...]
    geometry: Geometry
    confidence: tuple[float, ...]  # Soft Dice Confidence per name, 0 to 1 (arXiv 2402.10665)
    discarded: tuple[float, ...]  # per name: share of its pixels outside the part that was kept
    presence: float  # the model's own word that this is its anatomy in its plane, 0 to 1; 1 where it has none
    outlines: tuple[Outline | None, ...] | None = None  # per name, where ellipses stand for the parts
    rotation: tuple[float, ...] | None = None  # probabilities: upright, turned by 90, 180, 270 degrees
    inverted: float | None = None  # probability that black and white are exchanged

    def __post_init__(self) -> None:
        if self.labels.shape != self.geometry.grid_hw or self.labels.dtype != np.uint8:
            raise ValueError(
                f"mask: want {self.geometry.grid_hw} uint8, got {self.labels.shape} {self.labels.dtype}"
            )

    def of(self, name: str) -> NDArray[np.bool_]:
        """The pixels of one name, (h, w)."""
        mine: NDArray[np.bool_] = self.labels == self.names.index(name) + 1
        return mine


# ---------------------------------------------------------------- what leaves the process

Unit = Literal["mm", "mm2", "cm2", "d", "%", "1", "{pixel}", "{pixel}2"]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Edge = Literal["top", "bottom", "left", "right"]
Side = Literal["right", "left"]  # the patient's own
Turn = Literal[0, 90, 180, 270]  # degrees, clockwise
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A part of a finding. Unknown keys are ignored when read: a minor version may add some."""


class Code(Record, frozen=True):
    """A term of a published code system, for example LOINC 11984-2."""

    system: str
    value: str


class SpacingUsed(Record, frozen=True):
    """The spacing a value was computed with."""

    row_mm: float
    col_mm: float
    source: SpacingSource


class Measurement(Record, frozen=True):
    """One value with all that is needed to judge it. `value` and `interval` are null when it is withheld."""

    name: MeasurementName
    value: float | None
    unit: Unit  # UCUM
    interval: tuple[float, float] | None  # where the true value lies in 90 of 100 such images
    status: Status
    reasons: tuple[Reason, ...]
    spacing: SpacingUsed | None
    formula: str  # id of the formula, for example "ramanujan2-moment-ellipse"
    code: Code | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.status is Status.WITHHELD):
            raise ValueError(
                f"{self.name.value}: a value is null when and only when it is withheld, got {self.value} {self.status.value}"
            )
        if self.unit in ("mm", "mm2", "cm2") and self.spacing is None and self.value is not None:
            raise ValueError(f"{self.name.value}: no {self.unit} without the spacing it was computed with")


class ModelUsed(Record, frozen=True):
    name: str
    version: str
    sha256: Sha256  # of the manifest, model.toml, which names every artefact by its own digest
    artifact_sha256: Sha256
    precision: Literal["fp32", "bf16", "fp16", "int8"]  # the one that ran
    backend: str


ProfileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")]


class ProfileUsed(Record, frozen=True):
    """The site's profile whose limits and intervals were applied (`edge-runtime calibrate`)."""

    name: ProfileName  # as a person typed it: it leaves the device
    sha256: Sha256  # of the file


class SourceUsed(Record, frozen=True):
    """`name` is for people at this machine: `sync/wire.py` removes it from what is sent."""

    kind: SourceKind
    study_uid_pseudonym: str | None
    frame_ids: tuple[str, ...]
    name: str | None = None


class GeometryUsed(Record, frozen=True):
    """The way from the mask's grid to image pixels, see `types.Geometry`."""

    step_x: float
    step_y: float
    offset_x: float
    offset_y: float


class MaskRecord(Record, frozen=True):
    """One label's pixels; `data` (COCO RLE counts) is in `--out`, in the journal and on the wire a mask is its own
    record.
    """

    label: str
    encoding: Literal["coco_rle", "none"]
    size_hw: tuple[int, int]
    sha256: Sha256 | None
    geometry: GeometryUsed | None
    data: str | None = None


class Quality(Record, frozen=True):
    score: Annotated[int, msgspec.Meta(ge=0, le=100)]
    hint: Hint


class Acquisition(Record, frozen=True):
    """Whether an X-ray shows the whole of what it was taken for, while the patient is still there.

    Says nothing of what the lungs look like. Edges are those of the image as it came, sides the patient's own.
    """

    both_lungs: bool
    missing: tuple[Side, ...]
    clipped_edges: tuple[Edge, ...]  # of the image, or of the collimation inside it: a lung goes on beyond it
    rotation_deg: Turn | None  # how far it is turned; null: the model cannot say
    inverted: bool | None  # black and white are exchanged; null: the model cannot say
    ok: bool  # all of it was checked, and nothing found


class Timing(Record, frozen=True):
    age_ms: float  # of the frame when its finding was made
    stages_ms: dict[str, float]


class Finding(Record, frozen=True):
    """A record of what was measured, in which image, by which model, and how far it may be relied on.

    Research use only, not a medical device: a size, not a check for abnormality.
    """

    schema_version: str
    finding_id: str  # UUIDv7
    revision: Annotated[int, msgspec.Meta(ge=1)]
    supersedes: str | None
    kind: Kind
    device_id: str
    seq: Annotated[int, msgspec.Meta(ge=1)]  # gapless per device and epoch, shared with all other records
    epoch: str
    boot_id: str
    exam_id: str
    model: ModelUsed
    source: SourceUsed
    created_at: str
    clock: Clock
    monotonic_ns: int
    measurements: tuple[Measurement, ...]
    confidence: Fraction
    quality: Quality
    status: Status
    reasons: tuple[Reason, ...]
    priority: Priority
    masks: tuple[MaskRecord, ...]
    timing: Timing
    acquisition: Acquisition | None = None  # of a chest X-ray; null for others, and where it is none at all
    profile: ProfileUsed | None = None  # None: the limits and intervals are the model's own


class ExamEvent(Record, frozen=True):
    """An exam began or ended; it takes its number from the same sequence as the findings."""

    schema_version: str
    event_id: str
    event: Literal["exam_started", "exam_ended"]
    device_id: str
    seq: Annotated[int, msgspec.Meta(ge=1)]
    epoch: str
    boot_id: str
    exam_id: str
    created_at: str
    clock: Clock
    monotonic_ns: int
    findings: int | None = None  # reported in this exam; known when it ends
    summary: tuple[ExamValue, ...] = ()


class ExamValue(Record, frozen=True):
    """An exam's value: the median of its captures with their range."""

    name: MeasurementName
    unit: Unit
    median: float
    range: tuple[float, float]
    captures: int
    few: bool  # fewer than three captures: not yet a median worth the name


# What replay must reproduce bit for bit: no id, time or number that a second run makes anew.
CANONICAL_FIELDS = (
    "schema_version",
    "model",
    "profile",
    "source",
    "measurements",
    "confidence",
    "quality",
    "status",
    "reasons",
    "masks",
    "acquisition",
)

_encode = msgspec.json.Encoder(order="deterministic")


def encode(record: Record) -> bytes:
    """One line of JSON, UTF-8, no newline; the same value always gives the same bytes."""
    return _encode.encode(record)


def canonical(finding: Finding) -> bytes:
    """The part of a finding that the same frames, model, backend and settings must give again, as JSON."""
    return _encode.encode({name: getattr(finding, name) for name in CANONICAL_FIELDS})
