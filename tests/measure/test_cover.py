"""A structure behind a band that shows nothing: drawn ones at every side, and real heads of which half is blacked out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_runtime.codes import Reason, SourceKind, SpacingSource, Status
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import load_model
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.measure.cover import covered
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Box, Frame, Origin, Spacing
from tests.measure.drawn import mask_of
from tests.real import DATA, needs_data

GRID = (192, 288)
WHERE = fit_region(Box(0, 0, 576, 384), GRID, "letterbox")
TISSUE = np.random.default_rng(0).integers(4, 200, GRID, dtype=np.uint8)
SIDES = {
    "top": np.s_[:80],
    "bottom": np.s_[110:],
    "left": np.s_[:, :130],
    "right": np.s_[:, 150:],
}


def head(axes: tuple[int, int] = (70, 55)) -> np.ndarray:
    part = np.zeros(GRID, np.uint8)
    cv2.ellipse(part, (144, 96), axes, 0, 0, 360, 1, cv2.FILLED)
    return part.astype(bool)


@pytest.mark.parametrize("grey", [0, 3, 252, 255])
@pytest.mark.parametrize("completed", [True, False])
@pytest.mark.parametrize("side", SIDES)
def test_a_head_behind_a_band_is_covered_whether_or_not_its_mask_goes_on_there(
    side: str, completed: bool, grey: int
) -> None:
    picture, found = TISSUE.copy(), head()
    picture[SIDES[side]] = grey
    if not completed:
        found[SIDES[side]] = False
    assert covered(mask_of(WHERE, found, names=("head",)), picture)


def test_a_mask_that_goes_on_to_the_end_of_the_picture_is_covered_too() -> None:
    picture = TISSUE.copy()
    picture[SIDES["right"]] = 0
    assert covered(mask_of(WHERE, head((150, 60)), names=("head",)), picture)


def test_a_head_in_a_whole_picture_or_beside_a_band_is_not_covered() -> None:
    whole = mask_of(WHERE, head(), names=("head",))
    assert not covered(whole, TISSUE)
    beside = TISSUE.copy()
    beside[:, :60] = 0
    assert not covered(whole, beside)
    assert not covered(mask_of(WHERE, np.zeros(GRID, bool), names=("head",)), beside)


def test_tissue_in_shadow_is_no_band() -> None:
    picture = TISSUE.copy()
    picture[SIDES["right"]] = 8
    assert not covered(mask_of(WHERE, head(), names=("head",)), picture)


@needs_data
def test_a_real_head_of_which_half_is_blacked_out_gives_no_number() -> None:
    model = load_model("fetal_head")
    pipeline = build_pipeline(model, open_backend(model, "openvino", "fp32"))
    spacing = Spacing(0.15, 0.15, SpacingSource.META_CSV)
    whole = half = 0
    try:
        for path in sorted((DATA / "fetal_head" / "images").iterdir())[::19]:
            pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert pixels is not None
            for hidden in (False, True):
                if hidden:
                    pixels[:, pixels.shape[1] // 2 :] = 0
                origin = Origin(SourceKind.FOLDER, path.name)
                result = pipeline.step(Frame(pixels, 0, 0, origin, "0.head", spacing=spacing))
                if hidden:
                    half += result.status is not Status.WITHHELD
                else:
                    whole += Reason.CUT_BY_BORDER not in result.reasons
    finally:
        pipeline.close()
    assert half == 0
    assert whole >= 39  # of 40: one of HC18 may be at the border
