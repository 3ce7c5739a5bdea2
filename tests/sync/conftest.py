"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.sync.journal import Journal
from tests.builders import report


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Journal.open(tmp_path / "state", reserve_bytes=0) as journal:
        report(journal, 10)
    return tmp_path / "state"
