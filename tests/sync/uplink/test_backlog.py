"""Whose turn it is: urgent before all, masks last, nobody starved, nothing passed over for good."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.sync.uplink.backlog import PAGE, TURNS, Backlog, Turns

S = 10**9


class Rows:
    """An outbox in memory."""

    def __init__(self, **lanes: list[int]) -> None:
        self.of = {lane: sorted(lanes.get(lane.name.lower(), [])) for lane in Lane}
        self.reads = 0

    def read(self, after: Mapping[Lane, int], limit: int) -> list[OutboxRow]:
        self.reads += 1
        return [
            OutboxRow(seq, "finding", f"f{seq}", "e", "t", b"{}", lane)
            for lane, above in after.items()
            for seq in [seq for seq in self.of[lane] if seq > above][:limit]
        ]


def everything(row: OutboxRow) -> bool:
    return True


def taken(backlog: Backlog, count: int, now_ns: int = 0) -> list[int]:
    """The next rows, looked for as a session does."""
    found: list[int] = []
    for _ in range(count):
        backlog.look(now_ns, everything)
        row = backlog.take(tuple(Lane), everything)
        if row is None:
            break
        found.append(row.seq)
    return found


def test_lanes_are_served_by_their_rank_and_each_in_its_order() -> None:
    rows = Rows(urgent=[9], finding=[1, 2], telemetry=[3], mask=[4, 5])
    assert taken(Backlog(rows.read), 10) == [9, 1, 2, 3, 4, 5]


def test_an_urgent_row_behind_ten_thousand_is_next_at_the_next_look() -> None:
    rows = Rows(finding=list(range(1, 10_001)))
    backlog = Backlog(rows.read)
    taken(backlog, 50)
    rows.of[Lane.URGENT].append(10_001)
    assert taken(backlog, 1, S) == [10_001]


@given(st.lists(st.sets(st.sampled_from(list(Lane)), min_size=1), min_size=TURNS, max_size=200))
def test_a_lane_that_waits_gets_one_of_any_twenty_turns(history: list[set[Lane]]) -> None:
    turns, waited = Turns(), dict.fromkeys(Lane, 0)
    for waiting in history:
        chosen = turns.choose(waiting)
        assert chosen in waiting
        for lane in Lane:
            waited[lane] = waited[lane] + 1 if lane in waiting and lane is not chosen else 0
        assert max(waited.values()) < TURNS


def test_most_turns_are_the_urgents_even_so() -> None:
    turns = Turns()
    chosen = [turns.choose(tuple(Lane)) for _ in range(1000)]
    assert chosen.count(Lane.URGENT) >= 800


def test_rows_that_come_back_with_lower_numbers_are_found_on_the_same_connection() -> None:
    rows = Rows(finding=[7, 8, 9])
    backlog = Backlog(rows.read)
    assert taken(backlog, 5) == [7, 8, 9]
    rows.of[Lane.FINDING] = [2, 7, 8, 9]  # a requeue; the others still fly
    backlog.look(3 * S, lambda row: row.seq == 2)
    row = backlog.take(tuple(Lane), everything)
    assert row is not None and row.seq == 2


def test_a_row_that_comes_back_is_taken_within_two_seconds_however_long_others_flew() -> None:
    rows = Rows(finding=[9])
    backlog = Backlog(rows.read)
    for tick in range(600):  # a minute in flight, without a receipt
        backlog.look(tick * S // 10, lambda row: False)
    rows.of[Lane.FINDING] = [2]
    for tick in range(600, 620):
        backlog.look(tick * S // 10, everything)
    row = backlog.take(tuple(Lane), everything)
    assert row is not None and row.seq == 2


def test_rows_that_nobody_wants_now_cost_ever_fewer_reads_and_are_found_at_a_rewind() -> None:
    rows = Rows(finding=list(range(1, 50 * PAGE + 1)))
    backlog = Backlog(rows.read)
    for tick in range(600):  # a minute
        backlog.look(tick * S // 10, lambda row: False)
    assert rows.reads < 600 + 3 * 50
    backlog.rewind()
    assert taken(backlog, 2, 60 * S) == [1, 2]


def test_it_is_dry_once_every_lane_was_read_to_its_end() -> None:
    rows = Rows(finding=list(range(1, PAGE + 1)))
    backlog = Backlog(rows.read)
    assert not backlog.dry
    taken(backlog, PAGE)
    assert not backlog.dry  # a whole page: there may be more
    taken(backlog, 1)
    assert backlog.dry
