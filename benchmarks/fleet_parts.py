"""What the benchmarks of the cloud side share: real findings to send, and a real broker to send them through."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edge_runtime.clock import uuid7
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.wire import CONTENT_TYPE, outgoing
from edge_runtime.types import SCHEMA_VERSION
from tests.brokers import MOSQUITTO, free_port

# mosquitto keeps 1000 messages for a subscriber that is busy, and lets a client have 20 unacknowledged
_CONFIG = """listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_connections -1
max_queued_messages {queued}
max_inflight_messages 1000
log_type error
user root
"""


@contextmanager
def broker(folder: Path, queued: int = 0) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A mosquitto that writes no log, and its port; it keeps `queued` messages for a busy subscriber, 0: all."""
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(_CONFIG.format(port=port, queued=queued))
    assert MOSQUITTO is not None, "mosquitto is not installed (apt install mosquitto)"
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=0.2)):
                break
        yield port, process
    finally:
        process.terminate()
        process.wait(20)


def files_allowed() -> int:
    """As many open files as this user may have, for this process and those it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def real_findings(count: int = 50) -> list[dict[str, Any]]:
    """Findings of a phantom run of this installation, as they leave a device."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"phantom:fetal_head?frames={count}"
        options = ["--state", f"{folder}/state", "--out", f"{folder}/out.jsonl", "--json"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "edge_runtime",
                "run",
                "--model",
                "fetal_head",
                "--source",
                source,
                *options,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        lines = Path(folder, "out.jsonl").read_bytes().splitlines()
    found = [line for line in lines if b"finding_id" in line]
    return [json.loads(outgoing("finding", line)) for line in found]


class Device:
    """What one simulated device says: its topics, its numbers, its findings."""

    def __init__(self, number: int, findings: list[dict[str, Any]]) -> None:
        self.id = f"dev-{number:06d}"
        self.epoch = f"{number:012x}"
        self.topics = DeviceTopics("bench", f"site-{number % 100}", self.id)
        self.topic = self.topics.event("finding")
        self.seq = 0
        self._findings = findings

    def next_finding(self, created_at: str) -> tuple[int, bytes]:
        """Its number, and the payload."""
        self.seq += 1
        body = self._findings[self.seq % len(self._findings)] | {
            "finding_id": uuid7(),
            "device_id": self.id,
            "epoch": self.epoch,
            "seq": self.seq,
            "created_at": created_at,
        }
        return self.seq, msgspec.json.encode(body)

    def properties(self, seq: int) -> dict[str, str]:
        return {"schema": SCHEMA_VERSION, "epoch": self.epoch, "seq": str(seq)}

    content_type = CONTENT_TYPE["finding"]
