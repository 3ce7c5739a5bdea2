"""Lines that are slow, late, torn, stalled, cut, reset or half-open: nothing is lost, nothing is stored twice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.errors import UplinkError
from edge_runtime.sync.uplink.flight import Pace
from tests.brokers import Mosquitto
from tests.faults.ends import Setting, drain, receiving, said_so, sending
from tests.faults.processes import stored, until
from tests.faults.proxy import Proxy, Weather
from tests.patience import within

pytestmark = [pytest.mark.broker]


@pytest.fixture
def line(broker: Mosquitto) -> Iterator[Proxy]:
    """The bad line; the consumer's own is good where the test does not say otherwise."""
    with Proxy(broker.port, seed=7) as proxy:
        yield proxy


@pytest.mark.parametrize("end", ["device", pytest.param("consumer", marks=pytest.mark.slow)])
def test_a_line_that_is_reset_again_and_again_loses_nothing(
    end: str, tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 300)
    device, consumer = (line.url, broker.url) if end == "device" else (broker.url, line.url)
    line.up.bytes_per_s = 400_000  # else all is over before the second reset
    with receiving(consumer, setting.store), sending(setting.state, device):
        for share in (0.05, 0.2, 0.4, 0.6):
            until(lambda share=share: len(stored(setting.store)) >= share * 300)
            line.reset()
        line.up.bytes_per_s = None
        setting.check()
    assert line.connections >= 5


@pytest.mark.slow
def test_a_line_that_is_cut_after_any_number_of_bytes_loses_nothing(
    tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 150)
    choose = random.Random(11)
    with receiving(broker.url, setting.store):
        for way in (line.up, line.down) * 4:
            before = line.connections
            way.cut_after = choose.randrange(1, 12_000 if way is line.up else 300)
            with sending(setting.state, line.url):
                until(
                    lambda before=before: (
                        line.connections > before + 1 or not outbox.stats(setting.state).pending
                    )
                )
            way.cut_after = None
        drain(setting, line.url)
        setting.check()
    assert line.connections > 8


def test_a_stall_of_a_moment_costs_neither_the_connection_nor_a_finding(
    tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 300)
    line.up.held = True
    with receiving(broker.url, setting.store), sending(setting.state, line.url):
        for way in (line.up, line.down):
            way.held = True
            time.sleep(0.3)  # the length of the stall, which is the test
            way.held = False
        setting.check()
    assert line.connections == 1


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param(Weather(torn=True), id="in pieces of 1 to 100 bytes"),
        pytest.param(Weather(delay_s=0.12), id="over a satellite", marks=pytest.mark.slow),
        pytest.param(Weather(delay_s=0.02, jitter_s=0.05), id="with jitter", marks=pytest.mark.slow),
    ],
)
def test_a_line_that_is_only_slow_to_answer_sends_nothing_twice(
    weather: Weather, tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 40)
    for way in (line.up, line.down):
        way.__dict__.update(weather.__dict__)
    with receiving(broker.url, setting.store):
        done = drain(setting, line.url, pace=Pace(window=50, receipt_timeout_s=5.0))
    setting.check()
    assert (done.sent, done.connects) == (40, 1)


@pytest.mark.slow
def test_a_half_open_line_is_left_by_the_watchdog_and_all_arrives_over_the_next(
    tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 300)
    line.up.bytes_per_s = 400_000
    with receiving(broker.url, setting.store), sending(setting.state, line.url, puback_timeout_s=0.5) as said:
        until(lambda: len(stored(setting.store)) >= 30)
        line.half_open()
        began = time.monotonic()
        until(lambda: said_so(said, "acknowledged nothing"))
        assert time.monotonic() - began < within(2.0)
        line.heal()
        setting.check()


@pytest.mark.slow
def test_a_half_open_line_without_traffic_is_found_by_the_keepalive(
    tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 1)
    with receiving(broker.url, setting.store), sending(setting.state, line.url, keepalive_s=1) as said:
        setting.check()
        line.half_open()
        told = len(said)
        began = time.monotonic()
        until(lambda: len(said) > told)
        assert time.monotonic() - began < within(3.0)  # twice the keepalive, and a look
        line.heal()
        setting.report(5)
        setting.check()


@pytest.mark.slow
def test_a_broker_that_accepts_and_never_speaks_is_one_line(tmp_path: Path, line: Proxy) -> None:
    setting = Setting(tmp_path, 5)
    line.half_open()
    with pytest.raises(UplinkError, match=r"5 rows remain .*no CONNACK") as caught:
        drain(setting, line.url, timeout_s=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_broker_that_is_down_at_the_start_costs_patience_only(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 20)
    with Mosquitto(tmp_path) as broker:
        broker.stop()
        with sending(setting.state, broker.url) as said:
            until(lambda: said_so(said, "connection refused"))
            setting.report(10)  # recording does not wait for a line
            broker.start()
            with receiving(broker.url, setting.store):
                setting.check()


@pytest.mark.slow
def test_findings_cross_a_line_of_9600_bits_a_second_each_once(
    tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 12)
    line.up.bytes_per_s = line.down.bytes_per_s = 1200
    with receiving(broker.url, setting.store):
        done = drain(setting, line.url, timeout_s=60, pace=Pace())
    setting.check()
    assert done.connects == 1
    assert done.sent == 12  # what is on its way is not sent again


@pytest.mark.slow
def test_a_consumer_behind_a_half_open_line_holds_up_nothing_where_there_is_another(
    tmp_path: Path, broker: Mosquitto, line: Proxy
) -> None:
    setting = Setting(tmp_path, 200)
    with (
        receiving(broker.url, setting.store, "alive"),
        receiving(line.url, setting.store, "cut off"),
    ):
        line.half_open()  # half of the rows go there now, and no receipt comes back
        done = drain(setting, broker.url)
        setting.check()
    assert done.sent > 200
