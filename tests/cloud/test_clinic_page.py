"""The clinic of docs/fleet.md, set up from the page's own lines: broker, certificates, database, receiver, a device.

Only what a machine has once is in place of itself: paths under /etc and /var, the host's name, ports, and `sudo`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.sync.journal import Journal
from tests.brokers import Mosquitto, free_port
from tests.builders import report
from tests.device.units import SYSTEMD, UPLINK, arguments, one
from tests.faults.processes import until
from tests.parties.cloud import get
from tests.parties.documents import documented
from tests.postgres import Postgres
from tests.real import ROOT

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed (pip install '.[cloud]')")
pytest.importorskip("cryptography", reason="cryptography is not installed (pip install '.[commands]')")

PAGE = (ROOT / "docs" / "fleet.md").read_text()
BLOCKS = {
    text.partition("\n")[0].removeprefix("# "): text.partition("\n")[2]
    for text in re.findall(r"```(?:sh|ini)?\n(# .*?)```", PAGE, re.DOTALL)
}
# What needs another user or a running system, and would else be this machine's.
_SHELL = """
set -euo pipefail
sudo() { if [ "$1" = -u ]; then shift 2; fi; "$@"; }
systemctl() { :; }
curl() { :; }
chown() { :; }
install() {
    local words=()
    while [ $# -gt 0 ]; do case $1 in -o|-g) shift 2;; *) words+=("$1"); shift;; esac; done
    command install "${words[@]}"
}
"""


class Clinic:
    """One folder in which the page is at home."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres = folder, postgres
        self.http = free_port()
        self.state = folder / "var/lib/edge-runtime"
        for name in ("etc/mosquitto", "etc/edge-runtime", "var/lib", "var/backups", "ca"):
            (folder / name).mkdir(parents=True)
        shutil.copy(SYSTEMD / "edge-runtime.env", folder / "etc/edge-runtime")
        (self.here / "acl").write_text(BLOCKS["/etc/mosquitto/edge/acl"])
        self.port = 0  # the broker's

    @property
    def here(self) -> Path:
        """Where the person works who follows the page."""
        return self.folder / "ca"

    def own(self, text: str) -> str:
        text = re.sub(r"/(etc|var)/", rf"{self.folder}/\1/", text)
        text = text.replace("cloud.clinic.example", "localhost").replace("8883", str(self.port))
        text = text.replace("/opt/edge-runtime/bin/edge-runtime", f"{sys.executable} -m edge_runtime")
        text = text.replace("127.0.0.1:9108", f"127.0.0.1:{self.http}")
        place = f"host={self.postgres.folder}&port={self.postgres.port}"
        return text.replace("host=/run/postgresql", place)

    def environment(self, user: str) -> dict[str, str]:
        server = {"PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port), "PGUSER": user}
        path = f"{self.postgres.programs}:{os.environ['PATH']}"
        return {**os.environ, **server, "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(self, block: str, **changed: str) -> str:
        text = BLOCKS[block]
        for before, after in changed.items():
            text = text.replace(before, after)
        said = subprocess.run(
            ["bash", "-c", _SHELL + self.own(text)],
            cwd=self.here,
            env=self.environment("er"),
            capture_output=True,
            text=True,
        )
        assert said.returncode == 0, f"{block}: {said.stderr}"
        return said.stdout

    @contextmanager
    def receiver(self) -> Iterator[None]:
        """The unit's own command line, until it says that it is well."""
        unit = self.folder / "edge-receive.service"
        unit.write_text(self.own(BLOCKS["/etc/systemd/system/edge-receive.service"]))
        (line,) = re.findall(r"(?m)^ExecStart=(.*)$", unit.read_text())
        process = subprocess.Popen(
            shlex.split(line), env=self.environment("edge-receive"), stderr=subprocess.PIPE
        )
        try:
            until(lambda: self._is_well())
            yield
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0, said.decode()

    def _is_well(self) -> bool:
        try:
            return get(f"http://127.0.0.1:{self.http}/healthz")[0] == 200
        except OSError:
            return False

    def uplink(self, *more: str) -> subprocess.Popen[str]:
        """The device's own unit, with the environment file as the page has changed it."""
        lines = (self.folder / "etc/edge-runtime/edge-runtime.env").read_text().splitlines()
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        env = {name: self.own(value).replace(f"{self.folder}{self.folder}", str(self.folder)) for name, _, value in pairs}  # fmt: skip
        words = arguments(one(UPLINK, "ExecStart"), env, self.state)
        return subprocess.Popen(
            [sys.executable, "-m", "edge_runtime", *words, *more],
            env=self.environment("nobody"),
            stderr=subprocess.PIPE,
            text=True,
        )

    def deliver(self, count: int) -> None:
        self.record(count)
        with self.uplink("--once", "--timeout", "60") as process:
            _, said = process.communicate()
        assert process.returncode == 0, said

    def record(self, count: int) -> None:
        with Journal.open(self.state, reserve_bytes=0) as journal:
            report(journal, count)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.postgres.url.replace("/postgres", "/findings")) as db:
            return db.execute(sql.encode()).fetchall()


@pytest.fixture
def clinic(tmp_path: Path, postgres: Postgres) -> Iterator[Clinic]:
    if shutil.which("openssl") is None or shutil.which("bash") is None:
        pytest.skip("openssl or bash is not installed")
    import psycopg

    yield Clinic(tmp_path, postgres)
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("DROP DATABASE IF EXISTS findings WITH (FORCE)")
        db.execute('DROP ROLE IF EXISTS "edge-receive"')


@contextmanager
def broker_of(clinic: Clinic, *more: str) -> Iterator[Mosquitto]:
    first, *lines = BLOCKS["/etc/mosquitto/conf.d/edge-runtime.conf"].splitlines()
    assert first == "listener 8883"
    with Mosquitto(
        clinic.folder, *(clinic.own(line) for line in lines), *more, allow_anonymous=False, scheme="mqtts"
    ) as broker:
        clinic.port = broker.port
        yield broker


def test_the_pages_access_list_is_that_of_the_wire() -> None:
    assert BLOCKS["/etc/mosquitto/edge/acl"] == documented("%u")


@pytest.mark.broker
@pytest.mark.slow
def test_a_clinic_set_up_by_the_page_delivers_restores_and_shuts_out_a_lost_device(clinic: Clinic) -> None:
    clinic.run("certificates")
    for name in ("localhost", "consumer", "operator", "probe-7"):  # as Python from 3.13 on wants them
        check = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", f"{name}.pem"]
        subprocess.run(check, cwd=clinic.here, check=True, capture_output=True)
    clinic.run("broker files")
    clinic.run("database")
    clinic.run("receiver files")
    with broker_of(clinic) as broker:
        clinic.run("device")
        with clinic.receiver():
            clinic.deliver(5)
            assert re.search(r"probe-7 +\| +5 ", clinic.run("look"))
            clinic.run("backup")
            clinic.deliver(3)
        assert "er/v1/clinic/north/probe-7/evt/finding" in broker.log()
        with_new_rows = clinic.rows("SELECT finding_id FROM findings ORDER BY 1")
        _drop(clinic)
        clinic.run("restore")
        assert clinic.rows("SELECT count(*) FROM findings") == [(5,)]
        with clinic.receiver():
            clinic.deliver(1)
            [(epoch, first, last)] = clinic.rows("SELECT epoch, first, last FROM missing")
            assert (first, last) == (6, 8)
            _send_again(clinic, str(epoch))
            until(lambda: clinic.rows("SELECT * FROM missing") == [])
            assert set(with_new_rows) < set(clinic.rows("SELECT finding_id FROM findings"))
    clinic.run("lost device")
    with broker_of(clinic, f"crlfile {clinic.here / 'revoked.pem'}"):
        clinic.run("device")
        clinic.record(1)
        with clinic.uplink("--once", "--timeout", "3") as process:
            _, said = process.communicate()
        assert process.returncode == 1
        assert "CERTIFICATE_REVOKED" in said
        with clinic.receiver():
            assert outbox.stats(clinic.state).pending == 1


def _drop(clinic: Clinic) -> None:
    import psycopg

    with psycopg.connect(clinic.postgres.url, autocommit=True) as db:
        db.execute("DROP DATABASE findings WITH (FORCE)")


def _asked(clinic: Clinic, script: str) -> bool:
    said = subprocess.run(
        ["bash", "-c", script],
        cwd=clinic.here,
        env=clinic.environment("nobody"),
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0 or "offline" in said.stderr, said.stderr
    return "3 records are sent again" in said.stdout


def _send_again(clinic: Clinic, epoch: str) -> None:
    public = clinic.here / "sign.pub.pem"
    make, _, ask = BLOCKS["again"].partition("\n")
    program = f"{sys.executable} -m edge_runtime"
    script = clinic.own(f"{make}\n").replace("edge-runtime command", f"{program} command", 1)
    subprocess.run(["bash", "-c", script], cwd=clinic.here, check=True, env=clinic.environment("nobody"))
    with clinic.uplink("--command-keys", str(public)) as process:
        try:
            asked = ask.replace("ff1992da70e9", epoch).replace("[[41, 57]]", "[[6, 8]]")
            script = clinic.own(asked).replace("edge-runtime command", f"{program} command", 1)
            until(lambda: _asked(clinic, script))  # once the device is there
        finally:
            process.terminate()
            process.communicate()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_receivers_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    unit = tmp_path / "edge-receive.service"
    text = BLOCKS["/etc/systemd/system/edge-receive.service"]
    unit.write_text(text.replace("/opt/edge-runtime/bin/edge-runtime", sys.executable))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "edge-receive.service" not in said.stderr, said.stderr
