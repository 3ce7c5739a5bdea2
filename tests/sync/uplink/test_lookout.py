"""What a person should mend on the device is an alert while it lasts: a full disk, records that had to go."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from edge_runtime import clock
from edge_runtime.config import JournalLimits
from edge_runtime.sync import holdings
from edge_runtime.sync.database import MIN_QUOTA_BYTES
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.uplink import lookout
from edge_runtime.sync.wire import Alert
from tests.builders import report, with_masks
from tests.faults.processes import until
from tests.parties.peer import Peer
from tests.sync.running import findings, link_of, running, said_state

MIB = 2**20


def alert(state: Path, code: str) -> Alert | None:
    """The one of this code that the uplink shows now."""
    return next((one for one in link_of(state).alerts if one.code == code), None)


def remembered(state: Path) -> list[Alert]:
    """Dead letters that an earlier uplink told of, and of which this one knows nothing yet."""
    return [one for one in link_of(state).remembered if one.code == "dead_letters"]


@pytest.mark.slow
def test_a_disk_without_room_for_the_reserve_is_an_alert_until_there_is_room(
    mount: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOW_BYTES", MIB)
    disk = mount("size=16m")
    state = disk / "state"
    with Journal.open(state, reserve_bytes=4 * MIB) as journal:
        report(journal, 3)
        with Peer() as peer, running(state, peer.url, journal=JournalLimits(reserve_mb=4)):
            until(lambda: findings(peer) >= 3)
            assert alert(state, "disk_full") is None
            _fill(disk, leave=2 * MIB)
            report(journal, 1)
            assert alert(state, "disk_full") is None  # the reserve is held: nothing to mend
            (state / "reserve").unlink()
            _fill(disk, leave=2 * MIB)  # as when findings had needed it
            until(lambda: alert(state, "disk_full"))
            assert "no room for the journal's reserve of 4 MB" in getattr(
                alert(state, "disk_full"), "text", ""
            )
            for file in disk.glob("holiday*"):
                file.unlink()
            until(lambda: alert(state, "disk_full") is None)


def test_a_disk_that_is_nearly_full_is_an_alert_though_the_reserve_is_held(
    mount: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOW_BYTES", 2 * MIB)
    disk = mount("size=16m")
    state = disk / "state"
    Journal.open(state, reserve_bytes=4 * MIB).close()
    with Peer() as peer, running(state, peer.url, journal=JournalLimits(reserve_mb=4)):
        until(lambda: said_state(state) is not None and alert(state, "disk_full") is None)
        _fill(disk, leave=MIB)
        until(lambda: alert(state, "disk_full"))


def _fill(disk: Path, leave: int) -> None:
    free = os.statvfs(disk)
    name = f"holiday{len(list(disk.glob('holiday*')))}.mp4"
    (disk / name).write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))


def test_a_device_without_dead_letters_raises_no_alert_of_them(state: Path) -> None:
    with Peer() as peer:
        with Outbox(state) as outbox:
            outbox.settle([], [((1, 3), "schema")])
        with running(state, peer.url):
            until(lambda: said_state(state) is not None and alert(state, "dead_letters"))
        assert "3 records" in getattr(alert(state, "dead_letters"), "text", "")
        with Outbox(state) as outbox:
            outbox.revive()
            outbox.settle([(1, 10)])
        with running(state, peer.url):
            until(lambda: link_of(state).state.connected and alert(state, "dead_letters") is None)
        assert not remembered(state)


@pytest.mark.slow
def test_a_row_that_the_broker_refuses_again_after_a_restart_is_the_alert_that_it_was(state: Path) -> None:
    with Peer(puback=(0x95, None)) as peer, running(state, peer.url):
        until(lambda: said_state(state) is not None and alert(state, "dead_letters"))
    before = alert(state, "dead_letters")
    with Peer(puback=(None,)) as peer, running(state, peer.url):
        until(lambda: findings(peer) >= 1)
        assert (alert(state, "dead_letters"), remembered(state)) == (None, [before])
    with Peer(puback=(0x95, None)) as peer, running(state, peer.url):
        until(lambda: alert(state, "dead_letters"))
    assert alert(state, "dead_letters") == before


def test_masks_that_had_to_go_are_an_alert_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    with Journal.open(state, quota_bytes=2 * MIN_QUOTA_BYTES, reserve_bytes=0) as journal:
        with_masks(journal, 180)
    with Outbox(state) as outbox:
        count, last = outbox.loss()
        assert count == holdings.stats(outbox).lost > 0
        assert last is not None
    with Peer() as peer, running(state, peer.url):
        until(lambda: said_state(state) is not None and alert(state, "records_lost"))
        assert f"{count} masks or telemetry" in getattr(alert(state, "records_lost"), "text", "")
        later = clock.utc() + timedelta(days=1, seconds=1)
        monkeypatch.setattr(clock, "utc", lambda: later)
        until(lambda: alert(state, "records_lost") is None)


def test_a_journal_that_lost_nothing_raises_no_alert(tmp_path: Path) -> None:
    with Journal.open(tmp_path, reserve_bytes=0) as journal:
        with_masks(journal, 3)
    with Outbox(tmp_path) as outbox:
        assert outbox.loss() == (0, None)
