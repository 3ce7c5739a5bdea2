"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.sync import holdings
from edge_runtime.sync.journal import Journal
from edge_runtime.sync.outbox import Outbox
from tests.builders import report


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Journal.open(tmp_path / "state", reserve_bytes=0) as journal:
        report(journal, 10)
    return tmp_path / "state"


@pytest.fixture
def notices() -> list[str]:
    """What the journals of a test want a person to know."""
    return []


@pytest.fixture
def journal(state: Path, notices: list[str]) -> Iterator[Journal]:
    with Journal.open(state, reserve_bytes=0, on_notice=notices.append) as opened:
        yield opened


def seqs(state: Path) -> list[int]:
    with Outbox(state) as outbox:
        return [row.seq for row in holdings.records(outbox)]
