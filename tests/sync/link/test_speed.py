"""When a line is slow: by round trips and goodput, reluctantly, and not by distance alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sync.link.speed import DWELL_S, NORMAL, SEEN, SLOW, Speed

S = 10**9


def told(speed: Speed, seconds: float, size: int, times: int = SEEN, at_s: float = 0.0) -> bool:
    return any(speed.acked(int(seconds * S), size, int(at_s * S)) for _ in range(times))


def test_a_line_of_9600_bits_is_slow_after_eight_answers() -> None:
    speed = Speed()
    assert not told(speed, 1.9, 2300, times=SEEN - 1)
    assert told(speed, 1.9, 2300, times=1)
    assert speed.profile is SLOW


def test_a_satellite_is_far_and_not_slow() -> None:
    speed = Speed()
    assert not told(speed, 0.65, 2300, times=50)
    assert not told(speed, 1.2, 20 * 2300, times=50)
    assert speed.profile is NORMAL


def test_a_line_full_of_our_own_messages_is_not_slow() -> None:
    assert not told(Speed(), 1.5, 20 * 2300, times=50)


def test_one_slow_answer_among_quick_ones_changes_nothing() -> None:
    speed = Speed()
    for _ in range(20):
        assert not told(speed, 0.01, 2300, times=5)
        assert not told(speed, 9.0, 2300, times=2)


def test_the_way_back_takes_half_a_minute_of_quick_answers_and_longer_each_time() -> None:
    speed = Speed()
    told(speed, 2.0, 2300)
    assert not told(speed, 0.02, 350, at_s=DWELL_S - 1)
    assert told(speed, 0.02, 350, at_s=DWELL_S + 1)
    assert told(speed, 2.0, 2300, at_s=40)
    assert not told(speed, 0.02, 350, at_s=40 + DWELL_S + 1)
    assert told(speed, 0.02, 350, at_s=41 + 2 * DWELL_S)


def test_what_an_operator_chose_is_not_measured_away() -> None:
    slow, normal = Speed("slow"), Speed("normal")
    assert slow.slow
    assert not told(slow, 0.001, 300, times=100, at_s=1e6)
    assert not told(normal, 30.0, 300, times=100)
    assert (slow.slow, normal.slow) == (True, False)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(50, 50_000)), max_size=300))
def test_it_never_changes_its_mind_twice_within_a_dwell(seen: list[tuple[float, int]]) -> None:
    speed, now_s, became_slow_s = Speed(), 0.0, None
    for seconds, size in seen:
        now_s += seconds
        if speed.acked(int(seconds * S), size, int(now_s * S)):
            if speed.slow:
                became_slow_s = now_s
            else:
                assert became_slow_s is not None and now_s - became_slow_s >= DWELL_S - 1e-6
