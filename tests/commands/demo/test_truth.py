"""Chests and arteries of the demo against what was drawn."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.codes import Hint, MeasurementName, Reason, SpacingSource, Status
from edge_runtime.commands.demo import chests, drawing, exhibits, known, stage, story
from edge_runtime.commands.demo.chests import Taken
from edge_runtime.commands.demo.parts import artery_part
from edge_runtime.commands.demo.teller import Teller
from edge_runtime.frames.phantom import parse_spec, render
from edge_runtime.frames.source import frame_id
from edge_runtime.infer.model import load_model
from edge_runtime.measure.findings import mask_records
from edge_runtime.pictures import whole_mask
from edge_runtime.types import Acquisition, Finding, Measurement, Quality, SpacingUsed
from tests.builders import finding
from tests.commands.demo.made_up import STAMP

WHOLE = Acquisition(
    both_lungs=True, missing=(), clipped_edges=(), rotation_deg=0, inverted=False, ok=True
)  # and nothing wrong with it
TURNED = msgspec.structs.replace(WHOLE, rotation_deg=90, ok=False)
SPACING = SpacingUsed(row_mm=0.06, col_mm=0.06, source=SpacingSource.PHANTOM)


def sized(values: dict[str, float], status: Status = Status.USABLE, **over: Any) -> Finding:
    """A finding of the first frame that gives each of `values` to within a twentieth, or withholds it."""
    held = status is Status.WITHHELD
    measurements = tuple(
        Measurement(
            name=MeasurementName(name),
            value=None if held else value,
            unit="mm2",
            interval=None if held else (0.95 * value, 1.05 * value),
            status=status,
            reasons=(),
            spacing=SPACING,
            formula="pixel-count-area",
        )
        for name, value in values.items()
    )
    return finding(STAMP, measurements=measurements, status=status, **over)


def lungs_as_drawn(share: float = 1.0, **over: Any) -> Finding:
    """What a model would say that finds the true lungs, or a share of each."""
    _, truth = render(parse_spec(chests.CHEST.removeprefix("phantom:")), 0)
    assert truth is not None
    return sized({name: share * value for name, value in truth.values.items()}, **over)


UPRIGHT, SIDEWAYS = chests.WAYS[:2]
TOLERANCE = {"lung_area_right": 0.1, "lung_area_left": 0.1}


def test_a_chest_that_is_said_to_be_as_it_was_drawn_is_no_problem() -> None:
    part = chests.chest_part(UPRIGHT, lungs_as_drawn(acquisition=WHOLE, reasons=()), TOLERANCE)
    assert chests.wrong(part) == []
    assert part.said == "both lungs are in the picture and none is clipped"
    refused = lungs_as_drawn(
        status=Status.WITHHELD, acquisition=TURNED, reasons=(Reason.ROTATED_90, Reason.SATURATED)
    )
    part = chests.chest_part(SIDEWAYS, refused, TOLERANCE)
    assert chests.wrong(part) == []
    assert part.said == "the picture is turned by 90 degrees clockwise"


def test_a_turned_chest_that_passes_is_a_problem_that_says_what_was_wanted_and_what_came() -> None:
    part = chests.chest_part(SIDEWAYS, lungs_as_drawn(acquisition=WHOLE, reasons=()), TOLERANCE)
    assert chests.wrong(part) == [
        "chest X-ray, turned: wanted 'the picture is turned by 90 degrees clockwise', came nothing wrong with it",
        "chest X-ray, turned: wanted no number, came one",
    ]


def test_a_whole_chest_that_is_refused_is_a_problem_whatever_the_reason() -> None:
    doubtful = msgspec.structs.replace(WHOLE, ok=False)
    refused = lungs_as_drawn(status=Status.WITHHELD, acquisition=doubtful, reasons=(Reason.LOW_CONFIDENCE,))
    part = chests.chest_part(UPRIGHT, refused, TOLERANCE)
    first, *values = chests.wrong(part)
    assert first == "chest X-ray, upright: wanted nothing wrong with it, came 'the model is not sure enough'"
    assert part.said == "the model is not sure enough"
    assert all(value.endswith("came no number") for value in values)
    assert len(values) == len(TOLERANCE)


@pytest.mark.parametrize(("share", "right"), [(1.04, True), (0.96, True), (1.06, False), (0.8, False)])
def test_a_value_must_lie_within_its_tolerance_and_its_interval_must_hold_the_true_one(
    share: float, right: bool
) -> None:
    part = chests.chest_part(UPRIGHT, lungs_as_drawn(share, acquisition=WHOLE, reasons=()), TOLERANCE)
    assert (chests.wrong(part) == []) is right
    narrow = dict.fromkeys(TOLERANCE, 0.01)
    part = chests.chest_part(UPRIGHT, lungs_as_drawn(share, acquisition=WHOLE, reasons=()), narrow)
    said = chests.wrong(part)
    assert "wanted lung area right 180.1 mm2 within 1 % and inside the interval, came" in said[0]


def test_each_frame_of_an_artery_is_held_against_its_own_truth() -> None:
    spec = parse_spec(story.ARTERY.removeprefix("phantom:"))
    found = []
    for index in (0, 8, 16):
        _, truth = render(spec, index)
        assert truth is not None
        source = msgspec.structs.replace(finding(STAMP).source, frame_ids=(f"{index}.00",))
        found.append(sized({"lumen_area": truth.values["lumen_area"]}, source=source))
    tolerance = {"lumen_area": 0.1}
    part = artery_part(found, spec, tolerance)
    assert (part.frames, part.measured, part.inside) == (3, 3, 3)
    assert known.complaints("artery", part.values) == []
    swapped = [
        msgspec.structs.replace(one, source=other.source)
        for one, other in zip(found, found[::-1], strict=True)
    ]
    assert artery_part(swapped, spec, tolerance).inside < 3, (
        "a beat changes the area by more than the interval"
    )


def test_a_part_whose_model_is_not_installed_is_left_out(tmp_path: Path) -> None:
    told: list[str] = []
    show = story.Show(stage.set_up(tmp_path / "demo"), 4.0, {}, Teller(told.append, None))
    with ExitStack() as stack:
        show.before_the_patient_leaves(stack)
        show.artery(stack)
    assert (show.shown.chests, show.shown.artery, show.problems, show.runs.started, told) == (
        [],
        None,
        [],
        [],
        [],
    )


def test_the_models_are_asked_for_their_anatomy() -> None:
    found = stage.installed()
    assert found["fetal_head"] == "fetal_head"
    assert found["lungs"] == "lungs"
    assert {load_model(name).manifest.anatomy for name in found.values()} == set(found)


@pytest.mark.slow
def test_a_lie_about_a_chest_makes_the_demo_fail_by_the_words_of_the_real_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = Taken("turned", UPRIGHT.uri, (Reason.ROTATED_90,))
    monkeypatch.setattr(chests, "WAYS", (UPRIGHT, lie))
    show = story.Show(
        stage.set_up(tmp_path / "demo"), 4.0, stage.installed(), Teller(lambda text: None, None)
    )
    with ExitStack() as stack:
        show.before_the_patient_leaves(stack)
    assert all("turned: wanted" in problem for problem in show.problems)
    assert len(show.problems) == 2, show.problems


def chest_panel(taken: Taken, **over: Any) -> drawing.Panel | None:
    """The panel of a chest, with the true lungs for what was found."""
    spec = parse_spec(taken.uri.removeprefix("phantom:"))
    pixels, truth = render(spec, 0)
    assert truth is not None
    mask = whole_mask(truth.mask(pixels.shape), ("lung_right", "lung_left"))
    source = msgspec.structs.replace(finding(STAMP).source, frame_ids=(frame_id(0, pixels),))
    return exhibits.chest(taken, [lungs_as_drawn(source=source, masks=mask_records(mask), **over)])


def coloured(panel: drawing.Panel | None) -> int:
    """How many pixels of the drawn panel's picture are clearly coloured."""
    assert panel is not None
    picture = np.asarray(drawing.draw(panel))[drawing.TITLE_H : drawing.TITLE_H + drawing.IMAGE_H].astype(int)
    return int(np.count_nonzero(np.ptp(picture, axis=2) > 80))


def test_a_refused_chest_shows_a_broken_line_its_hint_and_no_number() -> None:
    whole = chest_panel(UPRIGHT, acquisition=WHOLE, reasons=())
    hint = Quality(score=0, hint=Hint.ROTATE_IMAGE)
    refused: dict[str, Any] = {"status": Status.WITHHELD, "reasons": (Reason.ROTATED_90,), "quality": hint}
    turned = chest_panel(SIDEWAYS, acquisition=TURNED, **refused)
    assert whole is not None
    assert turned is not None
    assert (turned.said, turned.values) == ("Rotate image", ())
    assert whole.said == "Both lungs, whole"
    assert 0.4 < coloured(turned) / coloured(whole) < 0.8
    assert coloured(chest_panel(SIDEWAYS, acquisition=None, **refused)) == 0, (
        "a foreign picture has no outline"
    )


def test_the_words_beside_a_badge_leave_it_its_room() -> None:
    panel = chest_panel(SIDEWAYS, acquisition=TURNED, status=Status.WITHHELD, reasons=(Reason.ROTATED_90,))
    assert panel is not None
    for hint in Hint:
        drawn = drawing.draw(replace(panel, said=hint.value.replace("_", " ")))
        row = np.asarray(drawn).astype(int)[-drawing.WORDS_H + 10 : -drawing.WORDS_H + 96]
        words = np.flatnonzero((row.min(axis=2) > 200).any(axis=0))  # the badge is grey
        assert words[-1] < drawing.PANEL_W - drawing.MARGIN - 190, hint
