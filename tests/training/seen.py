"""Made-up cases: what a model saw of images whose truth is known, without a model."""

from __future__ import annotations

import numpy as np

from models.training.evaluate import Case, Seen

RULE = {"min_presence": 0.5, "min_confidence": 0.5, "min_ellipse_iou": 0.5}


def seen(presence: float = 0.99, confidence: float = 0.95, fit: float = 0.97, **values: float) -> Seen:
    return Seen(presence, confidence, fit, values or {"length": 1.0}, dice=(0.97,))


def case(true: float, found: float, score: float = 0.9, name: str = "a.png", split: str = "test") -> Case:
    """An image with one value, `length`."""
    what = Seen(0.99, score, 1.0, {"length": found}, dice=(0.97,))
    return Case(name, name, split, {}, {"length": true}, what)


def cases(true: np.ndarray, error: np.ndarray, score: np.ndarray | None = None) -> list[Case]:
    scores = np.full(len(true), 0.9) if score is None else score
    return [
        case(float(t), float(t + e), float(s), f"{k:04d}.png")
        for k, (t, e, s) in enumerate(zip(true, error, scores, strict=True))
    ]
