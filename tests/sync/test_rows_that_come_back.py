"""Rows that come back into an outbox with numbers far behind are seen soon, however long others flew before."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.sync.uplink.backlog import Backlog

S = 10**9


def a_row(seq: int) -> OutboxRow:
    return OutboxRow(seq, "finding", f"i{seq}", "e", "t", b"", Lane.FINDING)


def test_a_row_that_comes_back_is_taken_within_two_seconds() -> None:
    waiting = [a_row(9)]

    def read(after: Mapping[Lane, int], limit: int) -> list[OutboxRow]:
        return [row for row in waiting if row.seq > after.get(Lane(row.lane), row.seq)][:limit]

    backlog = Backlog(read)
    for tick in range(600):  # a minute in flight, without a receipt
        backlog.look(tick * S // 10, lambda row: False)
    waiting[:] = [a_row(2)]
    for tick in range(600, 620):
        backlog.look(tick * S // 10, lambda row: True)
    taken = backlog.take(list(Lane), lambda row: True)
    assert taken is not None
    assert taken.seq == 2
