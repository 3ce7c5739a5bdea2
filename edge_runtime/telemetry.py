"""Counters and percentiles of a run, in memory that does not grow. Knows nothing of where they are shown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from edge_runtime import clock


class Series:
    """The last `size` values of something, with exact percentiles over them. One thread writes."""

    def __init__(self, size: int = 1 << 15) -> None:
        self._values = np.zeros(size, np.float64)
        self.count = 0

    def add(self, value: float) -> None:
        self._values[self.count % len(self._values)] = value
        self.count += 1

    def percentile(self, q: float) -> float:
        """The q-th percentile, 0 to 100; NaN of nothing, which JSON shows as null."""
        if self.count == 0:
            return math.nan
        return float(np.percentile(self._values[: min(self.count, len(self._values))], q))


@dataclass(slots=True)
class StageClock:
    """Milliseconds by stage of one frame."""

    stages_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = clock.monotonic_ns()
        try:
            yield
        finally:
            self.stages_ms[name] = (clock.monotonic_ns() - start) / 1e6


@dataclass(slots=True)
class Counters:
    """What a run has done so far. offered = processed + dropped, always, once the run has ended."""

    offered: int = 0
    processed: int = 0
    dropped: int = 0
    findings: int = 0
    withheld: int = 0
    bad_frames: int = 0
    started_ns: int = field(default_factory=clock.monotonic_ns)
    first_finding_ns: int | None = None
    last_result_ns: int | None = None
    age_ms: Series = field(default_factory=Series)
    stages_ms: dict[str, Series] = field(default_factory=dict)

    def result(self, age_ms: float, stages_ms: dict[str, float]) -> None:
        """One frame was processed."""
        self.processed += 1
        self.last_result_ns = clock.monotonic_ns()
        self.age_ms.add(age_ms)
        for name, spent in stages_ms.items():
            self.stages_ms.setdefault(name, Series()).add(spent)

    def fps(self) -> float:
        """Frames processed by second, from the start to the last result."""
        if self.last_result_ns is None:
            return 0.0
        return self.processed / max(1e-9, (self.last_result_ns - self.started_ns) / 1e9)
