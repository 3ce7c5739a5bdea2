"""What the receiver's promises cost: its rate beside a bare paho consumer's, into the same PostgreSQL, in one run.

    python benchmarks/receive.py --rounds 7

Both take a backlog of real findings through the same mosquitto, 500 to a transaction, one array for each column,
acknowledged after the commit. The bare one decodes the six columns and inserts them, and that is all. Ours also checks
topic, properties and schema, keeps track of each stream's numbers, and answers every device with receipts. Rounds
take turns; medians are told. `--devices` is how many devices the backlog is of: with one, receipts cost next to
nothing, and with as many as findings each finding has a receipt of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from fleet_parts import Device, broker, real_findings
from packets import CONNACK, connect, packets, publish, subscribe

from tests.postgres import Postgres, lacking

RESULTS = Path(__file__).parent / "results" / "receive.json"
_RATE = """
marks = []
def mark(done):
    marks.append((time.perf_counter(), time.process_time(), done))
def told():
    (t0, c0, n0), (t1, c1, n1) = marks[0], marks[-1]
    print(json.dumps({"per_s": (n1 - n0) / (t1 - t0), "cpu_us": (c1 - c0) * 1e6 / (n1 - n0), "batches": len(marks)}))
"""
OURS = (
    "import json, sys, time\n"
    + _RATE
    + """
from edge_runtime.commands import receive
def progress(report):
    if report.stored:
        mark(report.stored)
receive.run(sys.argv[1], sys.argv[2], limit=int(sys.argv[3]), on_progress=progress,
            on_notice=lambda line: "listening" in line and print("ready", flush=True))
told()
"""
)
BARE = (
    "import json, sys, time\n"
    + _RATE
    + """
import msgspec, psycopg
from urllib.parse import urlsplit
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

class Columns(msgspec.Struct):
    device_id: str
    finding_id: str
    seq: int
    epoch: str
    exam_id: str
    created_at: str

broker, limit = urlsplit(sys.argv[1]), int(sys.argv[3])
db = psycopg.connect(sys.argv[2], autocommit=True)
db.execute("SET synchronous_commit = on")
INSERT = (
    "INSERT INTO findings SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::text[], %b::text[],"
    " %b::text[], %b::text[], %b::text[]) ON CONFLICT DO NOTHING"
)
decoder, waiting = msgspec.json.Decoder(Columns), []
client = Client(CallbackAPIVersion.VERSION2, "bare", protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
client.on_message = lambda c, u, message: waiting.append(message)  # `waiting` is looked up anew each time
client.on_subscribe = lambda *_: print("ready", flush=True)
client.on_connect = lambda c, *_: c.subscribe("$share/bench/er/v1/+/+/+/evt/#", qos=1)
properties = Properties(PacketTypes.CONNECT)
properties.ReceiveMaximum = 1000
client.connect(broker.hostname, broker.port, properties=properties)
stored, first = 0, 0.0
while stored < limit:
    before = len(waiting)
    client.loop(0.005 if waiting else 0.1)
    for _ in range(200):  # each `loop` reads one packet
        so_far = len(waiting)
        client.loop(0)
        if len(waiting) == so_far:
            break
    if not before:
        first = time.monotonic()
    quiet = len(waiting) == before
    if waiting and (quiet or len(waiting) >= 500 or time.monotonic() - first > 0.05):
        batch, waiting = waiting[:500], waiting[500:]
        rows = []
        for message in batch:
            body = message.payload.decode()
            one = decoder.decode(body)
            rows.append((one.device_id, one.finding_id, one.seq, one.epoch, one.exam_id, one.created_at, "now", body))
        stored += db.execute(INSERT, [list(column) for column in zip(*rows)]).rowcount
        for message in batch:
            client.ack(message.mid, 1)
        mark(stored)
client.disconnect()
told()
"""
)


def backlog(devices: int, count: int, findings: list[dict[str, Any]]) -> list[bytes]:
    """`count` findings of `devices` devices in turn, as packets."""
    senders = [Device(number, findings) for number in range(devices)]
    out = []
    for number in range(count):
        sender = senders[number % devices]
        seq, payload = sender.next_finding("2026-01-01T00:00:00.000Z")
        mid = number % 60_000 + 1
        out.append(publish(sender.topic, mid, payload, sender.content_type, sender.properties(seq)))
    return out


def feed(port: int, messages: list[bytes]) -> None:
    """All of them over one connection, never more than the broker's receive maximum without a PUBACK."""
    with closing(socket.create_connection(("127.0.0.1", port))) as link:
        buffer = bytearray()

        def heard() -> Iterator[int]:
            buffer.extend(link.recv(1 << 16))
            yield from (first for first, _ in packets(buffer))

        link.sendall(connect("feed"))
        while CONNACK not in list(heard()):
            pass
        sent = acked = 0
        while acked < len(messages):
            room = 900 - (sent - acked)
            if sent < len(messages) and room > 100:
                link.sendall(b"".join(messages[sent : sent + room]))
                sent = min(len(messages), sent + room)
            acked += sum(first == 0x40 for first in heard())


@contextmanager
def devices_listen(port: int) -> Iterator[None]:
    """Somebody is there for the receipts, as in life: else the broker's every PUBACK says that nobody is."""
    with closing(socket.create_connection(("127.0.0.1", port))) as link:
        link.sendall(connect("devices", 600) + subscribe("er/v1/+/+/+/rcpt", qos=0))
        listening = threading.Event()

        def listen() -> None:
            while link.recv(1 << 16):
                listening.set()

        thread = threading.Thread(target=listen)
        thread.start()
        listening.wait()
        try:
            yield
        finally:
            link.shutdown(socket.SHUT_RDWR)
            thread.join()


def one_round(code: str, port: int, store: str, messages: list[bytes]) -> dict[str, float]:
    command = [sys.executable, "-c", code, f"mqtt://127.0.0.1:{port}", store, str(len(messages))]
    with devices_listen(port), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline().strip() == "ready"
        feed(port, messages)
        return dict(json.loads(consumer.stdout.read()))


def emptied(url: str) -> None:
    import psycopg

    from edge_runtime.cloud.store import open_store

    with closing(open_store(url)), psycopg.connect(url, autocommit=True) as db:
        db.execute("TRUNCATE findings, events, records, streams, holes, refused_ahead, quarantine")
        db.execute("CHECKPOINT")


def compared(rounds: int, count: int, devices: int, findings: list[dict[str, Any]]) -> dict[str, Any]:
    seen: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as (port, _), Postgres() as postgres:
        for number in range(rounds):
            for name, code in sorted((("bare", BARE), ("ours", OURS)), reverse=number % 2 == 1):
                emptied(postgres.url)
                seen[name].append(one_round(code, port, postgres.url, backlog(devices, count, findings)))
    ratios = [ours["per_s"] / bare["per_s"] for ours, bare in zip(seen["ours"], seen["bare"], strict=True)]
    return {
        "devices": devices,
        "findings": count,
        "rounds": rounds,
        **{
            name: {key: round(median(one[key] for one in runs), 1) for key in ("per_s", "cpu_us", "batches")}
            for name, runs in seen.items()
        },
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--findings", type=int, default=10_000)
    parser.add_argument("--devices", type=int, nargs="*", default=[10, 500])
    parser.add_argument(
        "--no-file", action="store_true", help="print only, leave benchmarks/results as it is"
    )
    arguments = parser.parse_args()
    why = lacking()
    if why is not None:
        parser.error(why)
    began, findings = time.strftime("%Y-%m-%d"), real_findings()
    results = []
    for devices in arguments.devices:
        results.append(compared(arguments.rounds, arguments.findings, devices, findings))
        print(json.dumps(results[-1]), flush=True)
    if not arguments.no_file:
        RESULTS.write_text(
            json.dumps({"date": began, "cores": os.cpu_count(), "runs": results}, indent=1) + "\n"
        )
    return 0 if all(result["ratio"] >= 0.8 for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
