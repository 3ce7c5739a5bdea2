"""Certificates that are expired, of another authority or host, missing or replaced: told in a line, no row lost."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.sync.link.failures import connect_error
from edge_runtime.sync.link.link import Broker, Settings, Tls
from tests.brokers import Mosquitto, make_authority, sign
from tests.faults.ends import Setting, drain, receiving, said_so, sending
from tests.faults.processes import until

pytestmark = [pytest.mark.broker]


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates good and bad of one authority; `other/` has those of another."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "other").mkdir()
    for authority in (folder, folder / "other"):
        make_authority(authority)
        sign(authority, "client", "device", days=60)
    sign(folder, "server", "localhost")
    sign(folder, "server-expired", "localhost", days=-1)
    sign(folder, "server-elsewhere", "broker.elsewhere.example")
    sign(folder, "client-expired", "device", days=-1)
    return folder


@contextmanager
def tls_broker(folder: Path, issued: Path, server: str = "server") -> Iterator[Mosquitto]:
    names = {"cafile": "ca.pem", "certfile": f"{server}.pem", "keyfile": f"{server}.key"}
    lines = [f"{option} {issued / name}" for option, name in names.items()]
    with Mosquitto(folder, *lines, "require_certificate true", scheme="mqtts") as broker:
        yield broker


def tls(issued: Path, client: str | None = "client", ca: str | None = "ca.pem") -> Tls:
    authority = None if ca is None else issued / ca
    if client is None:
        return Tls(authority)
    return Tls(authority, issued / f"{client}.pem", issued / f"{client}.key")


@pytest.mark.parametrize(
    ("server", "client", "ca", "words"),
    [
        pytest.param("server-expired", "client", "ca.pem", "has expired; renew it at", id="broker expired"),
        pytest.param(
            "server-elsewhere", "client", "ca.pem", "not for localhost", id="broker of another host"
        ),
        pytest.param(
            "server", "client", "other/ca.pem", "none that --ca holds", id="broker of another authority"
        ),
        pytest.param("server", "client", None, "none that this system knows", id="no authority given"),
        pytest.param("server", None, "ca.pem", "it wants a certificate", id="no certificate of our own"),
        pytest.param(
            "server", "client-expired", "ca.pem", "device's certificate has expired", id="our own expired"
        ),
        pytest.param("server", "other/client", "ca.pem", "does not know who signed", id="our own of another"),
    ],
)
def test_a_certificate_that_is_not_good_is_one_line_and_no_row_leaves(
    server: str, client: str | None, ca: str | None, words: str, tmp_path: Path, issued: Path
) -> None:
    setting = Setting(tmp_path, 20)
    with tls_broker(tmp_path, issued, server) as broker:
        with sending(setting.state, broker.url, tls=tls(issued, client, ca)) as said:
            until(lambda: said_so(said, words))
        assert "New client connected" not in broker.log()  # never without TLS either
    assert all("\n" not in line for line in said)
    assert outbox.stats(setting.state).pending == 20


def test_a_broker_of_tls_1_2_that_wants_a_certificate_is_told_with_what_to_give(
    tmp_path: Path, issued: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = most\n[most]\nMaxProtocol = TLSv1.2\n"
    )
    monkeypatch.setenv(
        "OPENSSL_CONF", str(tmp_path / "openssl.cnf")
    )  # the broker's; this process has read its own
    setting = Setting(tmp_path, 5)
    with (
        tls_broker(tmp_path, issued) as broker,
        sending(setting.state, broker.url, tls=tls(issued, None)) as said,
    ):
        until(lambda: said_so(said, "certificate of this device", "--cert and --key"))


def test_tls_to_a_port_without_it_and_none_to_a_port_with_it_are_told_with_what_to_say(
    tmp_path: Path, issued: Path
) -> None:
    setting = Setting(tmp_path, 5)
    (tmp_path / "plain").mkdir()
    with tls_broker(tmp_path, issued) as with_it, Mosquitto(tmp_path / "plain") as without:
        with sending(setting.state, f"mqtt://127.0.0.1:{with_it.port}") as said:
            until(lambda: said_so(said, "closed without an answer", "mqtts://"))
        with sending(setting.state, f"mqtts://localhost:{without.port}", tls=tls(issued)) as said:
            until(lambda: said_so(said, "cut the line in the TLS handshake", "8883"))
    assert outbox.stats(setting.state).pending == 5


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "is not TLS"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_PROTOCOL_VERSION] alert"), "no TLS of version 1.2"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "cut the line in the TLS handshake"),
        (
            ssl.SSLError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_REVOKED] alert"),
            "refuses this device's certificate",
        ),
        (ssl.SSLError(1, "[SSL: INTERNAL_ERROR] internal"), "TLS fails"),
    ],
)
def test_what_no_mosquitto_does_has_words_too(raised: ssl.SSLError, words: str, issued: Path) -> None:
    told = str(connect_error(Settings(Broker.parse("mqtts://h"), "device", tls(issued)), raised))
    assert told.startswith("broker mqtts://h:8883: ")
    assert words in told


def test_findings_cross_mutual_tls_and_a_certificate_replaced_meanwhile_is_taken_up_without_a_restart(
    tmp_path: Path, issued: Path
) -> None:
    setting = Setting(tmp_path, 20)
    mine = tmp_path / "mine"
    mine.mkdir()

    def install(client: str) -> None:
        for end in (".pem", ".key"):
            shutil.copy(issued / f"{client}{end}", mine / f"device{end}")

    install("client-expired")
    device = Tls(issued / "ca.pem", mine / "device.pem", mine / "device.key")
    with (
        tls_broker(tmp_path, issued) as broker,
        receiving(broker.url, setting.store, tls=tls(issued)),
        sending(setting.state, broker.url, tls=device) as said,
    ):
        until(lambda: len(said) > 0)
        assert outbox.stats(setting.state).pending == 20
        install("client")
        setting.check()


def test_an_uplink_without_tls_to_a_broker_with_tls_sends_nothing(tmp_path: Path, issued: Path) -> None:
    setting = Setting(tmp_path, 5)
    with tls_broker(tmp_path, issued) as broker:
        with sending(setting.state, f"mqtt://127.0.0.1:{broker.port}") as said:
            until(lambda: len(said) > 0)
        assert outbox.stats(setting.state).pending == 5
        with receiving(broker.url, setting.store, tls=tls(issued)):
            drain(setting, broker.url, tls=tls(issued))
            setting.check()
    assert not said_so(said, "connected,")
