"""Who may say what: the access list of docs/wire.md on a real broker, and what the ends do where it says no."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.config import Site
from edge_runtime.errors import UplinkError
from edge_runtime.sync.link.link import Message, Tls
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import RECEIPT_CONTENT_TYPE, Receipt, encode_receipt
from tests.brokers import Mosquitto, make_authority, sign
from tests.faults.ends import Setting, drain, listening, receiving, said_so, say, sending
from tests.faults.processes import stored, until
from tests.parties.documents import documented

pytestmark = [pytest.mark.broker]

NOT_AUTHORIZED = 0x87
SECRET = "hospital"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with that list, where `consumer` has a password and devices have none."""
    passwd = shutil.which("mosquitto_passwd")
    if passwd is None:
        pytest.skip("mosquitto_passwd is not installed")
    (tmp_path / "acl").write_text(documented("%c"))
    (tmp_path / "passwords").touch(mode=0o600)
    subprocess.run(
        [passwd, "-b", tmp_path / "passwords", "consumer", SECRET], check=True, capture_output=True
    )
    with Mosquitto(
        tmp_path, f"acl_file {tmp_path / 'acl'}", f"password_file {tmp_path / 'passwords'}"
    ) as broker:
        yield broker


def as_consumer(broker: Mosquitto, secret: str = SECRET) -> str:
    return broker.url.replace("mqtt://", f"mqtt://consumer:{secret}@")


def topics(device: str) -> DeviceTopics:
    return DeviceTopics(Site().tenant, Site().site, device)


def forged(setting: Setting, sender: str | None = None, last: int = 50) -> Message:
    """A receipt for everything that a device has, made by somebody who knows its epoch."""
    stats = outbox.stats(setting.state)
    receipt = Receipt(epoch=stats.epoch, sender=sender, status="stored", ranges=((1, last),))
    return Message(topics(stats.device_id).receipts, encode_receipt(receipt), RECEIPT_CONTENT_TYPE)


def test_under_the_documented_access_list_findings_are_delivered_and_receipted(
    tmp_path: Path, guarded: Mosquitto
) -> None:
    setting = Setting(tmp_path, 50)
    with receiving(as_consumer(guarded), setting.store):
        drain(setting, guarded.url)
        setting.check()


def test_the_documented_access_list_stops_forged_receipts(tmp_path: Path, guarded: Mosquitto) -> None:
    setting = Setting(tmp_path, 50)
    with sending(setting.state, guarded.url) as said:
        until(lambda: said_so(said, "no consumer"))
        assert say(guarded.url, forged(setting), "dev-evil") == NOT_AUTHORIZED
        assert say(guarded.url, forged(setting), "consumer") == NOT_AUTHORIZED  # a name is not a user
        with pytest.raises(UplinkError, match="Not authorized"):
            say(as_consumer(guarded, "guessed"), forged(setting))
        assert outbox.stats(setting.state).pending == 50
        with receiving(as_consumer(guarded), setting.store):
            setting.check()


def overheard(broker: Mosquitto) -> str:
    """The word that a device's receipts must say back, by somebody who may listen to what it sends."""
    with listening(broker.url, "er/v1/+/+/+/evt/#", "dev-nosy") as heard:
        until(lambda: bool(heard))
        return dict(heard[0].properties)["sender"]


def test_without_an_access_list_a_forged_receipt_does_harm(tmp_path: Path, broker: Mosquitto) -> None:
    """The test above would notice: the same message is believed where anybody may listen and publish."""
    setting = Setting(tmp_path, 50)
    with sending(setting.state, broker.url) as said:
        until(lambda: said_so(said, "no consumer"))
        assert say(broker.url, forged(setting, overheard(broker)), "dev-evil") < NOT_AUTHORIZED
        until(lambda: outbox.stats(setting.state).pending < 50)


def test_a_receipt_for_rows_that_were_never_sent_moves_none_of_them(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """A consumer that is wrong, not forged: it says a range where it means single rows."""
    setting = Setting(tmp_path, 200)
    with sending(setting.state, broker.url) as said:
        until(lambda: said_so(said, "no consumer"))
        assert say(broker.url, forged(setting, overheard(broker), last=2**62)) == 0
        until(lambda: outbox.stats(setting.state).pending < 200)
    assert outbox.stats(setting.state).pending > 100


def test_a_receipt_without_the_senders_own_word_moves_no_row(tmp_path: Path, broker: Mosquitto) -> None:
    setting = Setting(tmp_path, 50)
    with sending(setting.state, broker.url) as said:
        until(lambda: said_so(said, "no consumer"))
        for word in (None, "", "0badcafe"):
            assert say(broker.url, forged(setting, word)) == 0
        assert (
            say(broker.url, forged(setting, overheard(broker), last=1)) == 0
        )  # and one that counts behind them
        until(lambda: outbox.stats(setting.state).pending < 50)
        assert outbox.stats(setting.state).pending == 49


@pytest.mark.slow
def test_a_device_hears_nothing_of_another_under_the_documented_access_list(
    tmp_path: Path, guarded: Mosquitto
) -> None:
    setting = Setting(tmp_path, 10)
    with (
        listening(guarded.url, "er/v1/#", "dev-nosy") as heard,
        receiving(as_consumer(guarded), setting.store),
    ):
        drain(setting, guarded.url)
        setting.check()
    assert heard == []


def test_with_certificates_nobody_takes_another_devices_name(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 20)
    device = outbox.stats(setting.state).device_id
    make_authority(tmp_path)
    for name, subject in (
        ("server", "localhost"),
        ("consumer", "consumer"),
        ("device", device),
        ("evil", "dev-evil"),
    ):
        sign(tmp_path, name, subject)
    (tmp_path / "acl").write_text(documented("%u"))
    files = {"cafile": "ca.pem", "certfile": "server.pem", "keyfile": "server.key", "acl_file": "acl"}
    lines = [f"{option} {tmp_path / name}" for option, name in files.items()]
    lines += ["require_certificate true", "use_identity_as_username true"]

    def tls(name: str) -> Tls:
        return Tls(tmp_path / "ca.pem", tmp_path / f"{name}.pem", tmp_path / f"{name}.key")

    with Mosquitto(tmp_path, *lines, allow_anonymous=False, scheme="mqtts") as broker:
        assert say(broker.url, forged(setting), device, tls("evil")) == NOT_AUTHORIZED
        finding = Message(topics(device).event("finding"), b"{}")
        assert say(broker.url, finding, device, tls("evil")) == NOT_AUTHORIZED
        with receiving(broker.url, setting.store, tls=tls("consumer")):
            drain(setting, broker.url, tls=tls("device"))
            setting.check()


def test_a_broker_whose_access_list_denies_findings_is_one_line_and_keeps_every_row(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 50)
    (tmp_path / "acl").write_text("topic read er/v1/+/+/+/rcpt\ntopic write er/v1/+/+/+/state\n")
    with Mosquitto(tmp_path, f"acl_file {tmp_path / 'acl'}") as broker:
        with pytest.raises(UplinkError, match=r"rows remain .*Not authorized") as caught:
            drain(setting, broker.url, timeout_s=0.7)
        assert "\n" not in str(caught.value)
        stats = outbox.stats(setting.state)
        assert (
            stats.pending + stats.held == 50
        )  # one that was refused often enough makes room for the next to ask
        assert 0 < broker.log().count("Denied PUBLISH") < 50  # probed, not poured


@pytest.mark.slow
def test_a_broker_that_wants_a_password_says_so_in_one_line(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 5)
    with (
        Mosquitto(tmp_path, allow_anonymous=False) as broker,
        pytest.raises(UplinkError, match=r"5 rows remain .*refused \(Not authorized\)"),
    ):
        drain(setting, broker.url, timeout_s=0.7)


@pytest.mark.slow
def test_receipts_that_the_broker_does_not_let_through_are_made_good_by_sending_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 100)
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite er/v1/+/+/+/state\ntopic readwrite er/v1/+/+/+/evt/#\n")
    with Mosquitto(tmp_path, f"acl_file {acl}") as broker, receiving(broker.url, setting.store):
        with pytest.raises(UplinkError, match="100 rows remain"):
            drain(setting, broker.url, timeout_s=1.0)
        assert len(stored(setting.store)) > 0
        acl.write_text("topic readwrite #\n")
        broker.reload()
        assert drain(setting, broker.url).sent >= 100
        setting.check()
