"""The gate lets a model pass that says the same, and refuses, by name, each way of saying something else."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.build.agreement import agreement, boundary_cells, mean, p99
from edge_runtime.build.gate import judge
from edge_runtime.build.gate_report import FailureCode, GateReport
from edge_runtime.build.readings import Reading
from edge_runtime.codes import Reason, SpacingSource, Status
from edge_runtime.errors import ConfigError, GateError
from edge_runtime.files import json_bytes
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import GateSpec, Tolerance, load_model
from edge_runtime.measure.anatomy import raw_values
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame, Spacing
from tests.build import gated
from tests.build.gated import SPEC, head, heads, read, reading_of
from tests.measure.drawn import ellipse_cells, geometry, mask_of

SMALL = msgspec.structs.replace(SPEC, min_frames=8)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return list(gated.phantom_frames())


@pytest.fixture(scope="module")
def reference(frames: list[Frame]) -> list[Reading]:
    return read(frames)


def number(report: GateReport, name: str) -> Any:
    return next(number for number in report.numbers if number.name == name)


def codes(report: GateReport) -> set[str]:
    return {failure.code for failure in report.failures}


# ---------------------------------------------------------------- what passes


@pytest.mark.parametrize(
    "other",
    [
        ("openvino", "fp32", 1),
        pytest.param(("openvino", "bf16", 1), marks=pytest.mark.slow),
        pytest.param(("onnxruntime", "fp32", 2), marks=pytest.mark.slow),
    ],
)
def test_the_same_model_on_another_backend_precision_or_thread_count_passes(
    frames: list[Frame], reference: list[Reading], other: tuple[str, str, int]
) -> None:
    try:
        candidate = read(frames, *other)
    except ConfigError as error:
        pytest.skip(str(error))
    report = judge(reference, candidate, SPEC, gated.phantom_truth(), subject="other", model="fetal_head")
    report.require()
    assert (report.passed, report.offered, report.judged) == (True, 37, 35)
    assert number(report, "head_circumference_max").value < 0.2
    assert abs(number(report, "dice_drop").value) < 1e-4
    assert number(report, "dice_reference").value > 0.9


def test_a_passing_report_says_the_same_in_the_same_bytes_and_can_be_read_again(
    reference: list[Reading],
) -> None:
    first, second = (json_bytes(judge(reference, reference, SPEC, subject="itself")) for _ in range(2))
    assert first == second
    assert json_bytes(msgspec.json.decode(first, type=GateReport)) == first


# ---------------------------------------------------------------- what does not

# A model that went wrong, and all that the gate has to say of it, the first thing first.
HARM = {
    "dilated": (gated.dilated, ["value_mean", "value_p99", "value_max", "agreement"]),
    "shifted": (gated.shifted_far, ["agreement", "boundary"]),
    "bolder": (gated.bolder, ["value_mean"]),
    "nothing": (gated.nothing, ["structure_missing", "withheld_where_shown", "agreement", "boundary"]),
    "not a number": (gated.not_a_number, ["not_finite", "withheld_where_shown"]),
    "unsure": (gated.unsure, ["withheld_where_shown"]),
    "sees heads everywhere": (gated.sees_heads_everywhere, ["shown_where_withheld"]),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_harmful_model_is_refused_with_the_number_the_limit_and_a_frame(
    frames: list[Frame], reference: list[Reading], harm: str
) -> None:
    change, wanted = HARM[harm]
    report = judge(reference, read(frames, change=change), SPEC, subject=harm)
    assert codes(report) >= set(wanted)
    assert report.failures[0].code == wanted[0]
    with pytest.raises(GateError, match=rf"^gate: {harm} refused: .*limit .*look first at ") as refusal:
        report.require()
    assert "\n" not in str(refusal.value)
    assert report.failures[0].frame_id in {frame.frame_id for frame in frames}


def test_a_wider_mask_loses_dice_against_the_labels(frames: list[Frame], reference: list[Reading]) -> None:
    truth = gated.phantom_truth()
    report = judge(reference, read(frames, change=gated.dilated), SPEC, truth)
    assert "dice_drop" in codes(report)
    drop = number(report, "dice_drop")
    assert drop.value == pytest.approx(
        number(report, "dice_reference").value - number(report, "dice_candidate").value
    )
    grid = [
        None if true is None else reading.mask.labels for true, reading in zip(truth, reference, strict=True)
    ]
    exact = judge(reference, reference, SPEC, grid)
    assert number(exact, "dice_reference").value == 1.0


def test_one_bad_frame_of_all_is_enough(frames: list[Frame], reference: list[Reading]) -> None:
    bad = read(frames[:1], change=gated.dilated)
    report = judge(reference, [*bad, *reference[1:]], SPEC)
    assert codes(report) == {"value_mean", "value_p99", "value_max"}
    assert report.frames[0].frame_id == frames[0].frame_id
    assert report.frames[0].values["head_circumference"].difference > 1


def without(name: str) -> Any:
    return lambda reading: replace(reading, values={k: v for k, v in reading.values.items() if k != name})


def test_other_frames_another_order_or_another_count_are_refused() -> None:
    readings = heads(10)
    for other in (readings[::-1], readings[:-1], [*readings, head(10)], [*heads(9), head(77)]):
        report = judge(readings, other, SMALL)
        assert codes(report) == {"frames_differ"}
        assert not report.passed


def test_other_labels_are_refused() -> None:
    readings = heads(10)
    other = [replace(reading, mask=replace(reading.mask, names=("skull",))) for reading in readings]
    assert codes(judge(readings, other, SMALL)) == {"masks_differ"}


@pytest.mark.parametrize(
    "truth",
    [
        [None] * 9,
        [np.zeros((10, 10), np.uint8)] * 10,
        [np.full((540, 800), 255, np.uint8)] * 10,  # grey levels where labels belong
    ],
)
def test_label_pictures_that_do_not_fit_are_refused(truth: Any) -> None:
    assert codes(judge(heads(10), heads(10), SMALL, truth)) == {"truth_differs"}


def test_too_few_frames_are_refused_and_equal_ones_count_once() -> None:
    assert "too_few_frames" in codes(judge([], [], SMALL))
    assert "too_few_frames" in codes(judge(heads(7), heads(7), SMALL))
    same = [replace(head(0), frame_id=f"{index}.0000") for index in range(40)]
    report = judge(same, same, SMALL)
    assert "different frames in which the reference shows a structure is 1, limit at least 8" in (
        report.failures[0].message
    )


def test_frames_that_the_reference_withholds_do_not_count_and_are_not_compared() -> None:
    hidden = [replace(r, status=Status.WITHHELD, reasons=(Reason.LOW_CONFIDENCE,)) for r in heads(10)]
    assert codes(judge(hidden, hidden, SMALL)) >= {"too_few_frames"}
    noisy = [replace(r, status=Status.WITHHELD) for r in heads(10, grown=9.0)]
    report = judge(heads(20)[10:] + hidden, heads(20)[10:] + noisy, SMALL)
    assert report.passed
    assert (report.offered, report.judged) == (20, 10)


def test_a_missing_value_and_one_that_no_frame_has_are_refused() -> None:
    readings = heads(10)
    candidate = [*readings[:9], without("cephalic_index")(readings[9])]
    report = judge(readings, candidate, SMALL)
    assert codes(report) == {"value_missing"}
    assert report.failures[0].frame_id == readings[9].frame_id
    odd = msgspec.structs.replace(SMALL, measurement={"lumen_area": Tolerance(mean=1, p99=1, max=1)})
    assert codes(judge(readings, readings, odd)) == {"measurement_unknown"}


def test_a_gate_that_holds_no_value_to_a_tolerance_is_no_gate() -> None:
    bare = msgspec.structs.replace(SMALL, measurement={})
    assert codes(judge(heads(10), heads(10), bare)) == {"measurement_unknown"}


def test_a_frame_without_an_answer_is_refused_even_where_the_reference_withholds() -> None:
    readings = [replace(head(99), status=Status.WITHHELD, reasons=(Reason.LOW_CONFIDENCE,)), *heads(10)]
    gone = replace(readings[0], mask=None, values={}, reasons=(Reason.MODEL_OUTPUT_INVALID,))
    assert codes(judge(readings, [gone, *readings[1:]], SMALL)) == {"not_finite"}


@pytest.mark.parametrize("status", [Status.USABLE, Status.CAUTION])
def test_no_frame_may_go_from_withheld_to_shown(status: Status) -> None:
    readings = heads(10)
    before = [replace(readings[0], status=Status.WITHHELD, reasons=(Reason.LOW_CONFIDENCE,)), *readings[1:]]
    after = [replace(readings[0], status=status), *readings[1:]]
    assert codes(judge(before, after, SMALL)) == {"shown_where_withheld"}


def test_a_few_frames_may_be_lost_and_no_more() -> None:
    readings = heads(50)
    lost = [replace(r, status=Status.WITHHELD, reasons=(Reason.LOW_CONFIDENCE,)) for r in readings]
    assert judge(readings, lost[:1] + readings[1:], SMALL).passed
    report = judge(readings, lost[:2] + readings[2:], SMALL)
    assert codes(report) == {"withheld_where_shown"}
    assert "is 4 %, limit 2 %" in report.failures[0].message


def test_a_lost_lung_is_a_lost_structure_and_its_missing_ratio_a_missing_value() -> None:
    where, spacing = geometry(), Spacing(0.5, 0.5, SpacingSource.META_CSV)
    sides = [ellipse_cells(where, (x, 270), (90, 200), 0) for x in (250, 550)]
    names = ("lung_right", "lung_left")
    both = [reading_of(mask_of(where, *sides, names=names), i, "lungs", spacing) for i in range(10)]
    right = [reading_of(mask_of(where, sides[0], names=names), i, "lungs", spacing) for i in range(10)]
    spec = GateSpec(min_frames=8, measurement={"lung_area_ratio": Tolerance(mean=0.1, p99=0.1, max=0.1)})
    assert judge(both, both, spec).passed
    assert codes(judge(both, [right[0], *both[1:]], spec)) >= {"structure_missing", "value_missing"}


def test_a_model_without_a_measurement_is_judged_on_its_masks_though_all_it_says_is_withheld() -> None:
    where = geometry()
    over = {"status": Status.WITHHELD, "reasons": (Reason.NO_MEASUREMENT_DEFINED,)}
    made = [
        [
            reading_of(
                mask_of(where, ellipse_cells(where, (400, 270), (size + i, 90), 0)),
                i,
                "mask_only",
                None,
                **over,
            )
            for i in range(10)
        ]
        for size in (150, 170)
    ]
    spec = GateSpec(min_frames=8)
    assert judge(made[0], made[0], spec).passed
    assert codes(judge(made[0], made[1], spec)) >= {"value_mean", "agreement"}


def test_every_code_has_a_test_that_brings_it_about() -> None:
    source = Path(__file__).read_text()
    assert [code for code in get_args(FailureCode) if f'"{code}"' not in source] == []


# ---------------------------------------------------------------- spacing


def test_a_tolerance_in_millimetres_wants_frames_with_a_spacing() -> None:
    spec = msgspec.structs.replace(SMALL, measurement={"head_circumference": Tolerance(mean=1, p99=2, max=3)})
    bare = heads(10, spaced=False)
    report = judge(bare, bare, spec)
    assert "too_few_frames" in codes(report)
    assert (
        "with a head_circumference is 0, limit at least 8; give the frames a spacing"
        in report.failures[0].message
    )


def test_frames_without_a_spacing_count_by_their_share_of_the_median_head() -> None:
    spec = msgspec.structs.replace(
        SMALL, measurement={"head_circumference": Tolerance(mean=1, p99=1.0, max=1.0)}
    )
    spaced, bare = heads(9), [head(50, spaced=False)]
    assert judge(spaced + bare, spaced + bare, spec).passed
    wide = [head(50, grown=4.0, spaced=False)]
    report = judge(spaced + bare, spaced + wide, spec)
    assert codes(report) == {"value_p99", "value_max"}
    row = report.frames[0].values["head_circumference"]
    assert row.unit == "px"
    median = float(np.median([reading.values["head_circumference"] for reading in spaced]))
    assert row.counted == pytest.approx(abs(row.difference) / row.reference * median)


@pytest.mark.parametrize("name", ["head_circumference", "head_circumference_px"])
def test_a_relative_tolerance_holds_with_and_without_a_spacing(name: str) -> None:
    spec = msgspec.structs.replace(
        SMALL, measurement={name: Tolerance(mean=0.01, p99=0.01, max=0.01, relative=True)}
    )
    for spaced in (True, False):
        assert judge(heads(10, spaced=spaced), heads(10, spaced=spaced), spec).passed
        report = judge(heads(10, spaced=spaced), heads(10, grown=5.0, spaced=spaced), spec)
        assert codes(report) >= {"value_mean", "value_p99", "value_max"}
        assert number(report, f"{name}_mean").unit == "%"


def test_a_tolerance_in_pixels_holds_where_there_is_no_spacing() -> None:
    spec = msgspec.structs.replace(
        SMALL, measurement={"head_circumference_px": Tolerance(mean=1, p99=2, max=3)}
    )
    assert judge(heads(10, spaced=False), heads(10, spaced=False), spec).passed
    assert "too_few_frames" in codes(judge(heads(10), heads(10), spec))


# ---------------------------------------------------------------- whatever the frames are

moves = st.tuples(st.floats(-12, 12), st.floats(-10, 10))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), changes=st.lists(moves, min_size=12, max_size=12))
def test_the_order_of_frames_changes_nothing(order: list[int], changes: list[tuple[float, float]]) -> None:
    ours = heads(12)
    theirs = [head(at, moved=moved, grown=grown) for at, (moved, grown) in enumerate(changes)]
    straight = judge(ours, theirs, SMALL)
    assert judge([ours[i] for i in order], [theirs[i] for i in order], SMALL) == straight


@settings(max_examples=20, deadline=None)
@given(changes=st.lists(moves, min_size=8, max_size=8))
def test_candidate_and_reference_may_change_places(changes: list[tuple[float, float]]) -> None:
    ours = heads(8)
    theirs = [head(at, moved=moved, grown=grown) for at, (moved, grown) in enumerate(changes)]
    there, back = judge(ours, theirs, SMALL), judge(theirs, ours, SMALL)
    for name in ("agreement_mean", "boundary_p99", "head_circumference_mean", "head_circumference_max"):
        assert number(there, name).value == number(back, name).value


@settings(max_examples=20, deadline=None)
@given(count=st.integers(8, 40), spaced=st.booleans())
def test_a_model_always_passes_against_itself_with_no_difference(count: int, spaced: bool) -> None:
    spec = msgspec.structs.replace(
        SMALL,
        measurement={"area_share": Tolerance(mean=0, p99=0, max=0, relative=True)},
        max_boundary_cells=0.0,
    )
    report = judge(heads(count, spaced=spaced), heads(count, spaced=spaced), spec)
    assert report.passed
    assert all(row.strain == 0 and row.agreement == 1 and row.boundary == 0 for row in report.frames)


@settings(max_examples=40, deadline=None)
@given(
    at=st.integers(0, 9),
    name=st.sampled_from(sorted(head(0).values)),
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
    side=st.booleans(),
)
def test_a_single_value_that_is_not_a_number_is_refused(at: int, name: str, value: float, side: bool) -> None:
    readings = heads(10)
    spoilt = [*readings]
    spoilt[at] = replace(readings[at], values={**readings[at].values, name: value})
    report = judge(*((readings, spoilt) if side else (spoilt, readings)), SMALL)
    assert "not_finite" in codes(report)
    again = judge(*((readings, spoilt) if side else (spoilt, readings)), SMALL)
    assert json_bytes(report) == json_bytes(again)
    assert msgspec.json.decode(json_bytes(report), type=GateReport) == report


@pytest.mark.parametrize("limit", ["min_agreement", "max_boundary_cells", "max_lost", "max_dice_drop"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_limit_that_is_not_a_number_lets_nothing_pass(limit: str, value: float) -> None:
    truth = [reading.mask.labels for reading in heads(10)]
    spec = msgspec.structs.replace(SMALL, **{limit: value})
    assert not judge(heads(10), heads(10), spec, truth).passed


@pytest.mark.parametrize("which", ["mean", "p99", "max"])
def test_a_tolerance_that_is_not_a_number_lets_nothing_pass(which: str) -> None:
    tolerance = Tolerance(**{"mean": 1.0, "p99": 1.0, "max": 1.0, which: math.nan})
    spec = msgspec.structs.replace(SMALL, measurement={"head_circumference": tolerance})
    assert codes(judge(heads(10), heads(10), spec)) == {f"value_{which}"}


def test_a_report_cannot_say_passed_over_its_own_numbers() -> None:
    refused = judge(heads(3), heads(3), SMALL)
    for text in (json_bytes(refused), json_bytes(judge([], [], SMALL))):
        with pytest.raises(msgspec.ValidationError, match="says passed=True"):
            msgspec.json.decode(
                text.replace(b'"passed": false,\n "subject"', b'"passed": true,\n "subject"'), type=GateReport
            )


# ---------------------------------------------------------------- the numbers themselves


@settings(deadline=None)
@given(values=st.lists(st.floats(0, 10), min_size=1, max_size=400))
def test_p99_is_exceeded_by_at_most_one_in_a_hundred(values: list[float]) -> None:
    found = p99(values)
    assert 100 * sum(value > found for value in values) <= len(values)
    assert found in values
    if len(values) <= 100:
        assert found == max(values)


def test_nothing_has_no_mean_and_no_p99() -> None:
    assert math.isnan(mean([]))
    assert math.isnan(p99([]))
    assert math.isnan(p99([1.0, math.nan, 2.0]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_distance_of_outlines_is_what_brute_force_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    where = geometry((60, 80), (30, 40))
    one, other = (rng.random((30, 40)) < rng.uniform(0.05, 0.9) for _ in range(2))
    outlines = []
    for inside in (one, other):
        framed = np.pad(inside, 1)
        core = framed[2:, 1:-1] & framed[:-2, 1:-1] & framed[1:-1, 2:] & framed[1:-1, :-2]
        outlines.append(np.argwhere(inside & ~core))
    apart = np.linalg.norm(outlines[0][:, None] - outlines[1][None], axis=2)
    wanted = max(np.quantile(apart.min(axis=axis), 0.95, method="higher") for axis in (0, 1))
    found = boundary_cells(mask_of(where, one), mask_of(where, other))
    assert found == pytest.approx(wanted, abs=1e-4)


def test_a_mask_against_none_agrees_in_nothing_and_two_empty_ones_in_all() -> None:
    where = geometry()
    empty = mask_of(where, np.zeros((192, 288), bool))
    full = head(0).mask
    assert (agreement(full, empty), agreement(empty, empty)) == (0.0, 1.0)
    assert boundary_cells(full, empty) == math.hypot(192, 288)
    assert boundary_cells(empty, empty) == 0.0


def test_the_values_of_a_reading_are_those_of_its_anatomy(reference: list[Reading]) -> None:
    first, model = reference[0], load_model("fetal_head")
    with closing(build_pipeline(model, open_backend(model, "onnxruntime", "fp32"))) as pipeline:
        found = pipeline.step(first.frame).found  # what was measured, whatever is shown of it
    assert first.values == raw_values("fetal_head", found, first.frame.spacing)
    assert {"head_circumference", "area_share"} <= first.values.keys()
    assert reference[-1].values == {"area_share": 0.0}


def test_a_label_that_neither_mask_has_does_not_make_them_agree() -> None:
    where, names = geometry(), ("one", "two")
    left, right = (ellipse_cells(where, (x, 270), (90, 90), 0) for x in (250, 550))
    assert agreement(mask_of(where, left, names=names), mask_of(where, right, names=names)) == 0.0


def test_a_frame_that_alone_is_enough_stands_before_one_that_is_further_off() -> None:
    readings = heads(10)
    hidden = replace(readings[0], status=Status.WITHHELD, reasons=(Reason.LOW_CONFIDENCE,))
    candidate = [readings[0], head(1, grown=9.0), *readings[2:]]
    report = judge([hidden, *readings[1:]], candidate, SMALL)
    assert [row.frame_id for row in report.frames[:2]] == [readings[0].frame_id, readings[1].frame_id]
    assert report.frames[0].failures == ("shown_where_withheld",)
    assert report.frames[1].strain > 1
