"""Which numbers are missing: by the rows, by what was refused, and by what a device declared lost; both databases."""

from __future__ import annotations

import random
import time
from statistics import median

import pytest

from edge_runtime.cloud.rows import Poison, StoreRow, heard, united
from edge_runtime.cloud.store import Missing, Store
from edge_runtime.cloud.streams import without
from edge_runtime.errors import UplinkError
from tests.cloud.conftest import POISON, ROW, Reader, Write

HOLES = "SELECT device_id, epoch, first, last, numbers FROM missing ORDER BY 1, 2, 3"


def rows(*seqs: int, device: str = "dev-1", epoch: str = "e1") -> list[StoreRow]:
    return [
        ROW._replace(id=f"{device}-{epoch}-{seq}", device_id=device, epoch=epoch, seq=seq) for seq in seqs
    ]


def gap(seq: int, *lost: tuple[int, int]) -> StoreRow:
    return ROW._replace(kind="gap", id=f"gap-{seq}", seq=seq, exam_id=None, lost=lost)


def refused(seq: int) -> Poison:
    return Poison(f"d{seq}", POISON.topic, "cut off", "now", b"{", ("dev-1", "e1"), seq, "schema")


def test_numbers_below_the_highest_that_did_not_come_are_missing(store: Store, read: Reader) -> None:
    store.put(rows(1, 2, 5, 9))
    assert read(HOLES) == [("dev-1", "e1", 3, 4, 2), ("dev-1", "e1", 6, 8, 3)]
    assert store.missing() == Missing(1, 5)
    store.put(rows(3, 4, 6, 7, 8))
    assert read(HOLES) == []
    assert store.missing() == Missing(0, 0)


def test_the_first_number_is_one_and_each_device_and_epoch_counts_for_itself(
    store: Store, read: Reader
) -> None:
    store.put(rows(3) + rows(1, 2, device="dev-2") + rows(2, epoch="e2"))
    assert read(HOLES) == [("dev-1", "e1", 1, 2, 2), ("dev-1", "e2", 1, 1, 1)]


def test_what_a_device_declared_lost_is_not_missing(store: Store, read: Reader) -> None:
    store.put([*rows(1, 6), gap(7, (2, 3), (5, 5))])
    assert read(HOLES) == [("dev-1", "e1", 4, 4, 1)]


def test_a_refused_number_is_accounted_for_but_never_the_highest(store: Store, read: Reader) -> None:
    store.put(rows(1), [refused(2), refused(10**17)])
    assert read(HOLES) == []
    store.put(rows(4))
    assert read(HOLES) == [("dev-1", "e1", 3, 3, 1)]


def test_a_refused_number_that_came_after_all_is_let_go_with_the_next_that_are_left_out(
    store: Store, read: Reader
) -> None:
    ahead = "SELECT seq FROM refused_ahead ORDER BY seq"
    store.put(rows(1), [refused(2), refused(3), refused(9)])
    store.put(rows(2, 3, 4))
    assert (read(HOLES), read(ahead)) == ([], [(2,), (3,), (9,)])
    store.put(rows(6))
    assert (read(HOLES), read(ahead)) == ([("dev-1", "e1", 5, 5, 1)], [(9,)])


def test_what_comes_in_its_order_asks_nothing_about_holes_or_refused_numbers(
    store: Store, read: Reader, write: Write
) -> None:
    store.put(rows(1, 2))
    for table in ("holes", "refused_ahead"):
        write(f"ALTER TABLE {table} RENAME TO {table}_elsewhere")
    store.put(rows(2, 3, 4))
    assert read("SELECT highest FROM streams") == [(4,)]
    with pytest.raises(UplinkError, match="refused_ahead"):
        store.put(rows(6))


def test_refused_numbers_alone_miss_nothing(store: Store, read: Reader) -> None:
    store.put([], [refused(7)])
    assert read(HOLES) == []


def test_all_kinds_share_one_sequence_and_records_have_their_own_table(store: Store, read: Reader) -> None:
    mask = ROW._replace(kind="mask", id="f1", seq=2)
    telemetry = ROW._replace(kind="telemetry", id="t1", seq=3, exam_id=None)
    result = store.put([*rows(1), mask, telemetry, gap(4), ROW._replace(kind="event", id="e1", seq=5)])
    assert (result.findings, result.events, result.records) == (1, 1, 3)
    assert store.put([mask, telemetry]).new == 0
    found = read("SELECT record_id, kind, seq, exam_id, body FROM records ORDER BY seq")
    assert found == [
        ("f1", "mask", 2, ROW.exam_id, ROW.body),
        ("t1", "telemetry", 3, None, ROW.body),
        ("gap-4", "gap", 4, None, ROW.body),
    ]
    assert read(HOLES) == []


def test_any_order_of_arrival_gives_what_a_set_gives(store: Store, read: Reader) -> None:
    choose = random.Random(7)
    seqs = [seq for seq in range(1, 200) if choose.random() < 0.7]
    arrival = seqs * 2
    choose.shuffle(arrival)
    while arrival:
        store.put(rows(*{arrival.pop() for _ in range(min(len(arrival), choose.randint(1, 20)))}))
    missing = {seq for _, _, first, last, _ in read(HOLES) for seq in range(first, last + 1)}
    assert missing == set(range(1, max(seqs))) - set(seqs)
    assert store.missing().numbers == len(missing)


def test_what_is_missing_is_what_plain_sets_say(store: Store, read: Reader) -> None:
    """Records, gaps and refusals at random, in batches of any size: against a model that nobody can get wrong."""
    choose = random.Random(11)
    stored, told = set[int](), set[int]()
    for _ in range(150):
        batch, poison = [], []
        for seq in {choose.randint(1, 400) for _ in range(choose.randint(1, 8))}:
            kind = choose.random()
            if kind < 0.2:
                poison.append(refused(seq))
                told.add(seq)
            elif kind < 0.3 and seq not in stored and seq > 1:
                first = choose.randint(1, seq - 1)
                last = min(seq - 1, first + choose.randint(0, 30))
                batch.append(gap(seq, (first, last)))
                stored.add(seq)
                told.update(range(first, last + 1))
            else:
                batch += rows(seq)
                stored.add(seq)
        store.put(batch, poison)
        missing = {seq for _, _, first, last, _ in read(HOLES) for seq in range(first, last + 1)}
        assert missing == set(range(1, max(stored, default=0))) - stored - told
        assert store.missing().numbers == len(missing)


def test_numbers_that_no_integer_of_the_database_sums_up_stop_nobody(store: Store) -> None:
    far = 2**63 - 1
    store.put(rows(far, device="a") + rows(far, device="b") + rows(far, device="c"))
    streams, numbers = store.missing()
    assert streams == 3
    assert abs(numbers - 3 * (far - 1)) < 1e6
    store.put(rows(1, 2))
    assert store.missing().streams == 3


def test_a_device_that_scatters_its_numbers_makes_no_row_dear(store: Store) -> None:
    """Its holes are its own rows. When they were one value, 30,000 of them cost 100 ms for each record."""

    def took_s(*seqs: int) -> float:
        began = time.perf_counter()
        store.put(rows(*seqs))
        return time.perf_counter() - began

    clean = median(took_s(seq) for seq in range(1, 21))
    for start in range(100, 40_000, 2_000):
        store.put(rows(*range(start, start + 2_000, 2)))
    far = median(took_s(50_000 + 2 * n) for n in range(20))
    inside = median(took_s(20_001 + 2 * n) for n in range(20))
    assert store.missing().numbers > 20_000
    assert max(far, inside) < 10 * clean + 0.005


def test_ranges_are_taken_out_of_ranges() -> None:
    whole = [(1, 10), (20, 30), (40, 40)]
    assert list(without(whole, [])) == whole
    assert list(without(whole, [(0, 0), (5, 24), (30, 50)])) == [(1, 4), (25, 29)]
    assert list(without(whole, [(1, 1), (3, 4), (10, 10), (40, 40)])) == [(2, 2), (5, 9), (20, 30)]


def test_ranges_are_united_whatever_their_order() -> None:
    assert united([(5, 6), (1, 2), (3, 3), (6, 9), (12, 12), (2, 2)]) == ((1, 3), (5, 9), (12, 12))


def test_a_batch_names_its_streams_in_one_order() -> None:
    """Or two receivers could wait for each other's."""
    streams = heard(rows(4, device="b") + rows(2, 1, device="a") + rows(3, device="a", epoch="e0"), [])
    assert [(one.device_id, one.epoch, one.known, one.highest) for one in streams] == [
        ("a", "e0", ((3, 3),), 3),
        ("a", "e1", ((1, 2),), 2),
        ("b", "e1", ((4, 4),), 4),
    ]
