"""Where the state of this device lives, and how the commands open it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.config import Config
from edge_runtime.sync.journal import Journal


def default_state() -> Path:
    """`EDGE_RUNTIME_STATE`, else this user's state directory."""
    if named := os.environ.get("EDGE_RUNTIME_STATE"):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_state_dir("edge-runtime"))


@contextmanager
def open_journal(state: Path, config: Config, on_notice: Callable[[str], None]) -> Iterator[Journal]:
    """The journal of `state`, closed at the end. Raises JournalError in one line."""
    journal = Journal.open_within(state, config.journal, on_notice)
    try:
        yield journal
    finally:
        journal.close()
