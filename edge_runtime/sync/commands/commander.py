"""A command from its arrival to its answer: judged, done, on record, answered, in that order.

Each becomes a record of kind `audit` in the journal, whether it was done or refused, and its answer leaves after the
commit: what the cloud was told, the device can show. A flood of commands is counted instead of written down one by one,
those of trusted keys apart from all others, so that junk neither fills the disk nor keeps an operator out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edge_runtime import clock
from edge_runtime.errors import EdgeError
from edge_runtime.records import Audit
from edge_runtime.sync.commands.audits import Audits, Word, add_audit
from edge_runtime.sync.commands.authority import Arrived, Authority, Now, name_in
from edge_runtime.sync.commands.command import (
    ANSWER_CONTENT_TYPE,
    MOST_ANSWER_BYTES,
    Answer,
    Arguments,
    AuditNumber,
    Command,
    Refused,
    encode_answer,
)
from edge_runtime.sync.commands.handlers import Deed, Failed, Records, Ways, do
from edge_runtime.sync.commands.rate_limit import Bucket, Budget
from edge_runtime.sync.commands.signing import TrustedKeys
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.topics import DeviceTopics

ANSWER_EXPIRY_S = 300
MINUTE_S, DAY_S = 60.0, 86_400.0
Settled = tuple[Word, Audit]


@dataclass(frozen=True, slots=True)
class _Connection:
    topics: DeviceTopics
    authority: Authority
    records: Records
    ways: Ways


class Commander:
    """One device's end of the commands, for as long as its uplink lives; `begin` with each connection."""

    def __init__(
        self,
        audits: Audits,
        notice: Callable[[str], None],
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self._audits, self._notice, self._clock_ns = audits, notice, clock_ns
        self._now: _Connection | None = None
        # 500 audits of 0.5 kB a day are 90 MB in a year, should the cloud take none of them
        self._trusted = Budget(Bucket(20, MINUTE_S), Bucket(500, DAY_S))
        self._others = Budget(Bucket(10, MINUTE_S), Bucket(100, DAY_S))

    def begin(self, topics: DeviceTopics, keys: TrustedKeys, records: Records, ways: Ways) -> None:
        """A connection begins, and with it a session."""
        self._now = _Connection(topics, Authority(topics, keys, self._clock_ns()), records, ways)

    @property
    def session(self) -> str | None:
        """What a command must name now; the state message says it."""
        return self._now.authority.session if self._now else None

    def take(
        self, arrived: Arrived, fits: Callable[[Message], bool] = lambda message: True
    ) -> Message | None:
        """Does the command or refuses it. The answer to publish; None when there is to be none."""
        if self._now is None:
            return None
        now = Now(self._clock_ns(), clock.utc(), clock.clock_quality())
        settled: Settled | None = None
        try:
            command, arguments = self._now.authority.admit(arrived, now)
            if self._trusted.takes(now.ns):
                settled = self._do(now.ns, command, arguments, self._now)
        except Refused as refusal:
            if self._others.takes(now.ns):
                name = refusal.command.command if refusal.command else name_in(arrived.topic)
                word = Word("refused", refusal.code, refusal.text, refusal.command)
                settled = self._on_record(now.ns, word, name)
        return settled and _answer(self._now.topics, arrived, settled, fits)

    def tick(self) -> None:
        """Renews the session, tells of floods that are over, and lets the journal rest."""
        ns = self._clock_ns()
        if self._now is not None:
            self._now.authority.renew(ns)
        for budget in (self._trusted, self._others):
            if count := budget.count_told(ns):
                self._on_record(ns, Word("refused", "flood", f"{count} were too many"), None, count)
        self._audits.rest(ns)

    def _do(self, ns: int, command: Command, arguments: Arguments, here: _Connection) -> Settled | None:
        deed: Deed | None = None
        try:
            with self._audits.batch(ns) as batch:  # first: nobody else removes what is read here
                try:
                    if batch.stamp().epoch != here.records.epoch:
                        raise Failed("other_epoch", "the database was replaced just now; ask again")
                    deed = do(arguments, here.records, here.ways)
                    word = Word("done", "ok", deed.text, command, deed.result)
                except Failed as exc:
                    word = Word("failed", exc.code, exc.text, command)
                for statement, values in deed.changes if deed else ():
                    batch.also(statement, values)
                audit = add_audit(batch, word, command.command)
        except EdgeError as exc:
            self._notice(f"command {command.command}: not done, it cannot be put on record: {exc}")
            return None
        if deed is not None:
            deed.then()
        self._notice(f"command {command.command} of key {command.key_id}: {word.text}")
        return word, audit

    def _on_record(self, ns: int, word: Word, name: str | None, times: int = 1) -> Settled | None:
        """Commits the audit of what was refused; None when that cannot be."""
        what = f"command {name or 'of no known name'}: refused ({word.code}): {word.text}"
        try:
            with self._audits.batch(ns) as batch:
                audit = add_audit(batch, word, name, times)
        except EdgeError as exc:
            self._notice(f"{what}; it cannot be put on record: {exc}")
            return None
        self._notice(what)
        return word, audit


def _answer(
    topics: DeviceTopics, arrived: Arrived, settled: Settled, fits: Callable[[Message], bool]
) -> Message:
    word, audit = settled
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
    message = Message(
        topics.responses,
        encode_answer(answer),
        ANSWER_CONTENT_TYPE,
        correlation=arrived.echo,
        expiry_s=ANSWER_EXPIRY_S,
    )
    if len(message.payload) <= MOST_ANSWER_BYTES and fits(message):
        return message
    text = f"{word.text}; {len(message.payload)} bytes are too many for one answer, ask for less at once"
    short = msgspec.structs.replace(answer, text=text, result={})
    return Message(message.topic, encode_answer(short), message.content_type, correlation=message.correlation)
