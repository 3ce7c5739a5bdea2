"""How long a promise may take here: its seconds on an idle machine, more of them on a busy one."""

from __future__ import annotations

import os


def within(seconds: float) -> float:
    """`seconds`, once for each process that wants a core, where these are more than the cores are."""
    wanted, _, _ = os.getloadavg()
    return seconds * max(1.0, wanted / (os.cpu_count() or 1))
