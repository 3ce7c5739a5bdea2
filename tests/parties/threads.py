"""A party of the wire on a thread of the test: whoever starts one waits for its end, and hears of its failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.patience import within


@contextmanager
def on_a_thread(run: Callable[[], object], stop: threading.Event, end_s: float = 20.0) -> Iterator[None]:
    """`run` on a thread within `with`; once `stop` is set it must end within `end_s`. What it raises is raised here."""
    raised: list[BaseException] = []

    def body() -> None:
        try:
            run()
        except BaseException as exc:  # noqa: BLE001 - raised again below, in the test's own thread
            raised.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(within(end_s))
        assert not thread.is_alive(), f"did not end within {end_s} s"
        if raised:
            raise raised[0]
