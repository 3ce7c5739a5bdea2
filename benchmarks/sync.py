"""What reliability costs the uplink, against a bare paho loop on the same broker in the same run; and the slow line.

    python benchmarks/sync.py             two minutes; needs mosquitto
    python benchmarks/sync.py --only ratios --rounds 9

bare      paho alone: the same payloads from memory, QoS 1, as many in flight as the broker takes, nothing kept
drain     a full outbox is emptied, PUBACK counting as delivered (`--ack puback`)
live      another process commits findings, one or ten in a transaction, each synced to the disk, while they are sent
journal   the same commits with nobody sending: the bound that this disk sets (TMPDIR=/dev/shm: no disk at all)
at rest   the share of one core at 25 findings a second, with receipts: journal and uplink together
slow      a day of 200 findings over 9.6 kbit/s with receipts, and how many bytes a finding and its mask take

Ratios are of medians over interleaved rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from edge_runtime import clock
from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.link.link import Broker
from edge_runtime.sync.link.publishing import publish_packet
from edge_runtime.sync.masks import add_finding
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.topics import DeviceTopics
from edge_runtime.sync.uplink.parcels import parcel
from edge_runtime.sync.uplink.uplink import Uplink, UplinkSettings
from edge_runtime.sync.wire import outgoing
from edge_runtime.types import Finding
from tests.brokers import free_port

RESULTS = Path(__file__).parent / "results" / "sync.json"
PORT = free_port()  # nobody else's broker is measured
WINDOW = 20  # mosquitto's receive maximum, where nobody says otherwise


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=6000, help="of each round")
    parser.add_argument("--only", choices=["ratios", "rest", "slow"])
    parser.add_argument("--produce", nargs=4, metavar=("STATE", "ROWS", "A_BATCH", "A_SECOND"))
    args = parser.parse_args()
    if args.produce:
        state, rows, a_batch, a_second = args.produce
        produce(Path(state), int(rows), int(a_batch), float(a_second))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)):
        one_finding(Path(folder))
        if args.only in (None, "ratios"):
            found["ratios"] = ratios(Path(folder), args.rounds, args.rows)
        if args.only in (None, "rest"):
            found["at_rest"] = at_rest(Path(folder))
        if args.only in (None, "slow"):
            found["slow"] = slow(Path(folder))
    print(json.dumps(found, indent=1))
    if args.only is None:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


# ------------------------------------------------------------ what is sent


@contextmanager
def broker(folder: Path) -> Iterator[None]:
    """mosquitto, and somebody who listens: without one, a PUBACK says that nobody does, and that is no delivery."""
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {PORT} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type none\n")
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL) as running:
        time.sleep(0.5)  # until it listens: the subscriber below is refused where it does not
        try:
            with deaf_subscriber():
                yield
        finally:
            running.terminate()


@contextmanager
def deaf_subscriber() -> Iterator[None]:
    """Takes every message at QoS 0 and reads none: a socket that is emptied."""
    name = b"deaf"
    hello = bytes([0, 4]) + b"MQTT" + bytes([5, 2, 0, 0, 0, 0, len(name)]) + name
    topic = b"er/v1/+/+/+/evt/#"
    wish = bytes([0, 1, 0, 0, len(topic)]) + topic + bytes([0])
    with socket.create_connection(("127.0.0.1", PORT)) as line:
        line.sendall(bytes([0x10, len(hello)]) + hello + bytes([0x82, len(wish)]) + wish)
        thread = threading.Thread(target=lambda: all(iter(lambda: line.recv(2**20), b"")), daemon=True)
        thread.start()
        time.sleep(0.3)  # its SUBSCRIBE is to be there before the first record: nobody reads the answer
        yield
        line.shutdown(socket.SHUT_RDWR)
        thread.join()


def one_finding(folder: Path) -> Path:
    """A finding of a real run with its mask, kept for `produce`."""
    run = ["run", "--model", "fetal_head", "--source", "phantom:fetal_head?frames=2", "--state"]
    out = folder / "finding.jsonl"
    command = [sys.executable, "-m", "edge_runtime", *run, str(folder / "run"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def produce(state: Path, rows: int, a_batch: int, a_second: float) -> None:
    """Commits findings without their masks; with `a_second` above 0, no faster than that."""
    found = msgspec.json.decode((state.parent / "finding.jsonl").read_bytes().splitlines()[0], type=Finding)
    bare = tuple(msgspec.structs.replace(mask, data=None) for mask in found.masks)
    found = msgspec.structs.replace(found, masks=bare)
    with Journal.open(state, reserve_bytes=0) as journal:
        began = clock.monotonic_ns()
        for first in range(0, rows, a_batch):
            with journal.batch() as batch:
                for _ in range(a_batch):
                    add(batch, found)
            if a_second:
                due = began + int((first + a_batch) / a_second * 1e9)
                time.sleep(max(0, (due - clock.monotonic_ns()) / 1e9))


def add(batch: Any, found: Finding) -> None:
    stamp = batch.stamp()
    add_finding(
        batch,
        msgspec.structs.replace(
            found,
            finding_id=clock.uuid7(),
            device_id=stamp.device_id,
            epoch=stamp.epoch,
            seq=stamp.seq,
            created_at=stamp.created_at,
            monotonic_ns=stamp.monotonic_ns,
        ),
    )


def producing(state: Path, rows: int, a_batch: int, a_second: float = 0) -> list[str]:
    return [sys.executable, __file__, "--produce", str(state), str(rows), str(a_batch), str(a_second)]


# ------------------------------------------------------------ against bare paho


def ratios(folder: Path, rounds: int, rows: int) -> dict[str, Any]:
    names = ("bare", "drain", "live_1", "live_10", "journal_1", "journal_10")
    spent: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        spent["bare"].append(bare(folder, rows))
        spent["drain"].append(drain(folder / f"drain{number}", rows))
        spent["live_10"].append(live(folder / f"live10-{number}", rows, 10))
        spent["live_1"].append(live(folder / f"live1-{number}", rows // 2, 1))
        spent["journal_1"].append(journal_alone(folder / f"alone1-{number}", rows // 4, 1))
        spent["journal_10"].append(journal_alone(folder / f"alone10-{number}", rows, 10))
        print({name: round(rates[-1]) for name, rates in spent.items()}, file=sys.stderr, flush=True)
    rate = {name: median(rates) for name, rates in spent.items()}
    return {
        "rounds": rounds,
        "per_second": {name: round(value) for name, value in rate.items()},
        "of_bare": {name: round(value / rate["bare"], 3) for name, value in rate.items() if name != "bare"},
    }


def bare(folder: Path, rows: int) -> float:
    """Messages a second of paho alone."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    line = (folder / "finding.jsonl").read_bytes().splitlines()[0]
    payload = outgoing("finding", line)
    acked = 0

    def on_publish(*_: object) -> None:
        nonlocal acked
        acked += 1

    client = Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(0)
    client.on_publish = on_publish
    client.connect("127.0.0.1", PORT)
    while not client.is_connected():
        client.loop(0.05)
    topic = "er/v1/local/local/dev-00000000/evt/finding"
    began, sent = time.perf_counter(), 0
    while acked < rows:
        while sent < rows and sent - acked < WINDOW:
            client.publish(topic, payload, qos=1)
            sent += 1
        client.loop(0.1)
    spent = time.perf_counter() - began
    client.disconnect()
    return rows / spent


def drain(state: Path, rows: int) -> float:
    subprocess.run(producing(state, rows, 500), check=True)
    settings = UplinkSettings(Broker.parse(f"mqtt://127.0.0.1:{PORT}"), ack="puback")
    began = time.perf_counter()
    report = Uplink(state, settings, threading.Event()).run(once=True, timeout_s=300)
    spent = time.perf_counter() - began
    assert report.delivered == rows, report
    return rows / spent


def journal_alone(state: Path, rows: int, a_batch: int) -> float:
    """Commits a second with no uplink beside them: what `live` cannot be faster than, and this disk's doing."""
    began = time.perf_counter()
    produce(state, rows, a_batch, 0)
    return rows / (time.perf_counter() - began)


def live(state: Path, rows: int, a_batch: int) -> float:
    """From the first commit until the last finding is out of the outbox."""
    Journal.open(state, reserve_bytes=0).close()
    stop = threading.Event()
    settings = UplinkSettings(Broker.parse(f"mqtt://127.0.0.1:{PORT}"), ack="puback")
    uplink = Uplink(state, settings, stop)
    thread = threading.Thread(target=uplink.run)
    thread.start()
    with subprocess.Popen(producing(state, rows, a_batch)) as producer:
        with Outbox(state) as outbox:
            while not holdings.stats(outbox).last_seq:  # the start of Python is not measured
                time.sleep(0.005)
        began = time.perf_counter()
        while uplink.report.delivered < rows:
            time.sleep(0.005)  # looks too seldom to take time from what is measured
        spent = time.perf_counter() - began
        assert producer.wait() == 0
    stop.set()
    thread.join()
    return rows / spent


# ------------------------------------------------------------ at rest, and on a slow line


def at_rest(folder: Path, seconds: float = 30.0, a_second: float = 25.0) -> dict[str, float]:
    """CPU of journal and uplink, each a process of its own, in percent of one core, start-up not counted."""
    state = folder / "rest"
    Journal.open(state, reserve_bytes=0).close()
    command = [sys.executable, "-m", "edge_runtime"]
    url = f"mqtt://127.0.0.1:{PORT}"
    with (
        subprocess.Popen(
            [*command, "receive", "--broker", url, "--store", f"sqlite:///{folder}/rest.db"]
        ) as cloud,
        subprocess.Popen([*command, "uplink", "--state", state, "--broker", url]) as uplink,
        subprocess.Popen(producing(state, int((seconds + 6) * a_second), 1, a_second)) as producer,
    ):
        time.sleep(4)  # three Pythons start: that is not rest
        before = cpu_s(uplink.pid), cpu_s(producer.pid)
        time.sleep(seconds)
        after = cpu_s(uplink.pid), cpu_s(producer.pid)
        producer.wait()
        uplink.terminate()
        cloud.terminate()
    up, journal = ((b - a) / seconds * 100 for a, b in zip(before, after, strict=True))
    return {
        "uplink_percent": round(up, 2),
        "journal_percent": round(journal, 2),
        "sum": round(up + journal, 2),
    }


def slow(folder: Path, rows: int = 200, bytes_s: int = 1200) -> dict[str, Any]:
    """A day's findings from the start of the uplink to the last receipt, through a line of 9.6 kbit/s each way."""
    line = (folder / "finding.jsonl").read_bytes().splitlines()[0]
    state = folder / "slow"
    subprocess.run(producing(state, rows, 50), check=True)
    command = [sys.executable, "-m", "edge_runtime"]
    store = ["receive", "--broker", f"mqtt://127.0.0.1:{PORT}", "--store", f"sqlite:///{folder}/slow.db"]
    with subprocess.Popen([*command, *store]) as cloud, narrow(bytes_s) as (port, passed):
        time.sleep(2)  # the receiver starts
        settings = UplinkSettings(Broker.parse(f"mqtt://127.0.0.1:{port}"), link="slow")
        began = time.perf_counter()
        report = Uplink(state, settings, threading.Event()).run(once=True, timeout_s=600)
        spent = time.perf_counter() - began
        cloud.terminate()
    return {
        "bytes": on_the_wire(folder, line),
        "rows": rows,
        "seconds": round(spent, 1),
        "sent": report.sent,
        "bytes_up": passed["up"],
        "bytes_down": passed["down"],
    }


def on_the_wire(folder: Path, line: bytes) -> dict[str, int]:
    """Of one finding and of its mask: the payload, and all of its PUBLISH."""
    with Journal.open(folder / "one", reserve_bytes=0) as journal, journal.batch() as batch:
        add(batch, msgspec.json.decode(line, type=Finding))
    sizes: dict[str, int] = {}
    with Outbox(folder / "one") as outbox:
        topics = DeviceTopics("local", "site", outbox.device_id)
        for row in holdings.records(outbox):
            message = parcel(row, topics, outbox.epoch, "ab12cd34", short=True, packed=True)
            sizes[row.kind] = len(message.payload)
            sizes[f"{row.kind}_publish"] = len(publish_packet(message, alias=1, known=True))
    return sizes


@contextmanager
def narrow(bytes_s: int) -> Iterator[tuple[int, dict[str, int]]]:
    """A line that passes so many bytes a second each way and holds little."""
    passed = {"up": 0, "down": 0}
    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def carry(source: socket.socket, target: socket.socket, way: str) -> None:
        piece, due = bytes_s // 20, time.perf_counter()
        while data := source.recv(piece):
            due = max(due, time.perf_counter()) + len(data) / bytes_s
            time.sleep(max(0.0, due - time.perf_counter()))
            passed[way] += len(data)
            target.sendall(data)
        with contextlib.suppress(OSError):  # closed already
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        line, _ = server.accept()
        with line, socket.create_connection(("127.0.0.1", PORT)) as onward:
            back = threading.Thread(target=carry, args=(onward, line, "down"))
            back.start()
            carry(line, onward, "up")
            back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1], passed
    thread.join()
    server.close()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
