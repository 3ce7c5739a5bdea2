"""Commands on a real database: each is on record before its answer leaves, and a flood cannot fill the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.clock import monotonic_ns
from edge_runtime.records import Audit
from edge_runtime.sync import holdings
from edge_runtime.sync.commands.audits import Audits
from edge_runtime.sync.commands.authority import Arrived
from edge_runtime.sync.commands.command import MOST_CORRELATION_BYTES, Answer, decode_answer
from edge_runtime.sync.commands.commander import Commander
from edge_runtime.sync.commands.device_records import DeviceRecords
from edge_runtime.sync.commands.handlers import PROFILE_KEY
from edge_runtime.sync.commands.recent_log import Discretion, Said
from edge_runtime.sync.database import open_db, read_meta
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.link.speed import LinkChoice
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import DirectoryLock
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import Alert, DeviceState
from tests.builders import report
from tests.sync.commands.signed import a_command, arrived, signer, trusted

FAR = datetime(2999, 1, 1, tzinfo=timezone.utc)
ALERT = Alert(id="a1b2c3d4", code="dead_letters", text="2 rows", since="2026-01-01T00:00:00.000Z")


@dataclass
class Device:
    """A state directory with ten findings, its outbox, and what an uplink would be told."""

    journal: Journal
    outbox: Outbox
    notices: list[str] = field(default_factory=list)
    said: Said = field(default_factory=lambda: Said(Discretion()))
    told: list[Any] = field(default_factory=list)
    anew: int = 0  # how often rows were told to go out under another name
    later_s: float = 0.0  # how far the clock is put forward

    def __post_init__(self) -> None:
        self.topics = DeviceTopics("local", "site", self.journal.device_id)
        self.commander = Commander(
            Audits(lambda: Journal.open(self.journal.state_dir, reserve_bytes=0)),
            self.notices.append,
            lambda: monotonic_ns() + int(self.later_s * 1e9),
        )
        self.commander.begin(self.topics, trusted(signer()), DeviceRecords(self.outbox), self)

    @property
    def session(self) -> str:
        assert self.commander.session is not None
        return self.commander.session

    def state_now(self) -> DeviceState:
        return DeviceState(
            device_id=self.journal.device_id,
            state="online",
            why="connected",
            version="1",
            session=self.session,
            pending=self.outbox.pending_count(),
            alerts=(ALERT,),
        )

    def send_anew(self) -> None:
        self.anew += 1

    def choose_profile(self, profile: LinkChoice) -> None:
        self.told.append(profile)

    def acknowledge(self, alert: str) -> None:
        self.told.append(alert)

    def command(self, name: str = "send_state", nonce: int = 1, **arguments: Any) -> Arrived:
        command = a_command(
            self.session,
            command=name,
            arguments=arguments,
            nonce=f"{nonce:032x}",
            expires_at=FAR,
        )
        return arrived(command, self.topics, correlation=b"who asked")

    def take(self, what: Arrived) -> Message | None:
        return self.commander.take(what)

    def asked(self, name: str, nonce: int = 1, **arguments: Any) -> Answer:
        answer = self.take(self.command(name, nonce, **arguments))
        assert answer is not None
        return decode_answer(answer.payload)

    def audits(self) -> list[Audit]:
        rows = [row for row in holdings.records(self.outbox, "all") if row.kind == "audit"]
        return [msgspec.json.decode(row.body, type=Audit) for row in rows]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Journal.open(tmp_path / "state", reserve_bytes=0) as journal:
        report(journal, 10)
        with Outbox(tmp_path / "state") as outbox:
            yield Device(journal, outbox)


def test_what_was_done_is_answered_on_the_devices_own_topic_and_on_record(device: Device) -> None:
    message = device.take(device.command("send_state"))
    assert message is not None
    assert (message.topic, message.correlation) == (device.topics.responses, b"who asked")
    assert not message.retain
    answer, [audit] = decode_answer(message.payload), device.audits()
    assert (answer.outcome, answer.code, answer.command) == ("done", "ok", "send_state")
    assert answer.result["state"]["device_id"] == device.journal.device_id
    assert (audit.outcome, audit.code, audit.command) == ("done", "ok", "send_state")
    assert (audit.key_id, audit.nonce) == (signer().key_id, answer.nonce)
    assert (answer.audit.seq, answer.audit.record_id) == (audit.seq, audit.record_id)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"properties": ()}, "unsigned"),
        ({"retained": True}, "retained"),
        ({"payload": b"{}"}, "bad_signature"),
        ({"payload": b"x" * 5000}, "oversize"),
        ({"response_topic": "elsewhere"}, "response_topic"),
    ],
)
def test_what_was_refused_is_on_record_before_it_is_answered(
    device: Device, how: dict[str, Any], code: str
) -> None:
    message = device.take(replace(device.command("set_profile", profile="slow"), **how))
    assert message is not None
    answer, [audit] = decode_answer(message.payload), device.audits()
    assert (answer.outcome, answer.code, answer.nonce) == ("refused", code, None)
    assert (audit.outcome, audit.code, audit.command, audit.nonce) == ("refused", code, "set_profile", None)
    assert message.topic == device.topics.responses
    assert device.told == []


def test_a_replay_is_refused_and_on_record_with_whose_it_was(device: Device) -> None:
    device.take(device.command("send_log"))
    message = device.take(device.command("send_log"))
    assert message is not None
    assert decode_answer(message.payload).code == "replayed"
    assert [audit.code for audit in device.audits()] == ["ok", "replayed"]
    assert device.audits()[1].key_id == signer().key_id


def test_words_of_a_stranger_are_not_repeated(device: Device) -> None:
    stranger = replace(
        device.command(),
        topic=device.topics.command("anna_miller"),
        correlation=b"x" * (MOST_CORRELATION_BYTES + 1),
    )
    message = device.take(stranger)
    assert message is not None
    assert message.correlation is None
    assert b"anna" not in message.payload
    assert device.audits()[0].command is None


def test_the_log_is_the_uplinks_last_lines(device: Device) -> None:
    for count in range(5):
        device.said.add("2026-01-01T00:00:00.000Z", f"line {count}")
    answer = device.asked("send_log", lines=2)
    assert [line["text"] for line in answer.result["lines"]] == ["line 3", "line 4"]


def test_each_number_that_was_asked_for_is_in_one_list_of_the_answer(device: Device) -> None:
    device.outbox.settle([(1, 4), (9, 10)], [((5, 5), "no")])
    with open_db(device.journal.path) as db:
        db.execute("DELETE FROM journal WHERE seq IN (3, 4)")
        db.execute("DELETE FROM outbox WHERE seq = 8")
        db.execute("DELETE FROM journal WHERE seq = 8")
        db.execute("INSERT INTO lost (first, last, kind, reason) VALUES (8, 8, 'mask', 'quota')")
    before = holdings.stats(device.outbox).last_seq
    answer = device.asked("resend", epoch=device.outbox.epoch, ranges=[[2, 5], [7, 50]])
    assert (before, device.anew) == (10, 1)
    assert answer.result == {
        "resent": [[2, 2], [9, 10]],
        "waiting": [[7, 7]],
        "dead": [[5, 5]],
        "lost": [[8, 8]],
        "gone": [[3, 4]],
        "never": [[11, 50]],
    }
    assert answer.text == (
        "3 records are sent again, 1 still wait, 1 are dead letters, 1 were lost and told in a gap,"
        " 2 were delivered and are gone, 40 were never given"
    )
    waiting = {row.seq for row in holdings.records(device.outbox, "pending")}
    assert {2, 6, 7, 9, 10, answer.audit.seq} <= waiting


def test_what_a_gap_record_tells_of_is_lost_whoever_asks_later(device: Device) -> None:
    with open_db(device.journal.path) as db:
        db.execute("DELETE FROM outbox WHERE seq IN (3, 4)")
        db.execute("DELETE FROM journal WHERE seq IN (3, 4)")
        db.execute("INSERT INTO lost (first, last, kind, reason) VALUES (3, 4, 'mask', 'quota')")
    device.journal.tell_losses()
    answer = device.asked("resend", epoch=device.outbox.epoch, ranges=[[1, 5]])
    assert answer.result["lost"] == [[3, 4]]
    assert not answer.result["gone"]


def test_dead_letters_are_named_and_stay_put_aside(device: Device) -> None:
    device.outbox.settle([(1, 4), (6, 10)], [((5, 5), "no")])
    answer = device.asked("resend", epoch=device.outbox.epoch, ranges=[[4, 6]])
    assert (answer.result["resent"], answer.result["dead"]) == ([[4, 4], [6, 6]], [[5, 5]])
    assert [row.seq for row in holdings.records(device.outbox, "dead")] == [5]


def test_records_of_another_epoch_cannot_be_sent_again(device: Device) -> None:
    answer = device.asked("resend", epoch="ffffffffffff", ranges=[[1, 5]])
    assert (answer.outcome, answer.code) == ("failed", "other_epoch")
    assert device.audits()[0].outcome == "failed"
    assert device.told == []


def test_nothing_is_changed_in_a_database_that_took_the_place_of_the_one_that_was_read(
    device: Device,
) -> None:
    device.journal.path.rename(device.journal.path.with_name("elsewhere"))
    report(device.journal, 5)  # in a new one, of another epoch
    answer = device.asked("resend", epoch=device.outbox.epoch, ranges=[[1, 5]])
    assert (answer.outcome, answer.code) == ("failed", "other_epoch")
    assert answer.audit.epoch == device.journal.epoch != device.outbox.epoch


def test_a_profile_outlives_a_restart(device: Device) -> None:
    assert device.asked("set_profile", profile="slow").result == {"profile": "slow"}
    with open_db(device.journal.path) as db:
        assert read_meta(db, device.journal.path)[PROFILE_KEY] == "slow"
    assert device.told == ["slow"]


def test_an_alert_is_acknowledged_by_its_id(device: Device) -> None:
    assert device.asked("acknowledge_alert", alert=ALERT.id).outcome == "done"
    assert device.told == [ALERT.id]
    answer = device.asked("acknowledge_alert", nonce=2, alert="none")
    assert (answer.outcome, answer.code) == ("failed", "unknown_alert")
    assert ALERT.id in answer.text


def test_without_a_record_there_is_neither_deed_nor_answer(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.outbox.settle([(1, 10)], [])

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "_write", full)
    assert device.take(device.command("resend", epoch=device.outbox.epoch, ranges=[[1, 5]])) is None
    assert device.take(device.command("set_profile", nonce=2, profile="slow")) is None
    assert device.take(replace(device.command(nonce=3), properties=())) is None
    monkeypatch.undo()
    assert device.told == [] and device.audits() == [] and device.outbox.pending_count() == 0
    assert sum("cannot be put on record" in line for line in device.notices) == 3
    again = device.take(device.command("set_profile", nonce=2, profile="slow"))
    assert again is not None
    assert decode_answer(again.payload).code == "replayed"  # at most once, whatever was said before


def test_a_change_and_its_record_are_one_transaction(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    change, broken = (
        DeviceRecords(device.outbox).remember(PROFILE_KEY, "slow")[0],
        ("INSERT INTO nowhere VALUES (1)", ()),
    )
    monkeypatch.setattr(DeviceRecords, "remember", lambda *_: (change, broken))
    assert device.take(device.command("set_profile", profile="slow")) is None
    assert device.audits() == [] and device.told == []
    with open_db(device.journal.path) as db:
        assert PROFILE_KEY not in read_meta(db, device.journal.path)


def test_a_flood_is_counted_and_not_written_down(device: Device) -> None:
    junk = replace(device.command(), properties=())
    answers = [device.take(junk) for _ in range(500)]
    answered = sum(answer is not None for answer in answers)
    assert answered == len(device.audits()) == 10
    device.commander.tick()
    assert len(device.audits()) == 10
    device.later_s = 30
    device.commander.tick()
    assert (device.audits()[-1].code, device.audits()[-1].times) == ("flood", 490)
    assert device.asked("send_log").outcome == "done"  # junk has not kept the operator out


def test_one_key_cannot_flood_either(device: Device) -> None:
    answers = [device.take(device.command("send_log", nonce=count)) for count in range(60)]
    assert sum(answer is not None for answer in answers) == 20
    assert len(device.audits()) == 20


def test_an_hour_begins_a_new_session_that_the_state_must_say(device: Device) -> None:
    device.commander.tick()
    before = device.session
    assert device.session == before
    device.later_s = 3601
    device.commander.tick()
    assert device.session != before


def test_the_journal_is_not_kept_open_when_no_command_comes(device: Device) -> None:
    """An open one would keep `run` from setting a damaged database aside."""
    device.asked("send_log")
    assert not _alone(device)
    device.later_s = 11
    device.commander.tick()
    assert _alone(device)


def _alone(device: Device) -> bool:
    """Whether nobody but this test's own journal holds the directory."""
    lock = DirectoryLock(device.journal.state_dir)
    device.journal._database._lock.close()
    try:
        return lock.try_alone()
    finally:
        lock.close()
        device.journal._database._lock = DirectoryLock(device.journal.state_dir)


def test_an_answer_that_is_too_large_says_so_instead(device: Device) -> None:
    for count in range(100):
        device.said.add("", f"{count} {'x' * 150}")
    message = device.commander.take(device.command("send_log"), lambda message: len(message.payload) < 2000)
    assert message is not None
    answer = decode_answer(message.payload)
    assert (answer.outcome, answer.result) == ("done", {})
    assert "ask for less" in answer.text
