"""What was reported against what is in the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.commands.demo import findings

ROWS = [("f1", "dev", "e", 1), ("f2", "dev", "e", 2)]


def test_a_finding_that_is_not_in_the_database_is_missing() -> None:
    found = findings.delivery(["f1", "f2", "f3"], ROWS, broker="b", waiting=0, repeated=0)
    assert (found.reported, found.stored, found.missing, found.twice) == (3, 2, 1, 0)


@pytest.mark.parametrize("double", [("f1", "dev", "e", 3), ("f3", "dev", "e", 2)])
def test_the_same_finding_or_number_in_two_rows_is_twice(double: tuple[str, str, str, int]) -> None:
    assert findings.delivery(["f1", "f2"], [*ROWS, double], broker="b", waiting=0, repeated=0).twice == 1


def test_a_line_that_a_kill_cut_off_had_not_been_told(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert findings.whole_lines(out) == b""
    out.write_bytes(b'{"a":1}\n{"b":')
    assert findings.whole_lines(out) == b'{"a":1}\n'


def test_what_was_committed_and_not_told_is_named() -> None:
    assert findings.delivery(["f1"], ROWS, broker="b", waiting=0, repeated=0).untold == 1
