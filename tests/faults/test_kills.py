"""Each process of the wire is killed in mid drain: nothing reported is lost, nothing is stored twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings
from edge_runtime.cloud.rows import Poison, PutResult, StoreRow
from edge_runtime.cloud.sqlite import SqliteStore
from edge_runtime.commands import outbox, uplink
from edge_runtime.errors import UplinkError
from edge_runtime.sync.flight import Pace
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link import Broker
from edge_runtime.sync.uplink import Uplink, UplinkSettings
from edge_runtime.types import SCHEMA_VERSION
from tests.brokers import Mosquitto, make_certificates
from tests.builders import report
from tests.faults.processes import kill, start_receive, start_uplink, stored, until
from tests.patience import within

pytestmark = [pytest.mark.broker]

FAST = Pace(window=50, receipt_timeout_s=0.5, probe_s=0.1, probe_max_s=0.5)


class Setting:
    """A state directory with reported findings, and a cloud database beside it."""

    def __init__(self, folder: Path, findings: int) -> None:
        self.state, self.store = folder / "state", folder / "cloud.db"
        self.reported: list[str] = []
        self.report(findings)

    def report(self, count: int) -> None:
        with Journal.open(self.state, reserve_bytes=0) as journal:
            for _ in range(0, count, 50):
                self.reported += [made.finding_id for made in report(journal, min(50, count))]

    def check(self) -> None:
        """Every reported finding is in the cloud, each once, and the outbox knows."""
        until(lambda: outbox.stats(self.state).pending == 0)
        assert Counter(stored(self.store)) == Counter(self.reported)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, 2000)


def drained_some(setting: Setting, share: float) -> bool:
    return len(stored(setting.store)) > share * len(setting.reported)


@dataclass
class Ends:
    """The two processes at the ends of the wire; each may be killed and started again."""

    setting: Setting
    url: str
    receive: subprocess.Popen[bytes]
    uplink: subprocess.Popen[bytes]

    def restart_receive(self) -> None:
        kill(self.receive)
        self.receive = start_receive(self.url, self.setting.store)

    def restart_uplink(self) -> None:
        kill(self.uplink)
        self.uplink = start_uplink(self.setting.state, self.url)


@contextmanager
def both_ends(setting: Setting, url: str) -> Iterator[Ends]:
    """Receiver and uplink within `with`; after it neither is left."""
    ends = Ends(setting, url, start_receive(url, setting.store), start_uplink(setting.state, url))
    try:
        yield ends
    finally:
        kill(ends.uplink)
        kill(ends.receive)


def test_the_uplink_killed_in_mid_drain_loses_nothing_and_doubles_nothing(
    setting: Setting, broker: Mosquitto
) -> None:
    with both_ends(setting, broker.url) as ends:
        for share in (0.1, 0.4):
            until(lambda share=share: drained_some(setting, share))
            ends.restart_uplink()
        setting.check()


def test_the_consumer_killed_in_mid_drain_loses_nothing_and_doubles_nothing(
    setting: Setting, broker: Mosquitto
) -> None:
    with both_ends(setting, broker.url) as ends:
        until(lambda: drained_some(setting, 0.2))
        ends.restart_receive()
        setting.check()


def test_a_broker_killed_and_restarted_without_memory_loses_nothing(
    setting: Setting, broker: Mosquitto
) -> None:
    with both_ends(setting, broker.url):
        for share in (0.1, 0.4):
            until(lambda share=share: drained_some(setting, share))
            broker.kill()
            broker.start()
        setting.check()


def test_findings_reported_while_the_uplink_runs_are_delivered_within_a_second(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 1)
    with both_ends(setting, broker.url):
        setting.check()
        setting.report(1)
        began = time.monotonic()
        until(lambda: len(stored(setting.store)) == 2)
        assert time.monotonic() - began < within(2.0)


class _Crash(BaseException):
    """A consumer's death, where a test wants it."""


class FlakyStore(SqliteStore):
    """Dies, or loses its receipts, right after the commits whose numbers are given."""

    def __init__(self, path: Path, *, crash_after: set[int]) -> None:
        super().__init__(path)
        self._crash_after, self._commits = crash_after, 0

    def put(self, rows: list[StoreRow], poison: list[Poison] = []) -> PutResult:  # noqa: B006
        result = super().put(rows, poison)
        self._commits += 1
        if self._commits in self._crash_after:
            raise _Crash
        return result


def run_consumer(broker: Mosquitto, store: SqliteStore, stop: threading.Event, crashes: list[int]) -> None:
    """A consumer that is started anew whenever it has died."""
    while not stop.is_set():
        try:
            Consumer(ConsumerSettings(Broker.parse(broker.url), "consumer"), store, stop).run()
        except _Crash:
            crashes.append(1)


def test_a_consumer_that_dies_between_commit_and_receipt_costs_a_second_delivery_and_no_finding(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 300)
    stop, crashes = threading.Event(), [0]
    settings = UplinkSettings(Broker.parse(broker.url), pace=FAST)
    with closing(FlakyStore(setting.store, crash_after={1, 2, 4})) as store:
        consumer = threading.Thread(target=run_consumer, args=(broker, store, stop, crashes))
        consumer.start()
        try:
            done = Uplink(setting.state, settings, threading.Event()).run(once=True, timeout_s=15)
        finally:
            stop.set()
            consumer.join()
    setting.check()
    assert len(crashes) == 4
    assert done.sent > done.delivered == 300


def test_receipts_that_are_lost_are_made_good_by_sending_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 200)
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite #\n")
    with Mosquitto(tmp_path, f"acl_file {acl}") as broker:
        receive = start_receive(broker.url, setting.store)
        try:
            acl.write_text(
                "topic write er/v1/+/+/+/evt/#\ntopic read er/v1/+/+/+/evt/#\ntopic readwrite er/v1/+/+/+/state\n"
            )
            broker.stop()
            subscribed = broker.log().count("Received SUBSCRIBE")
            broker.start()
            until(lambda: broker.log().count("Received SUBSCRIBE") > subscribed)
            settings = UplinkSettings(Broker.parse(broker.url), pace=FAST, backoff_max_s=0.3)
            with pytest.raises(UplinkError, match="200 rows remain"):
                Uplink(setting.state, settings, threading.Event()).run(once=True, timeout_s=2.5)
            until(lambda: len(stored(setting.store)) > 0)
            acl.write_text("topic readwrite #\n")
            broker.stop()
            broker.start()
            Uplink(setting.state, settings, threading.Event()).run(once=True, timeout_s=15)
            setting.check()
        finally:
            kill(receive)


def test_a_broker_whose_access_list_denies_findings_is_one_line_and_keeps_every_row(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 50)
    (tmp_path / "acl").write_text("topic read er/v1/+/+/+/rcpt\ntopic write er/v1/+/+/+/state\n")
    with (
        Mosquitto(tmp_path, f"acl_file {tmp_path / 'acl'}") as broker,
        pytest.raises(UplinkError, match=r"50 rows remain .*Not authorized") as caught,
    ):
        uplink.run(setting.state, broker.url, once=True, timeout_s=2)
    assert "\n" not in str(caught.value)
    assert outbox.stats(setting.state).pending == 50


def test_a_broker_that_wants_a_password_says_so_in_one_line(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 5)
    with (
        Mosquitto(tmp_path, allow_anonymous=False) as broker,
        pytest.raises(UplinkError, match=r"5 rows remain .*refused \(Not authorized\)"),
    ):
        uplink.run(setting.state, broker.url, once=True, timeout_s=1.5)


def test_without_a_consumer_the_rows_stay_and_the_uplink_says_whom_it_misses(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 50)
    with pytest.raises(UplinkError, match=r"50 rows remain .*no consumer"):
        uplink.run(setting.state, broker.url, once=True, timeout_s=1.5)


def test_poison_is_quarantined_receipted_and_never_sent_again(tmp_path: Path, broker: Mosquitto) -> None:
    setting = Setting(tmp_path, 3)
    with closing(sqlite3.connect(setting.state / "findings.db")) as db:
        found = (f'"{SCHEMA_VERSION}"', '"2.0"')
        db.execute("UPDATE journal SET body = replace(body, ?, ?) WHERE seq = 2", found)
        db.commit()
    receive = start_receive(broker.url, setting.store)
    try:
        with pytest.raises(UplinkError, match="rejected 1 rows"):
            uplink.run(setting.state, broker.url, once=True, timeout_s=15)
        stats = outbox.stats(setting.state)
        assert (stats.delivered, stats.dead, stats.pending) == (2, 1, 0)
        (dead,) = outbox.list_rows(setting.state, which="dead")
        assert dead.seq == 2
        assert dead.reason is not None
        assert "schema 2.0" in dead.reason
        with closing(sqlite3.connect(setting.store)) as db:
            assert db.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)
    finally:
        kill(receive)


# ---------------------------------------------------------------- state, stopping, TLS


_LISTEN = """
import sys, threading
from edge_runtime.sync.link import Broker, Link, Settings
link = Link.open(Settings(Broker.parse(sys.argv[1]), "watcher", subscribe="er/v1/+/+/+/state"), threading.Event())
while True:
    for message in link.poll(0.1):
        print(message.payload.decode(), flush=True)
        link.ack(message)
"""


def test_the_retained_state_says_online_then_offline_on_a_stop_and_lost_on_a_kill(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 1)
    with subprocess.Popen(
        [sys.executable, "-c", _LISTEN, broker.url], stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        try:
            for number, why in ((signal.SIGTERM, "stopped"), (signal.SIGKILL, "lost")):
                sender = start_uplink(setting.state, broker.url)
                assert '"state":"online"' in watcher.stdout.readline()
                began = time.monotonic()
                sender.send_signal(number)
                assert sender.wait(10) == (0 if number == signal.SIGTERM else -9)
                assert time.monotonic() - began < within(2.0)
                said = watcher.stdout.readline()
                assert '"state":"offline"' in said
                assert f'"why":"{why}"' in said
        finally:
            watcher.kill()


def test_findings_go_over_mutual_tls_and_an_unknown_authority_is_refused_in_one_line(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 20)
    make_certificates(tmp_path)
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    names = {"cafile": "ca.pem", "certfile": "server.pem", "keyfile": "server.key"}
    lines = [f"{option} {tmp_path / name}" for option, name in names.items()]
    mine = {"cert": tmp_path / "client.pem", "key": tmp_path / "client.key"}
    with Mosquitto(tmp_path, *lines, "require_certificate true", scheme="mqtts") as broker:
        with pytest.raises(UplinkError, match=r"20 rows remain .*not trusted") as caught:
            uplink.run(
                setting.state, broker.url, ca=tmp_path / "other" / "ca.pem", once=True, timeout_s=1, **mine
            )
        assert "\n" not in str(caught.value)
        with pytest.raises(UplinkError, match="20 rows remain"):
            uplink.run(setting.state, broker.url, ca=tmp_path / "ca.pem", once=True, timeout_s=1)
        program = (
            "import sys; from pathlib import Path; from edge_runtime.commands import receive; f = Path(sys.argv[1]);"
            "receive.run(sys.argv[2], f'sqlite:///{f}/cloud.db', ca=f/'ca.pem', cert=f/'client.pem', key=f/'client.key')"
        )
        receive = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), broker.url])
        try:
            uplink.run(setting.state, broker.url, ca=tmp_path / "ca.pem", once=True, timeout_s=10, **mine)
            setting.check()
        finally:
            kill(receive)
