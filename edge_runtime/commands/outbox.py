"""`edge-runtime outbox list | stats | export`: what the journal holds and what the cloud has of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from edge_runtime.sync import holdings
from edge_runtime.sync.holdings import OutboxStats, Which
from edge_runtime.sync.link.link_file import LinkRecord, read_link
from edge_runtime.sync.masks import as_reported
from edge_runtime.sync.outbox import Outbox


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
        rows = list(islice(holdings.records(outbox, which), limit))
        reasons = holdings.reasons(outbox, (row.seq for row in rows))
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


class Stats(OutboxStats, frozen=True, kw_only=True):
    """The outbox's counts, and the uplink's last word on its link; null where there never was one."""

    link: LinkRecord | None
    # until the uplink tries to connect again, at the latest; null where it does not wait
    next_try_s: float | None


def stats(state: Path) -> Stats:
    """How much waits, was delivered, was rejected, how old the oldest waiting record is, and how the link is."""
    with Outbox(state, reading=True) as outbox:
        counts, link = msgspec.structs.asdict(holdings.stats(outbox)), read_link(state)
    return Stats(**counts, link=link, next_try_s=link.next_try_s if link else None)


def lines(state: Path, *, which: Which = "all") -> Iterator[bytes]:
    """Each record as it was reported, one line of JSON each, with the newline; for stdout."""
    with Outbox(state, reading=True) as outbox:
        for row in as_reported(holdings.records(outbox, which)):
            yield row.body + b"\n"


def row_lines(rows: list[ListedRow]) -> list[str]:
    """One line a record."""
    return [
        f"{row.seq:>6}  {row.created_at}  {row.kind:7}  {row.id}  {row.exam_id}{f'  ({row.reason})' if row.reason else ''}"
        for row in rows
    ] or ["nothing"]


_IN_LANE = {
    "urgent": "urgent",
    "finding": "of findings and exams",  # with gaps and audits: what never gives way
    "telemetry": "of telemetry",
    "mask": "of masks",
}
_FORMS = {
    "event": ("exam event", "exam events"),
    "telemetry": ("telemetry record", "telemetry records"),
}


def _counted(count: int, what: str) -> str:
    one, many = _FORMS.get(what, (what, f"{what}s"))
    return f"{count} {one if count == 1 else many}"


def stats_lines(stats: Stats) -> list[str]:
    """The counts for a person."""
    age = "" if stats.oldest_pending_s is None else f", the oldest for {stats.oldest_pending_s:.0f} s"
    waiting = ", ".join(f"{count} {_IN_LANE[lane]}" for lane, count in stats.waiting.items() if count)
    lines = [
        f"device {stats.device_id}, epoch {stats.epoch}, last number {stats.last_seq}",
        "in the journal: "
        + (", ".join(_counted(count, kind) for kind, count in stats.records.items()) or "nothing"),
        f"{stats.pending} wait for the cloud{f' ({waiting})' if waiting else ''}{age}; {stats.delivered} delivered;"
        f" {stats.dead - stats.held} rejected, {stats.held} held back",
    ]
    if stats.link is not None:
        lines.append(stats.link.line())
        lines += [f"alert: {alert.text}" for alert in stats.link.alerts if stats.link.lives]
    if stats.lost:
        lines.append(
            f"{stats.lost} masks and telemetry records were removed unsent, to keep room for findings"
        )
    return lines


def requeue(state: Path) -> int:
    """Makes rejected records wait for delivery again; how many."""
    with Outbox(state) as outbox:
        return outbox.revive()
