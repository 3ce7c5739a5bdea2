"""The four processes of the wire as real processes, to be killed at any moment; and what reached the database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_UPLINK = """
import sys
from pathlib import Path
from edge_runtime.commands.stopping import stop_on_signals
from edge_runtime.sync.flight import Pace
from edge_runtime.sync.link import Broker
from edge_runtime.sync.uplink import Uplink, UplinkSettings
pace = Pace(receipt_timeout_s=1.0, probe_s=0.2)  # else each test waits its five seconds
with stop_on_signals() as stop:
    Uplink(Path(sys.argv[1]), UplinkSettings(Broker.parse(sys.argv[2]), pace=pace), stop).run()
"""
_RECEIVE = "import sys; from edge_runtime.commands import receive; "


def start_uplink(state: Path, url: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The uplink as the command runs it, but sooner out of patience; `env` beside this process's own."""
    program = [sys.executable, "-c", _UPLINK, str(state), url]
    return subprocess.Popen(program, env={**os.environ, **(env or {})})


def start_receive(url: str, store: Path) -> subprocess.Popen[bytes]:
    program = _RECEIVE + "receive.run(sys.argv[1], sys.argv[2])"
    return subprocess.Popen([sys.executable, "-c", program, url, f"sqlite:///{store}"])


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9, and the body is taken away."""
    process.kill()
    process.wait(10)


def stored(store: Path) -> list[str]:
    """The finding ids in the cloud's database, doubles included if there were any."""
    if not store.exists():
        return []
    try:
        with closing(sqlite3.connect(store, timeout=5)) as db:
            return [row[0] for row in db.execute("SELECT finding_id FROM findings")]
    except sqlite3.OperationalError:  # not made yet
        return []


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Waits for `condition`, fails when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
