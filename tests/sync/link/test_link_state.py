"""The link's state and the pauses that follow from it; what each reason code makes of it; alerts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sync.link.link_state import TAKEOVERS, LinkMachine, LinkState, Patience
from edge_runtime.sync.link.reason_codes import Trouble, Verdict, trouble_of, verdict_of
from edge_runtime.sync.uplink.alerts import Alerts

S = 10**9
PATIENCE = Patience(backoff_s=0.5, backoff_max_s=60, refused_s=60)


def machine() -> LinkMachine:
    return LinkMachine(PATIENCE)


def test_a_line_that_fails_is_tried_again_ever_more_rarely() -> None:
    link = machine()
    pauses = [link.failed(Trouble.LINE, "cut", 0) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert (link.state, link.why) == (LinkState.OFFLINE, "cut")


def test_a_link_waits_for_its_next_try_until_that_begins_or_none_is_to_come() -> None:
    link = machine()
    link.failed(Trouble.CERTIFICATE, "expired", 0)
    link.waits_until(60 * S)
    assert link.next_try_ns == 60 * S
    link.connecting()  # still refused, and no longer waiting
    assert (link.state, link.next_try_ns) == (LinkState.REFUSED_CERTIFICATE, None)
    link.failed(Trouble.LINE, "cut", 0)
    link.waits_until(90 * S)
    link.stopped()
    assert link.next_try_ns is None


def test_only_a_row_that_was_taken_makes_the_next_pause_short_again() -> None:
    link = machine()
    for _ in range(5):
        link.failed(Trouble.LINE, "cut", 0)
    link.connected(slow=False)
    assert link.failed(Trouble.LINE, "cut", 0) == 16
    link.connected(slow=False)
    link.took_a_row()
    assert link.failed(Trouble.LINE, "cut", 0) == 0.5


def test_a_busy_broker_gets_longer_pauses_whatever_it_took_before() -> None:
    link, pauses = machine(), []
    for _ in range(5):
        link.connected(slow=False)
        link.took_a_row()
        pauses.append(link.failed(Trouble.BUSY, "quota", 0))
    assert pauses == [0.5, 1, 2, 4, 8]


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        (Trouble.CERTIFICATE, LinkState.REFUSED_CERTIFICATE),
        (Trouble.AUTHORISATION, LinkState.REFUSED_AUTHORISATION),
    ],
)
def test_a_refusal_is_told_apart_stays_in_sight_and_is_tried_once_a_minute(
    trouble: Trouble, state: LinkState
) -> None:
    link = machine()
    assert link.failed(trouble, "no", 0) == 60
    link.connecting()
    assert (link.state, link.why) == (state, "no")
    link.connected(slow=True)
    assert link.state is LinkState.SLOW


def test_two_devices_of_one_id_are_found_after_three_takeovers_and_forgotten_in_time() -> None:
    link = machine()
    for second in range(TAKEOVERS - 1):  # our own last connection's remains
        assert link.failed(Trouble.TAKEN_OVER, "taken over", second * S) < 60
        assert link.state is LinkState.OFFLINE
    assert link.failed(Trouble.TAKEN_OVER, "taken over", 9 * S) == 60
    assert link.state is LinkState.REFUSED_AUTHORISATION
    assert link.two_of_one_id(500 * S)
    assert not link.two_of_one_id(1000 * S)


def test_a_line_that_ends_after_the_handshake_twice_in_a_row_is_a_refused_certificate() -> None:
    link = machine()
    for _ in range(2):
        assert link.failed(Trouble.EARLY, "closed", 0) < 60
        assert link.state is LinkState.OFFLINE
        link.failed(Trouble.LINE, "no route", 0)
    link.failed(Trouble.EARLY, "closed", 0)
    link.connected(slow=False)
    link.failed(Trouble.EARLY, "closed", 0)
    assert link.state is LinkState.OFFLINE
    assert link.failed(Trouble.EARLY, "closed", 0) == 60
    assert (link.state, link.why) == (LinkState.REFUSED_CERTIFICATE, "closed")


def test_where_two_have_one_id_a_line_that_ends_without_a_word_was_taken_and_counts_no_further() -> None:
    link = machine()
    assert link.failed(Trouble.LINE, "connection lost", 0, by_peer=True) < 60
    for second in range(TAKEOVERS):
        link.another_was_here(second * S)
    assert link.failed(Trouble.LINE, "no route", 5 * S) < 60
    assert link.state is LinkState.OFFLINE
    assert link.failed(Trouble.LINE, "connection lost", 500 * S, by_peer=True) == 60
    assert link.state is LinkState.REFUSED_AUTHORISATION
    assert not link.two_of_one_id(700 * S)


EVENTS = st.sampled_from([*Trouble, "connecting", "online", "slow", "row", "stopped"])


@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_a_try_always_follows_within_its_bounds(events: list[object]) -> None:
    link = machine()
    for second, event in enumerate(events):
        if isinstance(event, Trouble):
            pause_s = link.failed(event, "why", second * S)
            assert PATIENCE.backoff_s <= pause_s <= 60
            assert pause_s == 60 or not link.state.refused
            assert not link.state.connected
        elif event == "connecting":
            link.connecting()
            assert link.state is LinkState.CONNECTING or link.state.refused
        elif event in ("online", "slow"):
            link.connected(slow=event == "slow")
            assert link.state.value == event
        elif event == "row":
            link.took_a_row()
        else:
            link.stopped()
            assert link.state is LinkState.OFFLINE


@pytest.mark.parametrize(
    ("code", "trouble"),
    [(0x86, Trouble.AUTHORISATION), (0x87, Trouble.AUTHORISATION), (0x8E, Trouble.TAKEN_OVER)]
    + [(code, Trouble.BUSY) for code in (0x88, 0x89, 0x93, 0x97)]
    + [(code, Trouble.LINE) for code in (0x80, 0x8B, 0x8D, 0x95)],
)
def test_a_brokers_word_on_a_connection_is_told_apart(code: int, trouble: Trouble) -> None:
    assert trouble_of(code) is trouble


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0x00, Verdict.TAKEN),
        (0x10, Verdict.UNHEARD),
        (0x87, Verdict.NOT_THIS_KIND),
        (0x90, Verdict.NOT_THIS_KIND),
        (0x97, Verdict.LATER),
        (0x89, Verdict.LATER),
        (0x99, Verdict.NOT_THIS_ROW),
        (0x80, Verdict.NOT_THIS_ROW),
    ],
)
def test_a_brokers_word_on_a_message_is_told_apart(code: int, verdict: Verdict) -> None:
    assert verdict_of(code) is verdict


def test_an_alert_stands_once_from_its_first_sight_to_its_mending() -> None:
    times = iter(["t1", "t2", "t3"])
    alerts = Alerts(now=lambda: next(times))
    assert alerts.sound("not_authorised", "findings")
    assert not alerts.sound("not_authorised", "findings and events")
    (alert,) = alerts.standing
    assert (alert.since, alert.text, alert.acknowledged) == ("t1", "findings and events", False)
    assert alerts.acknowledge(alert.id)
    assert not alerts.acknowledge("other")
    assert alerts.standing[0].acknowledged
    assert alerts.mended("not_authorised")
    assert not alerts.mended("not_authorised")
    assert alerts.standing == ()


def test_an_alert_that_comes_up_again_after_a_restart_is_the_one_that_was_acknowledged() -> None:
    before = Alerts(now=lambda: "t1")
    before.sound("no_consumer", "nobody")
    before.sound("disk_full", "full")
    before.acknowledge(before.standing[0].id)
    again = Alerts(now=lambda: "t2", before=before.standing)
    assert (again.standing, again.remembered) == ((), before.standing)
    assert again.sound("no_consumer", "nobody at all")
    (alert,) = again.standing
    assert (alert.id, alert.since, alert.acknowledged) == (before.standing[0].id, "t1", True)
    assert alert.text == "nobody at all"
    again.mended("disk_full")  # looked at, and not there any more
    again.sound("disk_full", "full")
    assert again.standing[1].id != before.standing[1].id
    assert again.remembered == ()
