"""The retained state of a device (docs/wire.md)."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from tests.builders import finding
from tests.conformance.conftest import Conversation
from tests.faults.processes import kill, start_uplink, until
from tests.parties.documents import payload_of
from tests.parties.ear import Ear, Heard, states
from tests.parties.place import Place
from tests.parties.threads import on_a_thread

pytestmark = [pytest.mark.broker]


def test_er_state_1_the_state_is_retained_and_said_again_when_it_changes(
    conversation: Conversation, place: Place
) -> None:
    said = [one for one in conversation.heard if one.kind == "state"]
    assert all(one.retain for one in said)
    for one in said:
        payload_of("state").validate(one.body)
    with place.device.uplink(place.broker.url):
        with Ear(place.broker.port) as ear:  # who comes later hears it all the same
            ear.until(lambda heard: states(heard, state="online", link="online"))
        place.device.ask(place.broker.url, "set_profile", profile="slow")
        with Ear(place.broker.port) as ear:
            ear.until(lambda heard: states(heard, link="slow"))


def test_er_state_2_a_clean_stop_says_stopped_and_a_lost_device_is_said_to_be_lost(place: Place) -> None:
    with Ear(place.broker.port) as ear:
        with place.device.uplink(place.broker.url):
            ear.until(lambda heard: states(heard, state="online"))
        ear.until(lambda heard: states(heard, state="offline", why="stopped"))
        process = start_uplink(place.device.state, place.broker.url)
        try:
            ear.until(lambda heard: len(states(heard, state="online")) >= 2)
        finally:
            kill(process)
        session = states(ear.heard, state="online")[-1]["session"]
        ear.until(lambda heard: states(heard, state="offline", why="lost"))
    with Ear(place.broker.port) as ear:
        last = ear.until(states)[-1]
    assert (last["why"], last["session"]) == ("lost", session)
    assert (last["at"], last["clock"]) == (None, None)  # it was written before it was true
    assert process.returncode == -signal.SIGKILL


def test_er_state_3_the_state_says_what_is_true_on_the_device_and_no_path(place: Place) -> None:
    place.device.add(finding)
    place.device.add(finding)
    stop = threading.Event()
    uplink = Uplink(place.device.state, UplinkSettings(Broker.parse(place.broker.url)), stop)
    uplink._ledger.alerts.sound("not_authorised", f"{place.device.state} has no room")
    with Ear(place.broker.port) as ear, on_a_thread(uplink.run, stop):
        said = ear.until(lambda heard: states(heard, state="online"))[0]
    assert (said["epoch"], said["pending"], said["link"]) == (place.device.epoch, 2, "online")
    (alert,) = (each for each in said["alerts"] if each["code"] == "not_authorised")
    assert alert["text"] == "<path> has no room"
    assert str(place.folder) not in str(said)


def test_er_state_4_each_connection_has_a_session_of_its_own(place: Place) -> None:
    with Ear(place.broker.port) as ear:
        for count in (1, 2, 3):
            with place.device.uplink(place.broker.url):
                ear.until(lambda heard, count=count: len(_sessions(heard)) == count)
    until(lambda: len(_sessions(ear.heard)) == 3)


@pytest.mark.slow
def test_er_state_5_an_alert_that_was_acknowledged_is_so_after_a_restart_until_it_is_mended(
    place: Place,
) -> None:
    for _ in range(3):
        place.device.add(finding)
    refuse(place, 1)
    with place.device.uplink(place.broker.url), Ear(place.broker.port) as ear:
        first = ear.until(lambda heard: dead_letters(heard, "1 record is"))
        assert place.device.ask(place.broker.url, "acknowledge_alert", alert=first["id"]).outcome == "done"
    refuse(place, 2)
    with place.device.uplink(place.broker.url), Ear(place.broker.port) as ear:
        again = ear.until(lambda heard: dead_letters(heard, "2 records are"))
        with Outbox(place.device.state) as outbox:
            assert outbox.revive() == 2
        ear.until(lambda heard: "dead_letters" not in codes(states(heard, state="online")[-1]))
        refuse(place, 3)
        another = ear.until(lambda heard: dead_letters(heard, "1 record is"))
    assert [one["acknowledged"] for one in (first, again, another)] == [False, True, False]
    assert (first["id"], first["since"]) == (again["id"], again["since"])
    assert another["id"] != first["id"]


def refuse(place: Place, seq: int) -> None:
    """As a receipt of the cloud does."""
    with Outbox(place.device.state) as outbox:
        assert outbox.settle([], [((seq, seq), "schema")]) == (0, 1)


def codes(state: dict[str, Any]) -> list[str]:
    return [alert["code"] for alert in state["alerts"]]


def dead_letters(heard: list[Heard], text: str) -> dict[str, Any] | None:
    alerts = [alert for body in states(heard, state="online") for alert in body["alerts"]]
    return next((each for each in alerts if each["code"] == "dead_letters" and text in each["text"]), None)


def _sessions(heard: list[Heard]) -> set[str]:
    return {body["session"] for body in states(heard, state="online")}
