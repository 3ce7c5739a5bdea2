"""What stands between two threads: a mailbox where the newest wins, or a short queue that loses nothing.

Both count exactly: once closed and drained, offered = taken + dropped. A thread cannot die quietly behind
either: its end wakes the other side, with the cause.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from edge_runtime.errors import EdgeError, SourceLostError

T = TypeVar("T")


class Mailbox(Protocol[T]):
    """The way from one producing thread to one reading thread."""

    @property
    def offered(self) -> int: ...

    @property
    def taken(self) -> int: ...

    @property
    def dropped(self) -> int: ...

    def put(self, item: T, /) -> bool:
        """Offers `item`; False when nobody reads any more: it was not offered and the producer should end."""

    def get(self, timeout_s: float | None = None) -> T | None:
        """The next item; None when the producer has ended well and nothing is left.

        Raises the producer's own error (an EdgeError as it is, anything else within a SourceLostError), and
        SourceLostError when nothing comes for `timeout_s`.
        """

    def take(self, most: int, timeout_s: float | None = None) -> list[T]:
        """What is there, up to `most` items, waiting for the first; empty and raising as `get`."""

    def close(self, error: BaseException | None = None) -> None:
        """The producer's end. What was offered can still be taken; then the reader hears of `error`."""

    def abandon(self) -> None:
        """The reader's end. What is left counts as dropped and the producer is woken."""


class _Counted(Generic[T]):
    """The shared part: who waits for whom, and the count."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._changed = threading.Condition()
        self._items: deque[T] = deque()
        self._closed = False
        self._abandoned = False
        self._error: BaseException | None = None
        self.offered = 0
        self.taken = 0
        self.dropped = 0

    def get(self, timeout_s: float | None = None) -> T | None:
        items = self.take(1, timeout_s)
        return items[0] if items else None

    def take(self, most: int, timeout_s: float | None = None) -> list[T]:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed or self._abandoned, timeout_s)
            if self._items:
                items = [self._items.popleft() for _ in range(min(most, len(self._items)))]
                self.taken += len(items)
                self._changed.notify_all()
                return items
            if not self._closed and not self._abandoned:
                raise SourceLostError(f"source: no frame for {timeout_s:g} s")
            error = self._error
        if isinstance(error, EdgeError):
            raise error
        if error is not None:
            raise SourceLostError(
                f"the thread that delivers ended: {type(error).__name__}: {error}"
            ) from error
        return []

    def close(self, error: BaseException | None = None) -> None:
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._changed.notify_all()

    def abandon(self) -> None:
        with self._changed:
            self._abandoned = True
            self.dropped += len(self._items)
            self._items.clear()
            self._changed.notify_all()


class LatestSlot(_Counted[T]):
    """One item: a slow reader gets the newest, never a backlog. `put` never waits."""

    def __init__(self) -> None:
        super().__init__(room=1)

    def put(self, item: T, /) -> bool:
        with self._changed:
            if self._closed or self._abandoned:
                return False
            self.offered += 1
            if self._items:
                self._items.clear()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True


class Handover(_Counted[T]):
    """A few items in order, none lost: `put` waits while it is full."""

    def __init__(self, room: int = 2) -> None:
        if room < 1:
            raise ValueError(f"handover: want room for at least 1 item, got {room}")
        super().__init__(room)

    def put(self, item: T, /) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._room or self._closed or self._abandoned)
            if self._closed or self._abandoned:
                return False
            self.offered += 1
            self._items.append(item)
            self._changed.notify_all()
            return True


def pump(items: Iterable[T], box: Mailbox[T]) -> None:
    """Body of a producing thread. However it ends, the reader hears of it."""
    error: BaseException | None = None
    try:
        for item in items:
            if not box.put(item):
                break
    except BaseException as exc:  # noqa: BLE001 - handed to the reader, not swallowed
        error = exc
    finally:
        box.close(error)
