"""The cloud's end of the wire: events in, one database transaction, receipts out, then the broker's acknowledgements.

In that order, so that a crash at any point costs a second delivery and never a finding. Knows nothing about how
findings are made, and reads of a body only what the table's columns need: a minor version may add keys and codes.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from edge_runtime import clock
from edge_runtime.cloud.store import Poison, RowRefusedError, Store, StoreRow
from edge_runtime.errors import UplinkError
from edge_runtime.records import Seq
from edge_runtime.sync.link import Broker, Link, Message, Received, Settings, Tls
from edge_runtime.sync.topics import EVENTS_FILTER, DeviceTopics, parse_event
from edge_runtime.sync.wire import (
    MAX_RANGES,
    RECEIPT_CONTENT_TYPE,
    Receipt,
    encode_receipt,
    one_line,
    ranges_of,
)
from edge_runtime.types import SCHEMA_VERSION

ACCEPTED_MAJORS = (1,)  # N and N-1, once there is an N-1
_POLL_S = 0.1
_PUBACK_TIMEOUT_S = 20.0

Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]


class _Envelope(msgspec.Struct):
    """What the tables' columns need of any event; other keys are read by whoever needs them, from the body."""

    schema_version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
    device_id: Name
    seq: Seq
    epoch: Name
    exam_id: Name
    created_at: Name


class _FindingEnvelope(_Envelope):
    finding_id: Name


class _EventEnvelope(_Envelope):
    event_id: Name


_finding = msgspec.json.Decoder(_FindingEnvelope)
_event = msgspec.json.Decoder(_EventEnvelope)


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    broker: Broker
    client_id: str
    tls: Tls = field(default_factory=Tls)
    batch_rows: int = 500
    batch_s: float = 0.05  # the longest that the first message of a batch waits
    quiet_s: float = 0.005  # nothing for this long: no need to wait for more
    backoff_max_s: float = 10.0


class ReceiveReport(msgspec.Struct, kw_only=True):
    """What has been done so far."""

    messages: int = 0
    stored: int = 0  # findings that were new
    events: int = 0
    repeated: int = 0  # had been stored before: a receipt goes out all the same
    rejected: int = 0  # messages that cannot be read, kept in the table `quarantine`
    batches: int = 0
    connects: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who a message is from and which row of theirs it is: what a receipt needs."""

    device: DeviceTopics
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Judged:
    """One message, read: a row to store, or poison; with the sender where it is known."""

    received: Received
    sender: _Sender | None
    row: StoreRow | None
    poison: Poison | None


def judge(received: Received, received_at: str) -> Judged:
    """Reads one message. Never raises: what cannot be read is poison, with the reason."""
    topic = parse_event(received.topic)
    properties = dict(received.properties)
    epoch, seq = properties.get("epoch", ""), properties.get("seq", "")
    known = topic is not None and epoch and re.fullmatch("[1-9][0-9]{0,17}", seq)
    sender = _Sender(topic.device, epoch, int(seq)) if topic is not None and known else None
    try:
        if topic is None:
            raise ValueError("topic is none of this version's")
        if sender is None:
            raise ValueError("user properties epoch and seq are missing or wrong")
        text = received.payload.decode("utf-8")
        envelope = _finding.decode(text) if topic.kind == "finding" else _event.decode(text)
        if int(envelope.schema_version.partition(".")[0]) not in ACCEPTED_MAJORS:
            raise ValueError(f"schema {envelope.schema_version}, known {SCHEMA_VERSION}")
        if (envelope.device_id, envelope.epoch, envelope.seq) != (
            sender.device.device,
            sender.epoch,
            sender.seq,
        ):
            raise ValueError("body and topic or properties name different rows")
    except (ValueError, RecursionError) as exc:  # msgspec's and Unicode's are ValueErrors too
        return Judged(received, sender, None, _poison(received, f"{exc}", received_at))
    row = StoreRow(
        kind=topic.kind,
        device_id=envelope.device_id,
        id=envelope.finding_id if isinstance(envelope, _FindingEnvelope) else envelope.event_id,
        seq=envelope.seq,
        epoch=envelope.epoch,
        exam_id=envelope.exam_id,
        created_at=envelope.created_at,
        received_at=received_at,
        body=text,
    )
    return Judged(received, sender, row, None)


def _poison(received: Received, reason: str, received_at: str) -> Poison:
    digest = hashlib.sha256(received.topic.encode() + b"\0" + received.payload).hexdigest()
    return Poison(digest, received.topic, one_line(reason), received_at, received.payload)


def receipts_for(batch: Sequence[Judged]) -> list[Message]:
    """The fewest receipts that tell each device what became of its rows."""
    groups: dict[tuple[DeviceTopics, str, str | None], list[int]] = {}
    for one in batch:
        if one.sender is not None:
            reason = one.poison.reason if one.poison else None
            groups.setdefault((one.sender.device, one.sender.epoch, reason), []).append(one.sender.seq)
    messages = []
    for (device, epoch, reason), seqs in groups.items():
        ranges = ranges_of(seqs)
        for start in range(0, len(ranges), MAX_RANGES):
            receipt = Receipt(
                epoch=epoch,
                status="rejected" if reason else "stored",
                ranges=ranges[start : start + MAX_RANGES],
                reason=reason,
            )
            messages.append(Message(device.receipts, encode_receipt(receipt), RECEIPT_CONTENT_TYPE))
    return messages


class Consumer:
    """`run` returns when stopped, at its limit, or after a time without messages."""

    def __init__(
        self,
        settings: ConsumerSettings,
        store: Store,
        stop: threading.Event,
        *,
        on_notice: Callable[[str], None] = lambda line: None,
        on_progress: Callable[[ReceiveReport], None] = lambda report: None,
    ) -> None:
        self.report = ReceiveReport()
        self._settings, self._store, self._stop = settings, store, stop
        self._on_notice, self._on_progress = on_notice, on_progress
        self._last_notice = ""
        self._limit: int | None = None
        self._idle_exit_s: float | None = None
        self._heard_ns = self._started_ns = clock.monotonic_ns()

    def run(self, *, limit: int | None = None, idle_exit_s: float | None = None) -> ReceiveReport:
        """Ends after `limit` new findings, or `idle_exit_s` without a message. UplinkError if it never connected."""
        self._limit, self._idle_exit_s = limit, idle_exit_s
        tries = 0
        while not self._over():
            done = self.report.batches
            try:
                self._connection()
            except UplinkError as exc:
                self._notice(str(exc))
                tries = 0 if self.report.batches > done else tries + 1
                wait_s = min(self._settings.backoff_max_s, 0.25 * 2 ** min(tries, 10)) * random.uniform(
                    0.5, 1.5
                )
                self._stop.wait(min(wait_s, self._idle_left_s()))
        self._progress()
        if self.report.connects == 0 and not self._stop.is_set() and self._limit != 0:
            raise UplinkError(self._last_notice or f"broker {self._settings.broker}: never connected")
        return self.report

    def _over(self) -> bool:
        full = self._limit is not None and self.report.stored >= self._limit
        return self._stop.is_set() or full or self._idle_left_s() <= 0

    def _idle_left_s(self) -> float:
        if self._idle_exit_s is None:
            return 1e6
        return self._idle_exit_s - (clock.monotonic_ns() - self._heard_ns) / 1e9

    # ------------------------------------------------------------ one connection

    def _connection(self) -> None:
        settings = self._settings
        link = Link.open(
            Settings(
                broker=settings.broker,
                client_id=settings.client_id,
                tls=settings.tls,
                subscribe=EVENTS_FILTER,
            ),
            self._stop,
            max(0.1, min(60.0, self._idle_left_s())),
        )
        if link is None:
            return
        self.report.connects += 1
        self._notice(f"broker {settings.broker}: connected, listening")
        try:
            self._serve(link)
        except UplinkError:
            link.drop()
            raise
        link.close()

    def _serve(self, link: Link) -> None:
        """Gathers messages for a moment and settles them together: one commit for all of a batch."""
        waiting: deque[Received] = deque()
        first_ns = 0
        while not self._over():
            came = [
                one
                for one in link.poll(self._settings.quiet_s if waiting else _POLL_S)
                if isinstance(one, Received)
            ]
            if came:
                first_ns = first_ns if waiting else clock.monotonic_ns()
                self._heard_ns = clock.monotonic_ns()
                waiting.extend(came)
            aged = clock.monotonic_ns() - first_ns > self._settings.batch_s * 1e9
            if waiting and (not came or aged or len(waiting) >= self._settings.batch_rows):
                self._settle(link, waiting)
                self._progress()

    def _settle(self, link: Link, waiting: deque[Received]) -> None:
        """Commit, receipts, acknowledgements: in this order and no other."""
        take = min(len(waiting), self._settings.batch_rows)
        if self._limit is not None:
            take = min(take, self._limit - self.report.stored)
        now = clock.utc_now()
        batch = self._stored([judge(waiting.popleft(), now) for _ in range(take)])
        for message in receipts_for(batch):
            while not link.room():
                if link.silent_s() > _PUBACK_TIMEOUT_S:
                    raise UplinkError(f"broker {self._settings.broker}: takes no receipts; connecting anew")
                waiting.extend(one for one in link.poll(_POLL_S) if isinstance(one, Received))
            link.publish(message)
        for one in batch:
            link.ack(one.received)

    def _stored(self, batch: list[Judged]) -> list[Judged]:
        """Puts the batch into the store; a row that the database itself refuses becomes poison alone."""
        try:
            self._put(batch)
            return batch
        except RowRefusedError as exc:
            if len(batch) > 1:
                return [settled for one in batch for settled in self._stored([one])]
            bad = batch[0]
            reason = _poison(bad.received, str(exc), clock.utc_now())
            batch = [Judged(bad.received, bad.sender, None, reason)]
        self._put(batch)
        return batch

    def _put(self, batch: list[Judged]) -> None:
        rows = [one.row for one in batch if one.row is not None]
        poison = [one.poison for one in batch if one.poison is not None]
        result = self._store.put(rows, poison)
        if poison:
            self._notice(f"{one_line(poison[-1].topic)}: quarantined, {poison[-1].reason}")
        self.report.messages += len(batch)
        self.report.stored += result.findings
        self.report.events += result.events
        self.report.repeated += len(rows) - result.findings - result.events
        self.report.rejected += len(poison)
        self.report.batches += 1

    def _notice(self, line: str) -> None:
        if line != self._last_notice:
            self._last_notice = line
            self._on_notice(line)

    def _progress(self) -> None:
        self.report.seconds = (clock.monotonic_ns() - self._started_ns) / 1e9
        self._on_progress(self.report)
