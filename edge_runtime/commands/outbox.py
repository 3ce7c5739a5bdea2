"""`edge-runtime outbox list | stats | export | revive`: what the journal holds and what the cloud has of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.sync.outbox import Outbox, OutboxStats, Which


class ListedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One record without its body."""

    seq: int
    kind: str
    id: str
    exam_id: str
    created_at: str
    reason: str | None  # why a dead row was rejected


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    rows: int
    out: str


def list_rows(state: Path, *, which: Which = "pending", limit: int = 20) -> list[ListedRow]:
    """The oldest `limit` records. Raises JournalError when there is no readable journal."""
    with Outbox(state) as outbox:
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
    with Outbox(state) as outbox:
        return outbox.stats()


def lines(state: Path, *, which: Which = "all") -> Iterator[bytes]:
    """Each record as it was reported, one line of JSON each, with the newline; for stdout."""
    with Outbox(state) as outbox:
        for row in outbox.records(which):
            yield row.body + b"\n"


def export(state: Path, out: Path, *, which: Which = "all") -> ExportReport:
    """Writes the records to `out`, one line of JSON each; the file appears whole or not at all."""
    part = out.with_name(f"{out.name}.part")
    count = 0
    try:
        with part.open("wb") as file:
            for line in lines(state, which=which):
                file.write(line)
                count += 1
        part.replace(out)
    except OSError as exc:
        raise ConfigError(f"export {out}: cannot be written ({exc.strerror})") from exc
    return ExportReport(rows=count, out=str(out))


def revive(state: Path) -> int:
    """Makes rejected records wait for delivery again; how many."""
    with Outbox(state) as outbox:
        return outbox.revive()
