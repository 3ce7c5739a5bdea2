"""Which rows this process has sent, under which name, and which of them have no receipt yet.

The property `sender` of a message names the process; once a row goes out again after its receipt (the cloud asked for it
again, or a person requeued what was rejected) the name gets a number, and a receipt for an earlier name is not for that
sending: it may come late, of a database that was since put back, or say again what is no longer so. Knows nothing about
messages and databases.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from edge_runtime.sync.wire import SeqRange, ranges_of


class Sendings:
    """Of one uplink process, over all its connections."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(4)
        self._turn = 0
        # by epoch: the rows, and the turn in which each was first sent
        self._due: dict[str, dict[int, int]] = {}
        self._rejected: dict[str, set[int]] = {}  # in this turn

    @property
    def sender(self) -> str:
        """The name of what is sent now."""
        return f"{self._name}-{self._turn}" if self._turn else self._name

    def anew(self) -> None:
        """Rows come again that had their receipt: from now on another name."""
        self._turn += 1
        self._rejected.clear()

    def about_to_send(self, epoch: str, seq: int) -> None:
        """Before the message is made: a rejected row that comes again was requeued."""
        if seq in self._rejected.get(epoch, ()):
            self.anew()

    def sent(self, epoch: str, seq: int) -> None:
        """Until its receipt, however often it is sent."""
        self._due.setdefault(epoch, {}).setdefault(seq, self._turn)

    def turn_of(self, sender: str | None) -> int | None:
        """None where it names another process, nothing, or what never was."""
        name, _, told = (sender or "").partition("-")
        if name != self._name or not (told == "" or (told.isdecimal() and len(told) < 10)):
            return None
        turn = int(told or 0)
        return turn if turn <= self._turn else None

    def owed(self, epoch: str, turn: int, ranges: Iterable[SeqRange]) -> tuple[SeqRange, ...]:
        """What of `ranges` was sent by then and has no receipt. The cloud cannot have the others: whoever names them
        is wrong, or late.
        """
        due, named = self._due.get(epoch, {}), set[int]()
        for first, last in ranges:
            few = last - first < len(due)
            named.update(
                seq
                for seq in (range(first, last + 1) if few else due)
                if first <= seq <= last and due.get(seq, turn + 1) <= turn
            )
        return ranges_of(named)

    def settled(self, epoch: str, ranges: Iterable[SeqRange], *, rejected: bool) -> None:
        """Their receipt is here; it counts once."""
        for first, last in ranges:
            for seq in range(first, last + 1):
                self._due[epoch].pop(seq, None)
            if rejected:
                self._rejected.setdefault(epoch, set()).update(range(first, last + 1))
