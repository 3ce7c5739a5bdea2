"""The link as others see it: its file, its retained state, a broker that will not have it, two of one id."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from edge_runtime.commands import doctor, outbox
from edge_runtime.errors import ConfigError
from edge_runtime.sync.link.link import Broker, Message, Received
from edge_runtime.sync.link.link_file import LinkFile, LinkNow, read_link
from edge_runtime.sync.link.link_state import LinkState
from edge_runtime.sync.link.publishing import packet_bytes, publish_packet
from edge_runtime.sync.wire import DeviceState, decode_state
from tests.brokers import Mosquitto, free_port
from tests.faults.ends import listening
from tests.faults.processes import until
from tests.parties.peer import Peer
from tests.sync.running import link_of, running, said_state


def states(heard: list[Received]) -> list[DeviceState]:
    return [decode_state(came.payload) for came in heard if came.topic.endswith("/state")]


@pytest.mark.broker
def test_the_retained_state_says_how_the_link_is_and_a_new_session_each_time(
    state: Path, broker: Mosquitto
) -> None:
    with listening(broker.url, "er/v1/+/+/+/state") as heard:
        for link in ("normal", "slow"):
            with running(state, broker.url, link=link):
                until(lambda: states(heard)[-1:] and states(heard)[-1].state == "online")
            until(lambda: states(heard)[-1].state == "offline")
        online = [one for one in states(heard) if one.state == "online"]
    assert [one.link for one in (online[0], online[-1])] == ["online", "slow"]
    assert online[0].session != online[-1].session
    assert len(online[0].session or "") >= 8
    assert online[0].clock is not None
    stopped = states(heard)[-1]
    assert (stopped.why, stopped.session, stopped.link) == ("stopped", None, None)


@pytest.mark.parametrize("url", ["mqtt://u:12#secret@h", "mqtt://u:12?secret@h", "mqtt://u:12/secret@h"])
def test_a_password_that_ends_the_host_is_a_usage_error_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Broker.parse(url)
    assert "secret" not in str(caught.value)


def test_what_a_url_cannot_hold_is_written_by_its_number() -> None:
    parsed = Broker.parse("mqtt://us%40er:p%23%2Fss@h")
    assert (parsed.username, parsed.password, parsed.host) == ("us@er", "p#/ss", "h")


def test_a_state_directory_that_may_not_be_looked_into_is_nothing_to_the_link_file(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def barred(path: Path) -> bool:  # Python's own since 3.12 tells of a missing right, not of False
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", barred)
    LinkFile(state, "mqtt://h:1").show(LinkNow(LinkState.OFFLINE, "stopped"))


def test_the_link_file_follows_the_link_and_is_written_when_something_changes(state: Path) -> None:
    with Peer() as peer:
        with running(state, peer.url):
            until(lambda: said_state(state) is LinkState.ONLINE)
            written = (state / "link.json").stat().st_mtime_ns
            time.sleep(0.6)
            assert (state / "link.json").stat().st_mtime_ns == written
            assert link_of(state).broker == peer.url
            assert link_of(state).lives
        assert said_state(state) is LinkState.OFFLINE
        assert link_of(state).why == "stopped"


def test_outbox_stats_and_doctor_read_it_and_know_when_no_uplink_is_left(state: Path) -> None:
    def told() -> str:
        return "\n".join(outbox.stats_lines(outbox.stats(state)))

    assert outbox.stats(state).link is None
    with Peer() as peer, running(state, peer.url):
        until(lambda: "link: online" in told())
        check, *_ = doctor._link(state)
        assert check.found.startswith("online since")
    text = (state / "link.json").read_text()
    assert "link: offline" in told()
    (state / "link.json").write_text(text.replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
    assert "no uplink runs" in told()
    assert doctor._link(state)[0].state == "lacks"
    (state / "link.json").write_text("{")
    assert read_link(state) is None


def link_json(**over: object) -> bytes:
    alert = {"id": "a" * 300, "code": "no_consumer", "text": "x\n\x1b[31m", "since": "then"}
    record = {
        "v": 1,
        "state": "offline",
        "why": "n\nn",
        "since": "then",
        "broker": "mqtt://b",
        "alerts": [alert],
        "pid": 1,
        "boot_id": "b",
    }
    return json.dumps(record | over).encode()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\0" * 9, b'{"x":' + b"[" * 100_000, link_json(why="w" * 300_000), link_json(pid="1")],
)
def test_a_link_file_that_cannot_be_ours_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "link.json").write_bytes(content)
    assert read_link(tmp_path) is None


def test_what_is_read_of_a_link_file_fits_into_a_line_and_a_message(tmp_path: Path) -> None:
    (tmp_path / "link.json").write_bytes(link_json())
    found = read_link(tmp_path)
    assert found is not None
    (alert,) = found.alerts
    assert (len(alert.id), alert.text, found.why) == (200, "x??[31m", "n?n")


def test_outbox_stats_says_when_an_uplink_without_a_broker_tries_next(state: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with running(state, url, backoff_s=30.0, backoff_max_s=60.0):
        until(lambda: outbox.stats(state).next_try_s)
        stats = outbox.stats(state)
        assert 1 < (stats.next_try_s or 0) <= 45
        assert re.search(r"connection refused.*; tries again in \d+ s", "\n".join(outbox.stats_lines(stats)))
        assert "tries again in" in doctor._link(state)[0].found
    stats = outbox.stats(state)
    assert stats.next_try_s is None
    assert "tries again" not in "\n".join(outbox.stats_lines(stats))
    with Peer() as peer, running(state, peer.url):
        until(lambda: said_state(state) is LinkState.ONLINE)
        assert outbox.stats(state).next_try_s is None


def test_a_broker_that_does_not_know_us_is_refused_authorisation_and_not_hammered(state: Path) -> None:
    with Peer(connack=0x86) as peer, running(state, peer.url):
        until(lambda: said_state(state) is LinkState.REFUSED_AUTHORISATION)
        assert "Bad user name" in link_of(state).why
        time.sleep(0.5)
        assert peer.connections == 1


def test_a_broker_that_is_busy_is_only_offline(state: Path) -> None:
    with Peer(connack=0x97) as peer, running(state, peer.url):
        until(lambda: peer.connections >= 3)
        assert said_state(state) in (LinkState.OFFLINE, LinkState.CONNECTING)


def test_two_devices_with_one_id_are_found_told_and_slowed(state: Path) -> None:
    with Peer(disconnect=0x8E) as peer, running(state, peer.url, backoff_s=0.01):
        until(lambda: said_state(state) is LinkState.REFUSED_AUTHORISATION)
        assert peer.connections == 3
        assert [alert.code for alert in link_of(state).alerts if alert.code == "taken_over"]
        time.sleep(0.4)
        assert peer.connections == 3
    assert outbox.stats(state).pending == 10


@pytest.mark.broker
def test_two_real_devices_with_one_id_do_not_chase_each_other(
    state: Path, tmp_path: Path, broker: Mosquitto
) -> None:
    shutil.copytree(state, tmp_path / "twin")
    fast = {"backoff_s": 0.01, "backoff_max_s": 0.05}
    with running(state, broker.url, **fast), running(tmp_path / "twin", broker.url, **fast):
        twins = (state, tmp_path / "twin")
        until(lambda: any(said_state(one) is LinkState.REFUSED_AUTHORISATION for one in twins))


def test_a_message_is_never_longer_than_it_was_reckoned() -> None:
    for message in (
        Message("er/v1/a/b/c/evt/finding", b"x" * 300, properties=(("epoch", "e" * 12), ("seq", "1"))),
        Message("t", b"", content_type=""),
        Message("t", b"x" * 20_000, alias=True, properties=(("k", "v" * 200),)),
    ):
        assert len(publish_packet(message, 65535, 9)) <= packet_bytes(message)
