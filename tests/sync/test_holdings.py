"""What a journal holds, as a person asks for it: counts, exports, single findings."""

from __future__ import annotations

import json
from pathlib import Path

from edge_runtime.commands import outbox as commands
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from edge_runtime.types import encode
from tests.builders import finding


def test_stats_say_how_much_waits_and_for_how_long(state: Path) -> None:
    with Outbox(state) as outbox:
        outbox.settle([(1, 4)], [((5, 5), "why")])
    stats = commands.stats(state)
    assert (stats.pending, stats.delivered, stats.dead, stats.last_seq) == (5, 4, 1, 10)
    assert stats.oldest_pending_s is not None
    assert 0 <= stats.oldest_pending_s < 60
    with Outbox(state) as outbox:
        outbox.settle([(6, 10)])
    assert commands.stats(state).oldest_pending_s is None


def test_the_export_is_what_was_reported_line_by_line(state: Path) -> None:
    assert [json.loads(line)["seq"] for line in commands.lines(state)] == list(range(1, 11))


def test_an_export_is_what_was_reported_to_the_byte_and_counts_no_mask_twice(tmp_path: Path) -> None:
    with Journal.open(tmp_path, reserve_bytes=0) as journal, journal.batch() as batch:
        made = []
        for _ in range(3):
            made.append(finding(batch.stamp()))
            add_finding(batch, made[-1])
    assert list(commands.lines(tmp_path)) == [encode(record) + b"\n" for record in made]
    with Outbox(tmp_path) as outbox:
        assert holdings.stats(outbox).records == {"finding": 3, "mask": 3}
