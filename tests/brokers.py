"""A real mosquitto on a free port of this machine, that a test may stop, kill and start again; and its certificates."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed (apt install mosquitto)"
)


# Below those that the kernel gives to connections: one of them could take a broker's port while it is down. Each
# process of tests begins elsewhere and takes none twice.
_PORTS = (10_000 + (os.getpid() * 251 + count) % 20_000 for count in itertools.count())


def free_port() -> int:
    """A port that nobody listens on, and that no other process of tests is given."""
    for port in _PORTS:
        try:
            with closing(socket.create_server(("127.0.0.1", port))):
                return port
        except OSError:
            continue
    raise AssertionError("the ports never end")


class Mosquitto:
    """One broker with its own configuration; `lines` are added to it."""

    def __init__(self, folder: Path, *lines: str, allow_anonymous: bool = True, scheme: str = "mqtt") -> None:
        self.port = free_port()
        self.url = (
            f"{scheme}://localhost:{self.port}" if scheme == "mqtts" else f"mqtt://127.0.0.1:{self.port}"
        )
        self._log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            "\n".join(
                (
                    f"listener {self.port} 127.0.0.1",
                    *lines,
                    f"allow_anonymous {str(allow_anonymous).lower()}",
                    "persistence false",
                    "log_type all",
                    "user root",
                    "",
                )
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        assert MOSQUITTO is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)
        for _ in range(200):
            assert self._process.poll() is None, self._log.read_text()
            try:
                with closing(socket.create_connection(("127.0.0.1", self.port), timeout=0.2)):
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"mosquitto does not listen: {self._log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """kill -9: with persistence off, whatever it held is gone."""
        self.stop(signal.SIGKILL)

    def reload(self) -> None:
        """The broker reads its access list again; its connections stay."""
        assert self._process is not None
        said = self.log().count("Reloading config")
        self._process.send_signal(signal.SIGHUP)
        for _ in range(200):
            if self.log().count("Reloading config") > said:
                return
            time.sleep(0.02)
        raise AssertionError("mosquitto did not read its configuration again")

    def log(self) -> str:
        return self._log.read_text()


def make_certificates(folder: Path, host: str = "localhost") -> None:
    """An authority, and what it says of `host` (server.pem, .key) and of a device (client.pem, .key); needs openssl."""
    make_authority(folder)
    sign(folder, "server", host)
    sign(folder, "client", "device")


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_authority(folder: Path) -> None:
    """ca.pem and ca.key in `folder`, good for a day."""
    subject = ("-days", "1", "-subj", "/CN=test ca")
    _openssl(folder, "req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", *subject)


def sign(folder: Path, name: str, subject: str, days: int = 1) -> None:
    """`name`.pem and .key for `subject`, signed by the authority in `folder`; -1 day makes one that has expired."""
    _openssl(folder, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
    (folder / f"{name}.san").write_text(f"subjectAltName=DNS:{subject}\n")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.san")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *by, "-days", str(days), "-out", f"{name}.pem")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)
