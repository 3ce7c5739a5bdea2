"""What gives way when the quota is full or the time is over, in which order, and that it is told."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edge_runtime import clock
from edge_runtime.codes import Clock, Priority
from edge_runtime.errors import JournalError
from edge_runtime.records import Gap
from edge_runtime.sync import holdings, retention
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.database import MIN_QUOTA_BYTES, open_db, transaction
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.lanes import Lane
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.retention import Days
from edge_runtime.sync.wire import SeqRange
from tests.builders import report, telemetry, with_masks


def kinds(state: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    with Outbox(state) as outbox:
        for row in holdings.records(outbox):
            found.setdefault(row.kind, set()).add(row.seq)
    return found


def told(state: Path) -> list[SeqRange]:
    with Outbox(state) as outbox:
        gaps = [
            msgspec.json.decode(row.body, type=Gap) for row in holdings.records(outbox) if row.kind == "gap"
        ]
    return [one for gap in gaps for one in gap.ranges]


def covered(ranges: list[SeqRange]) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


def test_masks_give_way_for_findings_and_a_gap_record_names_every_one(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=2 * MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        findings = with_masks(journal, 180)
        last = report(journal, 1)[0].seq
    found = kinds(tmp_path)
    assert found["finding"] == {*findings, last}
    gone = {seq + 1 for seq in findings} - found["mask"]
    assert gone
    assert covered(told(tmp_path)) == gone
    everything = set().union(*found.values()) | gone
    assert everything == set(range(1, max(everything) + 1))  # every number is here or told of
    with Outbox(tmp_path) as outbox:
        assert holdings.stats(outbox).lost == len(gone)


def test_what_the_last_batch_removed_is_told_in_that_batch(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=2 * MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        while not told(tmp_path):
            findings = with_masks(journal, 1)
            assert not _untold(tmp_path)
    found = kinds(tmp_path)
    gone = {seq + 1 for seq in range(1, findings[0] + 1, 2)} - found["mask"]
    assert covered(told(tmp_path)) == gone
    assert min(found["gap"]) == findings[0] + 2  # after the finding and its mask


def test_what_went_in_vain_is_told_by_the_journal_that_is_asked_to(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        with_masks(journal, 10)
        with pytest.raises(JournalError, match="not delivered"):
            report(journal, 200)
        masks = set(range(2, 21, 2))
        assert _untold(tmp_path) == masks
        with Outbox(tmp_path) as outbox:
            outbox.settle([(1, 200)])
        journal.tell_losses()
        journal.tell_losses()  # nothing is told twice
    assert not _untold(tmp_path)
    assert told(tmp_path) == [(seq, seq) for seq in sorted(masks)]


def test_what_was_delivered_goes_before_anything_that_waits(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        first = with_masks(journal, 40)
        with Outbox(tmp_path) as outbox:
            outbox.settle([(1, first[-1] + 1)])
        with_masks(journal, 30)
    assert told(tmp_path) == []


def test_masks_go_before_telemetry_and_telemetry_before_the_run_stops(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        with journal.batch() as batch:
            for _ in range(5):
                record = telemetry(batch.stamp())
                batch.add(record, msgspec.json.encode(record))
        with_masks(journal, 5)
        with pytest.raises(JournalError, match="not delivered"):
            for _ in range(500):
                report(journal, 1)
    found = kinds(tmp_path)
    assert "mask" not in found
    assert "telemetry" not in found
    assert {1, 2, 3, 4, 5} <= covered(told(tmp_path)) | _untold(tmp_path)


def _untold(state: Path) -> set[int]:
    with Outbox(state) as outbox:
        return covered(list(outbox._db.execute("SELECT first, last FROM lost WHERE NOT told")))


def test_what_was_lost_is_known_when_its_gap_record_is_delivered_and_gone(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=2 * MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        with_masks(journal, 180)
        report(journal, 1)
        gone = tuple(sorted(covered(told(tmp_path))))
        with Outbox(tmp_path) as outbox:
            outbox.settle([(1, 1000)])
        with closing(open_db(journal.path)) as db, transaction(db):
            while retention.remove_delivered(db):
                pass
        assert kinds(tmp_path) == {}
        journal.tell_losses()  # nothing is told twice
    with Outbox(tmp_path) as outbox:
        kept, stats = DeviceRecords(outbox).kept([(1, 1000)]), holdings.stats(outbox)
    assert kept.lost == gone
    assert len(kept.gone) == stats.last_seq - len(gone)
    assert (stats.lost, stats.records) == (len(gone), {})


def test_what_was_told_takes_no_more_than_a_hundredth_of_the_quota(tmp_path: Path) -> None:
    with Journal.open(tmp_path, quota_bytes=MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        with closing(open_db(journal.path)) as db, transaction(db):
            rows = ((seq, seq, "mask", "quota") for seq in range(2, 4002, 2))
            db.executemany("INSERT INTO lost (first, last, kind, reason) VALUES (?, ?, ?, ?)", rows)
        for _ in range(3):
            journal.tell_losses()
        assert len(covered(told(tmp_path))) == 2000
        with closing(open_db(journal.path)) as db:
            (pages,) = db.execute("PRAGMA max_page_count").fetchone()
            left = [first for (first,) in db.execute("SELECT first FROM lost")]
    assert left == list(range(4002 - 2 * 4 * pages, 4002, 2))  # the newest


def test_an_urgent_finding_is_never_removed_and_waits_in_its_own_lane(tmp_path: Path) -> None:
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        report(journal, 3)
        urgent = report(journal, 1, priority=Priority.URGENT)[0]
    with Outbox(tmp_path) as outbox:
        assert [row.seq for row in outbox.pending(Lane.URGENT, 0, 9)] == [urgent.seq]
        assert outbox.waiting() == {Lane.URGENT: 1, Lane.FINDING: 3, Lane.TELEMETRY: 0, Lane.MASK: 0}


def test_old_masks_go_by_the_clock_and_findings_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "clock_quality", lambda: Clock.NTP)
    monkeypatch.setattr(clock, "utc_now", lambda: "2026-01-01T00:00:00.000Z")
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        findings = with_masks(journal, 20)
    monkeypatch.setattr(clock, "utc_now", lambda: "2026-01-31T00:00:01.000Z")
    with Journal.open(tmp_path, reserve_bytes=0, days=Days(unsent=30)) as journal:
        report(journal, 1)
    assert kinds(tmp_path)["finding"] >= set(findings)
    assert covered(told(tmp_path)) == {seq + 1 for seq in findings}


def test_a_clock_that_nobody_has_set_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "clock_quality", lambda: Clock.UNSYNCED)
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        with_masks(journal, 3)
    monkeypatch.setattr(clock, "utc_now", lambda: "2038-01-19T03:14:07.000Z")
    with Journal.open(tmp_path, reserve_bytes=0, days=Days(delivered=1, unsent=1)) as journal:
        report(journal, 1)
    assert told(tmp_path) == []


def test_records_of_a_clock_that_ran_ahead_do_not_keep_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "clock_quality", lambda: Clock.NTP)
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        monkeypatch.setattr(clock, "utc_now", lambda: "2038-01-01T00:00:00.000Z")
        ahead = with_masks(journal, 20)
        monkeypatch.setattr(clock, "utc_now", lambda: "2026-01-01T00:00:00.000Z")
        behind = with_masks(journal, 3)
    monkeypatch.setattr(clock, "utc_now", lambda: "2026-03-01T00:00:00.000Z")
    with Journal.open(tmp_path, reserve_bytes=0, days=Days(unsent=30)) as journal:
        report(journal, 1)
    assert covered(told(tmp_path)) == {seq + 1 for seq in behind}
    assert kinds(tmp_path)["mask"] == {seq + 1 for seq in ahead}
