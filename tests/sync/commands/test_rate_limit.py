"""Budgets: what is allowed at once and in the long run, and that nothing over them is forgotten."""

from __future__ import annotations

from edge_runtime.sync.commands.rate_limit import Bucket, Budget

S = 10**9


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    budget = Budget(Bucket(3, 60.0))
    assert [budget.takes(0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not budget.takes(19 * S)
    assert budget.takes(20 * S)


def test_the_long_run_has_its_own_bound() -> None:
    budget = Budget(Bucket(3, 60.0), Bucket(5, 86_400.0))
    taken = sum(budget.takes(second * S) for second in range(0, 3600, 5))
    assert taken == 5


def test_what_went_over_is_counted_and_told_once_there_is_room() -> None:
    budget = Budget(Bucket(1, 60.0))
    for _ in range(8):
        budget.takes(0)
    assert budget.count_told(S) == 0
    assert budget.count_told(60 * S) == 7
    assert budget.count_told(120 * S) == 0
    assert budget.takes(120 * S)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing_away() -> None:
    budget = Budget(Bucket(1, 60.0))
    assert budget.takes(100 * S)
    assert not budget.takes(50 * S)
    assert not budget.takes(100 * S)
