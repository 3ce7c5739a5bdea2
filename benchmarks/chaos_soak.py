"""Kills every process of the wire, resets and stalls its lines, at random and again and again; counts what was lost or doubled.

    python -m benchmarks.chaos_soak --runs 10 --seconds 25 --rate 200

A producer reports findings, an uplink sends them through a real mosquitto without persistence, a consumer stores them in
SQLite; both reach the broker over a line that can be reset and held. At random moments one of the four processes is killed
(`kill -9`) and started again, or a line is reset, or stands still for up to 1.5 s. At the end all is drained.
A finding counts as reported once the producer has been told that it is committed; it writes the id down then.
Run k has the seed `--seed` + k: the same moments, victims and faults. Prints one JSON object; exit 1 when anything
reported is not stored exactly once.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_runtime.commands import outbox
from tests.brokers import free_port
from tests.faults.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"

JOURNAL = """
import os, sys, time
from pathlib import Path
from edge_runtime.sync.journal import Journal
from edge_runtime.types import encode
from tests.builders import finding
state, told, rate = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
with Journal.open(state) as journal, told.open("ab", buffering=0) as out:
    due = time.monotonic()
    while True:
        with journal.batch() as batch:
            made = []
            while due <= time.monotonic():
                made.append(finding(batch.stamp()))
                batch.add(made[-1], encode(made[-1]))
                due += 1 / rate
        if made:
            out.write(b"".join(one.finding_id.encode() + b"\\n" for one in made))
        time.sleep(max(0.0, due - time.monotonic()))
"""
UPLINK = "import sys; from pathlib import Path; from edge_runtime.commands import uplink; uplink.run(Path(sys.argv[1]), sys.argv[2])"
RECEIVE = "import sys; from edge_runtime.commands import receive; receive.run(sys.argv[1], sys.argv[2])"


class Keeper:
    """One process that is started again whenever it was killed."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self.process = start()
        self.kills = 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def restart(self) -> None:
        self.process = self._start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def producer_command(kind: str, folder: Path, rate: float) -> Callable[[], subprocess.Popen[bytes]]:
    """The producer: `journal` writes findings itself, `run` is the real pipeline on a phantom."""
    state = folder / "state"
    starts = iter(range(10**6))

    def start() -> subprocess.Popen[bytes]:
        if kind == "journal":
            told = folder / "told.txt"
            return subprocess.Popen(
                [sys.executable, "-c", JOURNAL, str(state), str(told), str(rate)], cwd=ROOT
            )
        source = f"phantom:fetal_head?hc_mm=250&frames=1000000&fps={rate:g}&seed=1"
        out = folder / f"out-{next(starts)}.jsonl"
        options = ["--state", str(state), "--out", str(out), "--policy", "every", "--fps", f"{rate:g}"]
        return subprocess.Popen(
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
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )

    return start


def reported(folder: Path) -> list[str]:
    """The ids whose commit somebody has been told of; a line cut off by a kill was not."""
    told = folder / "told.txt"
    ids = [line.decode() for line in told.read_bytes().split(b"\n")[:-1]] if told.exists() else []
    for out in sorted(folder.glob("out-*.jsonl")):
        lines = [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]
        ids += [line["finding_id"] for line in lines if "finding_id" in line]
    return ids


def in_the_cloud(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as db:
        return [row[0] for row in db.execute("SELECT finding_id FROM findings")]


class Wire:
    """All processes of one run and the two lines between them."""

    def __init__(self, folder: Path, rate: float, kind: str, lines: tuple[Proxy, Proxy], port: int) -> None:
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type none\n"
        )
        self.state, self.store, self.lines = folder / "state", folder / "cloud.db", lines
        device, cloud = lines
        receive = [RECEIVE, cloud.url, f"sqlite:///{self.store}"]
        uplink = [UPLINK, str(self.state), device.url]
        broker = [MOSQUITTO, "-c", str(config)]
        self.processes = {
            "broker": Keeper(lambda: subprocess.Popen(broker, stderr=subprocess.DEVNULL)),
            "receive": Keeper(lambda: subprocess.Popen([sys.executable, "-c", *receive])),
            "run": Keeper(producer_command(kind, folder, rate)),
            "uplink": Keeper(lambda: subprocess.Popen([sys.executable, "-c", *uplink])),
        }
        self.resets = self.stalls = 0

    def fault(self, choose: random.Random) -> None:
        """One thing goes wrong, and is over when this returns."""
        kind = choose.choice((*sorted(self.processes), "reset", "stall"))
        line, pause_s, stall_s = (
            choose.choice(self.lines),
            choose.choice((0.0, 0.2, 1.0)),
            choose.uniform(0.1, 1.5),
        )
        if kind == "reset":
            line.reset()
            self.resets += 1
        elif kind == "stall":
            way = choose.choice((line.up, line.down))
            way.held = True
            time.sleep(stall_s)
            way.held = False
            self.stalls += 1
        else:
            self.processes[kind].kill()
            time.sleep(pause_s)
            self.processes[kind].restart()

    def drain_s(self) -> float:
        """Stops the producer and waits, a minute at most, until nothing is left to send."""
        self.processes["run"].stop()
        began = time.monotonic()
        while outbox.stats(self.state).pending and time.monotonic() - began < 60:
            time.sleep(0.1)
        return time.monotonic() - began

    def stop(self) -> None:
        for name in ("uplink", "receive", "broker"):
            self.processes[name].stop()


def soak(folder: Path, seconds: float, rate: float, kind: str, seed: int) -> dict[str, Any]:
    choose, port = random.Random(seed), free_port()
    with Proxy(port, seed) as device, Proxy(port, seed + 1) as cloud:
        wire = Wire(folder, rate, kind, (device, cloud), port)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(choose.uniform(0.1, 1.2))  # between two faults
            wire.fault(choose)
        time.sleep(1.0)  # the producer that was started last is to report something too
        drain_s = wire.drain_s()
        wire.stop()
    told, stored = Counter(reported(folder)), Counter(in_the_cloud(wire.store))
    return {
        "seed": seed,
        "reported": len(told),
        "stored": len(stored),
        "lost": len(told.keys() - stored.keys()),
        "twice": sum(count > 1 for count in stored.values()),
        "committed_but_untold": len(stored.keys() - told.keys()),
        "kills": {name: process.kills for name, process in wire.processes.items()},
        "resets": wire.resets,
        "stalls": wire.stalls,
        "drain_s": round(drain_s, 2),
        "left_in_outbox": outbox.stats(wire.state).pending,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=25.0, help="of faults in each run")
    parser.add_argument("--rate", type=float, default=200.0, help="findings a second")
    parser.add_argument("--producer", choices=("journal", "run"), default="journal")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        with tempfile.TemporaryDirectory(prefix="chaos-soak-") as folder:
            runs.append(soak(Path(folder), arguments.seconds, arguments.rate, arguments.producer, seed))
        print(json.dumps(runs[-1]), file=sys.stderr)
    total = {key: sum(run[key] for run in runs) for key in ("reported", "lost", "twice", "left_in_outbox")}
    head = {"seconds": arguments.seconds, "rate": arguments.rate, "producer": arguments.producer}
    print(json.dumps({**head, **total, "runs": runs}))
    bad = (
        total["lost"] or total["twice"] or total["left_in_outbox"] or not all(run["reported"] for run in runs)
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
