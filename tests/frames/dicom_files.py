"""Small DICOM files written for a test: each says only what the test is about."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, generate_uid

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.3.1"


def ramp(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A picture in which every place has its own look."""
    y, x = np.mgrid[:height, :width]
    return ((3 * x + 2 * y) % 256).astype(np.uint8)


def dataset(pixels: NDArray[Any], photometric: str = "MONOCHROME2", **tags: Any) -> FileDataset:
    """A file of `pixels`, (H, W), (N, H, W) or, in colour, (H, W, 3) or (N, H, W, 3), not compressed."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ULTRASOUND
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = ULTRASOUND, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID = "SECRET^PERSON", "SECRET-ID"
    made.Modality, made.StudyInstanceUID, made.SeriesInstanceUID = "US", "1.2.3", "1.2.3.4"
    colour = 3 if photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 1
    shape = pixels.shape[:-1] if colour == 3 else pixels.shape
    if len(shape) == 3:
        made.NumberOfFrames = shape[0]
    made.Rows, made.Columns = shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = colour, photometric
    if colour == 3:
        made.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    made.add_new(0x7FE00010, "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """One baseline JPEG of (H, W) or (H, W, 3) RGB, which it stores as YCbCr 4:2:2."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, **({"subsampling": 1} if pixels.ndim == 3 else {}))
    return out.getvalue()


def jpeg_cine(frames: NDArray[np.uint8], fragments: int = 1, table: bool = True, **tags: Any) -> FileDataset:
    """A baseline JPEG cine of (N, H, W) or (N, H, W, 3), each frame in that many fragments."""
    photometric = "MONOCHROME2" if frames.ndim == 3 else "YBR_FULL_422"
    made = dataset(frames, photometric, **tags)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    packed = encapsulate([jpeg(frame) for frame in frames], fragments_per_frame=fragments, has_bot=table)
    made.add_new(0x7FE00010, "OB", packed)
    made["PixelData"].is_undefined_length = True
    return made


def pack_jpeg2000(made: FileDataset) -> None:
    """Compresses a single grey frame in place, without loss."""
    packed = bytes(encode_array(made.pixel_array, photometric_interpretation=2))
    made.file_meta.TransferSyntaxUID = JPEG2000Lossless
    made.add_new(0x7FE00010, "OB", encapsulate([packed]))
    made["PixelData"].is_undefined_length = True


def region(x1: int, y1: int, delta_cm: float = 0.02, **tags: Any) -> Dataset:
    """A 2-D ultrasound region in centimetres from (0, 0) to (x1, y1)."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = 0, 0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = delta_cm
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def write(made: FileDataset, path: Path) -> Path:
    """Saves `made` and says where."""
    made.save_as(path, enforce_file_format=True)
    return path
