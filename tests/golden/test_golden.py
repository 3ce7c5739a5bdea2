"""Findings of fixed masks, byte for byte, on every Python and library version that devices run.

The masks come from exact arithmetic, not from a model: what is held fixed here is everything behind the network.
`python -m tests.golden.test_golden` writes the files anew; look at the difference before committing it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime import clock
from edge_runtime.codes import Clock, Kind, Reason, SourceKind, SpacingSource
from edge_runtime.infer.backends.contract import Slot
from edge_runtime.infer.backends.null import NullBackend
from edge_runtime.infer.model import load_model
from edge_runtime.measure.quality import Limits
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.pipeline import build_pipeline
from edge_runtime.reporting import FindingMaker
from edge_runtime.sync.journal import Stamp
from edge_runtime.types import Box, Frame, ModelUsed, Origin, Spacing, canonical

HERE = Path(__file__).parent
GRID = (192, 288)
MODEL = ModelUsed(
    name="fetal_head",
    version="golden",
    sha256="0" * 64,
    artifact_sha256="1" * 64,
    precision="fp32",
    backend="null",
)


class Drawn(NullBackend):
    """Finds the ellipse that was drawn for it: probability 0.96875 inside, 0.015625 outside, both exact in binary."""

    axes = (96, 75)
    presence = 0.984375

    def wait(self, slot: Slot, /) -> None:
        super().wait(slot)
        y, x = np.mgrid[: GRID[0], : GRID[1]]
        a, b = self.axes
        inside = ((x - 143) * b) ** 2 + ((y - 95) * a) ** 2 <= (a * b) ** 2
        slot.outputs["mask"][0, 0] = np.where(inside, np.float32(0.96875), np.float32(0.015625))
        slot.outputs["presence"][0, 0] = self.presence


def picture() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Some texture from whole numbers only, from dark to bright across: even all round it would be a drawing."""
    y, x = np.mgrid[:540, :800].astype(np.int64)
    texture = (x * x * 7 + y * y * 13 + x * y * 5) // 97 % 180 + 20
    return (texture * (x + 200) // 1000).astype(np.uint8)


# Limits and intervals of these tests alone: a better model must not move them.
LIMITS = Limits(modality=("US",), min_presence=0.5, min_confidence=0.8)
SETTINGS = MeasureSettings(
    spacing_range_mm=(0.03, 0.5),
    min_ellipse_iou=0.9,
    intervals={"head_circumference": (4.0, 0.02), "biparietal_diameter": (1.5, 0.02)},
)


CASES: dict[str, tuple[Spacing | None, Reason | None, bool, tuple[int, int], float]] = {
    "caution": (Spacing(0.2, 0.2, SpacingSource.META_CSV), None, False, (96, 75), 0.984375),
    "confirmed": (Spacing(0.2, 0.2, SpacingSource.META_CSV), None, True, (96, 75), 0.984375),
    "anisotropic": (Spacing(0.2, 0.25, SpacingSource.META_CSV), None, True, (80, 75), 0.984375),
    "operator": (
        Spacing(0.2, 0.2, SpacingSource.OPERATOR),
        Reason.SPACING_OPERATOR,
        True,
        (96, 75),
        0.984375,
    ),
    "pixels": (None, Reason.SPACING_REGION_OUTSIDE_IMAGE, False, (96, 75), 0.984375),
    "foreign": (Spacing(0.2, 0.2, SpacingSource.META_CSV), None, False, (96, 75), 0.015625),
    "small": (Spacing(0.02, 0.02, SpacingSource.META_CSV), None, True, (96, 75), 0.984375),
}


def finding(name: str) -> bytes:
    spacing, reason, confirmed, axes, presence = CASES[name]
    model = load_model("fetal_head")
    output = msgspec.structs.replace(model.manifest.output, outline="mask")
    model = replace(model, manifest=msgspec.structs.replace(model.manifest, output=output))
    backend = Drawn(GRID, model, 1)
    backend.axes, backend.presence = axes, presence
    pipeline = build_pipeline(model, backend, plane_confirmed=confirmed)
    pipeline.settings = replace(SETTINGS, plane_confirmed=confirmed)
    pipeline.limits = LIMITS
    origin = Origin(SourceKind.FOLDER, "still.png", study_uid=None, subject="a")
    frame = Frame(
        picture(),
        3,
        0,
        origin,
        "3.golden",
        region=Box(8, 4, 792, 536),
        spacing=spacing,
        spacing_reason=reason,
    )
    stamp = Stamp("dev-golden", "e", clock.boot_id(), 1, "2026-01-01T00:00:00.000Z", Clock.NTP, 0)
    maker = FindingMaker(MODEL, pseudonym=lambda text: "p")
    return canonical(maker.finding(pipeline.step(frame), stamp, "exam", Kind.FRAME)) + b"\n"


@pytest.mark.parametrize("name", CASES)
def test_a_finding_is_what_it_was_byte_for_byte(name: str) -> None:
    assert finding(name) == (HERE / f"{name}.json").read_bytes()


if __name__ == "__main__":
    for case in CASES:
        (HERE / f"{case}.json").write_bytes(finding(case))
