"""What a command from the cloud can learn of the database, and what it would change."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from edge_runtime.sync import holdings
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.database import open_db, transaction
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import Outbox
from tests.patience import within


def test_delivered_rows_are_sent_again_when_asked_for_and_those_gone_are_named(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.settle([(1, 8)], [((9, 9), "schema")])
        outbox._db.execute("DELETE FROM journal WHERE seq IN (2, 3, 6)")
        kept = DeviceRecords(outbox).kept([(1, 4), (6, 12)])
        assert (kept.delivered, kept.waiting, kept.dead) == ((1, 4, 7, 8), (10,), (9,))
        assert (kept.lost, kept.gone, kept.never) == ((), (2, 3, 6), (11, 12))
        for statement, values in DeviceRecords(outbox).resend([(1, 4), (6, 50)]):
            outbox._db.execute(statement, values)
        assert [row.seq for row in outbox.pending(Lane.FINDING, 0, 20)] == [1, 4, 7, 8, 10]
        assert [row.seq for row in holdings.records(outbox, "dead")] == [9]


def test_what_became_of_many_numbers_is_found_while_a_recorder_waits(state: Path) -> None:
    """A command asks it inside the journal's transaction, where 80,000 ranges once took 6 s."""
    with closing(open_db(state / "findings.db")) as db, transaction(db):
        rows = ((seq, seq, "mask", "quota", 1) for seq in range(12, 160_012, 2))
        db.executemany("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("UPDATE sqlite_sequence SET seq = 160010 WHERE name = 'journal'")
    with Outbox(state) as outbox:
        began = time.monotonic()
        kept = DeviceRecords(outbox).kept([(150_001, 160_000)])
        kept_apart = DeviceRecords(outbox).kept([(first, first + 99) for first in range(1001, 160_000, 1600)])
        assert time.monotonic() - began < within(0.5)
    assert (len(kept.lost), len(kept.gone)) == (5000, 5000)
    assert (len(kept_apart.lost), len(kept_apart.gone)) == (5000, 5000)
