"""Three of ten packets lost, each way: in a network namespace of its own, where this machine allows one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.broker, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
LOSS = 0.3
FINDINGS = 20
IPTABLES = (
    shutil.which("iptables-legacy")
    or shutil.which("iptables")
    or shutil.which("iptables", path="/usr/sbin:/sbin")
)

_DROP = "ip link set lo up && {iptables} -A INPUT -i lo -p tcp -m statistic --mode random --probability {loss} -j DROP"

# Runs inside the namespace, whose only line is `lo`.
_INSIDE = """
import json, sys
from collections import Counter
from pathlib import Path
from edge_runtime.sync.flight import Pace
from tests.brokers import Mosquitto
from tests.faults.ends import Setting, drain, receiving
from tests.faults.processes import stored
folder = Path(sys.argv[1])
setting = Setting(folder, int(sys.argv[2]))
with Mosquitto(folder) as broker, receiving(broker.url, setting.store):
    done = drain(setting, broker.url, timeout_s=200, pace=Pace())
    print(json.dumps({"connects": done.connects, "sent": done.sent, "seconds": done.seconds,
                      "same": Counter(stored(setting.store)) == Counter(setting.reported)}))
"""


@pytest.fixture
def lossy() -> list[str]:
    """A command line in front of another, which then runs where packets are lost; skips where that cannot be."""
    unshare = shutil.which("unshare")
    if unshare is None or IPTABLES is None or shutil.which("ip") is None:
        missing = [
            name
            for name, path in (("unshare", unshare), ("iptables", IPTABLES), ("ip", shutil.which("ip")))
            if not path
        ]
        pytest.skip(f"not installed: {', '.join(missing)}")
    drop = _DROP.format(iptables=IPTABLES, loss=LOSS)
    tried = subprocess.run([unshare, "-n", "sh", "-c", drop], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"may not lose packets in a network namespace: {tried.stderr.strip()}")
    return [unshare, "-n", "sh", "-c", f'{drop} && exec "$@"', "sh"]


def test_findings_cross_a_line_that_loses_three_packets_of_ten_each_once(
    tmp_path: Path, lossy: list[str]
) -> None:
    program = [*lossy, sys.executable, "-c", _INSIDE, str(tmp_path), str(FINDINGS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["same"]
    assert told["connects"] <= 3, "connections are not given up because packets are lost"
    assert told["sent"] <= 2 * FINDINGS
