"""Messages that are too large, come twice, cannot be read, find nobody, or come from two devices with one name."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.config import Site
from edge_runtime.errors import UplinkError
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Message, Received
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.parcels import parcel
from edge_runtime.sync.wire import decode_receipt
from edge_runtime.types import SCHEMA_VERSION
from tests.brokers import Mosquitto
from tests.builders import report
from tests.faults.ends import Setting, drain, listening, receiving, said_so, say, sending
from tests.faults.processes import stored, until

pytestmark = [pytest.mark.broker]


def messages(setting: Setting) -> list[Message]:
    """What an uplink would publish of this device, made by hand."""
    with Outbox(setting.state) as rows:
        topics = DeviceTopics(Site().tenant, Site().site, rows.device_id)
        return [
            parcel(row, topics, rows.epoch, "ab12cd34", short=False, packed=False)
            for row in holdings.records(rows, "pending")
        ]


def receipts_of(setting: Setting) -> str:
    return DeviceTopics(Site().tenant, Site().site, outbox.stats(setting.state).device_id).receipts


def test_a_finding_whose_id_another_device_took_is_rejected_and_not_called_stored(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 3)
    before, device = messages(setting)[1], outbox.stats(setting.state).device_id
    body = before.payload.replace(device.encode(), b"dev-evil")
    taken = Message(before.topic.replace(device, "dev-evil"), body, properties=before.properties)
    with receiving(broker.url, setting.store):
        say(broker.url, taken)
        until(lambda: len(stored(setting.store)) == 1)
        with pytest.raises(UplinkError, match="1 rows rejected"):
            drain(setting, broker.url)
    with Outbox(setting.state) as rows:
        assert [row.seq for row in holdings.records(rows, "dead")] == [2]
    with closing(sqlite3.connect(setting.store)) as db:
        assert db.execute("SELECT payload FROM quarantine").fetchall() == [(before.payload,)]
        assert db.execute("SELECT seq FROM findings WHERE device_id = ?", (device,)).fetchall() == [
            (1,),
            (3,),
        ]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda payload: payload[:-40],
    "empty": lambda payload: b"",
    "no text": lambda payload: b"\xff" + payload,
    "deep": lambda payload: b"[" * 100_000,
    "no object": lambda payload: b"null",
    "number without end": lambda payload: payload.replace(b'"seq":1,', b'"seq":1e400,'),
    "NUL": lambda payload: payload.replace(b'"finding_id":"', b'"finding_id":"\\u0000'),
    "another row's number": lambda payload: payload.replace(b'"seq":1,', b'"seq":2,'),
    "another device": lambda payload: payload.replace(b'"device_id":"dev', b'"device_id":"DEV'),
}


def test_poison_is_kept_rejected_and_in_nobodys_way(tmp_path: Path, broker: Mosquitto) -> None:
    setting = Setting(tmp_path, 1 + len(SPOILT))
    good = messages(setting)
    first, names = good[0], good[0].properties
    spoilt = [spoil(first.payload) for spoil in SPOILT.values()]
    assert first.payload not in spoilt
    with receiving(broker.url, setting.store), listening(broker.url, receipts_of(setting)) as heard:
        for count, (payload, behind) in enumerate(zip(spoilt, good[1:], strict=True), 1):
            say(broker.url, Message(first.topic, payload, first.content_type, properties=names))
            say(broker.url, behind)
            until(lambda count=count: ranges(heard, "stored") == [*range(2, count + 2)])
        until(lambda: ranges(heard, "rejected") == [1])
        assert all(decode_receipt(one.payload).reason for one in heard if b"rejected" in one.payload)
    with closing(sqlite3.connect(setting.store)) as db:
        kept = {payload for (payload,) in db.execute("SELECT payload FROM quarantine")}
    assert kept == set(spoilt)
    assert sorted(stored(setting.store)) == sorted(setting.reported[1:])


def ranges(heard: list[Received], status: str) -> list[int]:
    """The numbers that receipts of this status name, each once."""
    receipts = [decode_receipt(one.payload) for one in heard]
    named = [span for one in receipts if one.status == status for span in one.ranges]
    return sorted({seq for first, last in named for seq in range(first, last + 1)})


def test_a_row_that_the_cloud_rejects_is_a_dead_letter_and_never_sent_again(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 3)
    with closing(sqlite3.connect(setting.state / "findings.db")) as db:
        found = (f'"{SCHEMA_VERSION}"', '"2.0"')
        db.execute("UPDATE journal SET body = replace(body, ?, ?) WHERE seq = 2", found)
        db.commit()
    with receiving(broker.url, setting.store):
        with pytest.raises(UplinkError, match="1 rows rejected"):
            drain(setting, broker.url)
        assert drain(setting, broker.url).sent == 0
    stats = outbox.stats(setting.state)
    assert (stats.delivered, stats.dead, stats.pending) == (2, 1, 0)
    (dead,) = outbox.list_rows(setting.state, which="dead")
    assert dead.seq == 2
    assert "schema 2.0" in (dead.reason or "")


def test_without_a_consumer_the_rows_stay_and_the_uplink_says_whom_it_misses(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 50)
    with pytest.raises(UplinkError, match=r"50 rows remain .*no consumer"):
        drain(setting, broker.url, timeout_s=0.5)


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param("max_packet_size 4000", id="the broker says its limit"),
        pytest.param("message_size_limit 4000", id="the broker refuses"),  # by a PUBACK that says 0x95
    ],
)
def test_a_row_larger_than_the_broker_takes_stays_is_named_and_holds_up_no_other(
    limit: str, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, 5)
    with Journal.open(setting.state, reserve_bytes=0) as journal:
        report(journal, 1)
    with closing(sqlite3.connect(setting.state / "findings.db")) as db:
        db.execute("UPDATE journal SET body = replace(body, 'exam-1', ?) WHERE seq = 6", ("1" * 6000,))
        db.commit()
    setting.report(60)  # more than a window
    with (
        Mosquitto(tmp_path, limit) as broker,
        receiving(broker.url, setting.store),
        sending(setting.state, broker.url) as said,
    ):
        until(lambda: len(stored(setting.store)) == 65, 5)
        until(lambda: said_so(said, "row 6"), 5)
        until(lambda: outbox.stats(setting.state).delivered == 65)
    assert sorted(stored(setting.store)) == sorted(setting.reported)
    stats = outbox.stats(setting.state)
    assert stats.pending + stats.dead == 1


@pytest.mark.slow
def test_two_devices_with_one_id_lose_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    """A copied memory card: the same id, the same epoch, and from then on each its own findings."""
    first = Setting(tmp_path, 20)
    shutil.copytree(first.state, tmp_path / "copy")
    second = Setting.__new__(Setting)
    second.state, second.store, second.reported = tmp_path / "copy", first.store, list(first.reported)
    for device in (first, second):
        device.report(100)
    with (
        receiving(broker.url, first.store),
        sending(first.state, broker.url),
        sending(second.state, broker.url),
    ):
        until(lambda: any(outbox.stats(one.state).pending == 0 for one in (first, second)))
        time.sleep(1.0)  # both go on taking the name from each other
    kept = set(stored(first.store))
    for device in (first, second):
        with Outbox(device.state) as rows:
            kept |= {row.id for row in (*holdings.records(rows, "pending"), *holdings.records(rows, "dead"))}
    lost = set(first.reported + second.reported) - kept
    assert lost == set(), f"{len(lost)} lost"
