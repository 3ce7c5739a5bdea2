"""Folders of still images as frames, one at a time, with spacing and subject from `meta.csv`.

A file that is no image becomes a frame that could not be had: the run goes on and says so. It knows nothing
of DICOM.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_runtime.clock import monotonic_ns
from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import ConfigError, FrameError
from edge_runtime.frames.meta_csv import NAME, MetaTable
from edge_runtime.frames.source import Closeable, SourceOptions, bad_frame, coloured_share, frame_id, steady_s
from edge_runtime.frames.spacing import Resolved, from_meta_csv, with_operator, without_operator
from edge_runtime.types import MAX_COLOURED, BadFrame, Frame, Origin, check_image_size, printable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})

_NO_PICTURES = frozenset({NAME, "thumbs.db", "desktop.ini"})  # the table, and what Windows leaves in folders
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # Pillow would start other programs for others
_GREY_MODES = ("1", "L")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def open_folder(place: str, options: SourceOptions) -> FolderSource:
    """The images of the folder `place`, of its `images/` or below it, or the one image `place`.

    Raises ConfigError without any, and where the operator's spacing cannot be or contradicts the table.
    """
    folder = Path(place)
    if options.region is not None:
        raise ConfigError("--region: images in a folder have no regions; leave it out")
    if folder.is_dir():
        root, files = _find(folder)
    elif folder.is_file():
        root, files = folder.parent, [folder]
    else:
        why = "neither a folder nor a file" if folder.exists() else "no such folder"
        raise ConfigError(f"folder:{place}: {why}")
    if not any(file.suffix.lower() in SUFFIXES for file in files):
        raise ConfigError(
            f"folder:{place}: no image{' in it' if folder.is_dir() else ''}; want {', '.join(sorted(SUFFIXES))}"
        )
    return FolderSource(root, files, MetaTable.beside(root), options)


class FolderSource(Closeable):
    """The files of one folder in the order of their names."""

    kind = SourceKind.FOLDER
    live = False

    def __init__(self, root: Path, files: list[Path], meta: MetaTable | None, options: SourceOptions) -> None:
        self._root, self._files, self._meta, self._options = root, files, meta, options
        self.length = options.count(len(files))
        for path in files[: self.length]:
            self._spacing(self._name(path), True)  # a contradiction ends the run before it starts

    def frames(self) -> Iterator[Frame | BadFrame]:
        first_hw: tuple[int, ...] | None = None
        for index, path in enumerate(self._files[: self.length]):
            if self._closed:
                return
            name = self._name(path)
            subject = self._meta.subject(name) if self._meta else None
            origin = Origin(SourceKind.FOLDER, name, subject=subject)
            try:
                pixels, coloured = read_image(path, origin.name)
            except FrameError as exc:
                yield bad_frame(index, origin, exc)
                continue
            first_hw = first_hw or pixels.shape
            found = self._spacing(name, pixels.shape == first_hw)
            yield Frame(
                pixels,
                index,
                monotonic_ns(),
                origin,
                frame_id(index, pixels),
                spacing=found.spacing,
                spacing_reason=found.reason,
                coloured=coloured,
            )

    def due_s(self, index: int) -> float:
        return steady_s(index, self._options.fps, None)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _spacing(self, name: str, same_size: bool) -> Resolved:
        """The operator's word, which is bound to the size of the first image, else the table's."""
        found = self._meta.spacing(name) if self._meta else from_meta_csv(None, None)
        if not same_size:
            return without_operator(found, self._options.spacing)
        return with_operator(found, self._options.spacing, self._options.force_spacing, printable(name))


def read_image(path: Path, name: str) -> tuple[NDArray[np.uint8], float]:
    """(pixels (H, W) uint8, share of coloured pixels). 16 bits are scaled by their full range.

    Raises FrameError for what is no image, is damaged, several, too small, too large or in colour. The size
    is checked before anything is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                check_image_size((image.height, image.width), name)
                _require_still(image, name)
                return _grey(image, name)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as exc:
        raise FrameError(f"{name}: image is too large to be read", Reason.IMAGE_TOO_LARGE) from exc
    except UnidentifiedImageError as exc:
        raise FrameError(f"{name}: not an image", Reason.FRAME_UNREADABLE) from exc
    except PermissionError as exc:
        raise FrameError(
            f"{name}: permission denied; let this user read it", Reason.FRAME_UNREADABLE
        ) from exc
    except _DAMAGE as exc:
        raise FrameError(f"{name}: damaged or cut off, cannot be decoded", Reason.FRAME_UNREADABLE) from exc


def _require_still(image: Image.Image, name: str) -> None:
    """Raises FrameError for a film or a file of pages; a JPEG's previews (MPO) are no frames of its own."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP", "TIFF"):
        raise FrameError(
            f"{name}: {frames} images in one file, want one; save each as a file of its own",
            Reason.FRAME_UNREADABLE,
        )


def _grey(image: Image.Image, name: str) -> tuple[NDArray[np.uint8], float]:
    """Decodes an opened image; (pixels, share of coloured pixels)."""
    if image.mode in _GREY_MODES:
        return np.array(image.convert("L"), dtype=np.uint8), 0.0
    if image.mode in _DEEP_MODES:
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return np.rint(deep / 257.0).astype(np.uint8), 0.0
    if image.mode == "F":
        raise FrameError(f"{name}: floating-point pixels, want 8 or 16 bits", Reason.FRAME_UNREADABLE)
    rgb = np.array(image.convert("RGB"), dtype=np.uint8)
    coloured = coloured_share(rgb)
    if coloured > MAX_COLOURED:
        raise FrameError(
            f"{name}: {100 * coloured:.0f} % of the image is in colour, want grey", Reason.COLOUR_IMAGE
        )
    return cast("NDArray[np.uint8]", cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)), coloured


def _find(folder: Path) -> tuple[Path, list[Path]]:
    """(folder that names are relative to, files): its own, else those of `images/`, else all below."""
    own = _files(folder)
    if any(file.suffix.lower() in SUFFIXES for file in own):
        return folder, own
    if (folder / "images").is_dir():
        return folder / "images", _files(folder / "images")
    below = [file for part in _folders(folder, {folder.resolve()}) for file in _files(part)]
    return folder, own + below


def _files(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if entry.is_file())
    return sorted(
        entry
        for entry in entries
        if entry.name.lower() not in _NO_PICTURES and not entry.name.startswith(".")
    )


def _folders(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Every folder below, in order of name, without masks; one that links lead to again comes once.

    `seen` holds the resolved folders that came before; links come after the folders they may lead to.
    """
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry)):
        wanted = entry.is_dir() and entry.name != "masks" and not entry.name.startswith(".")
        if wanted and (real := entry.resolve()) not in seen:
            seen.add(real)
            yield entry
            yield from _folders(entry, seen)
