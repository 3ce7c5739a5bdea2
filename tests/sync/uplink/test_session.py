"""One connection, where what comes in by one way and by another meets."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.sync import holdings
from edge_runtime.sync.commands.command import SIGNATURE_PROPERTY, encode_command
from edge_runtime.sync.commands.signing import Signer, new_key
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.wire import Receipt, encode_receipt
from tests.faults.processes import until
from tests.parties.peer import Peer
from tests.sync.commands.signed import a_command
from tests.sync.running import findings, running

FAR = datetime(2999, 1, 1, tzinfo=timezone.utc)


def said(bodies: list[bytes], pattern: bytes) -> bytes | None:
    """The last word of this form."""
    found = re.findall(pattern, b"\n".join(bodies))
    return found[-1] if found else None


def test_a_receipt_that_comes_with_a_resend_does_not_take_away_what_is_sent_again(
    state: Path, tmp_path: Path
) -> None:
    public, _ = new_key(tmp_path / "operator.pem")
    signer = Signer.load(tmp_path / "operator.pem")
    with Outbox(state) as outbox:
        topics, epoch = DeviceTopics("local", "site", outbox.device_id), outbox.epoch
    patient = Pace(receipt_timeout_s=60)
    with Peer() as peer, running(state, peer.url, command_keys=public, pace=patient):
        until(lambda: findings(peer) == 10 and said(peer.others, rb'"session":"(\w+)"'))
        sender = said(peer.bodies, rb"sender\x00.(\w{8})")
        session = said(peer.others, rb'"session":"(\w+)"')
        assert sender and session
        receipt = Receipt(epoch=epoch, status="stored", ranges=((1, 10),), sender=sender.decode())
        command = encode_command(
            a_command(
                session.decode(),
                command="resend",
                arguments={"epoch": epoch, "ranges": [[3, 5]]},
                expires_at=FAR,
                key_id=signer.key_id,
            )
        )
        topic = topics.command("resend")
        signature = signer.sign(topic, command)
        peer.say(
            Message(topics.receipts, encode_receipt(receipt)),
            Message(topic, command, properties=((SIGNATURE_PROPERTY, signature),)),
        )
        until(lambda: said(peer.others, rb'"outcome":"(\w+)"'))
        assert said(peer.others, rb'"resent":(.*?\])[,}]') == b"[[3,5]]"
        until(lambda: findings(peer) == 14)  # those, and the audit
    with Outbox(state) as outbox:
        waiting = [row.seq for row in holdings.records(outbox, "pending") if row.kind == "finding"]
    assert waiting == [3, 4, 5]
