"""What a journal holds, for one who looks things up: its records in order, single findings, the counts of all of it.

Reads through an open outbox and changes nothing. Knows nothing about what is sent when.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from edge_runtime import clock
from edge_runtime.sync import database
from edge_runtime.sync.outbox import Outbox, OutboxRow

Which = Literal["pending", "delivered", "dead", "held", "all"]

_WHERE: dict[Which, str] = {
    "pending": "seq IN (SELECT seq FROM outbox)",
    "delivered": "seq NOT IN (SELECT seq FROM outbox) AND seq NOT IN (SELECT seq FROM dead)",
    "dead": "seq IN (SELECT seq FROM dead)",
    "held": "seq IN (SELECT seq FROM dead WHERE held)",
    "all": "1",
}


class OutboxStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits, was delivered or was put aside."""

    device_id: str
    epoch: str
    pending: int
    delivered: int  # and still in the journal
    dead: int  # rejected by the cloud, kept here with the reason
    held: int  # of `dead`: not rejected, but this broker cannot take them; tried again at the next start
    waiting: dict[str, int]  # of `pending`, by lane
    records: dict[str, int]  # in the journal, by kind
    lost: int  # masks and telemetry that this database ever removed unsent
    oldest_pending_s: float | None  # by the wall clock; null when nothing is pending
    last_seq: int


def stats(outbox: Outbox) -> OutboxStats:
    """The counts of all of it."""
    pending, dead, held, last = outbox.rows(
        "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM dead),"
        f" (SELECT count(*) FROM dead WHERE held), ({database.LAST_SEQ})"
    )[0]
    records = dict(outbox.rows("SELECT kind, count(*) FROM journal GROUP BY kind ORDER BY min(seq)"))
    oldest = outbox.rows("SELECT created_at FROM journal WHERE seq = (SELECT min(seq) FROM outbox)")
    return OutboxStats(
        device_id=outbox.device_id,
        epoch=outbox.epoch,
        pending=pending,
        delivered=sum(records.values()) - pending - dead,
        dead=dead,
        held=held,
        waiting={lane.name.lower(): count for lane, count in outbox.waiting().items()},
        records=records,
        lost=outbox.loss()[0],
        oldest_pending_s=_age_s(oldest[0][0]) if oldest else None,
        last_seq=last,
    )


def finding(outbox: Outbox, finding_id: str) -> OutboxRow | None:
    """The finding of this id; None when it is not, or no longer, in the journal."""
    return _one(outbox, "AND id = ?", finding_id)


def last_finding(outbox: Outbox) -> OutboxRow | None:
    """The newest that was measured, not one that a person's mark made of another; None without any."""
    return _one(outbox, "AND json_extract(journal.body, '$.revision') = 1")


def superseding(outbox: Outbox, finding: OutboxRow) -> str | None:
    """The id of the revision that took the place of this finding; None where it stands."""
    where = "AND seq > ? AND json_extract(journal.body, '$.supersedes') = ?"
    row = _one(outbox, where, finding.seq, finding.id)
    return None if row is None else row.id


def _one(outbox: Outbox, where: str, *values: object) -> OutboxRow | None:
    sql = f"SELECT {database.RECORD} FROM {database.RECORDS} WHERE kind = 'finding'"
    rows = outbox.rows(f"{sql} {where} ORDER BY seq DESC LIMIT 1", *values)
    return OutboxRow(*rows[0]) if rows else None


def reasons(outbox: Outbox, seqs: Iterable[int]) -> dict[int, str]:
    """Why dead rows were rejected."""
    wanted = json.dumps(list(seqs))
    return dict(
        outbox.rows("SELECT seq, reason FROM dead WHERE seq IN (SELECT value FROM json_each(?))", wanted)
    )


def records(outbox: Outbox, which: Which = "all", page: int = 200) -> Iterator[OutboxRow]:
    """The journal's records in order, page by page: no transaction stays open between them."""
    last = 0
    while rows := outbox.rows(
        f"SELECT {database.RECORD} FROM {database.RECORDS} WHERE seq > ? AND {_WHERE[which]}"
        " ORDER BY seq LIMIT ?",
        last,
        page,
    ):
        yield from (OutboxRow(*row) for row in rows)
        last = rows[-1][0]


def _age_s(created_at: str) -> float:
    """Seconds since a journal's `created_at`; never negative, though the clock may have been set back."""
    age = clock.utc_of(clock.utc_now()) - clock.utc_of(created_at)
    return max(0.0, age.total_seconds())
