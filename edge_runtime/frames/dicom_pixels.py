"""The pixels of a DICOM file: where each frame lies, its values, and the grey that a viewer would show.

A cine is never held in memory. Where compressed frames lie is found here from the item headers alone
(pydicom's own generators read on to the end): a file that was cut off must still give the frames before the
cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space
from pydicom.pixels.utils import as_pixel_options

from edge_runtime.codes import Reason
from edge_runtime.errors import FrameError, SourceLostError
from edge_runtime.frames.dicom_header import translated
from edge_runtime.frames.source import COLOUR_STEP, coloured_share
from edge_runtime.types import Box

Grey = NDArray[np.uint8]

_ITEM = b"\xfe\xff\x00\xe0"
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


class PixelReader:
    """Decodes single frames out of an open file that stands at its pixel data."""

    def __init__(self, dataset: Any, vr: str, file: BinaryIO, name: str, frames: int) -> None:
        self._file, self._name, self._frames = file, name, frames
        self._start = file.tell()
        self._size = file.seek(0, 2)
        syntax = dataset.file_meta.TransferSyntaxUID
        self._decoder = get_decoder(syntax)
        self._options = as_pixel_options(dataset, pixel_keyword="PixelData", pixel_vr=vr)
        self._options.update(number_of_frames=frames, transfer_syntax_uid=syntax)
        offsets = self._options.pop("extended_offsets", None)
        self._packed: list[list[tuple[int, int]]] | None = None
        if syntax.is_encapsulated:
            file.seek(self._start)
            extended = None if offsets is None else np.frombuffer(offsets[0], "<u8").tolist()
            self._packed = _frame_fragments(file, self._size, frames, extended)

    def require(self, index: int) -> None:
        """Raises SourceLostError when the file does not hold frame `index` to its end."""
        if self._packed is not None:
            whole = index < len(self._packed) and all(
                at + size <= self._size for at, size in self._packed[index]
            )
        else:
            whole = self._start + self._native_end(index) <= self._size
        if not whole:
            raise SourceLostError(
                f"{self._name}: the file is cut off, it ends after frame {index} of {self._frames}; "
                "copy it again"
            )

    def read(self, index: int) -> NDArray[Any]:
        """Frame `index` as stored, (H, W) or (H, W, 3) in RGB. Raises FrameError when it does not decode."""
        where = f"{self._name} frame {index}"
        with translated(where, f"pixel data does not decode ({self._decoder.UID.name})"):
            if self._packed is None:
                self._file.seek(self._start)
                pixels, said = self._decoder.as_array(self._file, index=index, **self._options)
            else:
                single = encapsulate([b"".join(self._fragments(index))], has_bot=False)
                options = {**self._options, "number_of_frames": 1}
                pixels, said = self._decoder.as_array(single, index=0, **options)
            if str(said["photometric_interpretation"]).startswith("YBR"):
                pixels = convert_color_space(pixels, str(said["photometric_interpretation"]), "RGB")
        return pixels

    def _native_end(self, index: int) -> int:
        options = self._options
        bits = options["rows"] * options["columns"] * options["samples_per_pixel"] * options["bits_allocated"]
        if options["photometric_interpretation"] == "YBR_FULL_422":
            bits = bits // 3 * 2
        return cast("int", (bits * (index + 1) + 7) // 8)

    def _fragments(self, index: int) -> Iterator[bytes]:
        assert self._packed is not None
        for at, size in self._packed[index]:
            self._file.seek(at)
            yield self._file.read(size)


def _frame_fragments(
    file: BinaryIO, end: int, frames: int, extended: list[int] | None
) -> list[list[tuple[int, int]]]:
    """Per frame the (place, length) of its fragments, from item headers alone (PS3.5 A.4).

    `file` stands at the Basic Offset Table. A last fragment that reaches past `end` is listed: its frame is
    cut off.
    """
    table = file.read(8)
    if len(table) < 8 or table[:4] != _ITEM:
        return []
    length = struct.unpack("<I", table[4:])[0]
    offsets = (
        list(struct.unpack(f"<{length // 4}I", file.read(length))) if file.tell() + length <= end else []
    )
    first = file.tell()
    fragments: list[tuple[int, int]] = []
    at = first
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if head[:4] != _ITEM:
            break  # the delimiter, or damage: the count of frames tells them apart
        length = struct.unpack("<I", head[4:])[0]
        fragments.append((at + 8, length))
        at += 8 + length
    starts = [first + offset for offset in extended or offsets]
    if len(starts) == frames and starts == sorted(set(starts)):
        return [
            [item for item in fragments if low <= item[0] - 8 < high]
            for low, high in zip(starts, [*starts[1:], end + 1], strict=True)
            if low < at
        ]
    if frames == 1:
        return [fragments] if fragments else []
    if len(fragments) == frames:
        return [[item] for item in fragments]
    return _split_at_markers(file, fragments, frames, end)


def _split_at_markers(
    file: BinaryIO, fragments: list[tuple[int, int]], frames: int, end: int
) -> list[list[tuple[int, int]]]:
    """Frames of several fragments without a table: a frame ends with JPEG's end of image, FFD9."""
    found: list[list[tuple[int, int]]] = [[]]
    for at, size in fragments:
        found[-1].append((at, size))
        tail = max(at, at + size - 10)
        file.seek(tail)
        if at + size > end or b"\xff\xd9" in file.read(at + size - tail):
            found.append([])
    whole = [frame for frame in found if frame]
    # more fragments than frames and no markers (RLE always has one fragment a frame): nothing to go by
    return whole if len(whole) <= frames else [[item] for item in fragments][:frames]


class Display:
    """Turns stored values into what a viewer shows, with one table per file."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self._name = dataset, name
        self._kind = str(dataset.PhotometricInterpretation)
        self._inverted = self._kind == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
        self._table: Grey | None = None  # stored value (as unsigned) -> grey
        self._tinted: NDArray[np.bool_] | None = None  # stored value -> clearly coloured

    def show(self, stored: NDArray[Any], region: Box | None) -> tuple[Grey, float]:
        """(pixels (H, W) uint8, share of clearly coloured pixels within `region`). Raises FrameError."""
        if self._kind in _COLOUR and stored.ndim == 3:
            rgb = stored if stored.dtype == np.uint8 else (stored >> (self._bits() - 8)).astype(np.uint8)
            return cast("Grey", cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)), coloured_share(_inside(rgb, region))
        if stored.ndim != 2 or self._kind not in (*_MONOCHROME, "PALETTE COLOR") or stored.dtype.itemsize > 2:
            raise FrameError(
                f"{self._name}: {self._kind} of {stored.dtype.itemsize * 8} bits is not supported",
                Reason.FRAME_UNREADABLE,
            )
        if self._table is None:
            self._make_table(stored)
        assert self._table is not None
        unsigned = stored.view(np.uint8 if stored.dtype.itemsize == 1 else np.uint16)
        pixels = self._table[unsigned]
        if self._tinted is None:
            return pixels, 0.0
        return pixels, float(self._tinted[_inside(unsigned, region)[::4, ::4]].mean())

    def _bits(self) -> int:
        return int(self._dataset.get("BitsStored") or self._dataset.BitsAllocated)

    def _make_table(self, stored: NDArray[Any]) -> None:
        wide = np.arange(1 << 8 * stored.dtype.itemsize, dtype=f"u{stored.dtype.itemsize}")
        with translated(self._name, "its look-up table or window is not valid"), np.errstate(all="ignore"):
            if self._kind == "PALETTE COLOR":
                self._table, self._tinted = _palette(wide, self._dataset)
                return
            values = np.asarray(apply_modality_lut(wide.view(stored.dtype), self._dataset), np.float64)
            level = np.nan_to_num(self._grey_level(values, stored))
        grey = np.clip(np.rint(255.0 * level), 0, 255).astype(np.uint8)
        self._table = 255 - grey if self._inverted else grey

    def _grey_level(self, values: NDArray[np.float64], stored: NDArray[Any]) -> NDArray[np.float64]:
        """Modality values as grey, 0 to 1: by VOI LUT, window, the full 8 bits or the first frame's range."""
        dataset = self._dataset
        if tables := dataset.get("VOILUTSequence"):
            bits = int(tables[0].LUTDescriptor[2])
            shown = np.asarray(apply_voi(np.rint(values).astype(np.int64), dataset), np.float64)
            return shown / (2.0**bits - 1.0)
        centers, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
        if centers not in (None, "") and widths not in (None, ""):
            center, width = float(np.atleast_1d(centers)[0]), float(np.atleast_1d(widths)[0])
            return window_level(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
        unsigned = stored.view(f"u{stored.dtype.itemsize}")
        if self._bits() <= 8 and stored.dtype.kind == "u":
            low, high = values[0], values[(1 << self._bits()) - 1]
        else:
            low, high = np.percentile(values[unsigned[::4, ::4]], (0.1, 99.9))
        level: NDArray[np.float64] = (values - low) / max(float(high - low), 1e-9)
        return level


def window_level(
    values: NDArray[np.float64], center: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64]:
    """Grey, 0 to 1 within the window and beyond it outside (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Raises ValueError for a width or a function that the standard does not have.
    """
    if function == "LINEAR" and width >= 1:
        return (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    if function == "LINEAR_EXACT" and width > 0:
        return (values - center) / width + 0.5
    if function == "SIGMOID" and width > 0:
        shown: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
        return shown
    raise ValueError(f"window {center:g}/{width:g} {function}")


def _palette(wide: NDArray[Any], dataset: Any) -> tuple[Grey, NDArray[np.bool_]]:
    """(grey, clearly coloured) of every stored value of a palette image."""
    colours = apply_color_lut(wide, dataset)
    if colours.dtype != np.uint8:
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        colours = (colours >> (max(bits, 8) - 8)).astype(np.uint8)
    spread = colours.max(axis=-1).astype(np.int16) - colours.min(axis=-1)
    grey = cv2.cvtColor(np.ascontiguousarray(colours)[None], cv2.COLOR_RGB2GRAY)[0]
    return cast("Grey", grey), spread > COLOUR_STEP


def _inside(pixels: NDArray[Any], region: Box | None) -> NDArray[Any]:
    return pixels if region is None else pixels[region.y0 : region.y1, region.x0 : region.x1]
