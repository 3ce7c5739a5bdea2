"""A wall clock that jumps, or was never set: numbers, order and delivery do not follow it. Needs libfaketime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.commands import outbox
from edge_runtime.sync import holdings
from edge_runtime.sync.outbox import Outbox
from tests.brokers import Mosquitto, make_certificates
from tests.faults.ends import Setting, receiving
from tests.faults.processes import kill, start_uplink, stored

pytestmark = [pytest.mark.broker, pytest.mark.slow]

LIBRARY = next((path for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)

_REPORT = """
import sys
from pathlib import Path
from edge_runtime.sync.journal import Journal
from tests.builders import report
with Journal.open(Path(sys.argv[1]), reserve_bytes=0) as journal:
    for line in sys.stdin:
        made = report(journal, 10)
        print(" ".join(one.finding_id for one in made), flush=True)
"""


class FakeClock:
    """What programs that are started with `env` take for the time; monotonic time stays as it is."""

    def __init__(self, folder: Path) -> None:
        if LIBRARY is None:
            pytest.skip("libfaketime is not installed (apt install libfaketime)")
        self._file = folder / "time"
        self.env = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """To so many days (`d`) or years (`y`) from now."""
        part = self._file.with_suffix(".part")
        part.write_text(offset + "\n")
        part.replace(self._file)


@pytest.fixture
def fake(tmp_path: Path) -> FakeClock:
    return FakeClock(tmp_path)


@pytest.fixture
def reporter(tmp_path: Path, fake: FakeClock) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-c", _REPORT, str(tmp_path / "state")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(program, text=True, env={**os.environ, **fake.env}, **pipes)
    yield process
    kill(process)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def test_findings_made_while_the_clock_jumps_keep_their_numbers_and_order_and_all_arrive(
    tmp_path: Path, broker: Mosquitto, fake: FakeClock, reporter: subprocess.Popen[str]
) -> None:
    setting = Setting(tmp_path, 1)
    sender = start_uplink(setting.state, broker.url, fake.env)
    assert reporter.stdin is not None
    assert reporter.stdout is not None
    try:
        with receiving(broker.url, setting.store):
            for offset in ("+0", "-30y", "+20y", "-1d", "+0"):
                fake.jump(offset)
                print("go", file=reporter.stdin, flush=True)
                setting.reported += reporter.stdout.readline().split()
            setting.check()
    finally:
        kill(sender)
    with Outbox(setting.state) as rows:
        made = list(holdings.records(rows))
    assert [row.seq for row in made] == list(range(1, 52))
    assert [row.id for row in made] == setting.reported
    years = {json.loads(row.body)["created_at"][:4] for row in made}
    assert len(years) >= 3  # the clock did jump
    assert len(set(stored(setting.store))) == 51


def test_a_clock_that_was_never_set_makes_certificates_not_yet_valid_and_it_is_said(
    tmp_path: Path, fake: FakeClock
) -> None:
    setting = Setting(tmp_path, 3)
    make_certificates(tmp_path)
    fake.jump("-40y")
    lines = [
        f"{key} {tmp_path / name}" for key, name in (("certfile", "server.pem"), ("keyfile", "server.key"))
    ]
    with Mosquitto(tmp_path, *lines, scheme="mqtts") as broker:
        program = [
            sys.executable,
            "-m",
            "edge_runtime",
            "uplink",
            "--broker",
            broker.url,
            "--once",
            "--timeout",
            "1",
        ]
        options = ["--state", str(setting.state), "--ca", str(tmp_path / "ca.pem")]
        done = subprocess.run(
            [*program, *options], env={**os.environ, **fake.env}, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "not yet valid; set this device's clock" in done.stderr
    assert "Traceback" not in done.stderr
    assert outbox.stats(setting.state).pending == 3
