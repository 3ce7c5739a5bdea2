"""Which values flow through a network: a histogram per tensor over real frames, and the ranges it suggests.

Knows nothing about where a Q/DQ pair goes. There is no default set of frames: who observes has frames.

Five ways to choose the largest representable value of a tensor are offered; which one is best is not decided
by its name but by the output error it causes (`search.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.onnx_run import outputs_of
from edge_runtime.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

Method = Literal["min_max", "percentile_99.99", "percentile_99.9", "mse", "entropy"]

BINS = 2048
NOTHING = 1e-30  # smaller values are zero: no scale could hold them
LEVELS = 127  # of a symmetric INT8 tensor, on one side of zero
PERCENTILES: dict[Method, float] = {"percentile_99.99": 0.9999, "percentile_99.9": 0.999}
TRIED = np.linspace(0.2, 1.0, 81)  # shares of the largest value, for MSE


@dataclass(slots=True)
class Observed:
    """The absolute values of one tensor, in `BINS` equal bins from 0 to `reach`."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    reach: float = 0.0  # upper end of the last bin; doubles as larger values come
    largest: float = 0.0
    negative: bool = False  # a value below zero was seen

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts every element. Raises CalibrationError where one is not finite."""
        low, high = float(np.min(values)), float(np.max(values))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise CalibrationError("the model gives NaN or infinity; nothing can be calibrated on that")
        self.negative |= low < 0
        self.largest = max(self.largest, -low, high)
        if self.largest < NOTHING:
            self.counts[0] += values.size
            return
        if self.reach == 0:
            self.reach = self.largest
        while self.reach < self.largest:
            self.counts = np.concatenate(
                (self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64))
            )
            self.reach *= 2
        index = np.abs(values).ravel() * np.float32((BINS - 1e-3) / self.reach)
        self.counts += np.bincount(index.astype(np.int32), minlength=BINS)[:BINS]

    def ranges(self) -> dict[Method, float]:
        """The largest representable value that each method suggests; equal ones once, the first name stays.

        Empty for a tensor that is always zero.
        """
        if self.largest < NOTHING:
            return {}
        found: dict[Method, float] = {"min_max": self.largest}
        suggested = {name: self._percentile(share) for name, share in PERCENTILES.items()}
        suggested |= {"mse": self._mse(), "entropy": self._entropy()}
        for name, value in suggested.items():
            if all(abs(value / other - 1) > 0.01 for other in found.values()):
                found[name] = value
        return found

    def _percentile(self, share: float) -> float:
        below = np.cumsum(self.counts) >= share * self.counts.sum()
        return min(self.largest, float(np.argmax(below) + 1) * self.reach / BINS)

    def _mse(self) -> float:
        """The range with the least mean squared error of rounding and clipping."""
        centres = (np.arange(BINS) + 0.5) * (self.reach / BINS)
        limits = TRIED * self.largest
        steps = limits[:, None] / LEVELS
        error = np.minimum(np.round(centres / steps), LEVELS) * steps - centres
        return float(limits[np.argmin((error**2 * self.counts).sum(axis=1))])

    def _entropy(self) -> float:
        """The range that keeps most of the distribution: least Kullback-Leibler divergence of the values,
        clipped, against the same in 128 levels (S. Migacz, 8-bit Inference with TensorRT, GTC 2017).
        """
        best, least = self.largest, np.inf
        counts = self.counts.astype(np.float64)
        used = int(np.ceil(self.largest / self.reach * BINS))
        for end in range(max(LEVELS + 1, used // 5), used + 1, 8):
            kept = counts[:end].copy()
            level = np.minimum(np.arange(end) * (LEVELS + 1) // end, LEVELS)
            filled = kept > 0
            sums = np.bincount(level, kept, LEVELS + 1)
            sizes = np.bincount(level, filled, LEVELS + 1)
            coarse = np.where(filled, (sums / np.maximum(sizes, 1))[level], 0.0)
            kept[-1] += counts[end:].sum()
            divergence = _divergence(kept, coarse)
            if divergence < least:
                best, least = end * self.reach / BINS, divergence
        return min(best, self.largest)


def _divergence(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence of two histograms; infinite where the candidate misses what is there."""
    p, q = reference / max(reference.sum(), 1), candidate / max(candidate.sum(), 1)
    there = p > 0
    if (q[there] == 0).any():
        q = np.maximum(q, 1e-9)
    return float((p[there] * np.log(p[there] / q[there])).sum())


def observe(
    graph: onnx.ModelProto, tensors: Sequence[str], inputs: Iterable[NDArray[Any]]
) -> dict[str, Observed]:
    """What each of `tensors` holds over all `inputs`, (1, c, h, w) each. Raises CalibrationError.

    `graph` is run in fp32 by onnxruntime; every input counts, none is skipped.
    """
    found = {tensor: Observed() for tensor in tensors}
    for values in run_each(graph, tensors, inputs):
        for tensor, array in zip(tensors, values, strict=True):
            found[tensor].add(array)
    return found


def run_each(
    graph: onnx.ModelProto, tensors: Sequence[str], inputs: Iterable[NDArray[Any]]
) -> Iterator[list[NDArray[np.float32]]]:
    """The values of `tensors`, inner ones too, for each of `inputs`."""
    import onnx

    wider = onnx.ModelProto()
    wider.CopyFrom(graph)
    outputs = {output.name for output in wider.graph.output}
    for tensor in tensors:
        if tensor not in outputs:
            wider.graph.output.append(
                onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
            )
    return outputs_of(wider.SerializeToString(), tensors, ({"": image} for image in inputs))
