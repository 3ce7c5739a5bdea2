"""Each process of the wire is killed in mid drain: nothing reported is lost, nothing is stored twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings
from edge_runtime.cloud.rows import Poison, PutResult, StoreRow
from edge_runtime.cloud.sqlite import SqliteStore
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from tests.brokers import Mosquitto
from tests.faults.ends import FAST, Setting
from tests.faults.processes import kill, start_receive, start_uplink, stored, until
from tests.parties.threads import on_a_thread
from tests.patience import within

pytestmark = [pytest.mark.broker]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, 1000)


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


@pytest.mark.slow
def test_the_consumer_killed_in_mid_drain_loses_nothing_and_doubles_nothing(
    setting: Setting, broker: Mosquitto
) -> None:
    with both_ends(setting, broker.url) as ends:
        until(lambda: drained_some(setting, 0.2))
        ends.restart_receive()
        setting.check()


@pytest.mark.slow
def test_a_broker_killed_and_restarted_without_memory_loses_nothing(
    setting: Setting, broker: Mosquitto
) -> None:
    with both_ends(setting, broker.url):
        for share in (0.1, 0.4):
            until(lambda share=share: drained_some(setting, share))
            broker.kill()
            broker.start()
        setting.check()


@pytest.mark.slow
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
    with (
        closing(FlakyStore(setting.store, crash_after={1, 2, 4})) as store,
        on_a_thread(lambda: run_consumer(broker, store, stop, crashes), stop),
    ):
        done = Uplink(setting.state, settings, threading.Event()).run(once=True, timeout_s=15)
    setting.check()
    assert len(crashes) == 4
    assert done.sent > done.delivered == 300


# ---------------------------------------------------------------- state, stopping, TLS


_LISTEN = """
import sys, threading
from edge_runtime.sync.link.link import Broker, Link, Settings
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
                lines = iter(watcher.stdout.readline, "")  # online again first where an alert came
                said = next(line for line in lines if '"state":"offline"' in line)
                assert f'"why":"{why}"' in said
        finally:
            watcher.kill()
