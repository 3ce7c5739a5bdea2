"""What several tests of faults share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system of its own; skips where this user may not."""
    mounted: list[Path] = []

    def mount_it(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"may not mount a small tmpfs here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount_it
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)
