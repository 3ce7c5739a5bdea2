"""The socket of one connection, with paho's client on it, turned by one thread. Knows nothing about what is said on it.

Its own loop would make a system call for each message to wake other threads.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import Any

from edge_runtime.sync.link.client import Answer, make_client
from edge_runtime.sync.link.failures import connect_error, ended_error
from edge_runtime.sync.link.incoming import Event
from edge_runtime.sync.link.settings import Settings

_TCP_CORK = getattr(socket, "TCP_CORK", None)  # Linux


class Line:
    """What arrives gathers in `inbox`; once `check_alive` has raised it is of no more use."""

    def __init__(self, settings: Settings) -> None:
        """ConfigError where the TLS files cannot be used."""
        self.settings = settings
        self.inbox: deque[Event] = deque()
        self._answers: deque[Answer] = deque()
        self.client = make_client(settings, self.inbox, self._answers)
        self._socket: Any = None
        self._corked = False

    def connect(self) -> None:
        """TCP and TLS; takes as long as it takes, and raises what they raise."""
        self.client.reconnect()
        self._socket = (
            self.client.socket()
        )  # paho lets go of it when it fails, and its last word is asked for then

    @property
    def open(self) -> bool:
        return self.client.socket() is not None

    def answer(self, name: str) -> Answer | None:
        """The first of this name that came."""
        return next((answer for answer in self._answers if answer[0] == name), None)

    def turn(self, timeout_s: float) -> int:
        """Reads and writes what can be, waiting at most `timeout_s` for something to read; not 0 when it has ended."""
        client, line = self.client, self.client.socket()
        if line is None:
            return 1
        self.cork(False)
        secure = self.settings.broker.secure
        if secure and line.pending():
            timeout_s = 0.0
        readable, writable, _ = select.select([line], [line] if client.want_write() else [], [], timeout_s)
        rc = client.loop_read() if readable or (secure and timeout_s == 0.0) else 0
        if rc == 0 and writable:
            rc = client.loop_write()
        return int(rc or client.loop_misc())

    def cork(self, hold: bool) -> None:
        """While held, what is published leaves in few full packets at the next turn, not in one small one each."""
        if hold != self._corked and _TCP_CORK is not None and self._socket is not None:
            self._corked = hold
            with contextlib.suppress(OSError):  # closed: the next turn finds out
                self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_CORK, hold)

    def check_alive(self, rc: int) -> None:
        """Raises LinkError, saying why, where `rc` of the last turn, the broker or the socket say that it has ended."""
        lost = self.answer("disconnect")
        if lost is None and rc == 0 and self.open:
            return
        refusal = getattr(self.client.socket() or self._socket, "refusal", None)
        self.drop()
        if refusal is not None:
            raise connect_error(self.settings.broker, refusal)
        raise ended_error(self.settings, lost, answered=self.answer("connack") is not None)

    def drop(self) -> None:
        """Closes the socket without a goodbye: the broker publishes the will."""
        self.client._reset_sockets()  # private: nothing public of paho's closes without a DISCONNECT
