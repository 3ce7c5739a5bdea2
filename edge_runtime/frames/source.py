"""Where frames come from: the seam every source meets, and the table of them.

A source reads; it knows nothing about models, findings or threads. It says when each of its frames is due
and the pipeline does the waiting.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.clock import monotonic_ns
from edge_runtime.codes import SourceKind
from edge_runtime.errors import ConfigError, FrameError
from edge_runtime.types import BadFrame, Frame, Origin, Spacing

if TYPE_CHECKING:
    from typing_extensions import Self


class Source(Protocol):
    """Frames one at a time, in order, decoded when they are asked for.

    A frame belongs to the consumer: a source never writes into an array that it has handed out.
    """

    @property
    def kind(self) -> SourceKind: ...

    @property
    def live(self) -> bool:
        """True where frames are lost when nobody takes them, as from a camera."""

    @property
    def length(self) -> int | None:
        """How many frames the source announces, `limit` applied; None = not known. Fewer may come."""

    def frames(self) -> Iterator[Frame | BadFrame]:
        """Yields every frame from the first, indices gapless from 0; each call begins anew.

        Raises SourceLostError when the source ends before its time: what came before is good.
        """

    def due_s(self, index: int) -> float:
        """Seconds from frame 0 to frame `index`, by `fps` or the source's own frame times; 0.0 = at once."""

    def close(self) -> None:
        """Gives back what is open; a second call does nothing. An iterator in use ends."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closeable:
    """The end of a source: by `close`, which only sets `_closed`, or by leaving its `with` block.

    `frames` looks at `_closed` before each frame.
    """

    _closed = False

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the command line says about a source, for every opener alike."""

    fps: float | None = None  # None = the source's own frame times, 0 = unpaced
    region: int | None = None  # which ultrasound region of the file, counted from 1
    spacing: Spacing | None = None  # given by the operator
    force_spacing: bool = False  # even where it contradicts the file
    limit: int | None = None  # frames

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 <= self.fps <= 1000:
            raise ConfigError(f"--fps {self.fps:g}: want 0 (unpaced) to 1000 frames per second")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: want at least 1 frame")
        if self.region is not None and self.region < 1:
            raise ConfigError(f"--region {self.region}: regions are counted from 1")

    def count(self, frames: int) -> int:
        """`frames`, or the limit where that is less."""
        return frames if self.limit is None else min(frames, self.limit)


# scheme -> opener of what follows the colon
_SOURCES = {
    "dicom": "edge_runtime.frames.dicom:open_dicom",
    "video": "edge_runtime.frames.video:open_video",
    "folder": "edge_runtime.frames.folder:open_folder",
    "phantom": "edge_runtime.frames.phantom_source:open_phantom",
}
_LATER = ("v4l2", "rtsp", "rtsps", "igtl", "dicom-scp")


def open_source(
    uri: str,
    *,
    fps: float | None = None,
    region: int | None = None,
    spacing_mm: Spacing | None = None,
    force_spacing: bool = False,
    limit: int | None = None,
) -> Source:
    """The source that `uri` names, ready to be read.

    Raises ConfigError, in one line, for an unknown scheme, a missing path, a file that is not what its
    scheme says, and options it cannot follow.
    """
    scheme, colon, rest = uri.partition(":")
    known = ", ".join(f"{name}:" for name in _SOURCES)
    if scheme in _LATER:
        raise ConfigError(f"source {scheme}: not in this version; choose one of {known}")
    if not colon or scheme not in _SOURCES:
        raise ConfigError(f"source {uri!r}: want SCHEME:PLACE with a scheme of {known}")
    if not rest:
        raise ConfigError(f"source {uri!r}: nothing after the colon")
    options = SourceOptions(fps, region, spacing_mm, force_spacing, limit)
    module, _, name = _SOURCES[scheme].partition(":")
    opener: Callable[[str, SourceOptions], Source] = getattr(import_module(module), name)
    with _file_system(scheme, rest):
        return opener(rest, options)


@contextmanager
def _file_system(scheme: str, place: str) -> Iterator[None]:
    """What the file system refuses while a source is opened, as a ConfigError in one line."""
    shown = place if len(place) <= 200 else f"{place[:200]}..."
    try:
        yield
    except PermissionError as exc:
        raise ConfigError(f"{scheme}:{shown}: permission denied; let this user read it") from exc
    except OSError as exc:
        raise ConfigError(f"{scheme}:{shown}: cannot be opened ({exc.strerror})") from exc


def steady_s(index: int, fps: float | None, frame_time_ms: float | None) -> float:
    """When frame `index` is due: by `fps` (0 = at once), else by the frame time, else at once."""
    if fps is not None:
        return index / fps if fps > 0 else 0.0
    return index * frame_time_ms / 1000.0 if frame_time_ms else 0.0


def frame_id(index: int, pixels: NDArray[np.uint8]) -> str:
    """`<index>.<first 16 hex digits of the SHA-256 of the pixels>`: unique in a run, free of names."""
    return f"{index}.{digest(pixels)}"


def digest(pixels: NDArray[np.uint8]) -> str:
    """The first 16 hex digits of the SHA-256 of `pixels`, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[:16]


def bad_frame(index: int, origin: Origin, error: FrameError) -> BadFrame:
    """The stand-in for frame `index`, which could not be had."""
    return BadFrame(index, monotonic_ns(), origin, f"{index}.none", error)


COLOUR_STEP = 40  # levels between the strongest and the weakest channel: tinted grey maps stay below


def coloured_share(rgb: NDArray[np.uint8]) -> float:
    """Share of clearly coloured pixels of (H, W, 3), from every fourth one each way."""
    few = rgb[::4, ::4]
    spread = few.max(axis=2).astype(np.int16) - few.min(axis=2)
    return float(np.count_nonzero(spread > COLOUR_STEP) / max(spread.size, 1))


def frame_time_ms(rate_hz: float) -> float | None:
    """Milliseconds per frame of a rate that can be true, else None."""
    return 1000.0 / rate_hz if math.isfinite(rate_hz) and 0 < rate_hz <= 1000 else None
