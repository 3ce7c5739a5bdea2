"""The link as others see it: its file, its retained state, its certificates; lanes, refusals and the slow profile."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_runtime.codes import Priority
from edge_runtime.commands import doctor, outbox, uplink
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.certificates import Certificates
from edge_runtime.sync.link.link import Broker, Message, Received, Tls
from edge_runtime.sync.link.link_file import LinkFile, LinkRecord, read_link
from edge_runtime.sync.link.link_state import LinkState
from edge_runtime.sync.link.publishing import packet_bytes, publish_packet
from edge_runtime.sync.link.tls import ends_at
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.packing import pack
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.wire import DeviceState, decode_state, outgoing
from edge_runtime.types import encode
from tests.brokers import Mosquitto, free_port, make_certificates
from tests.builders import event, finding, report
from tests.faults.ends import listening
from tests.parties.peer import Peer
from tests.sync.test_uplink import findings, running, state, until

__all__ = ["state"]  # the fixture

DAY = 86400


def link_of(state: Path) -> LinkRecord:
    record = read_link(state)
    assert record is not None
    return record


def said_state(state: Path) -> LinkState | None:
    record = read_link(state)
    return None if record is None else record.state


def states(heard: list[Received]) -> list[DeviceState]:
    return [decode_state(came.payload) for came in heard if came.topic.endswith("/state")]


# ------------------------------------------------------------ what others see


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
    LinkFile(state, "mqtt://h:1").show(LinkState.OFFLINE, "stopped", ())


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


# ------------------------------------------------------------ certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@contextmanager
def mutual(folder: Path, certificates: Path) -> Iterator[Mosquitto]:
    files = {"cafile": "ca.pem", "certfile": "server.pem", "keyfile": "server.key"}
    lines = [f"{option} {certificates / name}" for option, name in files.items()]
    with Mosquitto(folder, *lines, "require_certificate true", scheme="mqtts") as broker:
        yield broker


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it(certificates: Path) -> None:
    told = subprocess.run(
        ["openssl", "x509", "-in", certificates / "client.pem", "-noout", "-enddate"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = datetime.strptime(told.strip(), "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
    assert ends_at((certificates / "client.pem").read_text()) == wanted


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_has_no_end(text: str) -> None:
    with pytest.raises(ValueError):
        ends_at(text)


def test_tls_before_1_2_is_never_spoken(certificates: Path) -> None:
    assert Tls(certificates / "ca.pem").context().minimum_version.name == "TLSv1_2"


def test_half_a_pair_of_new_files_is_waited_for(certificates: Path, tmp_path: Path) -> None:
    for name in ("client.pem", "client.key", "server.pem", "server.key"):
        shutil.copy(certificates / name, tmp_path / name)
    watch = Certificates(Tls(None, tmp_path / "client.pem", tmp_path / "client.key"), every_s=1)
    assert not watch.changed()
    shutil.copy(tmp_path / "server.pem", tmp_path / "client.pem")
    assert not watch.changed()  # the key is of the other one
    shutil.copy(tmp_path / "server.key", tmp_path / "client.key")
    assert watch.changed()
    watch.taken_into_use()
    assert not watch.changed()


@pytest.mark.broker
def test_a_new_certificate_is_taken_into_use_while_connected(
    state: Path, tmp_path: Path, certificates: Path
) -> None:
    for end in ("pem", "key"):
        shutil.copy(certificates / f"client.{end}", tmp_path / f"mine.{end}")
    tls = Tls(certificates / "ca.pem", tmp_path / "mine.pem", tmp_path / "mine.key")
    with (
        mutual(tmp_path, certificates) as broker,
        running(state, broker.url, tls=tls, certificates_s=0.1) as said,
    ):
        until(lambda: said_state(state) is LinkState.ONLINE)
        assert [alert.code for alert in link_of(state).alerts][:1] == ["certificate_ends"]  # within a day
        (tmp_path / "mine.pem").write_text((certificates / "client.pem").read_text() + "\n")
        until(lambda: sum("connected," in line for line in said) == 2)
        assert any("new TLS files" in line for line in said)


@pytest.mark.broker
@pytest.mark.parametrize("wrong", ["none of our own", "another authority"])
def test_a_certificate_that_is_refused_is_a_state_of_its_own_and_mended_without_a_restart(
    wrong: str, state: Path, tmp_path: Path, certificates: Path
) -> None:
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    shutil.copy((tmp_path / "other" if wrong == "another authority" else certificates) / "ca.pem", tmp_path)
    for end in ("pem", "key"):
        shutil.copy(certificates / f"client.{end}", tmp_path / f"mine.{end}")
    own = (tmp_path / "mine.pem", tmp_path / "mine.key") if wrong == "another authority" else (None, None)
    with (
        mutual(tmp_path, certificates) as broker,
        running(state, broker.url, tls=Tls(tmp_path / "ca.pem", *own)) as said,
    ):
        until(lambda: said_state(state) is LinkState.REFUSED_CERTIFICATE)
        assert "ertificate" in link_of(state).why
        time.sleep(0.4)
        # once; a reset may overtake TLS 1.3's alert, which comes after the handshake: then the line is tried again first
        assert sum("ertificate" in line for line in said) == 1
        assert len(said) <= 2
        if wrong == "another authority":
            shutil.copy(certificates / "ca.pem", tmp_path / "ca.pem")
            until(lambda: said_state(state) is LinkState.ONLINE)


@contextmanager
def closing_after_the_handshake(certificates: Path) -> Iterator[str]:
    """A broker that ends each line without a word, as one does whose refusal is lost on the way; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            while not stop.is_set():
                with suppress(OSError), server.accept()[0] as line:
                    line.settimeout(5)
                    with context.wrap_socket(line, server_side=True) as secure:
                        secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"mqtts://localhost:{server.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("cert", "hint"), [("client", "check --cert and --key"), (None, "give --cert and --key")]
)
def test_a_broker_that_ends_the_line_after_the_handshake_twice_is_a_refused_certificate(
    cert: str | None, hint: str, state: Path, certificates: Path
) -> None:
    own = (certificates / f"{cert}.pem", certificates / f"{cert}.key") if cert else (None, None)
    with (
        closing_after_the_handshake(certificates) as url,
        running(state, url, tls=Tls(certificates / "ca.pem", *own)) as said,
    ):
        until(lambda: said_state(state) is LinkState.REFUSED_CERTIFICATE)
        assert len(said) == 1
        assert "the broker closed the connection after the handshake" in said[0]
        assert hint in said[0]


def test_tls_files_that_vanish_while_it_runs_are_a_refusal_and_no_crash(
    state: Path, tmp_path: Path, certificates: Path
) -> None:
    shutil.copy(certificates / "ca.pem", tmp_path / "ca.pem")
    with running(state, "mqtts://127.0.0.1:1", tls=Tls(tmp_path / "gone.pem")) as said:
        until(lambda: said_state(state) is LinkState.REFUSED_CERTIFICATE)
        assert "not found" in said[0]


# ------------------------------------------------------------ lanes and refusals


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
    with Peer(of_kind={"finding": 0x87}) as peer, running(tmp_path / "s", peer.url) as said:
        until(lambda: kinds(peer).count("event") >= 20)
        assert sum("Not authorized" in line for line in said) == 1
        until(
            lambda: [alert.code for alert in link_of(tmp_path / "s").alerts if alert.code == "not_authorised"]
        )
        assert peer.connections == 1
        peer.of_kind = {}  # the access list is mended
        until(lambda: kinds(peer).count("finding") >= 30)
        until(lambda: not [one for one in link_of(tmp_path / "s").alerts if one.code == "not_authorised"])


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
            for change in rows.resend([(2, 3)]):
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
        packed = [len(pack(outgoing(row.kind, row.body, thin=True))) for row in rows.records()]
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


def test_a_message_is_never_longer_than_it_was_reckoned() -> None:
    for message in (
        Message("er/v1/a/b/c/evt/finding", b"x" * 300, properties=(("epoch", "e" * 12), ("seq", "1"))),
        Message("t", b"", content_type=""),
        Message("t", b"x" * 20_000, alias=True, properties=(("k", "v" * 200),)),
    ):
        assert len(publish_packet(message, 65535, 9)) <= packet_bytes(message)


@pytest.mark.parametrize("flag", ["--link", "--ack"])
def test_a_word_that_is_none_of_the_flags_is_a_usage_error(flag: str) -> None:
    from click.testing import CliRunner

    from edge_runtime.cli import app

    assert CliRunner().invoke(app, ["uplink", "--broker", "mqtt://x", flag, "never"]).exit_code == 2
