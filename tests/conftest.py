"""What tests of several folders share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.brokers import MOSQUITTO, Mosquitto
from tests.postgres import Postgres, lacking

# What an example does is judged, not how long a busy machine takes over it.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tests keep decisions and engines: never the user's own cache."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "EDGE_RUNTIME_CACHE", str(home))
        yield home


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A real broker with no memory across restarts; mark the test `broker`."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real server, once for all tests of a process, tuned for speed as a careless person would."""
    why = lacking()
    if why is not None:
        pytest.skip(why)
    with Postgres("synchronous_commit=off") as running:
        yield running


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """Its database, empty."""
    import psycopg

    with psycopg.connect(postgres.url) as db:
        db.execute("DROP SCHEMA public CASCADE")
        db.execute("CREATE SCHEMA public")
    return postgres.url


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
