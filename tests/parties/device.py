"""The parties of the wire for tests: a device with records, its uplink, a receiver; all of them the product's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings
from edge_runtime.cloud.operator import Operator
from edge_runtime.cloud.store import Store, open_store
from edge_runtime.records import Audit
from edge_runtime.sync import holdings
from edge_runtime.sync.commands.command import Answer
from edge_runtime.sync.commands.signing import Signer, new_key
from edge_runtime.sync.holdings import OutboxStats
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from edge_runtime.types import Record, encode
from tests.builders import event, finding, telemetry
from tests.parties.threads import on_a_thread
from tests.patience import within

IMPATIENT = Pace(window=100, receipt_timeout_s=0.4, probe_s=0.1, probe_max_s=0.4)


@dataclass
class Device:
    """A state directory, and the key that its uplink trusts."""

    folder: Path

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.key = self.folder / "operator.pem"
        self.public, _ = new_key(self.key)
        with self.journal() as journal:
            self.topics = DeviceTopics("local", "site", journal.device_id)
            self.epoch = journal.epoch
        (self.state / "config.toml").write_text("[journal]\nreserve_mb = 0\n")

    def journal(self, **over: Any) -> Journal:
        return Journal.open(self.state, **{"reserve_bytes": 0, **over})

    def examine(self, findings: int = 3, **over: Any) -> None:
        """One exam, as a run records it: its start, findings with their masks, what the run did."""
        with self.journal(**over) as journal, journal.batch() as batch:
            records: list[Record] = [event(batch.stamp())]
            batch.add(records[0], encode(records[0]))
            for _ in range(findings):
                add_finding(batch, finding(batch.stamp()))
            done = telemetry(batch.stamp(), findings=findings)
            batch.add(done, encode(done))

    def add(self, make: Any, **over: Any) -> Any:
        """One record more, made by one of `tests.builders`."""
        with self.journal() as journal, journal.batch() as batch:
            made = make(batch.stamp(), **over)
            batch.add(made, encode(made))
        return made

    def stats(self) -> OutboxStats:
        with Outbox(self.state, reading=True) as outbox:
            return holdings.stats(outbox)

    def audits(self) -> list[Audit]:
        """What became of each command, by the device's own record."""
        with Outbox(self.state, reading=True) as outbox:
            rows = [row for row in holdings.records(outbox, "all") if row.kind == "audit"]
        return [msgspec.json.decode(row.body, type=Audit) for row in rows]

    @contextmanager
    def uplink(self, url: str, **over: Any) -> Iterator[list[str]]:
        """Its uplink on a thread; the lines it says."""
        said: list[str] = []
        stop = threading.Event()
        settings = UplinkSettings(
            Broker.parse(url),
            **{
                "pace": IMPATIENT,
                "backoff_s": 0.1,
                "backoff_max_s": 0.3,
                "refused_s": 0.1,
                "command_keys": self.public,
                **over,
            },
        )
        with on_a_thread(Uplink(self.state, settings, stop, on_notice=said.append).run, stop):
            yield said

    def ask(self, url: str, name: str, **arguments: Any) -> Answer:
        """What it answers to a signed command."""
        operator = Operator(Broker.parse(url), Signer.load(self.key), timeout_s=within(30))
        answer = operator.ask(self.topics, name, arguments)
        assert answer is not None
        return answer


@contextmanager
def receiver(url: str, store: Store | Path) -> Iterator[Consumer]:
    """The consumer on a thread, into an SQLite file or another store."""
    stop = threading.Event()
    with closing(open_store(f"sqlite:///{store}") if isinstance(store, Path) else store) as opened:
        settings = ConsumerSettings(Broker.parse(url), f"receive-{id(stop):x}", backoff_max_s=0.2)
        consumer = Consumer(settings, opened, stop)
        with on_a_thread(consumer.run, stop):
            yield consumer
