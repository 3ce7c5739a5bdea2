"""The socket of one connection, with paho's client on it, turned by one thread. Knows nothing about what is said on it.

Its own loop would make a system call for each message to wake other threads.
"""

from __future__ import annotations

import select
from collections import deque
from typing import Any

from edge_runtime.sync.link.client import Answer, make_client
from edge_runtime.sync.link.failures import connect_error, ended_error
from edge_runtime.sync.link.incoming import Event
from edge_runtime.sync.link.settings import Settings


class Line:
    """What arrives gathers in `inbox`; once `check_alive` has raised it is of no more use."""

    def __init__(self, settings: Settings) -> None:
        """ConfigError where the TLS files cannot be used."""
        self.settings = settings
        self.inbox: deque[Event] = deque()
        self._answers: deque[Answer] = deque()
        self.client = make_client(settings, self.inbox, self._answers)
        self._socket: Any = None  # also when paho has let go of it: its last word is asked for then
        self.client.on_socket_open = self._opened
        self._out: list[bytes] = []

    def connect(self) -> None:
        """TCP and TLS; takes as long as it takes, and raises what they raise."""
        self.client.reconnect()

    def _opened(self, client: Any, userdata: Any, opened: Any) -> None:
        self._socket = opened

    @property
    def open(self) -> bool:
        return self.client.socket() is not None

    def answer(self, name: str) -> Answer | None:
        """The first of this name that came."""
        return next((answer for answer in self._answers if answer[0] == name), None)

    def turn(self, timeout_s: float) -> int:
        """Reads and writes what can be, waiting at most `timeout_s` for something to read; not 0 when it has ended."""
        self.flush()
        client, line = self.client, self.client.socket()
        if line is None:
            return 1
        secure = self.settings.broker.secure
        if secure and line.pending():
            timeout_s = 0.0
        readable, writable, _ = select.select([line], [line] if client.want_write() else [], [], timeout_s)
        rc = client.loop_read() if readable or (secure and timeout_s == 0.0) else 0
        if rc == 0 and writable:
            rc = client.loop_write()
        return int(rc or client.loop_misc())

    def write(self, packet: bytes) -> None:
        """Leaves with others in one piece, at the next turn."""
        self._out.append(packet)

    def flush(self) -> None:
        """Sends what was written, as far as the socket takes it."""
        if self._out and self.open:
            self.client.send(b"".join(self._out))
        self._out.clear()

    def check_alive(self, rc: int) -> None:
        """Raises LinkError, saying why, where `rc` of the last turn, the broker or the socket say that it has ended."""
        lost = self.answer("disconnect")
        if lost is None and rc == 0 and self.open:
            return
        refusal = getattr(self._socket, "refusal", None)
        self.drop()
        if refusal is not None:
            raise connect_error(self.settings, refusal)
        raise ended_error(self.settings, lost, answered=self.answer("connack") is not None)

    def drop(self) -> None:
        """Closes the socket without a goodbye: the broker publishes the will."""
        self.client._reset_sockets()  # private: nothing public of paho's closes without a DISCONNECT
