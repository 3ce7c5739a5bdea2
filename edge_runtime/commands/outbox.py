"""`edge-runtime outbox list | stats | export`: what the journal holds and what the cloud has of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from edge_runtime.sync.masks import as_reported
from edge_runtime.sync.outbox import Outbox, OutboxStats, Which


class ListedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One record without its body."""

    seq: int
    kind: str
    id: str
    exam_id: str
    created_at: str
    reason: str | None  # why a dead row was rejected


def list_rows(state: Path, *, which: Which = "pending", limit: int = 20) -> list[ListedRow]:
    """The oldest `limit` records. Raises JournalError when there is no readable journal."""
    with Outbox(state, reading=True) as outbox:
        rows = list(islice(outbox.records(which), limit))
        reasons = outbox.reasons(row.seq for row in rows)
    return [
        ListedRow(
            seq=row.seq,
            kind=row.kind,
            id=row.id,
            exam_id=row.exam_id,
            created_at=row.created_at,
            reason=reasons.get(row.seq),
        )
        for row in rows
    ]


def stats(state: Path) -> OutboxStats:
    """How much waits, was delivered, was rejected, and how old the oldest waiting record is."""
    with Outbox(state, reading=True) as outbox:
        return outbox.stats()


def lines(state: Path, *, which: Which = "all") -> Iterator[bytes]:
    """Each record as it was reported, one line of JSON each, with the newline; for stdout."""
    with Outbox(state, reading=True) as outbox:
        for row in as_reported(outbox.records(which)):
            yield row.body + b"\n"


def row_lines(rows: list[ListedRow]) -> list[str]:
    """One line a record."""
    return [
        f"{row.seq:>6}  {row.created_at}  {row.kind:7}  {row.id}  {row.exam_id}{f'  ({row.reason})' if row.reason else ''}"
        for row in rows
    ] or ["nothing"]


def stats_lines(stats: OutboxStats) -> list[str]:
    """The counts for a person."""
    age = "" if stats.oldest_pending_s is None else f", the oldest for {stats.oldest_pending_s:.0f} s"
    waiting = ", ".join(f"{count} {name}" for name, count in stats.waiting.items() if count)
    lines = [
        f"device {stats.device_id}, epoch {stats.epoch}, last number {stats.last_seq}",
        "in the journal: "
        + (", ".join(f"{count} {kind}" for kind, count in stats.records.items()) or "nothing"),
        f"{stats.pending} wait for the cloud{f' ({waiting})' if waiting else ''}{age}; {stats.delivered} delivered;"
        f" {stats.dead - stats.held} rejected, {stats.held} held back",
    ]
    if stats.lost:
        lines.append(
            f"{stats.lost} masks and telemetry records were removed unsent, to keep room for findings"
        )
    return lines


def requeue(state: Path) -> int:
    """Makes rejected records wait for delivery again; how many."""
    with Outbox(state) as outbox:
        return outbox.revive()
