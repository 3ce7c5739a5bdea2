"""A command from its arrival to its answer: judged, done, on record, answered, in that order.

Each becomes a record of kind `audit` in the journal, whether it was done or refused, and its answer leaves after the
commit: what the cloud was told, the device can show. A flood of commands is counted instead of written down one by one,
those of trusted keys apart from all others, so that junk neither fills the disk nor keeps an operator out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_runtime import clock
from edge_runtime.errors import JournalError
from edge_runtime.records import Audit
from edge_runtime.sync.authority import Arrived, Authority, Now, name_in
from edge_runtime.sync.batch import Batch
from edge_runtime.sync.command import (
    ANSWER_CONTENT_TYPE,
    Answer,
    AuditNumber,
    Code,
    Command,
    Outcome,
    Refused,
    encode_answer,
)
from edge_runtime.sync.commanded import Deed, Failed, Records, Uplink, do
from edge_runtime.sync.flood import Bucket, Budget
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link import Message
from edge_runtime.sync.signing import TrustedKeys
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.types import SCHEMA_VERSION, encode

ANSWER_EXPIRY_S = 300
MINUTE_S, DAY_S = 60.0, 86_400.0


class Commander:
    """One device's end of the commands, for as long as the uplink lives. Used by the uplink's thread."""

    def __init__(
        self,
        journal: Journal,
        topics: DeviceTopics,
        keys: TrustedKeys,
        uplink: Uplink,
        notice: Callable[[str], None],
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self._journal, self._topics, self._uplink, self._notice = journal, topics, uplink, notice
        self._clock_ns = clock_ns
        self.authority = Authority(topics, keys, clock_ns())
        # 500 audits of 0.5 kB a day are 90 MB in a year, should the cloud take none of them
        self._trusted = Budget(Bucket(20, MINUTE_S), Bucket(500, DAY_S))
        self._others = Budget(Bucket(10, MINUTE_S), Bucket(100, DAY_S))

    def take(self, arrived: Arrived, records: Records) -> Message | None:
        """Does the command or refuses it. The answer to publish; None when there is to be none."""
        moment = Now(self._clock_ns(), clock.utc(), clock.clock_quality())
        try:
            command, arguments = self.authority.admit(arrived, moment)
        except Refused as refusal:
            return self._refuse(arrived, refusal) if self._others.takes(moment.ns) else None
        if not self._trusted.takes(moment.ns):
            return None
        try:
            return self._do(arrived, command, lambda: do(arguments, records, self._uplink))
        except JournalError as exc:
            self._notice(f"command {command.command}: not done, its audit cannot be written: {exc}")
            return None

    def tick(self) -> bool:
        """Tells of floods that are over; True when a new session began, which the state message must say."""
        ns = self._clock_ns()
        for budget in (self._trusted, self._others):
            if count := budget.count_told(ns):
                self._notice(f"commands: {count} were too many and not answered")
                try:
                    with self._journal.batch() as batch:
                        _audit(batch, _Word("refused", "flood", "too many"), None, count)
                except JournalError as exc:
                    self._notice(f"commands: the audit of a flood cannot be written: {exc}")
        return self.authority.renew(ns)

    def _do(self, arrived: Arrived, command: Command, deed_of: Callable[[], Deed]) -> Message:
        with self._journal.batch() as batch:
            try:
                deed = deed_of()
                word = _Word("done", "ok", deed.text, command, deed.result)
            except Failed as exc:
                deed = Deed(exc.text, {})
                word = _Word("failed", exc.code, exc.text, command)
            for statement, values in deed.changes:
                batch.also(statement, values)
            audit = _audit(batch, word, command.command)
        deed.then()
        self._notice(f"command {command.command} of key {command.key_id}: {word.text}")
        return self._answer(arrived, word, audit)

    def _refuse(self, arrived: Arrived, refusal: Refused) -> Message | None:
        word = _Word("refused", refusal.code, refusal.text, refusal.command)
        name = refusal.command.command if refusal.command else name_in(arrived.topic)
        try:
            with self._journal.batch() as batch:
                audit = _audit(batch, word, name)
        except JournalError as exc:
            self._notice(f"command: refused ({word.code}), its audit cannot be written: {exc}")
            return None
        self._notice(f"command {name or 'of no known name'}: refused ({word.code}): {word.text}")
        return self._answer(arrived, word, audit)

    def _answer(self, arrived: Arrived, word: _Word, audit: Audit) -> Message:
        answer = Answer(
            device_id=audit.device_id,
            command=word.command.command if word.command else None,
            nonce=audit.nonce,
            outcome=word.outcome,
            code=word.code,
            text=word.text,
            audit=AuditNumber(record_id=audit.record_id, epoch=audit.epoch, seq=audit.seq),
            at=audit.created_at,
            clock=audit.clock,
            result=word.result,
        )
        return Message(
            self._topics.responses,
            encode_answer(answer),
            ANSWER_CONTENT_TYPE,
            correlation=arrived.echo,
            expiry_s=ANSWER_EXPIRY_S,
        )


@dataclass(frozen=True, slots=True)
class _Word:
    """What became of a command; `command` is what a trusted key signed, as far as it could be read."""

    outcome: Outcome
    code: Code
    text: str
    command: Command | None = None
    result: dict[str, Any] = field(default_factory=dict)


def _audit(batch: Batch, word: _Word, name: str | None, times: int = 1) -> Audit:
    stamp = batch.stamp()
    audit = Audit(
        schema_version=SCHEMA_VERSION,
        record_id=clock.uuid7(),
        device_id=stamp.device_id,
        seq=stamp.seq,
        epoch=stamp.epoch,
        exam_id=None,
        created_at=stamp.created_at,
        clock=stamp.clock,
        command=name,
        outcome=word.outcome,
        code=word.code,
        key_id=word.command.key_id if word.command else None,
        nonce=word.command.nonce if word.command else None,
        times=times,
    )
    batch.add(audit, encode(audit))
    return audit
