"""Kills every process of the wire at random, again and again, and counts what was lost or doubled.

    python benchmarks/kill_soak.py --seconds 60 --rate 100

A producer reports findings, an uplink sends them through a real mosquitto without persistence, a consumer stores
them in SQLite. `kill -9` hits one of the four at random moments and it is started again. At the end all is drained.
A finding counts as reported once the producer has been told that it is committed; it writes the id down then.
Prints one JSON object; exit 1 when anything reported is not stored exactly once.
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

from edge_runtime.commands import outbox

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


def free_port() -> int:
    import socket

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def soak(folder: Path, seconds: float, rate: float, kind: str, choose: random.Random) -> dict[str, object]:
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type none\n")
    store = folder / "cloud.db"
    processes = {
        "broker": Keeper(lambda: subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)),
        "receive": Keeper(
            lambda: subprocess.Popen([sys.executable, "-c", RECEIVE, url, f"sqlite:///{store}"])
        ),
        "run": Keeper(producer_command(kind, folder, rate)),
        "uplink": Keeper(
            lambda: subprocess.Popen([sys.executable, "-c", UPLINK, str(folder / "state"), url])
        ),
    }
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(choose.uniform(0.2, 1.8))
        victim = processes[choose.choice(sorted(processes))]
        victim.kill()
        time.sleep(choose.choice([0.0, 0.2, 1.0]))
        victim.restart()
    time.sleep(1.0)
    processes["run"].stop()
    began = time.monotonic()
    while outbox.stats(folder / "state").pending and time.monotonic() - began < 60:
        time.sleep(0.1)
    drain_s = time.monotonic() - began
    for name in ("uplink", "receive", "broker"):
        processes[name].stop()
    told, stored = Counter(reported(folder)), Counter(in_the_cloud(store))
    return {
        "seconds": seconds,
        "rate": rate,
        "producer": kind,
        "reported": len(told),
        "stored": len(stored),
        "lost": len(told.keys() - stored.keys()),
        "twice": sum(count > 1 for count in stored.values()),
        "committed_but_untold": len(stored.keys() - told.keys()),
        "kills": {name: process.kills for name, process in processes.items()},
        "drain_s": round(drain_s, 2),
        "left_in_outbox": outbox.stats(folder / "state").pending,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0, help="findings a second")
    parser.add_argument("--producer", choices=("journal", "run"), default="journal")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the moments and victims; default: a new one"
    )
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="kill-soak-") as folder:
        result = soak(
            Path(folder), arguments.seconds, arguments.rate, arguments.producer, random.Random(seed)
        )
    print(json.dumps({**result, "seed": seed}))
    bad = result["lost"] or result["twice"] or result["left_in_outbox"] or not result["reported"]
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
