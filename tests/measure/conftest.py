"""Where the real images are, for the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_dir() -> Path:
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("EDGE_RUNTIME_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real images: set EDGE_RUNTIME_DATA")
    return folder
