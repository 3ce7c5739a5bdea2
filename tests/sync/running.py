"""An uplink on a thread against whatever listens, and what its link file says meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.link.link_file import LinkRecord, read_link
from edge_runtime.sync.link.link_state import LinkState
from edge_runtime.sync.uplink.flight import Pace
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from tests.parties.peer import Peer
from tests.parties.threads import on_a_thread

FAST = Pace(window=20, receipt_timeout_s=0.3, probe_s=0.1, probe_max_s=0.4)


@contextmanager
def running(state: Path, url: str, **over: Any) -> Iterator[list[str]]:
    """An uplink on a thread; the lines it says. It must stop within a second and a half."""
    said: list[str] = []
    stop = threading.Event()
    settings = UplinkSettings(
        Broker.parse(url), **{"pace": FAST, "backoff_s": 0.1, "backoff_max_s": 0.3, **over}
    )
    with on_a_thread(Uplink(state, settings, stop, on_notice=said.append).run, stop, end_s=1.5):
        yield said


def findings(peer: Peer) -> int:
    return sum("/evt/" in topic for topic, _ in peer.published)


def link_of(state: Path) -> LinkRecord:
    record = read_link(state)
    assert record is not None
    return record


def said_state(state: Path) -> LinkState | None:
    record = read_link(state)
    return None if record is None else record.state
