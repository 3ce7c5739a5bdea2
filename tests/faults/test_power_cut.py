"""Power cuts, simulated: `kill -9` cannot show them, for the page cache survives it.

The journal and the outbox run as they are, on a disk that forgets what was not synced (`power_cut`): findings with masks,
receipts, rejections, a quota so small that masks give way. Then the power goes and the next boot looks.
`EDGE_RUNTIME_POWER_CUTS=3000` tries as many.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.errors import JournalError
from edge_runtime.records import Gap
from edge_runtime.sync import database, holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox, OutboxRow
from tests.builders import finding
from tests.faults.power_cut import Db, Disk, PowerCutError
from tests.sync.older_versions import VERSION_1

TRIALS = int(os.environ.get("EDGE_RUNTIME_POWER_CUTS", "20"))
QUOTA = database.MIN_QUOTA_BYTES


@dataclass
class Told:
    """What the journal and the outbox had said when the power went; `doubtful` was being said."""

    committed: dict[int, tuple[str, bytes]] = field(default_factory=dict)  # number -> kind and body
    settled: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)  # numbers of a receipt that was being noted
    gone: set[int] = field(default_factory=set)  # numbers that a gap record told the cloud of


def work(state: Path, told: Told, choose: random.Random) -> None:
    """A device's life: exams, and now and then a cloud that takes what it gets."""
    receipts = choose.choice((0.0, 0.3, 0.7))
    with Journal.open(state, quota_bytes=QUOTA, reserve_bytes=0) as journal, Outbox(state) as outbox:
        while True:
            if choose.random() < receipts:
                settle(outbox, told, choose)
                continue
            with suppress(JournalError), journal.batch() as batch:  # the quota is full of what is owed
                for _ in range(choose.randint(1, 4)):
                    masks = finding(batch.stamp()).masks
                    big = msgspec.structs.replace(masks[0], data="Pn2K5" * 1200)
                    add_finding(batch, finding(batch.stamp(), masks=(big,)))
                rows = batch.rows
            if journal._last_seq >= rows[-1].seq:
                told.committed.update((row.seq, (row.kind, row.body)) for row in rows)
            else:
                receipts = 0.7


def settle(outbox: Outbox, told: Told, choose: random.Random) -> None:
    rows = choose.sample(waiting := list(holdings.records(outbox, "pending")), len(waiting) // 2)
    some = {row.seq for row in rows}
    told.gone |= gone_by(rows)
    bad = {seq for seq in some if choose.random() < 0.1}
    told.doubtful = some
    outbox.settle([(seq, seq) for seq in some - bad], [((seq, seq), "unreadable") for seq in bad])
    told.settled |= some - bad
    told.dead |= bad
    told.doubtful = set()


def gone_by(rows: list[OutboxRow]) -> set[int]:
    """The numbers that the gap records among `rows` tell of."""
    gaps = [msgspec.json.decode(row.body, type=Gap) for row in rows if row.kind == "gap"]
    return {seq for gap in gaps for first, last in gap.ranges for seq in range(first, last + 1)}


def cut(folder: Path, seed: int, patch: pytest.MonkeyPatch, spoil: Callable[[str], str]) -> tuple[Told, Path]:
    """A life up to its power cut: what was told, and the state directory that the next boot finds."""
    choose = random.Random(seed)
    disk, told = Disk(cut_after=choose.randrange(60, 1500)), Told()
    live, after = folder / "live", folder / "after"
    after.mkdir(parents=True)

    def open_on_disk(path: Path, *, quota_bytes: int | None = None, create: bool = False) -> Any:
        return Db(path, disk, map(spoil, database.pragmas(quota_bytes or QUOTA)))

    with patch.context() as patched:
        patched.setattr("edge_runtime.sync.database.open_db", open_on_disk)
        with pytest.raises(PowerCutError):
            work(live, told, choose)
    for name, content in disk.after_the_cut(choose).items():
        if not name.endswith("-shm"):
            (after / name).write_bytes(content)
    for name in ("device_id", "site.key"):
        shutil.copy(live / name, after / name)
    return told, after


def sure_of(told: Told) -> set[int]:
    return set(told.committed) - told.doubtful


def wrong_after(told: Told, state: Path) -> list[str]:
    """What the next boot finds missing, risen or damaged; every line is a failure."""
    notices: list[str] = []
    with Journal.open(state, quota_bytes=QUOTA, reserve_bytes=0, on_notice=notices.append) as journal:
        if journal.set_aside is not None:
            return [f"the database was damaged: {notices}"]
        with Outbox(state) as outbox, closing(database.open_db(journal.path)) as db:
            rows = list(holdings.records(outbox))
            pending, dead = (
                {row.seq for row in holdings.records(outbox, which)} for which in ("pending", "dead")
            )
            gone = {
                seq
                for first, last in db.execute("SELECT first, last FROM lost WHERE NOT told")
                for seq in range(first, last + 1)
            }
            next_seq = db.execute(database.LAST_SEQ).fetchone()[0] + 1
    gone |= gone_by(rows) | told.gone
    here = {row.seq for row in rows}
    changed = [
        row.seq
        for row in rows
        if row.seq in sure_of(told) and told.committed[row.seq] != (row.kind, row.body)
    ]
    sure = sure_of(told)
    owed = sure - told.settled - told.dead - gone
    return [
        *(f"another body: {seq}" for seq in changed),
        *(f"lost: {seq}" for seq in owed - here),
        *(f"no longer owed: {seq}" for seq in owed & here - pending),
        *(f"risen: {seq}" for seq in (told.settled | told.dead) & pending),
        *(f"dead letter lost: {seq}" for seq in told.dead - dead),
        *(f"lost, though not a mask: {seq}" for seq in gone & sure if told.committed[seq][0] != "mask"),
        *(f"number given again: {seq}" for seq in told.committed if seq >= next_seq),
        *(f"gap: {seq}" for seq in set(range(1, next_seq)) - here - gone - told.settled - told.doubtful),
    ]


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    def run(count: int, spoil: Callable[[str], str] = str) -> list[list[str]]:
        wrong = []
        for seed in range(count):
            folder = tmp_path / str(seed)
            wrong.append(wrong_after(*cut(folder, seed, monkeypatch, spoil)))
            shutil.rmtree(folder)
        return wrong

    return run


@pytest.mark.timeout(3600)
def test_no_power_cut_takes_a_committed_record_or_brings_a_delivered_one_back(
    trials: Callable[..., list[list[str]]],
) -> None:
    assert {seed: wrong for seed, wrong in enumerate(trials(TRIALS)) if wrong} == {}


def test_the_model_would_notice_a_journal_that_syncs_too_seldom(
    trials: Callable[..., list[list[str]]],
) -> None:
    careless = trials(20, lambda setting: setting.replace("FULL", "NORMAL"))
    assert sum(bool(wrong) for wrong in careless) > 1


FACTS = "INSERT INTO meta VALUES ('schema', '1'), ('device_id', 'dev-1'), ('epoch', 'e1'), ('quota_bytes', '1048576')"


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_while_an_older_database_is_brought_up_to_date_costs_no_row(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = random.Random(seed)
    disk, live, after = Disk(cut_after=10**9), tmp_path / "live", tmp_path / "after"
    live.mkdir()
    after.mkdir()
    db = Db(live / "findings.db", disk, database.pragmas(QUOTA))
    for statement in (*VERSION_1, FACTS):
        db.execute(statement)
    rows = [(seq, "finding", f"id-{seq}", "exam", "2026-01-01T00:00:00.000Z", b"{}") for seq in range(1, 61)]
    db.execute("BEGIN")
    db.executemany(database.ADD_JOURNAL, rows)
    db.executemany("INSERT INTO outbox VALUES (?)", [(seq,) for seq in range(11, 61)])
    db.execute("INSERT INTO dead VALUES (5, 'why')")
    db.execute("COMMIT")
    db.close()
    disk.cut_after = choose.randrange(40)

    def open_on_disk(path: Path, *, quota_bytes: int | None = None, create: bool = False) -> Any:
        return Db(path, disk, database.pragmas(quota_bytes or QUOTA))

    with monkeypatch.context() as patched, suppress(PowerCutError):
        patched.setattr("edge_runtime.sync.database.open_db", open_on_disk)
        Journal.open(live, quota_bytes=QUOTA, reserve_bytes=0).close()
    for name, content in disk.after_the_cut(choose).items():
        if not name.endswith("-shm"):
            (after / name).write_bytes(content)
    with Journal.open(after, quota_bytes=QUOTA, reserve_bytes=0) as journal:
        assert journal.set_aside is None
        with journal.batch() as batch:
            add_finding(batch, finding(batch.stamp()))
    with Outbox(after) as outbox:
        assert [row.seq for row in holdings.records(outbox, "pending")] == list(range(11, 63))
        assert [row.seq for row in holdings.records(outbox, "dead")] == [5]
        assert [row.kind for row in holdings.records(outbox)][-2:] == ["finding", "mask"]
