"""The demo's processes: started as a user would start them, killed as a power cut would, and never left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import msgspec

from edge_runtime import clock
from edge_runtime.errors import JournalError, UplinkError
from edge_runtime.sync.outbox import Outbox

if TYPE_CHECKING:
    from typing_extensions import Self

LISTEN_S = 5.0  # until a broker that was started must take a connection
STOP_S = 8.0  # from SIGTERM to SIGKILL
_EPOCH = re.compile(r"^\d{9,}: ")  # mosquitto begins each line with the seconds since 1970


@dataclass(slots=True)
class Child:
    """One process; what it prints goes to files beside each other, `<name>.json` and `<name>.log`."""

    name: str
    command: Sequence[str]
    folder: Path
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Child:
        with self._answer.open("wb") as answer, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                list(self.command), stdin=subprocess.DEVNULL, stdout=answer, stderr=log
            )
        return self

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9: it gets no chance to finish anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Asks it to end, and ends it when it does not; its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        return self.wait(STOP_S)

    def wait(self, timeout_s: float) -> int:
        """Its exit status; it is killed when it has not ended by then."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode or -9

    def answer(self) -> dict[str, object]:
        """The JSON object it printed; empty without one."""
        try:
            found = msgspec.json.decode(self._answer.read_bytes())
        except (OSError, msgspec.DecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def complaint(self) -> str:
        """The last line it said on stderr."""
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return _EPOCH.sub("", last)

    @property
    def _answer(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"


@contextmanager
def ending_with_us() -> Iterator[None]:
    """Within, SIGTERM unwinds like Ctrl-C, so that no child is left behind."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def edge_runtime(*arguments: str) -> list[str]:
    """The command line that runs this very installation."""
    return [sys.executable, "-m", "edge_runtime", *arguments]


def typed() -> Path:
    """What a shell calls this program: its name where that is found, else where it lies."""
    here = Path(sys.executable).with_name("edge-runtime")
    return Path("edge-runtime") if shutil.which("edge-runtime") or not here.exists() else here


def find_mosquitto() -> str | None:
    """The broker's program; Debian puts it where only root looks."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which("mosquitto", path=path)


@dataclass(slots=True)
class Wire:
    """Broker, uplink and receiver, all on this machine. Within `with` they run; after it none is left."""

    mosquitto: str
    state: Path
    database: Path
    folder: Path  # for their configuration and what they say
    port: int = field(init=False)
    broker: Child = field(init=False)
    uplink: Child = field(init=False)
    receive: Child = field(init=False)

    def __post_init__(self) -> None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n"
        )
        store = f"sqlite:///{self.database}"
        self.broker = Child("broker", [self.mosquitto, "-c", str(config)], self.folder)
        self.receive = Child(
            "receive", edge_runtime("receive", "--broker", self.url, "--store", store, "--json"), self.folder
        )
        self.uplink = Child(
            "uplink",
            edge_runtime("uplink", "--state", str(self.state), "--broker", self.url, "--json"),
            self.folder,
        )

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        try:
            self.start_broker()
            self.receive.start()
            self.uplink.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_broker(self) -> None:
        """Starts it and waits until it listens. Raises UplinkError when it does not."""
        self.broker.start()
        deadline_ns = clock.monotonic_ns() + int(LISTEN_S * 1e9)
        while clock.monotonic_ns() < deadline_ns and self.broker.running():
            try:
                with closing(socket.create_connection(("127.0.0.1", self.port), timeout=0.2)):
                    return
            except OSError:
                clock.sleep_s(0.02)
        raise UplinkError(f"mosquitto on port {self.port}: does not listen ({self.broker.complaint()})")

    def stop(self) -> list[str]:
        """Ends all three; a line for each that ended with an error."""
        problems = []
        for child in (self.uplink, self.receive):
            if child.stop() != 0:
                problems.append(f"{child.name}: {child.complaint()}")
        self.broker.stop()
        return problems

    def repeated(self) -> int:
        """How many findings the receiver got a second time and did not store again; known once it has ended."""
        told = self.receive.answer().get("repeated", 0)
        return told if isinstance(told, int) else 0

    def dead(self) -> list[str]:
        """A line for each that ended although nobody asked it to."""
        return [
            f"{child.name}: ended by itself ({child.complaint()})"
            for child in (self.broker, self.uplink, self.receive)
            if not child.running()
        ]


def waiting(state: Path) -> int:
    """How many records wait in the outbox; 0 before there is one."""
    try:
        with Outbox(state) as outbox:
            return outbox.pending_count()
    except JournalError:
        return 0
