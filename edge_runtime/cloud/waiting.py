"""Waits for a database that is not up yet, as at the start of a machine on which both are services.

Meanwhile nothing is asked of the broker: a message that this receiver cannot store is another's. Knows nothing about
which database it is.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from edge_runtime import clock
from edge_runtime.cloud.health import Health
from edge_runtime.cloud.store import Store, StoreAwayError

_FIRST_S, _DOUBLINGS = 0.25, 10
MOST_S = 10.0


def pause_s(tries: int, most_s: float = MOST_S) -> float:
    """Before the next try: a quarter of a second, doubled each time up to `most_s`, each with half of it as jitter."""
    return min(most_s, _FIRST_S * 2.0 ** min(tries, _DOUBLINGS)) * random.uniform(0.5, 1.5)


def wait_for_store(
    open_it: Callable[[], Store],
    stop: threading.Event,
    health: Health,
    on_notice: Callable[[str], None],
    most_s: float | None = None,
) -> Store | None:
    """The store, however long that takes; None when stopped before. StoreAwayError after `most_s`.

    Whatever else `open_it` raises is a refusal, and no reason to wait.
    """
    began_ns, tries = clock.monotonic_ns(), 0
    while not stop.is_set():
        health.beat()
        try:
            store = open_it()
        except StoreAwayError as exc:
            left_s = MOST_S if most_s is None else most_s - (clock.monotonic_ns() - began_ns) / 1e9
            if left_s <= 0:
                raise
            health.fails("store", str(exc))
            if tries == 0:
                on_notice(f"{exc}; waiting for it")
            stop.wait(min(pause_s(tries), left_s))
            tries += 1
            continue
        health.works("store")
        if tries:
            waited_s = (clock.monotonic_ns() - began_ns) / 1e9
            on_notice(f"store: there after {waited_s:.0f} s")
        return store
    return None
