"""What is missing of each stream, in PostgreSQL: read under a lock, settled in Python, written back.

The streams of a batch are locked in one order by every receiver, the first statement of theirs in its transaction; what
they read afterwards is what the receiver before them wrote. Each question goes by a key, whatever the planner thinks of
tables that it has never counted. Knows nothing about connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge_runtime.clock import utc_now
from edge_runtime.cloud.rows import Heard
from edge_runtime.cloud.streams import Known, Settled, leaps, settle, within_holes
from edge_runtime.sync.wire import SeqRange

_NEW = """
INSERT INTO streams (device_id, epoch, highest, updated_at)
SELECT device_id, epoch, 0, %s FROM unnest(%b::text[], %b::text[]) AS came (device_id, epoch)
ON CONFLICT (device_id, epoch) DO NOTHING
"""
_LOCKED = """
SELECT s.* FROM unnest(%b::text[], %b::text[]) AS came (device_id, epoch) CROSS JOIN LATERAL (
    SELECT device_id, epoch, highest, missing FROM streams
    WHERE device_id = came.device_id AND epoch = came.epoch FOR UPDATE
) AS s
"""
# The holes that each range touches: at most one begins before it.
_TOUCHED = """
SELECT DISTINCT came.device_id, came.epoch, hole.first, hole.last
FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[]) AS came (device_id, epoch, first, last)
CROSS JOIN LATERAL (
    (SELECT first, last FROM holes WHERE device_id = came.device_id AND epoch = came.epoch
     AND first < came.first ORDER BY first DESC LIMIT 1)
    UNION ALL
    SELECT first, last FROM holes WHERE device_id = came.device_id AND epoch = came.epoch
     AND first BETWEEN came.first AND came.last
) AS hole
WHERE hole.last >= came.first
"""
_AHEAD = """
SELECT came.device_id, came.epoch, a.seq
FROM unnest(%b::text[], %b::text[], %b::bigint[]) AS came (device_id, epoch, highest)
CROSS JOIN LATERAL (
    SELECT seq FROM refused_ahead WHERE device_id = came.device_id AND epoch = came.epoch AND seq <= came.highest
    OFFSET 0
) AS a
"""
_WRITE = """
INSERT INTO streams (device_id, epoch, highest, missing, updated_at)
SELECT device_id, epoch, highest, missing, %s
FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[]) AS came (device_id, epoch, highest, missing)
ON CONFLICT (device_id, epoch) DO UPDATE SET
    highest = excluded.highest, missing = excluded.missing, updated_at = excluded.updated_at
"""
_CLOSE = """
DELETE FROM holes USING unnest(%b::text[], %b::text[], %b::bigint[]) AS gone (device_id, epoch, first)
WHERE holes.device_id = gone.device_id AND holes.epoch = gone.epoch AND holes.first = gone.first
"""
_OPEN = "INSERT INTO holes SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[])"
_REACHED = """
DELETE FROM refused_ahead USING unnest(%b::text[], %b::text[], %b::bigint[]) AS gone (device_id, epoch, seq)
WHERE refused_ahead.device_id = gone.device_id AND refused_ahead.epoch = gone.epoch AND refused_ahead.seq = gone.seq
"""
_REFUSED = """
INSERT INTO refused_ahead SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[])
ON CONFLICT (device_id, epoch, seq) DO NOTHING
"""


def write_streams(db: Any, streams: Sequence[Heard]) -> None:
    """Brings what is missing of these streams up to date, within the caller's transaction and pipeline."""
    if not streams:
        return
    keys = columns([(one.device_id, one.epoch) for one in streams])
    db.execute(_NEW, (utc_now(), *keys))
    locked = db.execute(_LOCKED, keys)
    known = {(device, epoch): Known(highest, missing) for device, epoch, highest, missing in locked}
    both = [(known[one.device_id, one.epoch], one) for one in streams]
    _read_holes(db, known, [(one, part) for its, one in both for part in within_holes(its, one)])
    _read_ahead(db, known, [one for its, one in both if leaps(its, one)])
    _write(db, [((one.device_id, one.epoch), settle(its, one)) for its, one in both])


def _read_holes(
    db: Any, known: Mapping[tuple[str, str], Known], parts: Sequence[tuple[Heard, SeqRange]]
) -> None:
    if parts:
        rows = [(one.device_id, one.epoch, *part) for one, part in parts]
        for device, epoch, first, last in db.execute(_TOUCHED, columns(rows)):
            known[device, epoch].holes.append((first, last))


def _read_ahead(db: Any, known: Mapping[tuple[str, str], Known], streams: Sequence[Heard]) -> None:
    if streams:
        rows = [(one.device_id, one.epoch, one.highest) for one in streams]
        for device, epoch, seq in db.execute(_AHEAD, columns(rows)):
            known[device, epoch].ahead.append(seq)


def _write(db: Any, streams: list[tuple[tuple[str, str], Settled]]) -> None:
    db.execute(_WRITE, (utc_now(), *columns([(*key, now.highest, now.missing) for key, now in streams])))
    for sql, rows in (
        (_CLOSE, [(*key, first) for key, now in streams for first in now.closed]),
        (_OPEN, [(*key, *hole) for key, now in streams for hole in now.opened]),
        (_REACHED, [(*key, seq) for key, now in streams for seq in now.reached]),
        (_REFUSED, [(*key, seq) for key, now in streams for seq in now.ahead]),
    ):
        if rows:
            db.execute(sql, columns(rows))


def columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """One array for each column."""
    return [list(column) for column in zip(*rows, strict=True)]
