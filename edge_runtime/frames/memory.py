"""Frames that are already in memory, for benchmarks and tests: what the pipeline costs without a source.

It knows nothing about files; `open_source` does not open it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_runtime.clock import monotonic_ns
from edge_runtime.codes import Reason, SourceKind
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import Closeable, digest, steady_s
from edge_runtime.types import BadFrame, Frame, Origin, Spacing


class MemorySource(Closeable):
    """The rows of an array over and over, each as its own frame, without a copy.

    `array` is (N, H, W) uint8 and must not change while the source is read; `frames` None = each row once.
    """

    kind = SourceKind.MEMORY
    live = False

    def __init__(
        self,
        array: NDArray[np.uint8],
        *,
        spacing: Spacing | None = None,
        frames: int | None = None,
        fps: float | None = None,
        modality: str | None = None,
    ) -> None:
        if array.ndim != 3 or array.dtype != np.uint8 or len(array) == 0:
            raise ConfigError(f"memory: want (N, H, W) uint8, got {array.shape} {array.dtype}")
        self._rows = list(array)
        self._digests: list[str | None] = [None] * len(array)
        self._spacing = spacing
        self._reason = None if spacing else Reason.SPACING_MISSING
        self._fps = fps
        self._origin = Origin(
            SourceKind.MEMORY, "memory", modality, frame_time_ms=1000 / fps if fps else None
        )
        self.length = len(array) if frames is None else frames

    def frames(self) -> Iterator[Frame | BadFrame]:
        for index in range(self.length):
            if self._closed:
                return
            row = index % len(self._rows)
            content = self._digests[row] or self._hash(row)
            yield Frame(
                self._rows[row],
                index,
                monotonic_ns(),
                self._origin,
                f"{index}.{content}",
                spacing=self._spacing,
                spacing_reason=self._reason,
            )

    def due_s(self, index: int) -> float:
        return steady_s(index, self._fps, None)

    def _hash(self, row: int) -> str:
        content = digest(self._rows[row])
        self._digests[row] = content
        return content
