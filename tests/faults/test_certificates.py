"""Certificates that are expired, of another authority or host, missing or replaced: told in a line, no row lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.sync.link import Tls
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


def tls(issued: Path, client: str | None = "client", ca: str = "ca.pem") -> Tls:
    if client is None:
        return Tls(issued / ca)
    return Tls(issued / ca, issued / f"{client}.pem", issued / f"{client}.key")


@pytest.mark.parametrize(
    ("server", "client", "ca", "words"),
    [
        pytest.param("server-expired", "client", "ca.pem", "has expired", id="broker expired"),
        pytest.param(
            "server-elsewhere", "client", "ca.pem", "Hostname mismatch", id="broker of another host"
        ),
        pytest.param("server", "client", "other/ca.pem", "not trusted", id="broker of another authority"),
        pytest.param("server", None, "ca.pem", "CERTIFICATE_REQUIRED", id="no certificate of our own"),
        pytest.param("server", "client-expired", "ca.pem", "ertificate", id="our own expired"),
        pytest.param("server", "other/client", "ca.pem", "UNKNOWN_CA", id="our own of another authority"),
    ],
)
def test_a_certificate_that_is_not_good_is_one_line_and_no_row_leaves(
    server: str, client: str | None, ca: str, words: str, tmp_path: Path, issued: Path
) -> None:
    setting = Setting(tmp_path, 20)
    with tls_broker(tmp_path, issued, server) as broker:
        with sending(setting.state, broker.url, tls=tls(issued, client, ca)) as said:
            until(lambda: said_so(said, words))
        assert "New client connected" not in broker.log()  # never without TLS either
    assert all("\n" not in line for line in said)
    assert outbox.stats(setting.state).pending == 20


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
