"""The log that may leave: the uplink's own lines, bounded, without paths."""

from __future__ import annotations

from edge_runtime.sync.commands.command import MOST_LOG_LINES
from edge_runtime.sync.commands.recent_log import Discretion, Said


def test_only_the_last_lines_are_kept_and_given() -> None:
    said = Said(Discretion())
    for count in range(MOST_LOG_LINES + 5):
        said.add("2026-01-01T00:00:00.000Z", f"line {count}")
    assert len(said.last(10_000)) == MOST_LOG_LINES
    assert [line.text for line in said.last(2)] == [
        f"line {MOST_LOG_LINES + 3}",
        f"line {MOST_LOG_LINES + 4}",
    ]


def test_a_path_is_not_told_since_it_may_name_a_person() -> None:
    said = Said(Discretion(["/home/Anna Miller/state", "/home/Anna Miller", "anna"]))
    for text in (
        "state directory anna: findings.db cannot be written",
        "state directory /home/Anna Miller/state: findings.db cannot be read",
        "/home/Anna Miller/state/findings.db: damaged; set aside",
        "TLS file /home/anna/cert.pem: not found",
        "key '/home/anna/key.pem', ~/anna.pem: wrong",
    ):
        said.add("", text)
    told = " ".join(line.text for line in said.last(10))
    assert "nna" not in told
    assert "findings.db cannot be read" in told


def test_a_broker_and_a_ratio_are_no_paths() -> None:
    said = Said(Discretion())
    said.add("", "broker mqtts://cloud.example:8883: connected, 3/4 rows wait; CN=a/b")
    assert said.last(1)[0].text == "broker mqtts://cloud.example:8883: connected, 3/4 rows wait; CN=a/b"


def test_a_line_stays_one_line_of_bounded_length() -> None:
    said = Said(Discretion())
    said.add("", "a\nb\x1b[31m" + "x" * 5000)
    assert said.last(1)[0].text.startswith("a?b?[31m")
    assert len(said.last(1)[0].text) == 200
