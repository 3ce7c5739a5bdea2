"""The consumer as a command: its limits, and a database that goes away and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings
from edge_runtime.cloud.rows import Poison, PutResult, StoreRow
from edge_runtime.cloud.sqlite import SqliteStore
from edge_runtime.cloud.store import Missing
from edge_runtime.commands import outbox, receive
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Broker, Message
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from tests.brokers import Mosquitto, free_port
from tests.builders import report
from tests.faults.ends import say
from tests.faults.processes import kill, start_uplink, stored
from tests.parties.threads import on_a_thread


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Journal.open(tmp_path / "state", reserve_bytes=0) as journal:
        report(journal, 40)
    return tmp_path / "state"


@pytest.mark.slow
@pytest.mark.broker
def test_a_limit_is_kept_exactly_and_the_rest_stays_on_the_device(
    state: Path, tmp_path: Path, broker: Mosquitto
) -> None:
    sender = start_uplink(state, broker.url)
    try:
        done = receive.run(broker.url, f"sqlite:///{tmp_path}/cloud.db", limit=7)
        assert done.stored == len(stored(tmp_path / "cloud.db")) == 7
        time.sleep(0.5)
        assert outbox.stats(state).pending == 33
        done = receive.run(broker.url, f"sqlite:///{tmp_path}/cloud.db", limit=33)
        assert len(stored(tmp_path / "cloud.db")) == 40
    finally:
        kill(sender)


@pytest.mark.broker
def test_an_idle_consumer_ends_when_it_was_told_to(tmp_path: Path, broker: Mosquitto) -> None:
    began = time.monotonic()
    done = receive.run(broker.url, f"sqlite:///{tmp_path}/cloud.db", idle_exit_s=0.5)
    assert done.messages == 0
    assert 0.5 <= time.monotonic() - began < 30  # of itself it never ends


def test_a_consumer_that_never_reached_the_broker_says_so(tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with pytest.raises(UplinkError, match="connection refused"):
        receive.run(url, f"sqlite:///{tmp_path}/cloud.db", idle_exit_s=0.5)


class _Outage(SqliteStore):
    """A database that is away for the first two commits."""

    left = 2

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        if self.left:
            self.left -= 1
            raise UplinkError("store cloud.db: the server is restarting")
        return super().put(rows, poison)


class _Gone(SqliteStore):
    """A database that is never seen again after the first commit."""

    gone = False

    def put(self, rows: Sequence[StoreRow], poison: Sequence[Poison] = ()) -> PutResult:
        self.gone = True
        raise UplinkError("store cloud.db: gone")

    def missing(self) -> Missing:
        if self.gone:
            raise UplinkError("store cloud.db: gone")
        return super().missing()


@pytest.mark.broker
def test_a_consumer_whose_database_stays_away_does_not_end_well(tmp_path: Path, broker: Mosquitto) -> None:
    def feed(line: str) -> None:
        if "listening" in line:
            say(broker.url, Message("er/v1/a/b/c/evt/finding", b"{}"))

    with closing(_Gone(tmp_path / "cloud.db")) as store:
        settings = ConsumerSettings(Broker.parse(broker.url), "consumer")
        with pytest.raises(UplinkError, match="gone"):
            Consumer(settings, store, threading.Event(), on_notice=feed).run(idle_exit_s=1.0)


def test_fewer_than_no_findings_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--limit"):
        receive.run("mqtt://127.0.0.1:1", f"sqlite:///{tmp_path}/cloud.db", limit=-1)


@pytest.mark.broker
def test_a_database_that_goes_away_costs_no_finding(state: Path, tmp_path: Path, broker: Mosquitto) -> None:
    said: list[str] = []
    stop = threading.Event()
    with closing(_Outage(tmp_path / "cloud.db")) as store:
        settings = ConsumerSettings(Broker.parse(broker.url), "consumer")
        with on_a_thread(Consumer(settings, store, stop, on_notice=said.append).run, stop):
            pace = Pace(receipt_timeout_s=0.5, probe_s=0.1)
            sender = Uplink(state, UplinkSettings(Broker.parse(broker.url), pace=pace), threading.Event())
            done = sender.run(once=True, timeout_s=20)
    assert done.remaining == 0
    assert len(stored(tmp_path / "cloud.db")) == 40
    assert any("restarting" in line for line in said)
