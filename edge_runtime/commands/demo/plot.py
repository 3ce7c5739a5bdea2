"""The demo's measurement over time, as a picture; matplotlib is asked for only here and may be missing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.commands.demo.findings import circumference
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY
from edge_runtime.types import Finding, Measurement

INK, QUIET, DOT, SPREAD, ALARM = "#0b0f14", "#45505c", "#1f7a68", "#9fcfc3", "#b5442e"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the demo's processes."""

    at_ns: int  # monotonic, as in a finding
    what: str


@dataclass(slots=True)
class Timeline:
    """When the live part began and what was done to it since."""

    begun_ns: int = 0
    events: list[Event] = field(default_factory=list)

    def add(self, at_ns: int, what: str) -> None:
        self.events.append(Event(at_ns, what))

    def seconds(self, at_ns: int) -> float:
        """From the beginning of the live part."""
        return (at_ns - self.begun_ns) / 1e9


def draw(path: Path, findings: Sequence[Finding], true_mm: float, timeline: Timeline, scratch: Path) -> bool:
    """Draws every captured circumference with its interval against the true one, and what was killed when.

    False, and no picture, without matplotlib or without a circumference. `scratch` is for matplotlib's caches.
    """
    heads = [(made.monotonic_ns, one) for made in findings if (one := circumference(made)) is not None]
    if not heads:
        return False
    with _keeping_out_of_home(scratch):
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return False
        figure = Figure(figsize=(7.4, 5), dpi=200, facecolor="white")
        axes = figure.add_axes((0.075, 0.15, 0.8, 0.62))
        _frame_axes(axes)
        low, high = _dots(axes, np.array([timeline.seconds(moment) for moment, _ in heads]), heads)
        axes.axhline(true_mm, color=INK, linewidth=1.4, zorder=2)
        beyond = axes.get_yaxis_transform()  # x in widths of the axes, y in mm
        axes.text(
            1.015, true_mm, f"true {true_mm:.0f}", transform=beyond, va="center", fontsize=12, color=INK
        )
        axes.set_xlim(left=0)
        _mark(axes, timeline, min(low, true_mm) - 1, max(high, true_mm))
        _write(figure)
        figure.savefig(path)
    return True


def _dots(
    axes: Any, at: NDArray[np.float64], heads: Sequence[tuple[int, Measurement]]
) -> tuple[float, float]:
    """A dot and its interval for each; the lowest and the highest millimetre that any reaches."""
    value = np.array([one.value for _, one in heads], float)
    spread = np.array([one.interval or (one.value, one.value) for _, one in heads], float)
    axes.errorbar(
        at,
        value,
        yerr=np.abs(spread.T - value),
        fmt="o",
        markersize=4.5,
        color=DOT,
        ecolor=SPREAD,
        elinewidth=2.2,
        zorder=3,
    )
    return float(spread.min()), float(spread.max())


@contextmanager
def _keeping_out_of_home(scratch: Path) -> Iterator[None]:
    """Within, matplotlib keeps its font list in `scratch`, unless the user has told it a place."""
    if "MPLCONFIGDIR" in os.environ:
        yield
        return
    os.environ["MPLCONFIGDIR"] = str(scratch)
    try:
        yield
    finally:
        del os.environ["MPLCONFIGDIR"]


def _mark(axes: Any, timeline: Timeline, low: float, high: float) -> None:
    """A line for each event, its name at the top: each a step lower than the one before it, to cross none."""
    step = 0.11 * (high - low)
    top = high + step * (len(timeline.events) + 0.6)
    for event in timeline.events:
        moment = timeline.seconds(event.at_ns)
        axes.plot([moment, moment], [low, top], color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.text(moment, top, f" {event.what}", ha="left", va="top", fontsize=12, color=ALARM)
        top -= step
    axes.set_ylim(low, high + step * (len(timeline.events) + 0.6))


def _write(figure: Any) -> None:
    """Title, legend and what no number here can say."""
    figure.text(
        0.075, 0.925, "Head circumference of a moving phantom, mm", fontsize=15, color=INK, weight="bold"
    )
    figure.text(
        0.075,
        0.815,
        "Each dot is a reported finding with its interval.\nDashed: a process ended with kill -9.",
        fontsize=12,
        color=QUIET,
        linespacing=1.35,
    )
    figure.text(0.475, 0.055, "seconds since the start", fontsize=12, color=QUIET, ha="center")
    figure.text(0.075, 0.012, f"{SIZE_ONLY} {RESEARCH}", fontsize=9.5, color="#6b7783")


def _frame_axes(axes: Any) -> None:
    """Only what is needed to read a value."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c4ccd4")
    axes.tick_params(length=0, labelsize=12, colors=QUIET)
    axes.grid(axis="y", color="#e8ecef", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", integer=True, steps=[1, 2, 5, 10])
