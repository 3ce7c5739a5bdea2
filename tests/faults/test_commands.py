"""Commands over the real broker: asked and answered, too large, not allowed, and killed in between.

What a device refuses is in tests/conformance/test_commands.py.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.commands import outbox
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.records import Audit
from edge_runtime.sync import holdings
from edge_runtime.sync.commands.command import decode_answer
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from edge_runtime.sync.wire import DeviceState, decode_state
from tests.brokers import Mosquitto
from tests.builders import report
from tests.e2e.command import edge_runtime
from tests.faults.processes import kill, start_receive, stored, until
from tests.parties.ear import Ear, Heard
from tests.parties.place import Place
from tests.parties.threads import on_a_thread

pytestmark = [pytest.mark.broker]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Mosquitto(tmp_path) as broker:
        yield with_findings(Place(tmp_path, broker))


def with_findings(place: Place) -> Place:
    with place.device.journal() as journal:
        report(journal, 3)
    return place


def states(heard: list[Heard]) -> list[DeviceState]:
    return [
        decode_state(one.payload) for one in heard if one.kind == "state" and one.body["state"] == "online"
    ]


def answered(ear: Ear, code: str) -> None:
    ear.until(
        lambda heard: any(decode_answer(one.payload).code == code for one in heard if one.kind == "rsp")
    )


def test_a_device_sends_its_state_and_its_log_and_both_are_on_record(place: Place) -> None:
    with place.uplink():
        state = place.ask("send_state").result["state"]
        lines = place.ask("send_log", lines=10).result["lines"]
    assert (state["device_id"], state["state"]) == (place.device.topics.device, "online")
    assert any("connected" in line["text"] for line in lines)
    assert not any(str(place.folder) in line["text"] for line in lines)
    assert [(audit.command, audit.outcome) for audit in place.device.audits()] == [
        ("send_state", "done"),
        ("send_log", "done"),
    ]


def test_what_is_far_too_large_does_not_reach_the_device_and_the_next_command_does(place: Place) -> None:
    with place.uplink() as said, Ear(place.broker.port) as ear:
        ear.until(states)
        ear.say(place.device.topics.command("resend"), b"x" * 5000)
        answered(ear, "oversize")
        ear.say(place.device.topics.command("resend"), b"x" * 500_000)
        assert place.ask("send_state").outcome == "done"
        assert sum("connected" in line for line in said) == 1
    assert [audit.code for audit in place.device.audits()] == ["oversize", "ok"]


def test_an_alert_stands_in_the_state_without_paths_and_is_acknowledged_by_its_id(place: Place) -> None:
    settings = UplinkSettings(Broker.parse(place.broker.url), command_keys=place.device.public)
    stop = threading.Event()
    uplink = Uplink(place.device.state, settings, stop)
    uplink._ledger.alerts.sound("not_authorised", f"{place.device.state} has another")
    with on_a_thread(uplink.run, stop):
        with Ear(place.broker.port) as ear:
            [alert] = [each for each in ear.until(states)[0].alerts if each.code == "not_authorised"]
            assert (alert.text, alert.acknowledged) == ("<path> has another", False)
            assert place.ask("acknowledge_alert", alert=alert.id).outcome == "done"
            ear.until(
                lambda heard: any(
                    one.id == alert.id and one.acknowledged for said in states(heard) for one in said.alerts
                )
            )
        assert place.ask("acknowledge_alert", alert="other").code == "unknown_alert"


def test_a_profile_that_was_commanded_outlives_the_uplink(place: Place) -> None:
    with place.uplink() as said:
        place.ask("set_profile", profile="slow")
        until(lambda: any("the line is slow" in line for line in said))
    with place.uplink(), Ear(place.broker.port) as ear:
        assert ear.until(states)[0].link == "slow"


def test_an_operator_is_told_when_there_is_no_device(place: Place) -> None:
    with pytest.raises(UplinkError, match="no state message"):
        place.operator(timeout_s=0.5).ask(place.device.topics, "send_state", {})
    with place.uplink():
        place.ask("send_state")
    with pytest.raises(UplinkError, match="offline"):
        place.operator().ask(place.device.topics, "send_state", {})
    with pytest.raises(ConfigError, match="lines"):
        place.operator().ask(place.device.topics, "send_log", {"lines": 0})


ACCESS = """\
user device
pattern write er/v1/+/+/%c/evt/#
pattern readwrite er/v1/+/+/%c/state
pattern write er/v1/+/+/%c/rsp
pattern read er/v1/+/+/%c/rcpt
pattern read er/v1/+/+/%c/cmd/#
user operator
topic write er/v1/+/+/+/cmd/#
topic read er/v1/+/+/+/rsp
topic read er/v1/+/+/+/state
user visitor
topic read er/v1/+/+/+/rsp
topic read er/v1/+/+/+/state
"""


def test_the_cloud_has_each_command_on_record_and_gets_again_what_it_lost(place: Place) -> None:
    store = place.store

    def rows(sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(store, timeout=5)) as db, db:
            return db.execute(sql).fetchall()

    def has(sql: str, wanted: int) -> None:
        until(lambda: rows(f"SELECT count(*) FROM {sql}")[0][0] == wanted)

    receive = start_receive(place.broker.url, store)
    try:
        with place.uplink():
            until(lambda: stored(store) != [] and len(stored(store)) == 3)
            until(lambda: outbox.stats(place.device.state).pending == 0)
            [(epoch, lost)] = rows("DELETE FROM findings WHERE seq = 2 RETURNING epoch, seq")
            answer = place.ask("resend", epoch=epoch, ranges=[[lost, lost]])
            assert answer.result["resent"] == [[2, 2]]
            has("findings", 3)
            has("records WHERE kind = 'audit'", 1)
    finally:
        kill(receive)
    [(body,)] = rows("SELECT body FROM records WHERE kind = 'audit'")
    audit = msgspec.json.decode(body, type=Audit)
    assert (audit.record_id, audit.seq) == (answer.audit.record_id, answer.audit.seq)
    assert (audit.command, audit.outcome, audit.nonce) == ("resend", "done", answer.nonce)


def test_only_the_operators_user_may_command(tmp_path: Path) -> None:
    (tmp_path / "access").write_text(ACCESS)
    with Mosquitto(tmp_path, f"acl_file {tmp_path / 'access'}") as broker:
        place = with_findings(Place(tmp_path, broker))
        with place.uplink(user="device"):
            answer = place.operator(user="operator").ask(place.device.topics, "send_state", {})
            assert answer is not None
            assert answer.outcome == "done"
            with pytest.raises(UplinkError, match="Not authorized"):
                place.operator(user="visitor").ask(place.device.topics, "send_state", {})
    assert len(place.device.audits()) == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from edge_runtime.commands import uplink
from edge_runtime.sync.uplink.session import Session
answer = Session._answer
def killed(self):
    if self._answers:
        os.kill(os.getpid(), signal.SIGKILL)
    answer(self)
Session._answer = killed
uplink.run(Path(sys.argv[1]), sys.argv[2], command_keys=Path(sys.argv[3]))
"""


def test_a_device_killed_between_record_and_answer_has_done_it_and_can_show_it(place: Place) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(place.device.state), place.broker.url, str(place.device.public)]
    )
    try:
        with pytest.raises(UplinkError, match="its audit says"):
            place.ask("set_profile", profile="slow")
        assert process.wait(10) == -signal.SIGKILL
    finally:
        kill(process)
    [audit] = place.device.audits()
    assert (audit.command, audit.outcome, audit.code) == ("set_profile", "done", "ok")
    with Outbox(place.device.state) as held:
        assert audit.seq in [row.seq for row in holdings.records(held, "pending")]
    with place.uplink(), Ear(place.broker.port) as ear:
        assert ear.until(states)[0].link == "slow"


@pytest.mark.slow
def test_the_command_line_makes_a_key_asks_and_prints_the_answer(place: Place, tmp_path: Path) -> None:
    made = edge_runtime("command", "--new-key", tmp_path / "cli.pem", "--json", cwd=tmp_path).json
    place.device.public = Path(made["public"])
    asks = (
        "command",
        place.device.topics.device,
        "send_log",
        "--args",
        '{"lines": 3}',
        "--broker",
        place.broker.url,
    )
    with place.uplink():
        done = edge_runtime(*asks, "--key", tmp_path / "cli.pem", "--json", cwd=tmp_path)
        assert (done.code, done.json["outcome"]) == (0, "done")
        assert any("connected" in line["text"] for line in done.json["result"]["lines"])
        told = edge_runtime(*asks, "--key", tmp_path / "cli.pem", cwd=tmp_path)
        assert "done: the last 3 lines" in told.out
        wrong = edge_runtime(*asks, "--key", place.device.key, cwd=tmp_path)
        assert "bad_signature" in wrong.failed_in_one_line(1)
    usage = edge_runtime(
        "command",
        place.device.topics.device,
        "reboot",
        "--broker",
        "mqtt://x",
        "--key",
        place.device.key,
        cwd=tmp_path,
    )
    assert "send_state" in usage.failed_in_one_line(2)
    assert "--key" in edge_runtime("command", "x", cwd=tmp_path).failed_in_one_line(2)
    keys = edge_runtime(
        "uplink",
        "--state",
        place.device.state,
        "--broker",
        place.broker.url,
        "--command-keys",
        place.device.key,
        cwd=tmp_path,
    )
    assert "private key" in keys.failed_in_one_line(2)
