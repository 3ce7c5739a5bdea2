"""The record of kind `audit` that each command leaves in the journal, and what is committed together with it.

The journal is open while commands come and for a moment after: an open one keeps `run` from setting a damaged database
aside. Knows nothing about who may command, nor about MQTT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from edge_runtime import clock
from edge_runtime.records import Audit
from edge_runtime.sync.batch import Batch
from edge_runtime.sync.commands.command import Code, Command, Outcome
from edge_runtime.sync.journal import Journal
from edge_runtime.types import encode

REST_NS = 10 * 10**9


@dataclass(frozen=True, slots=True)
class Word:
    """What became of a command; `command` is what a trusted key signed, as far as it could be read."""

    outcome: Outcome
    code: Code
    text: str
    command: Command | None = None
    result: dict[str, Any] = field(default_factory=dict)


class Audits:
    """Writes audits. Used by one thread."""

    def __init__(self, open_journal: Callable[[], Journal]) -> None:
        self._open = open_journal
        self._journal: Journal | None = None
        self._used_ns = 0

    @contextmanager
    def batch(self, now_ns: int) -> Iterator[Batch]:
        """One transaction of the journal: with its end the audit is on the disk. JournalError when it cannot be."""
        self._used_ns = now_ns
        if self._journal is None:
            self._journal = self._open()
        with self._journal.batch() as batch:
            yield batch

    def rest(self, now_ns: int) -> None:
        """Closes the journal when no command has come for a while."""
        if now_ns - self._used_ns > REST_NS:
            self.close()

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def add_audit(batch: Batch, word: Word, name: str | None, times: int = 1) -> Audit:
    """Adds the record of a command that is called `name`, or of `times` refused ones."""
    audit = Audit(
        **batch.stamp().head(),
        record_id=clock.uuid7(),
        exam_id=None,
        command=name,
        outcome=word.outcome,
        code=word.code,
        key_id=word.command.key_id if word.command else None,
        nonce=word.command.nonce if word.command else None,
        times=times,
    )
    batch.add(audit, encode(audit))
    return audit
