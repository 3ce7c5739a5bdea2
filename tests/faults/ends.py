"""A device that has reported findings, a cloud's database, and both ends of the wire as threads of the test.

Threads start at once; processes, which can be killed, are in `processes`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.cloud.consumer import Consumer, ConsumerSettings
from edge_runtime.cloud.sqlite import SqliteStore
from edge_runtime.cloud.store import Store
from edge_runtime.commands import outbox
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Acked, Broker, Link, Message, Received, Settings, Tls
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.ledger import UplinkReport
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from tests.builders import report
from tests.faults.processes import stored, until
from tests.parties.threads import on_a_thread
from tests.patience import within

FAST = Pace(window=50, receipt_timeout_s=0.5, probe_s=0.1, probe_max_s=0.5)
HASTY = {"pace": FAST, "backoff_s": 0.05, "backoff_max_s": 0.3, "refused_s": 0.2, "certificates_s": 0.1}
_STOP_S = 1.5


class Setting:
    """A state directory with reported findings, and a cloud database beside it."""

    def __init__(self, folder: Path, findings: int) -> None:
        self.state, self.store = folder / "state", folder / "cloud.db"
        self.reported: list[str] = []
        self.report(findings)

    def report(self, count: int) -> None:
        with Journal.open(self.state, reserve_bytes=0) as journal:
            for first in range(0, count, 50):
                made = report(journal, min(50, count - first))
                self.reported += [one.finding_id for one in made]

    def check(self) -> None:
        """Every reported finding is in the cloud, each once, and the outbox knows."""
        until(lambda: outbox.stats(self.state).pending == 0)
        assert Counter(stored(self.store)) == Counter(self.reported)


def settings(url: str, **over: Any) -> UplinkSettings:
    """Of an uplink that is soon out of patience, else each test waits its five seconds."""
    return UplinkSettings(Broker.parse(url), **{**HASTY, **over})


def drain(setting: Setting, url: str, timeout_s: float = 20.0, **over: Any) -> UplinkReport:
    """Sends all there is and returns; UplinkError when something remains."""
    sender = Uplink(setting.state, settings(url, **over), threading.Event())
    return sender.run(once=True, timeout_s=within(timeout_s))


@contextmanager
def receiving(url: str, store: Path | Store, name: str = "consumer", **over: Any) -> Iterator[list[str]]:
    """A consumer that listens within `with`; the lines it says."""
    said: list[str] = []
    stop = threading.Event()
    with closing(SqliteStore(store) if isinstance(store, Path) else store) as opened:
        to = ConsumerSettings(Broker.parse(url), name, **{"backoff_max_s": 0.3, **over})
        consumer = Consumer(to, opened, stop, on_notice=said.append)
        with on_a_thread(consumer.run, stop, _STOP_S):
            until(lambda: consumer.report.connects > 0)
            yield said


@contextmanager
def sending(state: Path, url: str, **over: Any) -> Iterator[list[str]]:
    """An uplink that runs within `with`; the lines it says. It must stop within a second and a half."""
    said: list[str] = []
    stop = threading.Event()
    sender = Uplink(state, settings(url, **over), stop, on_notice=said.append)
    with on_a_thread(sender.run, stop, _STOP_S):
        yield said


def said_so(said: list[str], *words: str) -> bool:
    """Whether one line has all of these words."""
    return any(all(word in line for word in words) for line in said)


def say(url: str, message: Message, name: str = "somebody", tls: Tls | None = None) -> int:
    """Publishes one message as the client `name`; the broker's reason code for it."""
    link = Link.open(Settings(Broker.parse(url), name, tls or Tls()), threading.Event(), within(10))
    assert link is not None
    mid = link.publish(message)
    codes: list[int] = []
    while not codes:
        codes = [event.code for event in link.poll(0.1) if isinstance(event, Acked) and event.mid == mid]
    link.close()
    return codes[0]


@contextmanager
def listening(url: str, topic: str, name: str = "listener") -> Iterator[list[Received]]:
    """What arrives at `topic` within `with`, as it arrives."""
    heard: list[Received] = []
    stop = threading.Event()
    link = Link.open(Settings(Broker.parse(url), name, subscribe=topic), stop, within(10))
    assert link is not None

    def listen() -> None:
        while not stop.is_set():
            for event in link.poll(0.05):
                assert isinstance(event, Received)
                heard.append(event)
                link.ack(event)
        link.close()

    with on_a_thread(listen, stop, _STOP_S):
        yield heard
