"""Certificates of a link: when they end, files that are replaced or vanish, a broker that refuses them."""

from __future__ import annotations

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

from edge_runtime.errors import ConfigError
from edge_runtime.sync.link.certificates import Certificates
from edge_runtime.sync.link.link import Tls
from edge_runtime.sync.link.link_state import LinkState
from edge_runtime.sync.link.tls import ends_at
from tests.brokers import Mosquitto, make_certificates
from tests.faults.processes import until
from tests.sync.running import link_of, running, said_state

DAY = 86400


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


def test_a_wrong_file_is_named_with_what_is_wrong_and_no_password_is_asked_for(
    certificates: Path, tmp_path: Path
) -> None:
    nothing, locked = tmp_path / "nothing.pem", tmp_path / "locked.pem"
    nothing.write_text("hi")
    cert, key = certificates / "client.pem", certificates / "client.key"
    make = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(make, check=True, capture_output=True)
    for tls, said in (
        (Tls(nothing), f"--ca {nothing}: no PEM certificates in it"),
        (Tls(None, nothing, key), f"--cert {nothing}, --key {key}: want a PEM certificate"),
        (Tls(None, cert, certificates / "ca.key"), "want a PEM certificate and the private key that belongs"),
        (Tls(None, cert, None), f"--cert {cert}, no --key: want"),
        (Tls(None, cert, locked), f"--key {locked}: the key is encrypted"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            tls.context()


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
