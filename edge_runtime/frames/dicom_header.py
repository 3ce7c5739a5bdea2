"""What a DICOM file says before its pixels: size, frames, times, order, and the tags of its millimetres.

Everything is checked here, before anything is decoded. No tag of a patient is read or named.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import FrameError
from edge_runtime.frames.source import frame_time_ms
from edge_runtime.frames.spacing import SpacingTags, read_tags
from edge_runtime.types import Origin, check_image_size, printable

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote tag values

_PIXEL_DATA = (0x7FE0, 0x0010)
_DAMAGED = "damaged before its pixel data; was it copied completely?"
_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MIRRORED = (
    "RF",
    "LH",
    "HR",
    "FL",
)  # where rows and columns of a frontal picture go to; LF is as it should be
_SHARED_MACROS = ("PixelMeasuresSequence", "FrameVOILUTSequence", "PixelValueTransformationSequence")
# what pydicom and its codecs let out when a file is not what it says
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # and so NotImplementedError
    SyntaxError,
    ArithmeticError,
    struct.error,
    BytesLengthException,
)


@contextmanager
def translated(name: str, what: str) -> Iterator[None]:
    """The rim around pydicom: `what` as a FrameError for all that it raises, and silence for its warnings.

    It converts a value when it is asked for, so any tag may raise anywhere, and its words quote tag values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PermissionError as exc:
        raise FrameError(
            f"{name}: permission denied; let this user read it", Reason.FRAME_UNREADABLE
        ) from exc
    except DAMAGE as exc:
        raise FrameError(f"{name}: {what}", Reason.FRAME_UNREADABLE) from exc


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """All of a file but its pixels."""

    path: Path
    origin: Origin
    order: tuple[str, int, str, int, str]
    size_hw: tuple[int, int]
    frames: int
    times_s: tuple[float, ...]  # from the frame time vector, empty = use origin.frame_time_ms
    tags: SpacingTags

    def due_s(self, index: int) -> float:
        if self.times_s:
            return self.times_s[min(index, len(self.times_s) - 1)]
        return index * (self.origin.frame_time_ms or 0.0) / 1000.0


def read_header(path: Path) -> DicomHeader | None:
    """What is known before decoding; None for a DICOMDIR. Raises FrameError for anything unusable."""
    with translated(printable(path.name), _DAMAGED), path.open("rb") as file:
        dataset, _ = parse(path, file)
        return None if dataset is None else _header(path, dataset)


def _header(path: Path, dataset: Any) -> DicomHeader:
    frames = max(_whole(dataset, "NumberOfFrames", 1), 1)
    times_s, time_ms = _frame_times(dataset, frames)
    study = str(dataset.get("StudyInstanceUID") or "") or None
    tags = read_tags(dataset)
    return DicomHeader(
        path=path,
        origin=Origin(
            SourceKind.DICOM,
            path.name,
            tags.modality,
            study,
            None,
            time_ms,
            body_part=_text(dataset, "BodyPartExamined"),
            view=_view(dataset),
        ),
        order=(
            study or "",
            _whole(dataset, "SeriesNumber", 0),
            str(dataset.get("SeriesInstanceUID") or ""),
            _whole(dataset, "InstanceNumber", 0),
            path.name,
        ),
        size_hw=(int(dataset.Rows), int(dataset.Columns)),
        frames=frames,
        times_s=times_s,
        tags=tags,
    )


def parse(path: Path, file: BinaryIO) -> tuple[Any | None, str]:
    """(dataset without its pixels, VR of the pixels); `file` is left at the first byte of the pixels.

    The dataset is None for a DICOMDIR. Raises FrameError, in one line, for anything that holds no usable
    image.
    """
    try:
        dataset = dcmread(file, stop_before_pixels=True)
    except InvalidDicomError as exc:
        raise _unusable(path, "not a DICOM file (no DICM prefix)") from exc
    if str(dataset.file_meta.get("MediaStorageSOPClassUID") or "") == _DICOMDIR:
        return None, ""
    vr = _enter_pixel_data(path, file, dataset)
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation"):
        if dataset.get(keyword) in (None, ""):
            raise _unusable(path, f"has pixel data but no {keyword}")
    _require_decoder(path, str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    check_image_size((int(dataset.Rows), int(dataset.Columns)), printable(path.name))
    _lift_shared(dataset)
    return dataset, vr


def _enter_pixel_data(path: Path, file: BinaryIO, dataset: Any) -> str:
    """The VR of Pixel Data (7FE0,0010), with `file` moved from its tag to its value."""
    head = file.read(8)
    if len(head) < 8:
        raise _unusable(path, "holds no pixel data (it is no image, or was cut off before them)")
    if struct.unpack("<HH" if dataset.original_encoding[1] else ">HH", head[:4]) != _PIXEL_DATA:
        raise _unusable(path, "has no integer pixel data (7FE0,0010)")
    vr = head[4:6]
    if vr not in (b"OB", b"OW", b"UN"):
        return "OW"  # implicit VR; seen by looking, because some files name the other in their header
    file.seek(4, 1)  # the length: two reserved bytes came before it, PS3.5 7.1.2
    return vr.decode()


def _require_decoder(path: Path, syntax: str) -> None:
    """Raises FrameError for a transfer syntax that cannot be decoded here, before the run starts."""
    if not syntax:
        raise _unusable(path, "names no transfer syntax (0002,0010)")
    try:
        supported = syntax != _DEFLATED and get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):
        supported = False
    if not supported:
        raise _unusable(path, f"{UID(syntax).name} is not read in this version; convert it first")


def _lift_shared(dataset: Any) -> None:
    """Copies what enhanced objects keep in their shared functional groups to where others keep it."""
    for shared in dataset.get("SharedFunctionalGroupsSequence") or ():
        for item in (item for macro in _SHARED_MACROS for item in shared.get(macro) or ()):
            for element in item:
                if element.tag not in dataset:
                    dataset.add(element)


def _unusable(path: Path, why: str) -> FrameError:
    return FrameError(f"{printable(path.name)}: {why}", Reason.FRAME_UNREADABLE)


def _frame_times(dataset: Any, frames: int) -> tuple[tuple[float, ...], float | None]:
    """(due time of each frame in s, nominal ms per frame); empty and None where the tags do not say."""
    try:
        vector = [float(step) for step in np.atleast_1d(dataset.get("FrameTimeVector") or [])]
    except (TypeError, ValueError):
        vector = []
    if frames > 1 and len(vector) >= frames and all(math.isfinite(step) and step >= 0 for step in vector):
        steps = [0.0, *vector[1:frames]]  # (0018,1065): the first is the time before frame 1, which is 0
        nominal = float(np.median(steps[1:]))
        due = np.cumsum([*steps, nominal]) / 1000.0
        if nominal > 0:
            return tuple(due.tolist()), nominal
    for keyword in ("FrameTime", "RecommendedDisplayFrameRate", "CineRate"):
        try:
            value = float(dataset.get(keyword) or 0)
        except (TypeError, ValueError):
            continue
        rate = (1000.0 / value if value else 0.0) if keyword == "FrameTime" else value
        if frames > 1 and (known := frame_time_ms(rate)) is not None:
            return (), known
    return (), None


def _view(dataset: Any) -> str | None:
    """The projection in the file's words; of the code sequence that newer objects have, only that it is a lateral
    one, and of the directions of rows and columns, that they are not those of a picture taken from the front.
    """
    meanings = [_text(item, "CodeMeaning") or "" for item in dataset.get("ViewCodeSequence") or ()]
    coded = "LATERAL" if any("lateral" in meaning.lower() for meaning in meanings) else None
    return " ".join(filter(None, (_text(dataset, "ViewPosition"), coded, _seen_along(dataset)))) or None


def _seen_along(dataset: Any) -> str | None:
    """What Patient Orientation (0020,0020) says against a frontal picture: its sides would have the wrong names.

    A picture that is only turned keeps its sides; that shows in the picture itself.
    """
    said = dataset.get("PatientOrientation") or ()
    rows, columns = (str(way)[:1] for way in said) if len(said) == 2 else ("", "")
    if {rows, columns} & {"A", "P"}:
        return "LATERAL" if rows in ("A", "P") else "AXIAL"
    return "MIRRORED" if rows + columns in _MIRRORED else None


def _text(dataset: Any, keyword: str) -> str | None:
    return str(dataset.get(keyword) or "").strip() or None


def _whole(dataset: Any, keyword: str, otherwise: int) -> int:
    try:
        return int(dataset.get(keyword) or otherwise)
    except (TypeError, ValueError):
        return otherwise
