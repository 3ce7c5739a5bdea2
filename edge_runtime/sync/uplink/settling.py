"""Receipts on their way into the database: collected, written twice a second, tried again where the disk is full.

Until then their rows are not sent again. Knows nothing about MQTT.
"""

from __future__ import annotations

from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.wire import SeqRange

EVERY_NS = 500_000_000  # each is a transaction that the disk must confirm
RETRY_NS = 1_000_000_000


class Settling:
    """What receipts said and the database does not know yet."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._stored: list[SeqRange] = []
        self._rejected: list[tuple[SeqRange, str]] = []
        self._due_ns = 0

    def __bool__(self) -> bool:
        return bool(self._stored or self._rejected)

    def __contains__(self, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self._stored) or any(
            first <= seq <= last for (first, last), _ in self._rejected
        )

    def stored(self, first: int, last: int) -> None:
        if self._stored and self._stored[-1][1] == first - 1:
            first = self._stored.pop()[0]
        self._stored.append((first, last))

    def rejected(self, first: int, last: int, reason: str) -> None:
        self._rejected.append(((first, last), reason))

    def due(self, now_ns: int) -> bool:
        return bool(self) and now_ns >= self._due_ns

    def note(self, now_ns: int) -> tuple[int, int]:
        """Writes it in one transaction: (newly delivered, newly dead). JournalError: it is kept, and due later."""
        self._due_ns = now_ns + RETRY_NS
        found = self._outbox.settle(self._stored, self._rejected)
        self._stored, self._rejected = [], []
        self._due_ns = now_ns + EVERY_NS
        return found
