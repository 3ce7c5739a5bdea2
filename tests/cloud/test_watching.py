"""`/metrics` and `/healthz`: what a receiver says of itself while broker and database come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from edge_runtime import clock
from edge_runtime.cloud.consumer import Consumer, ConsumerSettings
from edge_runtime.cloud.health import Health, Part
from edge_runtime.cloud.http import address, serving
from edge_runtime.cloud.metrics import Metrics
from edge_runtime.cloud.store import open_store
from edge_runtime.errors import ConfigError
from edge_runtime.sync.link.link import Broker
from tests.brokers import Mosquitto
from tests.faults.processes import until
from tests.parties.cloud import get, message, send
from tests.parties.threads import on_a_thread
from tests.postgres import Postgres

pytest.importorskip(
    "prometheus_client", reason="prometheus-client is not installed (pip install 'edge-runtime[cloud]')"
)


class Counting(Health):
    """Knows how often it was told that the store is away."""

    away = 0

    def fails(self, part: Part, why: str) -> None:
        super().fails(part, why)
        self.away += part == "store"


class Watched:
    """A receiver on a thread, and what it answers."""

    def __init__(self, broker: str, store: str) -> None:
        self.stop = threading.Event()
        self.metrics = Metrics()
        self.store = open_store(store)
        settings = ConsumerSettings(Broker.parse(broker), "consumer", backoff_max_s=0.2)
        self.told = Counting(grace_s=0.5)
        self.consumer = Consumer(settings, self.store, self.stop, metrics=self.metrics, health=self.told)
        self.at = ""

    def value(self, name: str) -> float:
        lines = get(f"{self.at}/metrics")[1].splitlines()
        return float(
            next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"edge_runtime_receive_{name} "))
        )

    def health(self) -> tuple[int, dict[str, str]]:
        status, said = get(f"{self.at}/healthz")
        return status, json.loads(said)


@contextmanager
def watched(broker: str, store: str) -> Iterator[Watched]:
    one = Watched(broker, store)
    with (
        serving(("127.0.0.1", 0), one.metrics.text, one.consumer.health.troubles) as one.at,
        closing(one.store),
        on_a_thread(one.consumer.run, one.stop),
    ):
        yield one


@pytest.mark.broker
def test_the_counters_tell_what_was_stored_repeated_and_rejected(broker: Mosquitto, url: str) -> None:
    with watched(broker.url, url) as one:
        until(lambda: one.health()[0] == 200)
        good = message().payload
        send(broker.url, good, good, b"{")
        until(lambda: one.value('rejected_total{code="schema"}') == 1)
        until(lambda: one.value("repeated_total") == 1)
        assert one.value('stored_total{table="findings"}') == 1
        assert one.value('stored_total{table="records"}') == 0
        assert one.value("devices") == 1
        assert one.value("connects_total") == 1
        assert one.value("commit_seconds_count") == one.value("batches_total") >= 1
        assert one.value("lag_seconds_count") == 2  # only of what could be read


@pytest.mark.broker
def test_health_follows_the_broker(broker: Mosquitto, url: str) -> None:
    with watched(broker.url, url) as one:
        until(lambda: one.health() == (200, {"status": "ok"}))
        broker.stop()
        until(lambda: one.health()[0] == 503)
        assert "broker" in one.health()[1]
        broker.start()
        until(lambda: one.health()[0] == 200)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_health_follows_the_database_and_no_message_is_taken_from_others_without_it(
    broker: Mosquitto, url: str, postgres: Postgres
) -> None:
    with watched(broker.url, url) as one:
        until(lambda: one.health()[0] == 200)
        postgres.stop()
        try:
            send(broker.url, message().payload)
            until(lambda: one.health()[0] == 503)
            assert "store" in one.health()[1]
            connects, away = one.consumer.report.connects, one.told.away
            until(lambda: one.told.away >= away + 5)  # tried again and again
            assert one.consumer.report.connects == connects
        finally:
            postgres.start()
        until(lambda: one.health()[0] == 200)


@pytest.fixture
def later_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass."""
    now_ns = [1_000_000_000]
    monkeypatch.setattr(clock, "monotonic_ns", lambda: now_ns[0])

    def passed(seconds: float) -> None:
        now_ns[0] += int(seconds * 1e9)

    return passed


def test_a_loop_that_does_not_turn_is_told(later_s: Callable[[float], None]) -> None:
    health = Health()
    health.works("broker")
    health.works("store")
    later_s(59)
    assert health.troubles() == {}
    later_s(2)
    assert list(health.troubles()) == ["loop"]
    health.beat()
    assert health.troubles() == {}


def test_a_part_that_never_worked_is_not_well_from_the_first_moment() -> None:
    health = Health()
    assert set(health.troubles()) == {"broker", "store"}
    health.works("store")
    assert set(health.troubles()) == {"broker"}


def test_a_part_is_well_for_thirty_seconds_after_it_last_worked(later_s: Callable[[float], None]) -> None:
    """A connection that is made anew, now and then, is no reason to restart the receiver."""
    health = Health()
    health.works("broker")
    health.works("store")
    for _ in range(20):
        later_s(29)
        health.beat()
        health.fails("broker", "connection lost")  # it worked until now
        health.fails("broker", "connection refused")
        assert health.troubles() == {}
        later_s(29)
        assert health.troubles() == {}
        health.works("broker")
    health.fails("broker", "connection lost")
    later_s(31)
    health.beat()
    health.fails("broker", "connection refused")  # a new reason does not begin the time anew
    assert health.troubles() == {"broker": "connection refused"}
    health.works("broker")
    assert health.troubles() == {}


def test_nothing_else_is_answered_and_a_port_in_use_is_one_clear_line() -> None:
    with serving(("127.0.0.1", 0), lambda: b"x 1\n", dict) as at:
        assert get(f"{at}/metrics") == (200, "x 1\n")
        assert get(f"{at}/")[0] == 404
        taken = ("127.0.0.1", int(at.rpartition(":")[2]))
        with pytest.raises(ConfigError, match="cannot listen"), serving(taken, bytes, dict):
            pass


@pytest.mark.parametrize(
    ("text", "where"),
    [("127.0.0.1:9108", ("127.0.0.1", 9108)), ("[::1]:0", ("::1", 0)), ("a.b:1", ("a.b", 1))],
)
def test_an_address_is_a_host_and_a_port(text: str, where: tuple[str, int]) -> None:
    assert address(text) == where


@pytest.mark.parametrize("text", ["9108", ":9108", "host:", "host:http", "host:70000", ""])
def test_a_wrong_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(ConfigError, match="want HOST:PORT"):
        address(text)
