"""By how much frames missed a limit, and how that reads."""

from __future__ import annotations

import numpy as np

from edge_runtime.codes import Reason
from edge_runtime.commands.shortfall import Shortfalls
from edge_runtime.commands.words import listed
from edge_runtime.measure.quality import Limits
from edge_runtime.measure.settings import MeasureSettings
from tests.measure.drawn import geometry, mask_of


def test_a_limit_that_is_a_number_is_told_with_what_came() -> None:
    where = geometry()
    cells = np.zeros(where.grid_hw, bool)
    cells[50:100, 50:120] = True
    told = Shortfalls.of(Limits(min_presence=0.95, min_confidence=0.9), MeasureSettings())
    reasons = (Reason.FOREIGN_IMAGE, Reason.PLANE_UNCONFIRMED)
    for presence in (0.3, 0.25, 0.6):
        told.add(reasons, mask_of(where, cells, presence=presence))
    told.add((Reason.FRAME_UNREADABLE,), None)
    assert set(told.found) == {Reason.FOREIGN_IMAGE}
    much = {reason.value: short.in_words() for reason, short in told.found.items()}
    said = listed({"foreign_image": 3, "plane_unconfirmed": 3}, by_how_much=much)
    assert "(3: 0.25 to 0.6, want 0.95), nobody has confirmed the standard plane (3)" in said
