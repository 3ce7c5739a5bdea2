"""The two plots of a card, as PNG bytes. Knows numbers only: no picture of a patient is drawn."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDE, HIGH, DPI = 6.4, 3.6, 110


def bland_altman(true: NDArray[np.float64], error: NDArray[np.float64], name: str, unit: str) -> bytes:
    """Error against the mean of truth and value, with the bias and the limits of agreement (1.96 SD)."""
    figure, axes = _axes()
    axes.axhline(0, color="#999999", linewidth=0.8)
    bias, spread = float(np.mean(error)), 1.96 * float(np.std(error))
    for level, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
        axes.axhline(level, color="#b5482a", linewidth=1.2, linestyle=style)
        axes.annotate(
            f"{level:+,.0f}" if abs(bias) + spread > 100 else f"{level:+.2f}",
            (1.0, level),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
        )
    axes.plot(true + error / 2, error, "o", color="#1d5b79", markersize=3.5, alpha=0.7)
    axes.set_xlabel(f"mean of measured and true {name}, {unit}")
    axes.set_ylabel(f"measured - true, {unit}")
    return _png(figure)


def risk_curve(risk: dict[str, Any], name: str, unit: str) -> bytes:
    """Mean absolute error of the images kept, by the share that is kept."""
    figure, axes = _axes()
    curve = np.array(risk["curve"])
    axes.plot(100 * curve[:, 0], curve[:, 1], color="#1d5b79", linewidth=1.6)
    axes.axhline(risk["aurc_without"], color="#999999", linewidth=0.8, linestyle="--")
    axes.set_xlabel("images kept, by rising doubt, %")
    axes.set_ylabel(f"mean absolute error, {unit}")
    axes.set_title(name, fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    return _png(figure)


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, HIGH), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
