"""Video files as grey frames, through OpenCV. They carry no millimetres: only the operator can give them."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.clock import monotonic_ns
from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import ConfigError, FrameError, SourceLostError
from edge_runtime.frames.source import (
    Closeable,
    SourceOptions,
    bad_frame,
    coloured_share,
    frame_id,
    frame_time_ms,
    steady_s,
)
from edge_runtime.frames.spacing import Resolved, with_operator, without_operator
from edge_runtime.types import BadFrame, Frame, Origin, check_image_size

_COUNTED = frozenset(
    {".avi", ".mp4", ".m4v", ".mov"}
)  # their index says how many frames there are; others guess


def open_video(place: str, options: SourceOptions) -> VideoSource:
    """The video file `place`. Raises ConfigError when it is missing, no video, or of an unusable size."""
    path = Path(place)
    if options.region is not None:
        raise ConfigError("--region: a video has no regions; leave it out")
    if not path.is_file():
        why = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else "no such file"
        raise ConfigError(f"video:{place}: {why}")
    with path.open("rb") as file:
        start = file.read(4096)
    if start[128:132] == b"DICM":  # it would be read past its own tags: no modality, no study, no spacing
        raise ConfigError(f"video:{place}: is a DICOM file; use dicom:{place}")
    if _is_text(start):
        raise ConfigError(f"video:{place}: is a text file, not a video")
    return VideoSource(path, options)


def _is_text(start: bytes) -> bool:
    """True of a text file: it would be drawn as a terminal's screen, or lead on to the files it names."""
    if start.startswith((b"ffconcat", b"#EXTM3U")):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)  # its last character may be cut off
    except UnicodeDecodeError:
        return False
    return start != b"" and b"\0" not in start


class VideoSource(Closeable):
    """The frames of one video file, decoded when asked for."""

    kind = SourceKind.VIDEO
    live = False

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path, self._options = path, options
        capture = _capture(path)
        try:
            size_hw = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            check_image_size(size_hw, path.name)
            announced = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
            time_ms = frame_time_ms(capture.get(cv2.CAP_PROP_FPS))
        except FrameError as exc:
            raise ConfigError(str(exc)) from exc
        finally:
            capture.release()
        self._announced = announced or None
        self._size_hw = size_hw
        self._origin = Origin(SourceKind.VIDEO, path.name, frame_time_ms=time_ms)
        none = Resolved(None, Reason.SPACING_MISSING)
        self._spacing = with_operator(none, options.spacing, options.force_spacing, path.name)
        self._dropped = without_operator(none, options.spacing)
        self.length = options.count(announced) if announced else options.limit

    def frames(self) -> Iterator[Frame | BadFrame]:
        capture = _capture(self._path)
        try:
            index = 0
            while not self._closed and (self._options.limit is None or index < self._options.limit):
                got, image = capture.read()
                if not got or image is None:
                    self._require_end(index)
                    return
                yield self._frame(index, image)
                index += 1
        finally:
            capture.release()

    def due_s(self, index: int) -> float:
        return steady_s(index, self._options.fps, self._origin.frame_time_ms)

    def _frame(self, index: int, image: NDArray[Any]) -> Frame | BadFrame:
        if image.dtype != np.uint8:
            error = FrameError(f"{self._path.name} frame {index}: not 8 bits", Reason.FRAME_UNREADABLE)
            return bad_frame(index, self._origin, error)
        grey_already = image.ndim == 2 or image.shape[2] == 1
        pixels: NDArray[Any] = (
            image.reshape(image.shape[:2]) if grey_already else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        )
        # the operator's spacing is bound to the size that was seen first
        spacing = self._spacing if pixels.shape == self._size_hw else self._dropped
        return Frame(
            pixels,
            index,
            monotonic_ns(),
            self._origin,
            frame_id(index, pixels),
            spacing=spacing.spacing,
            spacing_reason=spacing.reason,
            coloured=0.0 if grey_already else coloured_share(image),
        )

    def _require_end(self, read: int) -> None:
        """Raises SourceLostError when fewer frames came than the file announced."""
        if self._announced is None or read >= self._announced:
            if read == 0:
                raise SourceLostError(f"{self._path.name}: no frame of it decodes")
            return
        guessed = self._path.suffix.lower() not in _COUNTED
        if guessed and self._announced - read <= 1 + self._announced // 100:
            return
        raise SourceLostError(
            f"{self._path.name}: damaged or cut off, it ends after frame {read} of {self._announced}"
        )


def _capture(path: Path) -> cv2.VideoCapture:
    """An opened file. Raises ConfigError when OpenCV cannot open it as a video."""
    os.environ.setdefault(
        "OPENCV_FFMPEG_LOGLEVEL", "-8"
    )  # read when FFmpeg is first used; its words are not for users
    log: Any = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture = cv2.VideoCapture(str(path), cv2.CAP_OPENCV_MJPEG)
    finally:
        log.setLogLevel(level)
    if not capture.isOpened():
        raise ConfigError(
            f"video:{path.name}: not a video that can be read here; want AVI or MP4, not cut off"
        )
    return capture
