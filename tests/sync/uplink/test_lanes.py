"""Which rows go first and what becomes of those that a broker refuses; PUBACK as delivery; a slow line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.codes import Priority
from edge_runtime.commands import outbox, uplink
from edge_runtime.errors import UplinkError
from edge_runtime.sync import holdings
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.packing import pack
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.wire import outgoing
from edge_runtime.types import encode
from tests.builders import event, finding, report
from tests.faults.processes import until
from tests.parties.peer import Peer
from tests.sync.running import findings, link_of, running


def kinds(peer: Peer) -> list[str]:
    return [topic.rpartition("/")[2] for topic, _ in peer.published if "/evt/" in topic]


def test_an_urgent_finding_goes_before_what_waits(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "s", reserve_bytes=0) as journal:
        report(journal, 300)
        (urgent,) = report(journal, 1, priority=Priority.URGENT)
    with Peer() as peer, running(tmp_path / "s", peer.url):
        until(lambda: findings(peer) >= 1)
    assert urgent.finding_id.encode() in peer.bodies[0]


def test_a_refused_kind_waits_and_asks_while_the_others_go_on(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "s", reserve_bytes=0) as journal:
        report(journal, 20)
        with journal.batch() as batch:
            for _ in range(20):
                record = event(batch.stamp())
                batch.add(record, encode(record))
    with (
        Peer(of_kind={"finding": 0x87}) as peer,
        running(tmp_path / "s", peer.url, ack="puback") as said,  # no consumer is wanted for this
    ):
        until(lambda: kinds(peer).count("event") >= 20)
        assert sum("Not authorized" in line for line in said) == 1
        until(
            lambda: [alert.code for alert in link_of(tmp_path / "s").alerts if alert.code == "not_authorised"]
        )
        assert peer.connections == 1
        peer.of_kind = {}  # the access list is mended
        until(lambda: outbox.stats(tmp_path / "s").pending == 0)
        until(lambda: not [one for one in link_of(tmp_path / "s").alerts if one.code == "not_authorised"])


@pytest.mark.slow
def test_a_row_that_was_refused_eight_times_is_held_and_the_next_asks(state: Path) -> None:
    pace = Pace(receipt_timeout_s=0.3, probe_s=0.02, probe_max_s=0.05)
    with Peer(puback=(0x87,)) as peer, running(state, peer.url, pace=pace):
        until(lambda: outbox.stats(state).held >= 2)
        assert peer.connections == 1
    reasons = [row.reason for row in outbox.list_rows(state, which="held")]
    assert all("refused it 8 times (Not authorized)" in (reason or "") for reason in reasons)


def test_what_was_held_is_tried_again_at_the_next_start(state: Path) -> None:
    with Peer(max_packet=600) as peer, running(state, peer.url):
        until(lambda: outbox.stats(state).held == 10)
    with Peer() as peer, running(state, peer.url):
        until(lambda: findings(peer) >= 10)
    assert (outbox.stats(state).held, outbox.stats(state).pending) == (0, 10)


@pytest.mark.slow
@pytest.mark.parametrize("code", [0x99, 0x80])
def test_a_row_that_is_refused_for_itself_does_not_stop_the_others(state: Path, code: int) -> None:
    patient = Pace(receipt_timeout_s=60)
    with Peer(puback=(code, *[0] * 9, code, code, 0)) as peer, running(state, peer.url, pace=patient):
        until(lambda: outbox.stats(state).held == 1)
        assert peer.connections == 1
    assert outbox.stats(state).pending == 9


def test_a_row_that_the_broker_finds_too_large_is_held_at_once_on_the_same_connection(state: Path) -> None:
    patient = Pace(receipt_timeout_s=60)
    with Peer(puback=(0, 0x95, *[0] * 8)) as peer, running(state, peer.url, pace=patient) as said:
        until(lambda: outbox.stats(state).held == 1)
        until(lambda: findings(peer) == 10)
        assert peer.connections == 1
    assert any("row 2: the broker refused it (Packet too large)" in line for line in said)


def test_a_message_over_which_the_broker_says_too_large_is_held_after_the_second_time_alone(
    state: Path,
) -> None:
    with Peer(disconnect=0x95) as peer, running(state, peer.url, backoff_s=0.01, backoff_max_s=0.05):
        until(lambda: outbox.stats(state).held >= 1)
        assert peer.connections <= 5


def test_rows_that_are_requeued_are_sent_on_the_same_connection(state: Path) -> None:
    with Peer() as peer, running(state, peer.url, ack="puback"):
        until(lambda: outbox.stats(state).pending == 0)
        with Outbox(state) as rows, Journal.open(state, reserve_bytes=0) as journal, journal.batch() as batch:
            record = event(batch.stamp())
            batch.add(record, encode(record))
            for change in DeviceRecords(rows).resend([(2, 3)]):
                batch.also(*change)
        until(lambda: findings(peer) >= 13)
        assert peer.connections == 1


# ------------------------------------------------------------ PUBACK as delivery


def test_in_puback_mode_the_brokers_word_delivers(state: Path) -> None:
    with Peer() as peer:
        done = uplink.run(state, peer.url, once=True, timeout_s=20, ack="puback")
    assert (done.delivered, done.remaining, done.sent) == (10, 0, 10)


def test_in_puback_mode_a_broker_that_had_nobody_to_give_it_to_delivered_nothing(state: Path) -> None:
    with Peer(puback=(0x10,)) as peer, pytest.raises(UplinkError, match="10 rows remain"):
        uplink.run(state, peer.url, once=True, timeout_s=1, ack="puback")


# ------------------------------------------------------------ the slow line


def test_on_a_slow_line_rows_are_packed_masks_wait_and_the_rest_of_a_message_is_short(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "s", reserve_bytes=0) as journal, journal.batch() as batch:
        for _ in range(3):
            add_finding(batch, finding(batch.stamp()))
    with Outbox(tmp_path / "s") as rows:
        packed = [len(pack(outgoing(row.kind, row.body, thin=True))) for row in holdings.records(rows)]
    with Peer(alias_max=10) as peer, running(tmp_path / "s", peer.url, link="slow", ack="puback"):
        until(lambda: outbox.stats(tmp_path / "s").pending == 0)
    assert kinds(peer) == ["finding"] * 3 + ["mask"] * 3
    assert [b"er/v1/" in body for body in peer.bodies] == [True, False, False, True, False, False]
    for body, size in zip(peer.bodies, packed[::2] + packed[1::2], strict=True):
        assert body.count(b"zd1") == 1
        assert b"er/v1/" in body or len(body) - size < 50


def test_no_alias_is_used_where_the_broker_allows_none(state: Path) -> None:
    with Peer() as peer, running(state, peer.url, link="slow"):
        until(lambda: len(peer.bodies) >= 5)
    assert all(b"er/v1/" in body for body in peer.bodies)


@pytest.mark.parametrize("flag", ["--link", "--ack"])
def test_a_word_that_is_none_of_the_flags_is_a_usage_error(flag: str) -> None:
    from click.testing import CliRunner

    from edge_runtime.cli import app

    assert CliRunner().invoke(app, ["uplink", "--broker", "mqtt://x", flag, "never"]).exit_code == 2
