"""DICOM files as frames: single images, cines and folders of them, decoded one frame at a time.

What a viewer would show comes out: modality LUT, VOI LUT or window, palette, colour space and polarity
applied, 8-bit grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from edge_runtime.clock import monotonic_ns
from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import ConfigError, FrameError, SourceLostError
from edge_runtime.frames.dicom_header import DicomHeader, parse, read_header, translated
from edge_runtime.frames.dicom_pixels import Display, PixelReader
from edge_runtime.frames.meta_csv import MetaTable
from edge_runtime.frames.source import Closeable, SourceOptions, bad_frame, frame_id
from edge_runtime.frames.spacing import Resolved, prefer, resolve, with_operator, without_operator
from edge_runtime.types import BadFrame, Frame, Origin, printable


def open_dicom(place: str, options: SourceOptions) -> DicomSource:
    """The DICOM file or folder of files at `place`. Raises ConfigError when nothing of it can be read."""
    path = Path(place)
    if not path.exists():
        raise ConfigError(f"dicom:{place}: no such file or folder")
    if not path.is_file() and not path.is_dir():
        raise ConfigError(f"dicom:{place}: neither a file nor a folder")
    if path.is_file():
        header = _check_single(path, options)
        return DicomSource([header], [], options, None)
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    meta = MetaTable.beside(path)
    headers: list[DicomHeader] = []
    unreadable: list[tuple[Path, FrameError]] = []
    for file in files:
        if file.name == "meta.csv":
            continue
        try:
            found = read_header(file)
        except FrameError as exc:
            unreadable.append((file, exc))
            continue
        if found is not None:
            _resolve(found, options, meta)  # a contradiction ends the run before it starts
            headers.append(found)
    if not headers:
        why = f"; {unreadable[0][1]}" if unreadable else ""
        raise ConfigError(f"dicom:{place}: no DICOM image in this folder{why}")
    headers.sort(key=lambda header: header.order)
    return DicomSource(headers, unreadable, options, meta)


class DicomSource(Closeable):
    """The frames of one or more files, in the order of study, series and instance number."""

    kind = SourceKind.DICOM
    live = False

    def __init__(
        self,
        headers: list[DicomHeader],
        unreadable: list[tuple[Path, FrameError]],
        options: SourceOptions,
        meta: MetaTable | None,
    ) -> None:
        self._headers = headers
        self._unreadable = unreadable
        self._options = options
        self._meta = meta
        self.length = options.count(sum(header.frames for header in headers) + len(unreadable))

    def frames(self) -> Iterator[Frame | BadFrame]:
        for index, item in enumerate(islice(self._all(), self.length)):
            if self._closed:
                return
            yield replace(item, index=index, frame_id=f"{index}.{item.frame_id.partition('.')[2]}")

    def due_s(self, index: int) -> float:
        fps = self._options.fps
        if fps is not None:
            return index / fps if fps > 0 else 0.0
        before = 0.0
        for header in self._headers:
            if index < header.frames:
                return before + header.due_s(index)
            index -= header.frames
            before += header.due_s(header.frames)
        return before

    def _all(self) -> Iterator[Frame | BadFrame]:
        """Every file's frames, each numbered from 0; a file that is cut off ends a run of one file only."""
        shape: tuple[int, int] | None = None
        for header in self._headers:
            shape = shape or header.size_hw
            found = _resolve(header, self._options, self._meta, shape)
            try:
                yield from _file_frames(header, found)
            except SourceLostError as exc:
                if len(self._headers) == 1:
                    raise
                yield bad_frame(0, header.origin, FrameError(str(exc), Reason.FRAME_UNREADABLE))
        for path, error in self._unreadable:
            yield bad_frame(0, Origin(SourceKind.DICOM, path.name), error)


# ---------------------------------------------------------------- one file


def _check_single(path: Path, options: SourceOptions) -> DicomHeader:
    """The header of the only file of a run: whatever is wrong with it is known before the start."""
    try:
        header = read_header(path)
    except FrameError as exc:
        raise ConfigError(str(exc)) from exc
    if header is None:
        raise ConfigError(
            f"{printable(path.name)}: a DICOMDIR is an index; name the folder or an image instead"
        )
    _resolve(header, options, None)
    return header


def _resolve(
    header: DicomHeader,
    options: SourceOptions,
    meta: MetaTable | None,
    first_hw: tuple[int, int] | None = None,
) -> Resolved:
    """The file's spacing and region. The operator's word is bound to the size of the first image."""
    found = resolve(header.tags, header.size_hw, options.region)
    if meta is not None:
        found = prefer(found, meta.spacing(header.path.name))
    if first_hw not in (None, header.size_hw):
        return without_operator(found, options.spacing)
    return with_operator(found, options.spacing, options.force_spacing, header.origin.name)


def _file_frames(header: DicomHeader, found: Resolved) -> Iterator[Frame | BadFrame]:
    """The frames of one file, numbered from 0. Raises SourceLostError where the file ends too early."""
    name = header.origin.name
    try:
        file = header.path.open("rb")
    except OSError as exc:
        raise SourceLostError(f"{name}: cannot be opened any more ({exc.strerror})") from exc
    with file:
        try:
            with translated(name, "damaged before its pixel data"):
                dataset, vr = parse(header.path, file)
                reader = PixelReader(dataset, vr, file, name, header.frames)
                display = Display(dataset, name)
        except FrameError as exc:
            raise SourceLostError(str(exc)) from exc
        for index in range(header.frames):
            reader.require(index)
            try:
                pixels, coloured = display.show(reader.read(index), found.region)
            except FrameError as exc:
                yield bad_frame(index, header.origin, exc)
                continue
            yield Frame(
                pixels,
                index,
                monotonic_ns(),
                header.origin,
                frame_id(index, pixels),
                region=found.region,
                spacing=found.spacing,
                spacing_reason=found.reason,
                coloured=coloured,
            )
