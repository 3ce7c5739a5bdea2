"""The uplink against a scripted peer: limits, refusals, silence; and the words it says about them."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from edge_runtime.commands import mark, outbox, receive, uplink
from edge_runtime.config import JournalLimits
from edge_runtime.errors import ConfigError, JournalError, UplinkError
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.link.link_file import read_link
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import only_uplink
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from edge_runtime.sync.uplink.verdicts import Proof
from tests.brokers import free_port
from tests.builders import report, with_masks
from tests.faults.processes import until
from tests.parties.peer import Peer
from tests.patience import within
from tests.sync.running import FAST, findings, running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "words"), [(0x87, "Not authorized"), (0x97, "Quota exceeded"), (0x10, "no consumer")]
)
def test_a_refusal_is_one_line_and_the_rows_stay_and_are_probed_not_poured(
    state: Path, code: int, words: str
) -> None:
    with Peer(puback=(code,)) as peer, running(state, peer.url) as said:
        until(lambda: findings(peer) >= 13)
        assert sum(words in line for line in said) == 1
        assert peer.connections == 1
        before, began = findings(peer), time.monotonic()
        time.sleep(0.6)
        probes = 2 + (time.monotonic() - began) / FAST.probe_max_s
        assert findings(peer) - before <= probes  # one row now and then
    assert outbox.stats(state).pending == 10


def test_without_receipts_one_row_probes_instead_of_the_backlog(state: Path) -> None:
    with Peer() as peer, running(state, peer.url):
        until(lambda: findings(peer) >= 10)
        began = time.monotonic()
        time.sleep(1.2)
        assert findings(peer) <= 13 + (time.monotonic() - began) / FAST.probe_max_s
        until(lambda: findings(peer) >= 11)


def test_a_row_that_ends_every_connection_is_found_and_held_back(state: Path) -> None:
    with Peer(cut_on_finding=True) as peer, running(state, peer.url) as said:
        until(lambda: any("row 1:" in line and "held back" in line for line in said))
        assert not any("row 2:" in line for line in said)
    assert (outbox.stats(state).pending, outbox.stats(state).held) == (9, 1)


def test_a_broker_that_refuses_us_is_one_line_and_retried(state: Path) -> None:
    with Peer(connack=0x87) as peer, running(state, peer.url, refused_s=0.1) as said:
        until(lambda: peer.connections >= 3)
        assert said == [
            f"broker {peer.url}: refused (Not authorized); check user, certificate and access list"
        ]


def test_once_against_nobody_says_how_many_remain_and_why(state: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with pytest.raises(UplinkError, match=r"10 rows remain .* after 1 s .*connection refused") as caught:
        uplink.run(state, url, once=True, timeout_s=1.0)
    assert "\n" not in str(caught.value)


def test_once_without_a_journal_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no findings.db"):
        uplink.run(tmp_path / "none", "mqtt://127.0.0.1:1", once=True)


def test_once_with_an_empty_outbox_needs_no_broker(tmp_path: Path) -> None:
    Journal.open(tmp_path, reserve_bytes=0).close()
    assert uplink.run(tmp_path, "mqtt://127.0.0.1:1", once=True, timeout_s=1).remaining == 0


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_a_usage_error(state: Path, tmp_path: Path, timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="--timeout"):
        uplink.run(state, "mqtt://127.0.0.1:1", once=True, timeout_s=timeout_s)
    with pytest.raises(ConfigError, match="--idle-exit"):
        receive.run("mqtt://127.0.0.1:1", f"sqlite:///{tmp_path}/c.db", idle_exit_s=timeout_s)


def test_once_without_time_to_look_is_a_failure(state: Path) -> None:
    settings = UplinkSettings(Broker.parse("mqtt://127.0.0.1:1"))
    with pytest.raises(UplinkError, match="not done"):
        Uplink(state, settings, threading.Event()).run(once=True, timeout_s=0.0)


@pytest.mark.parametrize("kind", ["short", "directory"])
def test_once_with_an_unusable_site_key_fails_at_once(state: Path, kind: str) -> None:
    (state / "site.key").unlink()
    if kind == "short":
        (state / "site.key").write_bytes(b"xx")
    else:
        (state / "site.key").mkdir()
    began = time.monotonic()
    with pytest.raises(JournalError, match=r"site\.key"):
        uplink.run(state, "mqtt://127.0.0.1:1", once=True, timeout_s=30)
    assert time.monotonic() - began < within(3.0)


def test_an_uplink_started_first_waits_for_the_journal_and_then_sends(tmp_path: Path) -> None:
    with Peer() as peer, running(tmp_path / "later", peer.url) as said:
        until(lambda: any("waiting for it" in line for line in said))
        with Journal.open(tmp_path / "later", reserve_bytes=0) as journal:
            report(journal, 1)
        until(lambda: findings(peer) >= 1)


def test_an_uplink_follows_the_journal_into_a_new_epoch(state: Path) -> None:
    with Peer() as peer, running(state, peer.url):
        until(lambda: findings(peer) >= 10)
        (state / "findings.db").write_bytes(b"damage " * 1000)
        for log in state.glob("findings.db-*"):
            log.unlink()
        with Journal.open(state, reserve_bytes=0) as journal:
            assert journal.set_aside is not None
            report(journal, 3)
        until(lambda: peer.connections >= 2 and findings(peer) >= 13)


def test_a_host_that_never_answers_does_not_hold_up_a_stop(state: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        running(state, f"mqtt://127.0.0.1:{mute.getsockname()[1]}"),
    ):
        time.sleep(0.3)


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "http://x",
        "mqtt://",
        "mqtt://h:99999",
        "mqtt://h/path",
        "mqtt://h:x",
        "mqtt://h:0",
        "mqtt://a..b",
        f"mqtt://{'a' * 300}",
    ],
)
def test_a_wrong_broker_url_is_a_usage_error(state: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="want mqtt"):
        uplink.run(state, url, once=True)


def test_a_password_is_in_no_message() -> None:
    broker = Broker.parse("mqtts://me:secret@host")
    assert (broker.port, broker.username, broker.password) == (8883, "me", "secret")
    assert "secret" not in f"{broker} {broker!r}"
    for wrong in ("mqtt://me:secret@[", "mqtt://me:secret@h\u2100"):
        with pytest.raises(ConfigError) as caught:
            Broker.parse(wrong)
        assert "secret" not in str(caught.value)


def test_a_second_uplink_of_a_state_directory_says_so_and_takes_no_connection(state: Path) -> None:
    with only_uplink(state), Peer() as peer, pytest.raises(UplinkError, match="runs here already"):
        uplink.run(state, peer.url, once=True)
    assert peer.connections == 0


def test_a_missing_consumer_is_an_alert_until_somebody_answers(state: Path) -> None:
    with Peer(puback=(0x10,)) as peer, running(state, peer.url):
        until(lambda: (said := read_link(state)) and "no_consumer" in [one.code for one in said.alerts])


def test_what_no_run_was_left_to_tell_of_is_told_by_the_uplink_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.sync.uplink.uplink._TELL_NS", 10**8)
    state, small = tmp_path / "s", JournalLimits(quota_mb=0.5, reserve_mb=0)
    with Journal.open_within(state, small, print) as journal:
        with_masks(journal, 10)
        with pytest.raises(JournalError, match="not delivered"):
            report(journal, 200)  # the masks go, and it is not enough
    with Outbox(state) as held:
        assert held.untold()
    (state / "findings.db").chmod(0o644)
    with Peer() as peer, running(state, peer.url, ack="puback", journal=small) as said:
        until(lambda: any(b'"lost":"mask"' in body for body in peer.bodies))
        assert sum("only its owner" in line for line in said) == 1  # what its journal says is not dropped
    with Outbox(state) as held:
        assert not held.untold()


@pytest.mark.parametrize("ack", ["receipt", "puback"])
def test_an_urgent_finding_behind_ten_thousand_is_on_the_wire_within_one_window(
    tmp_path: Path, ack: Proof
) -> None:
    with Journal.open(tmp_path / "s", reserve_bytes=0) as journal:
        for _ in range(100):
            report(journal, 100)
    with Peer() as peer, running(tmp_path / "s", peer.url, ack=ack):
        until(lambda: len(peer.bodies) >= FAST.window)
        mark.run(finding="last", state=tmp_path / "s")
        sent = len(peer.bodies)
        until(lambda: any(b'"urgent"' in body for body in peer.bodies))
        at = next(at for at, body in enumerate(peer.bodies) if b'"urgent"' in body)
    assert at - sent <= FAST.window
