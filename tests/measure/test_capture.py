"""Auto-capture waits for quality and a steady value, and does not fire twice for one look."""

from __future__ import annotations

import pytest

from edge_runtime.codes import MeasurementName, Status
from edge_runtime.measure.capture import AutoCapture, ExamSummary
from edge_runtime.types import Measurement

FRAME_NS = 33_333_333


def hc(value):
    return Measurement(
        name=MeasurementName.HEAD_CIRCUMFERENCE_PX,
        value=value,
        unit="{pixel}",
        interval=None,
        status=Status.WITHHELD if value is None else Status.CAUTION,
        reasons=(),
        spacing=None,
        formula="test",
    )


def summary_of(captures):
    summary = ExamSummary()
    for measurements in captures:
        summary.add(measurements)
    return summary.values()


def fired(values, score=lambda frame: 90, status=Status.CAUTION, capture=None, frame_ns=FRAME_NS):
    """The frames at which it fired."""
    capture = capture or AutoCapture()
    return [
        frame
        for frame, value in enumerate(values)
        if capture.see((hc(value),), status, score(frame), frame * frame_ns)
    ]


def test_it_fires_when_a_steady_value_has_held_for_half_a_second():
    assert fired([250.0] * 40) == [16]  # 16 frames of 33.3 ms are the first 0.5 s and more


def test_it_fires_once_in_ten_seconds():
    assert fired([250.0] * 700) == [16, 317, 618]


def test_a_moving_value_never_fires():
    assert fired([200.0 + 2 * frame for frame in range(80)]) == []


def test_a_value_that_comes_to_rest_fires_half_a_second_later():
    values = [200.0 + 3 * frame for frame in range(20)] + [260.0] * 40
    (at,) = fired(values)
    assert 32 <= at <= 36


@pytest.mark.parametrize("spread, expected", [(0.018, True), (0.022, False)])
def test_steady_means_within_two_percent(spread, expected):
    values = [250 * (1 + spread * (frame % 2)) for frame in range(40)]
    assert bool(fired(values)) is expected


def test_one_bad_frame_starts_the_wait_anew():
    assert fired([250.0] * 40, score=lambda frame: 60 if frame == 10 else 90) == [27]


def test_a_withheld_frame_never_fires():
    assert fired([250.0] * 100, status=Status.WITHHELD) == []
    assert fired([None] * 100) == []


def test_a_gap_in_the_stream_starts_the_wait_anew():
    capture = AutoCapture()
    assert not capture.see((hc(250.0),), Status.CAUTION, 90, 0)
    assert not capture.see((hc(250.0),), Status.CAUTION, 90, 5_000_000_000)  # two looks, not one long hold


def test_nothing_measured_does_not_fire():
    assert not AutoCapture().see((), Status.WITHHELD, 100, 0)


def test_an_exam_s_value_is_the_median_of_its_captures_with_their_range():
    (value,) = summary_of([(hc(250.0),), (hc(254.0),), (hc(251.0),), (hc(None),)])
    assert (value.median, value.range, value.captures, value.few) == (251.0, (250.0, 254.0), 3, False)


def test_fewer_than_three_captures_are_called_few():
    (value,) = summary_of([(hc(250.0),), (hc(254.0),)])
    assert (value.median, value.few) == (252.0, True)
    assert summary_of([]) == ()
