"""The images and how they are split: heads by exam, negatives by patient, series or file.

Every image is fitted into twice the model's grid by the runtime's own letterbox, once, and kept as arrays:
zooming while training then has detail to show. Knows nothing about networks.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray

from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.preprocess import fit_region, resize_grey
from edge_runtime.types import Box

GRID_HW = (192, 288)
STORE_HW = (384, 576)
SPLIT_SEED = "fetal_head-1"
SPLITS = (("train", 0.7), ("tune", 0.8), ("conformal", 0.9), ("test", 1.0))
NEGATIVE_HELD_OUT = 0.4
TRAINED_CINES = ("us_acuson_65f",)
PHANTOM_SEED = 1_000_000  # of the first drawn picture in training

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Item:
    """One image on disk with what is known of it; `mask` and `subject` only where it is a head."""

    path: Path
    kind: str  # head, or the class of what it shows instead
    split: str  # of `SPLITS`; a negative is in train or test only
    mask: Path | None = None
    subject: str | None = None  # the exam


@dataclass(frozen=True)
class Stored:
    """One image on the store grid; `mask` is the share of each cell that is head, 0 to 255."""

    image: Grey
    mask: Grey
    content: Box
    kind: str


def data_root() -> Path:
    """The folder of images: EDGE_RUNTIME_DATA, else ../shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("EDGE_RUNTIME_DATA", default))
    if not (root / "fetal_head" / "meta.csv").is_file():
        raise SystemExit(
            f"data: {root} has no fetal_head/meta.csv; set EDGE_RUNTIME_DATA to the image folder"
        )
    return root


def split_of(subject: str) -> str:
    """The split of a head's exam (`subject` of meta.csv): train, tune, conformal or test, for ever."""
    share = _share(f"subject:{subject}")
    return next(name for name, upper in SPLITS if share < upper)


def negative_split_of(owner: str) -> str:
    """train or test for the patient, series or file that a negative comes from."""
    return "test" if _share(f"negative:{owner}") < NEGATIVE_HELD_OUT else "train"


def heads(root: Path) -> list[Item]:
    """All heads; refuses a missing file, so that a recipe fails before it trains."""
    folder = root / "fetal_head"
    found = []
    with (folder / "meta.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            image = folder / "images" / row["file"]
            mask = (folder / "masks" / row["file"]).with_suffix(".png")
            for path in (image, mask):
                if not path.is_file():
                    raise SystemExit(f"data: meta.csv names {path}, which does not exist")
            found.append(Item(image, "head", split_of(row["subject"]), mask, row["subject"]))
    return found


def subjects(root: Path, split: str) -> list[str]:
    """The exams of a split of the heads, sorted."""
    return sorted({item.subject for item in heads(root) if item.subject is not None and item.split == split})


def negatives(root: Path) -> list[Item]:
    """Everything on disk that is no head in a measuring plane, by class."""
    found = []
    for path in sorted((root / "foreign").glob("*/*.webp")):
        patient = re.split(r"_[Pp]lane", path.name)[0]
        # a head in a wrong plane is too like one in the right plane to be taught from a dozen pictures
        split = "test" if path.parent.name == "head_wrong_plane" else negative_split_of(patient)
        found.append(Item(path, path.parent.name, split))
    for path in sorted((root / "carotid" / "images").glob("*.webp")):
        found.append(Item(path, "carotid", negative_split_of(path.name.split("_slice_")[0])))
    for path in sorted((root / "lungs" / "images").glob("*.webp")):
        found.append(Item(path, "lungs", negative_split_of(path.stem)))
    return found


def read_grey(path: Path) -> Grey:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise SystemExit(f"data: {path} cannot be read as an image")
    return np.asarray(image, np.uint8)


def store(image: Grey, mask: Grey | None, kind: str) -> Stored:
    """Fits an image (H, W), and its mask of the same size with 0 and 255, into the store grid."""
    box = Box(0, 0, image.shape[1], image.shape[0])
    content = fit_region(box, STORE_HW, "letterbox").content
    canvas, target = np.zeros((2, *STORE_HW), np.uint8)
    inside = (slice(content.y0, content.y1), slice(content.x0, content.x1))
    resize_grey(image, canvas[inside])
    if mask is not None:
        resize_grey(mask, target[inside])
    return Stored(canvas, target, content, kind)


def load(items: list[Item]) -> list[Stored]:
    """Reads and fits `items`; a mask of another size than its image, or empty, is refused by name."""
    stored = []
    for item in items:
        image = read_grey(item.path)
        mask = None
        if item.mask is not None:
            mask = np.where(read_grey(item.mask) > 127, np.uint8(255), np.uint8(0))
            if mask.shape != image.shape or not mask.any():
                raise SystemExit(f"data: {item.mask} is {mask.shape}, image {image.shape}, or marks nothing")
        stored.append(store(image, mask, item.kind))
    return stored


def dicom_frames(path: Path) -> Iterator[Grey]:
    """Every frame as 8-bit grey, stretched over its range where it has more bits."""
    dataset = pydicom.dcmread(path)
    for number in range(int(dataset.get("NumberOfFrames", 1) or 1)):
        pixels = pydicom.pixels.pixel_array(dataset, index=number)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = pydicom.pixels.apply_color_lut(pixels, dataset) >> 8
        values = pixels.astype(np.float32)
        values = values.mean(2) if values.ndim == 3 else values
        if values.max() > 255 or dataset.BitsAllocated > 8:
            low, high = np.percentile(values, (0.5, 99.5))
            values = (values - low) * 255 / max(1.0, high - low)
        yield np.clip(values, 0, 255).astype(np.uint8)


def echoes(root: Path) -> list[Stored]:
    """Hearts: every sixth frame of the cines in `TRAINED_CINES`; no other DICOM file is trained on."""
    frames = [grey for name in TRAINED_CINES for grey in dicom_frames(root / "dicom" / f"{name}.dcm")]
    return [store(grey, None, "echo") for grey in frames[::6]]


def phantoms() -> list[Stored]:
    """Drawn heads and drawn tissue without one, of seeds that nothing else uses: 5 % of the heads."""
    drawn = []
    for number in range(26):
        spec = PhantomSpec(hc_mm=60.0 + 11.0 * number, seed=PHANTOM_SEED + number)
        image, ellipse = render(spec, number)
        if ellipse is not None:
            drawn.append(store(image, 255 * ellipse.mask(image.shape), "phantom"))
    for number in range(12):
        image, _ = render(PhantomSpec(seed=PHANTOM_SEED + 100 + number, empty=1), number)
        drawn.append(store(image, None, "phantom_empty"))
    return drawn


def _share(key: str) -> float:
    digest = hashlib.sha256(f"{SPLIT_SEED}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
