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

    def log(self) -> str:
        return self._log.read_text()


def make_certificates(folder: Path, host: str = "localhost") -> None:
    """ca.pem, server.pem/.key for `host` and client.pem/.key in `folder`, good for a day; needs openssl."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=test ca"
    )
    for name, subject in (("server", host), ("client", "device")):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
        (folder / "san").write_text(f"subjectAltName=DNS:{subject}\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
