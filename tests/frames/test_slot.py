"""Between two threads: nothing is lost uncounted and nobody waits for the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, SourceLostError
from edge_runtime.frames.slot import Handover, LatestSlot, Mailbox, pump

BOXES: list[Callable[[], Mailbox[int]]] = [LatestSlot, Handover]


@pytest.fixture(params=BOXES, ids=["latest", "handover"])
def box(request: pytest.FixtureRequest) -> Mailbox[int]:
    made: Mailbox[int] = request.param()
    return made


def started(body: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def test_the_newest_wins_and_the_others_are_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert all(slot.put(item) for item in range(5))
    assert (slot.get(0), slot.offered, slot.taken, slot.dropped) == (4, 5, 1, 4)


def test_a_handover_keeps_order_and_drops_nothing() -> None:
    box: Handover[int] = Handover(room=3)
    thread = started(lambda: pump(range(500), box))
    taken = []
    while (item := box.get(5)) is not None:
        taken.append(item)
    thread.join(5)
    assert taken == list(range(500))
    assert (box.offered, box.taken, box.dropped) == (500, 500, 0)


def test_a_full_handover_makes_its_producer_wait() -> None:
    box: Handover[int] = Handover(room=2)
    started(lambda: pump(range(10), box))
    while box.offered < 2:
        time.sleep(0.01)
    time.sleep(0.05)
    assert box.offered == 2


@given(st.lists(st.sampled_from(["put", "get"]), max_size=60), st.booleans())
def test_offered_is_taken_plus_dropped_after_any_history(history: list[str], abandoned: bool) -> None:
    slot: LatestSlot[int] = LatestSlot()
    waiting = 0
    for step in history:
        if step == "put":
            slot.put(1)
            waiting = 1
        elif waiting:
            slot.get(0)
            waiting = 0
    slot.close()
    if abandoned:
        slot.abandon()
    else:
        while slot.get(0) is not None:
            pass
    assert slot.offered == history.count("put") == slot.taken + slot.dropped


def test_it_is_exact_between_two_racing_threads(box: Mailbox[int]) -> None:
    thread = started(lambda: pump(range(20_000), box))
    taken = 0
    while box.get(5) is not None:
        taken += 1
    thread.join(5)
    assert box.offered == 20_000 == box.taken + box.dropped
    assert taken == box.taken


def test_what_was_offered_before_the_end_is_still_handed_over(box: Mailbox[int]) -> None:
    box.put(7)
    box.close(ConfigError("broken"))
    assert box.get(0) == 7
    with pytest.raises(ConfigError, match="broken"):
        box.get(0)


def test_a_dying_producer_wakes_its_reader_with_the_cause(box: Mailbox[int]) -> None:
    def items() -> Iterator[int]:
        yield 1
        time.sleep(0.05)
        raise ZeroDivisionError("decoder")

    started(lambda: pump(items(), box))
    assert box.get(60) == 1
    before = time.monotonic()
    with pytest.raises(SourceLostError, match="ZeroDivisionError: decoder") as caught:
        box.get(60)
    assert time.monotonic() - before < 30  # woken, not timed out
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_even_a_keyboard_interrupt_of_the_producer_reaches_the_reader(box: Mailbox[int]) -> None:
    def items() -> Iterator[int]:
        raise KeyboardInterrupt
        yield 0

    pump(items(), box)
    with pytest.raises(SourceLostError, match="KeyboardInterrupt"):
        box.get(0)


def test_a_stalled_producer_is_named_with_the_time_waited(box: Mailbox[int]) -> None:
    with pytest.raises(SourceLostError, match=r"no frame for 0\.01 s"):
        box.get(0.01)


def test_a_reader_that_leaves_frees_a_waiting_producer() -> None:
    box: Handover[int] = Handover(room=1)
    thread = started(lambda: pump(range(10), box))
    assert box.get(5) == 0
    box.abandon()
    thread.join(5)
    assert not thread.is_alive()
    assert box.offered == box.taken + box.dropped
    assert box.put(1) is False
    assert box.get(0) is None


def test_closing_twice_keeps_the_first_cause(box: Mailbox[int]) -> None:
    box.close(SourceLostError("first"))
    box.close()
    with pytest.raises(SourceLostError, match="first"):
        box.get(0)
