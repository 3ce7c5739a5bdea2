"""A PostgreSQL server of our own in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.brokers import free_port


def _programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists()), None)


def lacking() -> str | None:
    """What this machine has not got, and how to get it; None when nothing is missing."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'edge-runtime[cloud]')"
    return None if _programs() else "no PostgreSQL server found (apt install postgresql)"


class Postgres:
    """Runs as nobody where we are root, which it refuses. `options` are settings of the server."""

    def __init__(self, *options: str) -> None:
        programs = _programs()
        assert programs is not None, lacking()
        self.programs = programs
        self._options = options
        self._user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
        self._folder = tempfile.TemporaryDirectory(
            prefix="postgres-"
        )  # not pytest's: nobody may not enter those
        self.folder = Path(self._folder.name)  # its socket is there too
        self.port = free_port()
        self.url = f"postgresql://er@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Postgres:
        if self._user:
            shutil.chown(self._folder.name, "nobody")
        self._run("initdb", "-D", "data", "-U", "er", "-A", "trust", "-E", "UTF8", "-N")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        settings = "".join(f" -c {option}" for option in self._options)
        where = f"-p {self.port} -k {self._folder.name} -h 127.0.0.1{settings}"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", where, "start")

    def start_if_stopped(self) -> None:
        """Whatever a test left behind, the next one finds it running."""
        if not (self.folder / "data" / "postmaster.pid").exists():
            self.start()

    def stop(self) -> None:
        """As a crash would: no checkpoint, every connection cut."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        quiet = subprocess.DEVNULL  # not a pipe: the server keeps what it is given
        subprocess.run(command, check=True, stdout=quiet, stderr=quiet, cwd=self._folder.name, **self._user)
