"""A receiver that starts before its database, or finds one whose word is worth nothing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edge_runtime.cloud.health import Health
from edge_runtime.cloud.store import RowRefusedError, Store, StoreAwayError, open_store
from edge_runtime.cloud.waiting import pause_s, wait_for_store
from edge_runtime.commands import receive
from edge_runtime.errors import ConfigError, UplinkError
from tests.brokers import Mosquitto, free_port
from tests.cloud.conftest import ROW
from tests.faults.processes import until
from tests.parties.cloud import RECEIVE, get, message, send
from tests.postgres import Postgres, lacking

needs_driver = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
needs_metrics = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import prometheus_client"], capture_output=True).returncode != 0,
    reason="prometheus-client is not installed",
)


# A server that says one thing to everybody: PostgreSQL's ErrorResponse with this SQLSTATE.
_ANSWER = """
import socket, struct, sys
fields = {"S": "FATAL", "V": "FATAL", "C": sys.argv[1], "M": sys.argv[2]}
said = b"".join(key.encode() + value.encode() + b"\\0" for key, value in fields.items()) + b"\\0"
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    one, _ = server.accept()
    with one:
        one.recv(1 << 12)
        one.sendall(b"E" + struct.pack("!i", len(said) + 4) + said)
"""


@contextmanager
def answering(code: str, text: str) -> Iterator[str]:
    """In a process of its own: libpq lets no other thread run while it asks whether a server is up."""
    with subprocess.Popen(
        [sys.executable, "-c", _ANSWER, code, text], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield f"postgresql://er@127.0.0.1:{port}/db?sslmode=disable&gssencmode=disable"
        finally:
            process.kill()


@needs_driver
@pytest.mark.parametrize(
    ("code", "text", "waits"),
    [
        ("57P03", "the database system is starting up", True),
        ("57P03", "das Datenbanksystem startet", True),
        ("53300", "sorry, too many clients already", True),
        ("28P01", 'password authentication failed for user "er"', False),
        ("3D000", 'database "db" does not exist', False),
        ("28000", 'no pg_hba.conf entry for host "127.0.0.1"', False),
    ],
)
def test_a_server_that_is_not_ready_is_waited_for_and_one_that_refuses_us_is_not(
    code: str, text: str, waits: bool
) -> None:
    with answering(code, text) as url, pytest.raises(UplinkError, match=text[:20]) as caught:
        open_store(url)
    assert isinstance(caught.value, StoreAwayError) is waits
    assert "\n" not in str(caught.value)


@needs_driver
@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_a_server_that_nobody_answers_for_is_waited_for(host: str) -> None:
    with pytest.raises(StoreAwayError):
        open_store(f"postgresql://er@{host}:{free_port()}/db")


def test_an_unknown_database_ends_the_command_at_once(postgres: Postgres) -> None:
    with pytest.raises(UplinkError, match="does not exist"):
        receive.run("mqtt://127.0.0.1:1", postgres.url.replace("/postgres", "/nothere"))


def test_a_wrong_password_ends_the_command_at_once(postgres: Postgres) -> None:
    import psycopg

    def refused() -> bool:
        try:
            open_store(postgres.url.replace("er@", "careful:wrong@")).close()
        except UplinkError as exc:
            assert not isinstance(exc, StoreAwayError)
            return "password authentication failed" in str(exc)
        return False

    with psycopg.connect(postgres.url, autocommit=True) as db:
        (at,) = db.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(at).read_text()
        Path(at).write_text("host all careful 127.0.0.1/32 scram-sha-256\n" + before)
        db.execute("CREATE ROLE careful LOGIN PASSWORD 'right'")
        db.execute("SELECT pg_reload_conf()")
        try:
            until(refused)  # once the server has read its rules again
        finally:
            db.execute("DROP ROLE careful")
            Path(at).write_text(before)
            db.execute("SELECT pg_reload_conf()")


@needs_metrics
@pytest.mark.broker
@pytest.mark.slow
def test_a_receiver_that_starts_first_waits_says_so_and_takes_no_message_meanwhile(
    broker: Mosquitto, postgres: Postgres, postgres_url: str
) -> None:
    postgres.stop()
    code = RECEIVE.replace("on_notice", "http='127.0.0.1:0', on_notice")
    with subprocess.Popen(
        [sys.executable, "-c", code, broker.url, postgres_url], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            at = process.stdout.readline().split(": ")[0]
            assert "waiting for it" in process.stdout.readline()
            status, said = get(f"{at}/healthz")
            assert status == 503
            assert "refused" in json.loads(said)["store"]
            time.sleep(1.5)  # a few more tries, of which nothing is said
            send(broker.url, message().payload)
            assert "receive-" not in broker.log()
            postgres.start()
            assert "there after" in process.stdout.readline()
            assert "listening" in process.stdout.readline()
            until(lambda: get(f"{at}/healthz")[0] == 200)
        finally:
            process.kill()
            postgres.start_if_stopped()


def test_a_wait_ends_when_it_is_stopped_or_its_time_is_over() -> None:
    def away() -> Store:
        raise StoreAwayError("store x: connection refused")

    said: list[str] = []
    health = Health()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert wait_for_store(away, stop, health, said.append) is None
    assert said == ["store x: connection refused; waiting for it"]
    assert health.troubles()["store"] == "store x: connection refused"
    with pytest.raises(StoreAwayError):
        wait_for_store(away, threading.Event(), health, said.append, most_s=0.3)


def test_pauses_double_up_to_their_most_and_no_two_receivers_keep_step() -> None:
    assert all(0.125 <= pause_s(0) <= 0.375 for _ in range(50))
    assert all(5 <= pause_s(30) <= 15 for _ in range(50))
    assert len({pause_s(3) for _ in range(50)}) > 40


@pytest.fixture(scope="module")
def careless() -> Iterator[Postgres]:
    """A server that answers before, or without ever, the disk having it."""
    if (why := lacking()) is not None:
        pytest.skip(why)
    with Postgres("fsync=off", "full_page_writes=off", "synchronous_commit=off") as running:
        yield running


def test_a_server_that_a_power_cut_empties_is_refused_by_name(careless: Postgres) -> None:
    with pytest.raises(ConfigError, match="fsync = off and full_page_writes = off") as caught:
        receive.run("mqtt://127.0.0.1:1", careless.url)
    assert "--accept-unsafe-store" in str(caught.value)


def test_or_taken_knowingly_and_told_at_each_start(careless: Postgres) -> None:
    said: list[str] = []
    receive.run("mqtt://127.0.0.1:1", careless.url, limit=0, accept_unsafe_store=True, on_notice=said.append)
    assert [line for line in said if "fsync = off" in line and "power cut" in line]


def test_a_file_is_synced_at_each_commit(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/cloud.db")) as store:
        settings = [store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]  # type: ignore[attr-defined]  # fmt: skip
    assert settings == [2, "wal"]  # FULL


def test_the_driver_says_nothing_beside_our_one_line(
    postgres: Postgres, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its pipeline would tell of each error it ignored, once more and with an address in memory."""
    import psycopg

    with closing(open_store(postgres_url)) as store:
        with pytest.raises(RowRefusedError):
            store.put([ROW, ROW._replace(id="f2", body="\0")])
        with psycopg.connect(postgres_url) as held:
            held.execute("LOCK TABLE findings")
            lost: list[UplinkError] = []

            def put() -> None:
                with pytest.raises(UplinkError) as caught:
                    store.put([ROW])
                lost.append(caught.value)

            thread = threading.Thread(target=put)
            thread.start()
            ours = "FROM pg_stat_activity WHERE application_name LIKE 'edge-runtime%'"
            with psycopg.connect(postgres_url, autocommit=True) as other:
                waits = f"SELECT count(*) {ours} AND wait_event_type = 'Lock'"
                until(lambda: other.execute(waits.encode()).fetchone() == (1,))
                other.execute(f"SELECT pg_terminate_backend(pid) {ours}".encode())
            thread.join()
    assert "administrator command" in str(lost[0]) or "closed the connection" in str(lost[0])
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
