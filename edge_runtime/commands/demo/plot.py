"""The demo's measurement over time, as a picture; matplotlib is asked for only here and may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.commands.demo.findings import circumference
from edge_runtime.commands.demo.words import RESEARCH, SIZE_ONLY
from edge_runtime.types import Finding


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the demo's processes."""

    at_ns: int  # monotonic, as in a finding
    what: str


def draw(
    path: Path, findings: Sequence[Finding], true_mm: float, events: Sequence[Event], begun_ns: int
) -> bool:
    """Draws every captured circumference with its interval against the true one; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    heads = [
        (finding.monotonic_ns, one) for finding in findings if (one := circumference(finding)) is not None
    ]
    if not heads:
        return False
    at = np.array([(moment - begun_ns) / 1e9 for moment, _ in heads])
    value = np.array([one.value for _, one in heads], float)
    spread = np.array([one.interval or (one.value, one.value) for _, one in heads], float)
    figure = Figure(figsize=(9, 4.8), dpi=170, facecolor="white")
    axes = figure.add_axes((0.075, 0.15, 0.9, 0.64))
    _frame_axes(axes)
    axes.axhline(true_mm, color="#0b0f14", linewidth=1.4, zorder=2)
    axes.errorbar(
        at,
        value,
        yerr=np.abs(spread.T - value),
        fmt="o",
        markersize=4.5,
        color="#1f7a68",
        ecolor="#9fcfc3",
        elinewidth=2.2,
        zorder=3,
    )
    low = min(spread.min(), true_mm) - 4
    high = max(spread.max(), true_mm) + 7
    axes.set_ylim(low, high)
    axes.set_xlim(-0.3, max(at.max(), *((event.at_ns - begun_ns) / 1e9 for event in events), 1.0) + 0.6)
    axes.text(-0.25, true_mm, f"true {true_mm:.0f}", ha="left", va="bottom", fontsize=11, color="#0b0f14")
    for event in events:
        moment = (event.at_ns - begun_ns) / 1e9
        axes.axvline(moment, color="#b5442e", linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        axes.text(moment, high, f" {event.what}", ha="left", va="top", fontsize=11, color="#b5442e")
    axes.set_xlabel("seconds since the start", fontsize=11, color="#45505c")
    figure.text(
        0.075, 0.925, "Head circumference of a moving phantom", fontsize=16, color="#0b0f14", weight="bold"
    )
    figure.text(
        0.075,
        0.865,
        "each dot a reported finding with its interval, in mm; dashed: a process ended with kill -9",
        fontsize=11.5,
        color="#45505c",
    )
    figure.text(0.975, 0.02, f"{SIZE_ONLY} {RESEARCH}", fontsize=9, color="#7b8794", ha="right")
    figure.savefig(path)
    return True


def _frame_axes(axes: Any) -> None:
    """Only what is needed to read a value."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c4ccd4")
    axes.tick_params(length=0, labelsize=11, colors="#45505c")
    axes.grid(axis="y", color="#e8ecef", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", integer=True, steps=[1, 2, 5, 10])
