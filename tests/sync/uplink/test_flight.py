"""What is sent next: a window of receipts, and probes when they stop."""

from __future__ import annotations

from edge_runtime.records import RecordKind
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.link.speed import SLOW
from edge_runtime.sync.outbox import OutboxRow
from edge_runtime.sync.uplink.flight import FIRST_WINDOW, Flight, Pace

S = 10**9
PACE = Pace(window=5, receipt_timeout_s=5, probe_s=1, probe_max_s=8)


def rows(*seqs: int) -> list[OutboxRow]:
    return [
        OutboxRow(seq, "finding", f"f{seq}", "e", "2026-01-01T00:00:00.000Z", b"{}", Lane.FINDING)
        for seq in seqs
    ]


def full(now_ns: int = 0) -> Flight:
    flight = Flight(PACE, now_ns)
    for row in rows(1, 2, 3, 4, 5):
        send(flight, row, now_ns)
    return flight


def send(flight: Flight, row: OutboxRow, now_ns: int) -> None:
    """Published and taken by the broker."""
    flight.sent(row, row.seq)
    assert flight.acked(row.seq, now_ns) == row


def seqs(found: list[OutboxRow]) -> list[int]:
    return [row.seq for row in found]


def test_a_puback_lands_nothing_and_a_receipt_does() -> None:
    flight = full()
    assert flight.acked(1, S) is None  # told once
    assert Lane.FINDING not in flight.open_lanes()
    flight.settled([(1, 2)], S)
    assert Lane.FINDING in flight.open_lanes()


def test_a_slow_line_is_not_filled_with_the_same_rows_again() -> None:
    flight = Flight(PACE, 0)
    for row in rows(1, 2, 3):
        flight.sent(row, row.seq)
    assert flight.again(60 * S) == []  # still in the socket: no PUBACK yet
    for seq in (1, 2, 3):
        flight.acked(seq, 60 * S)
    assert seqs(flight.again(66 * S)) == [1]
    flight.sent(rows(1)[0], 9)
    assert flight.again(120 * S) == []  # nor is a probe sent while the last is on its way


def test_nothing_is_sent_again_before_its_time() -> None:
    assert full().again(5 * S) == []


def test_rows_lost_among_others_that_arrive_are_sent_again_together() -> None:
    flight = full()
    flight.settled([(4, 5)], 4 * S)
    assert seqs(flight.again(6 * S)) == [1, 2, 3]
    assert not flight.stalled


def test_when_receipts_stop_one_row_probes_ever_more_rarely() -> None:
    flight = full()
    sent = []
    for second in range(6, 60):
        for row in flight.again(second * S):
            send(flight, row, second * S)
            sent.append((second, row.seq))
    assert sent == [(6, 1), (7, 1), (9, 1), (13, 1), (21, 1), (29, 1), (37, 1), (45, 1), (53, 1)]
    assert flight.stalled
    assert flight.open_lanes() == (Lane.URGENT,)


def test_the_first_receipt_opens_the_window_and_the_rest_is_sent_again() -> None:
    flight = full()
    assert seqs(flight.again(6 * S)) == [1]
    send(flight, rows(1)[0], 6 * S)
    flight.settled([(1, 1)], 7 * S)
    assert not flight.stalled
    assert seqs(flight.again(7 * S)) == [2, 3, 4, 5]


def test_rows_that_nobody_listens_for_come_back_and_are_probed() -> None:
    flight = full()
    for seq in (1, 2, 3, 4, 5):
        flight.came_back(seq, 0)
    assert flight.again(S // 2) == []
    assert seqs(flight.again(S)) == [1]
    flight.settled([(1, 1)], S)
    assert seqs(flight.again(S)) == [2, 3, 4, 5]


def test_a_receipt_of_a_billion_rows_takes_no_time() -> None:
    flight = full()
    flight.settled([(1, 10**18)], S)
    assert len(flight) == 0


# ------------------------------------------------------------ lanes, refused kinds, the first rows of a connection


def row(seq: int, kind: RecordKind = "finding", lane: Lane = Lane.FINDING) -> OutboxRow:
    return OutboxRow(seq, kind, f"r{seq}", "e", "2026-01-01T00:00:00.000Z", b"{}", lane)


def test_four_urgent_rows_fly_beyond_a_full_window_and_no_more() -> None:
    flight = full()
    for seq in range(10, 14):
        assert flight.open_lanes() == (Lane.URGENT,)
        send(flight, row(seq, lane=Lane.URGENT), 0)
    assert flight.open_lanes() == ()


def test_an_urgent_row_flies_while_only_probes_are_sent_and_is_the_next_probe() -> None:
    flight = full()
    assert seqs(flight.again(6 * S)) == [1]
    send(flight, rows(1)[0], 6 * S)
    assert flight.open_lanes() == (Lane.URGENT,)
    send(flight, row(9, lane=Lane.URGENT), 6 * S)
    assert seqs(flight.again(7 * S)) == [9]


def test_a_new_connection_begins_with_eight_rows_and_opens_with_each_puback() -> None:
    flight = Flight(Pace(window=100), 0)
    assert flight.room() == FIRST_WINDOW
    for one in rows(*range(1, 9)):
        flight.sent(one, one.seq)
    assert flight.room() == 0
    flight.acked(1, 0)
    assert flight.room() == 1


def test_masks_wait_on_a_slow_line_until_nothing_flies() -> None:
    flight = Flight(PACE, 0, SLOW)
    assert Lane.MASK in flight.open_lanes()
    send(flight, row(1), 0)
    assert Lane.MASK not in flight.open_lanes()
    assert Lane.TELEMETRY in flight.open_lanes()
    flight.settled([(1, 1)], 0)
    assert Lane.MASK in flight.open_lanes()


def test_a_slow_line_has_five_rows_in_flight_and_a_minute_for_each_receipt() -> None:
    flight = Flight(Pace(window=100), 0, SLOW)
    for one in rows(1, 2, 3, 4, 5):
        send(flight, one, 0)
    assert flight.room() == 0
    assert flight.again(59 * S) == []
    assert seqs(flight.again(61 * S)) == [1]


def test_a_refused_kind_asks_with_one_row_and_the_others_go_on() -> None:
    flight = Flight(PACE, 0)
    for seq in (1, 2):
        send(flight, row(seq), 0)
    send(flight, row(3, "event"), 0)
    assert flight.refused(row(1), 0) == 1
    assert 2 not in flight  # it waits in the outbox
    assert not flight.wants(row(4))
    assert flight.wants(row(5, "event"))
    assert not flight.stalled
    assert flight.again(S // 2) == []
    assert seqs(flight.again(S)) == [1]
    send(flight, row(1), S)
    assert flight.refused(row(1), S) == 2
    assert flight.again(2 * S) == []
    assert seqs(flight.again(4 * S)) == [1]
    send(flight, row(1), 4 * S)
    assert flight.accepted(row(1))
    assert flight.wants(row(4))


def test_when_the_row_that_asks_is_put_aside_the_next_of_its_kind_asks() -> None:
    flight = Flight(PACE, 0)
    send(flight, row(1), 0)
    flight.refused(row(1), 0)
    flight.forget(1)
    assert not flight.wants(row(2))
    assert seqs(flight.again(8 * S)) == [2]
    assert flight.refused(row(2), 8 * S) == 1


def test_a_late_refusal_of_another_row_of_that_kind_does_not_count() -> None:
    flight = Flight(PACE, 0)
    for seq in (1, 2):
        flight.sent(row(seq), seq)
    asking = flight.acked(1, 0)
    assert asking is not None
    flight.refused(asking, 0)
    assert flight.acked(2, 0) is None  # it was let go of
