"""What needs no torch does not import it: it is measured and written about on machines without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITH_TORCH = {
    "command",
    "export",
    "folds",
    "loss",
    "network",
    "ship",
    "train",
}  # as models/training/README.md says


def test_only_what_trains_and_exports_imports_torch() -> None:
    modules = {path.stem for path in (ROOT / "models" / "training").glob("*.py")} - {"__init__"}
    assert modules > WITH_TORCH
    wanted = "; ".join(f"import models.training.{name}" for name in sorted(modules - WITH_TORCH))
    code = f"import sys; sys.modules['torch'] = None; {wanted}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
