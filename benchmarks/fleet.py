"""A fleet on one machine: simulated devices, a real mosquitto, the real receiver, a real PostgreSQL.

    python benchmarks/fleet.py --devices 5000 --rate 500 --seconds 60

Each device is a connection of its own, speaks MQTT v5 in bytes, sends real findings (of a phantom run) with QoS 1 under
its own gapless numbers, waits for its receipts, and sends again what has none after 5 s. Which device is next is drawn
at random, the moments are a Poisson process. A finding's time runs from the moment it was due, so a simulator that
falls behind makes the figure worse, not better.

At the end the database must hold every number of every device once, and its view `missing` nothing. Prints one JSON
object for each run and keeps them in benchmarks/results/fleet.json; exit 1 when something is lost, doubled or late
(p99 > 1 s).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
from fleet_parts import Device, broker, files_allowed, real_findings
from packets import CONNACK, PING, PUBLISH, SUBACK, connect, packets, puback, publish, published, subscribe

from edge_runtime.clock import utc_now
from edge_runtime.sync.wire import Receipt
from tests.brokers import free_port
from tests.postgres import Postgres, lacking

RESULTS = Path(__file__).parent / "results" / "fleet.json"
RESEND_S = 5.0
KEEPALIVE_S = 120
CONNECTING = 100  # at a time: mosquitto's queue of new connections holds as many
_receipt = msgspec.json.Decoder(Receipt)


class Line(asyncio.Protocol):
    """One device's connection."""

    def __init__(self, device: Device, times: list[float]) -> None:
        self.device = device
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting: dict[int, tuple[float, float, bytes]] = {}  # seq: when due, when sent, the packet
        self.resent = self.refused = 0
        self._times = times
        self._buffer = bytearray()
        self._transport: Any = None
        self._mid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(connect(self.device.id, KEEPALIVE_S))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed by the broker"))

    def send(self, due: float) -> None:
        device = self.device
        seq, payload = device.next_finding(utc_now())
        self._mid = self._mid % 60_000 + 1
        packet = publish(device.topic, self._mid, payload, device.content_type, device.properties(seq))
        self.waiting[seq] = (due, time.perf_counter(), packet)
        self._transport.write(packet)

    def send_late_again(self, now: float) -> None:
        for seq, (due, sent, packet) in self.waiting.items():
            if now - sent > RESEND_S:
                self.waiting[seq] = (due, now, packet)
                self.resent += 1
                self._transport.write(packet)

    def ping(self) -> None:
        self._transport.write(PING)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for first, rest in packets(self._buffer):
            kind = first & 0xF0
            if kind == PUBLISH:
                mid, payload = published(first, rest)
                if mid:
                    self._transport.write(puback(mid))
                self._settle(_receipt.decode(payload))
            elif kind == CONNACK:
                self._transport.write(subscribe(self.device.topics.receipts))
            elif kind == SUBACK:
                self.ready.set_result(None)

    def _settle(self, receipt: Receipt) -> None:
        now = time.perf_counter()
        for first, last in receipt.ranges:
            for seq in range(first, last + 1):
                entry = self.waiting.pop(seq, None)
                if entry is not None:
                    self._times.append(now - entry[0])
                    self.refused += receipt.status != "stored"


async def connected(
    port: int, devices: int, findings: list[dict[str, Any]], times: list[float]
) -> list[Line]:
    """All of them, subscribed to their receipts."""
    gate = asyncio.Semaphore(CONNECTING)

    async def one(number: int) -> Line:
        async with gate:
            line = Line(Device(number, findings), times)
            await asyncio.get_running_loop().create_connection(lambda: line, "127.0.0.1", port)
            await line.ready
            return line

    return list(await asyncio.gather(*(one(number) for number in range(devices))))


async def tend(lines: list[Line]) -> None:
    """What each device does beside its findings: sends again what is late, pings now and then."""
    while True:
        for part in range(KEEPALIVE_S // 2):
            await asyncio.sleep(1.0)
            now = time.perf_counter()
            for line in lines:
                if line.waiting:
                    line.send_late_again(now)
            for line in lines[part :: KEEPALIVE_S // 2]:
                line.ping()


async def load(lines: list[Line], rate: float, seconds: float, choose: random.Random) -> dict[str, Any]:
    """Sends for `seconds`, then waits for the last receipts; how far behind the receiver was, second by second."""
    waiting: list[int] = []
    began = due = time.perf_counter()
    sent, second = 0, 1
    while due - began < seconds:
        now = time.perf_counter()
        while due <= now and due - began < seconds:
            choose.choice(lines).send(due)
            sent += 1
            due += choose.expovariate(rate)
        if now - began >= second:
            waiting.append(sum(len(line.waiting) for line in lines))
            second += 1
        await asyncio.sleep(max(0.0, min(0.005, due - time.perf_counter())))
    load_s = time.perf_counter() - began
    while any(line.waiting for line in lines) and time.perf_counter() - began < seconds + 60:
        await asyncio.sleep(0.01)
    return {
        "sent": sent,
        "sent_per_s": round(sent / load_s, 1),
        "waiting_at_each_second": waiting,
        "drain_s": round(time.perf_counter() - began - load_s, 2),
        "without_receipt": sum(len(line.waiting) for line in lines),
        "resent": sum(line.resent for line in lines),
        "refused": sum(line.refused for line in lines),
    }


async def simulated(
    port: int, devices: int, rate: float, seconds: float, findings: list[dict[str, Any]], seed: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """What came of it, and how many findings each device sent."""
    times: list[float] = []
    began = time.perf_counter()
    lines = await connected(port, devices, findings, times)
    connect_s = time.perf_counter() - began
    tending = asyncio.create_task(tend(lines))
    await load(lines, rate, 5.0, random.Random(seed + 1))  # statements prepared, pages touched
    times.clear()
    cpu = time.process_time()
    report = await load(lines, rate, seconds, random.Random(seed))
    cpu = time.process_time() - cpu
    tending.cancel()
    numbers = {line.device.id: line.device.seq for line in lines}
    for line in lines:
        line.close()
    times.sort()
    part = {name: round(times[int(len(times) * share)] * 1000, 1) for name, share in SHARES.items()}
    report["receipt_ms"] = {**part, "max": round(times[-1] * 1000, 1)}
    return {"connect_s": round(connect_s, 1), **report, "simulator_cpu_s": round(cpu, 1)}, numbers


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def cpu_s(pid: int) -> float:
    """Processor time of a process and of its children that are alive."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    spent = (int(fields[11]) + int(fields[12])) / ticks
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return spent + sum(cpu_s(int(child)) for child in children)


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (held,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(held) / 1024, 1)


def in_the_database(url: str, numbers: dict[str, int]) -> dict[str, int]:
    """What is lost and doubled there, by the rows themselves and by the view that a person would ask."""
    import psycopg

    with psycopg.connect(url) as db:
        counted = db.execute(
            "SELECT device_id, count(*), count(DISTINCT seq) FROM findings GROUP BY 1"
        ).fetchall()
        rows = {device: (stored, different) for device, stored, different in counted}
        missing = db.execute("SELECT coalesce(sum(numbers), 0)::bigint FROM missing").fetchone()
        quarantined = db.execute("SELECT count(*) FROM quarantine").fetchone()
    assert missing is not None and quarantined is not None
    return {
        "stored": sum(stored for stored, _ in rows.values()),
        "lost": sum(max(0, sent - rows.get(device, (0, 0))[1]) for device, sent in numbers.items()),
        "doubled": sum(stored - different for stored, different in rows.values()),
        "missing": int(missing[0]),
        "quarantined": quarantined[0],
    }


def scraped(port: int) -> dict[str, float]:
    """What the receiver says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    wanted = ("batches_total", "commit_seconds_sum", "repeated_total", "devices", "connects_total")
    return {name: round(float(values[f"edge_runtime_receive_{name}"]), 2) for name in wanted}


def run(
    devices: int, rate: float, seconds: float, consumers: int, seed: int, queued: int = 0
) -> dict[str, Any]:
    findings = real_findings()
    with (
        tempfile.TemporaryDirectory() as folder,
        broker(Path(folder), queued) as (port, mosquitto),
        Postgres() as postgres,
    ):
        metrics = [free_port() for _ in range(consumers)]
        command = [sys.executable, "-m", "edge_runtime", "receive", "--broker", f"mqtt://127.0.0.1:{port}"]
        command += ["--store", postgres.url]
        receivers = [
            subprocess.Popen(
                [*command, "--http", f"127.0.0.1:{at}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for at in metrics
        ]
        try:
            healthy(metrics)
            before = [sum(map(cpu_s, (one.pid for one in receivers))), cpu_s(mosquitto.pid)]
            load_before = os.getloadavg()[0]
            report, numbers = asyncio.run(simulated(port, devices, rate, seconds, findings, seed))
            after = [sum(map(cpu_s, (one.pid for one in receivers))), cpu_s(mosquitto.pid)]
            told = [scraped(at) for at in metrics]
            peaks = [peak_mb(one.pid) for one in (*receivers, mosquitto)]
        finally:
            for receiver in receivers:
                receiver.terminate()
                receiver.wait(20)
        return {
            "devices": devices,
            "rate": rate,
            "seconds": seconds,
            "consumers": consumers,
            "seed": seed,
            "queued": queued,
            **report,
            **in_the_database(postgres.url, numbers),
            "receiver_cpu_s": round(after[0] - before[0], 1),
            "mosquitto_cpu_s": round(after[1] - before[1], 1),
            "receiver_peak_mb": max(peaks[:-1]),
            "mosquitto_peak_mb": peaks[-1],
            "receivers": told,
            "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        }


def healthy(ports: list[int]) -> None:
    """Waits until each receiver says so."""
    for port in ports:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"the receiver at port {port} is not healthy after 30 s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument(
        "--rate",
        type=float,
        nargs="+",
        default=[500.0],
        help="findings a second, of all devices together; --rounds of each",
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--consumers", type=int, default=1)
    parser.add_argument("--queued", type=int, default=0, help="mosquitto's max_queued_messages; 0: no limit")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--no-file", action="store_true", help="print only, leave benchmarks/results as it is"
    )
    arguments = parser.parse_args()
    why = lacking()
    if why is not None:
        parser.error(why)
    if files_allowed() < arguments.devices + 200:
        parser.error(
            f"{arguments.devices} devices need as many open files: ulimit -n {arguments.devices + 200}"
        )
    results = []
    for rate, number in itertools.product(arguments.rate, range(arguments.rounds)):
        seed = arguments.seed + number
        load = (arguments.devices, rate, arguments.seconds, arguments.consumers)
        results.append(run(*load, seed, arguments.queued))
        print(json.dumps(results[-1]), flush=True)
    if not arguments.no_file:
        kept = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "runs": results}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    wanted = ("lost", "doubled", "missing", "without_receipt", "refused")
    bad = any(result[name] for result in results for name in wanted)
    return 1 if bad or any(result["receipt_ms"]["p99"] > 1000 for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
