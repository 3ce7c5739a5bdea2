"""The real images, where a machine has them: `EDGE_RUNTIME_DATA`, else `shared/data` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", ROOT.parent / "shared" / "data"))


def needs_data(test: Any) -> Any:
    """Marks a test, or a class of them, that reads the real images."""
    absent = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images at {DATA}: set EDGE_RUNTIME_DATA")
    return pytest.mark.data(absent(test))
