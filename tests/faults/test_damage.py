"""Databases that are damaged or out of room, on the device and in the cloud: set aside, told, and nothing else is lost."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.sync.journal import Journal
from tests.brokers import Mosquitto
from tests.builders import report
from tests.faults.ends import Setting, drain, receiving, said_so, sending
from tests.faults.processes import stored, until

pytestmark = [pytest.mark.broker]


def spoil(database: Path, at: int = 0, size: int = 100) -> None:
    """Writes nonsense into a database file, as a dying flash chip does."""
    with database.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * size)


def test_a_device_whose_database_is_damaged_between_two_runs_begins_an_epoch_and_goes_on(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 20)
    with receiving(broker.url, setting.store):
        drain(setting, broker.url)
        first = outbox.stats(setting.state).epoch
        spoil(setting.state / "findings.db")
        with Journal.open(setting.state, reserve_bytes=0) as journal:
            assert journal.set_aside is not None
            assert journal.set_aside.exists()  # never deleted: somebody may still read what was not delivered
            setting.reported += [made.finding_id for made in report(journal, 20)]
        drain(setting, broker.url)
        setting.check()  # the same numbers again, of another epoch: stored beside the first
    assert outbox.stats(setting.state).epoch != first


def test_an_uplink_whose_database_is_set_aside_under_it_goes_on_with_the_next(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 20)
    with receiving(broker.url, setting.store), sending(setting.state, broker.url):
        setting.check()
        with closing(sqlite3.connect(setting.state / "findings.db")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        spoil(setting.state / "findings.db", size=4096)
        with Journal.open(setting.state, reserve_bytes=0) as journal:
            assert journal.set_aside is not None
            setting.reported += [made.finding_id for made in report(journal, 20)]
        setting.check()


@pytest.mark.slow
def test_a_cloud_database_that_is_damaged_gives_no_receipt_and_every_row_waits(
    tmp_path: Path, broker: Mosquitto
) -> None:
    setting = Setting(tmp_path, 10)
    with receiving(broker.url, setting.store) as said:
        drain(setting, broker.url)
        setting.report(10)
        with closing(sqlite3.connect(setting.store)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        spoil(setting.store, 0, 4096)
        with sending(setting.state, broker.url):
            until(lambda: said_so(said, "cannot be"))
            assert outbox.stats(setting.state).pending == 10
            for end in ("", "-wal", "-shm"):
                setting.store.with_name(setting.store.name + end).unlink(missing_ok=True)
    with receiving(broker.url, setting.store):  # a new database, and the consumer started again
        drain(setting, broker.url)
    assert sorted(stored(setting.store)) == sorted(setting.reported[10:])


@pytest.mark.slow
def test_a_full_disk_in_the_cloud_gives_no_receipt_and_every_row_waits_until_there_is_room(
    tmp_path: Path, broker: Mosquitto, mount: Callable[[str], Path]
) -> None:
    disk = mount("size=1m")
    setting = Setting(tmp_path, 400)
    setting.store = disk / "cloud.db"
    ballast = disk / "holiday.mp4"
    with receiving(broker.url, setting.store) as said, sending(setting.state, broker.url):
        until(lambda: said_so(said, "full"))
        waiting = outbox.stats(setting.state).pending
        assert len(stored(setting.store)) + waiting >= 400
        assert not ballast.exists()
        grow(disk)
        setting.check()


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
