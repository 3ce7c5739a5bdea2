"""What needs no torch does not import it: it is measured and written about on machines without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = (
    "acquisition",
    "card",
    "data",
    "drawing",
    "evaluate",
    "examples",
    "looks",
    "placement",
    "recipe",
    "report",
    "statistics",
)


def test_only_what_trains_and_exports_imports_torch() -> None:
    wanted = "; ".join(f"import models.training.{name}" for name in WITHOUT_TORCH)
    code = f"import sys; sys.modules['torch'] = None; {wanted}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
