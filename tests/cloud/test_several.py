"""Several receivers share the work: more processes, and one that is killed in the middle."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.cloud.store import open_store
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.uplink import Uplink, UplinkReport, UplinkSettings
from tests.brokers import Mosquitto
from tests.builders import report
from tests.cloud.conftest import ROW, Reader
from tests.faults.processes import until
from tests.parties.cloud import RECEIVE

DEVICES, EACH = 6, 300


def start_receiver(broker: str, store: str) -> subprocess.Popen[str]:
    """Returns when it listens."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVE, broker, store], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "listening" in process.stdout.readline()
    return process


@pytest.mark.broker
@pytest.mark.slow
def test_three_receivers_one_killed_lose_nothing_double_nothing_and_miss_nothing(
    tmp_path: Path, broker: Mosquitto, url: str, read: Reader
) -> None:
    ids: set[str] = set()
    for number in range(DEVICES):
        with Journal.open(tmp_path / f"dev{number}", reserve_bytes=0) as journal:
            ids.update(one.finding_id for one in report(journal, EACH))
    receivers = [start_receiver(broker.url, url) for _ in range(3)]
    done: list[UplinkReport] = []

    def drain(number: int) -> None:
        pace = Pace(receipt_timeout_s=1.0, probe_s=0.2)
        settings = UplinkSettings(Broker.parse(broker.url), pace=pace)
        done.append(
            Uplink(tmp_path / f"dev{number}", settings, threading.Event()).run(once=True, timeout_s=120)
        )

    senders = [threading.Thread(target=drain, args=(number,)) for number in range(DEVICES)]
    try:
        for sender in senders:
            sender.start()
        until(lambda: read("SELECT count(*) FROM findings")[0][0] > DEVICES * EACH // 10)
        receivers[0].kill()
        for sender in senders:
            sender.join()
    finally:
        for receiver in receivers:
            receiver.kill()
            receiver.communicate()
    assert [one.remaining for one in done] == [0] * DEVICES
    assert sorted(found for (found,) in read("SELECT finding_id FROM findings")) == sorted(ids)
    assert read("SELECT * FROM missing") == []


def test_receivers_that_hold_the_same_rows_in_another_order_wait_and_never_in_a_circle(
    url: str, read: Reader
) -> None:
    rows = [ROW._replace(id=f"f{n}", device_id=f"dev-{n % 7}", seq=n // 7 + 1) for n in range(70)]
    new: list[int] = []

    def put(seed: int) -> None:
        mine, choose = list(rows), random.Random(seed)
        with closing(open_store(url)) as store:
            for _ in range(10):
                choose.shuffle(mine)
                new.append(store.put(mine).new)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert sum(new) == 70
    assert read("SELECT * FROM missing") == []
