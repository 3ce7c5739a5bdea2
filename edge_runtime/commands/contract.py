"""A model's contract in words: what a picture must be for its numbers to count, and what happens if it is not.

Reads the manifest; `measure/quality.py`, `measure/values.py` and the anatomies enforce it.
"""

from __future__ import annotations

from edge_runtime.infer.model import LimitSpec, Manifest


def contract_lines(manifest: Manifest) -> tuple[str, ...]:
    """One line each for the view, the file's tags, the picture's size, the classes and foreign pictures."""
    limits = manifest.limits
    labels = ", ".join(manifest.output.labels or ()) or "as the graph gives them, without names"
    return (
        f"view: {manifest.view or 'not said'}",
        f"tags: modality {_any(manifest.modality)}, body part {_any(manifest.body_part)}, "
        f"projection {_any(manifest.view_position)}, where the file says them",
        f"picture: {_size(limits)}",
        f"classes: {labels}",
        f"foreign: {_foreign(manifest)}",
        *_acquisition(manifest),
        "outside of this: a code, never a number",
    )


def _any(accepted: tuple[str, ...]) -> str:
    return " or ".join(accepted) or "any"


def _size(limits: LimitSpec) -> str:
    parts = []
    if limits.spacing_mm is not None:
        low, high = limits.spacing_mm
        parts.append(f"pixels of {low:g} to {high:g} mm where their size is known")
    if limits.min_size_px is not None:
        rows, columns = limits.min_size_px
        parts.append(f"at least {rows} rows and {columns} columns")
    if limits.max_aspect is not None:
        parts.append(f"at most {limits.max_aspect:g} times as long as wide, or as wide as long")
    return ", ".join(parts) or "any size"


def _foreign(manifest: Manifest) -> str:
    limits, parts = manifest.limits, []
    if manifest.output.presence is not None and limits.min_presence > 0:
        parts.append(f"presence below {limits.min_presence:g}")
    if limits.min_confidence > 0:
        parts.append(f"confidence below {limits.min_confidence:g}")
    if limits.min_ellipse_iou > 0:
        parts.append(f"overlap with an ellipse below {limits.min_ellipse_iou:g}")
    return f"withheld where {' or '.join(parts)}" if parts else "no rule of its own"


def _acquisition(manifest: Manifest) -> tuple[str, ...]:
    """What is checked of how an X-ray was taken; nothing of other models."""
    if manifest.anatomy != "lungs":
        return ()
    output, limits = manifest.output, manifest.limits
    parts = ["a lung is missing or clipped"]
    if output.rotation is not None:
        parts.append(f"upright is less likely than {limits.min_upright:g}")
    if output.polarity is not None:
        parts.append(f"exchanged black and white are likelier than {limits.max_inverted:g}")
    return (f"acquisition: withheld where {' or '.join(parts)}",)
