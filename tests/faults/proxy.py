"""A bad line on demand: a TCP proxy whose two directions can be slow, late, torn, held, swallowed, cut or reset.

    with Proxy(broker.port, seed=3) as line:
        line.up.bytes_per_s = 1200         # 9.6 kbit/s from the device to the broker
        line.half_open()                   # from now on nothing passes, and nobody is told
        line.reset()                       # RST to both ends of every connection

What is torn and how late it comes follows from `seed` alone. Knows nothing about MQTT.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.brokers import free_port

POLL_S = 0.005  # how soon a change of the weather is felt
CHUNK = 16384
RST = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close is a reset


@dataclass
class Weather:
    """One direction of every connection; it may be changed at any moment."""

    bytes_per_s: float | None = None
    delay_s: float = 0.0  # of each piece; with `jitter_s`, up to that much more
    jitter_s: float = 0.0
    torn: bool = False  # passed on in pieces of 1 to 100 bytes, as no careful sender would
    held: bool = False  # a stall: nothing passes and nothing is lost
    swallowed: bool = False  # read and forgotten
    cut_after: int | None = None  # so many more bytes, then the connection is closed
    passed: int = 0  # bytes, so far

    def piece(self, choose: random.Random) -> int:
        """How many bytes to read at once."""
        if self.torn:
            return choose.randint(1, 100)
        return max(1, min(CHUNK, int(self.bytes_per_s / 20))) if self.bytes_per_s else CHUNK


@dataclass
class _Line:
    """One connection of the proxy: towards who connected, and on to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def drop(self, reset: bool) -> None:
        for end in (self.client, self.server):
            if end is not None:
                if reset:
                    with contextlib.suppress(OSError):  # closed already
                        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                end.transport.abort()
        for task in self.tasks:
            task.cancel()


class Proxy:
    """Listens on `port` of this machine and passes what comes to `server_port`, through today's weather."""

    def __init__(self, server_port: int, seed: int = 0) -> None:
        self.up, self.down = Weather(), Weather()  # to the server, and back
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.connections = 0
        self._server_port, self._choose = server_port, random.Random(seed)
        self._mute = False
        self._lines: list[_Line] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a line holds little: the rest waits
        listening.bind(("127.0.0.1", self.port))
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accept, sock=listening, limit=CHUNK))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def half_open(self) -> None:
        """From now on everything is taken and nothing passed on; no end hears of it, nor of the other's end."""
        self._mute = True
        self.up.swallowed = self.down.swallowed = True

    def heal(self) -> None:
        """Fair weather for the connections that come; those that were half-open stay dead, as in life."""
        self._do(self._drop(reset=True))
        self._mute = False
        for weather in (self.up, self.down):
            weather.__dict__.update(Weather(passed=weather.passed).__dict__)

    def reset(self) -> None:
        """RST to both ends of every connection there is."""
        self._do(self._drop(reset=True))

    def close(self) -> None:
        """Ends every connection there is, as a server does that goes away."""
        self._do(self._drop(reset=False))

    # ------------------------------------------------------------ in the loop's thread

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _shut(self) -> None:
        self._server.close()
        await self._drop(reset=True)
        await asyncio.sleep(0)

    async def _drop(self, reset: bool) -> None:
        tasks = [task for line in self._lines for task in line.tasks]
        for line in self._lines:
            line.drop(reset)
        self._lines.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        line = _Line(writer)
        self._lines.append(line)
        if self._mute:
            return
        try:
            answers, line.server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=CHUNK)
        except OSError:  # nobody listens there: the same is told here
            line.drop(reset=True)
            return
        for source, target, weather in ((reader, line.server, self.up), (answers, writer, self.down)):
            pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
            line.tasks.append(asyncio.ensure_future(self._take(source, pieces, weather, line)))
            line.tasks.append(asyncio.ensure_future(self._give(pieces, target, weather, line)))

    async def _take(
        self,
        source: asyncio.StreamReader,
        pieces: asyncio.Queue[tuple[float, bytes]],
        weather: Weather,
        line: _Line,
    ) -> None:
        data = b"-"
        while data:
            try:
                data = await source.read(weather.piece(self._choose))
            except ConnectionError:  # for the other end it is the end
                data = b""
            late = weather.delay_s + self._choose.uniform(0, weather.jitter_s)
            await pieces.put((self._loop.time() + late, data))

    async def _give(
        self,
        pieces: asyncio.Queue[tuple[float, bytes]],
        target: asyncio.StreamWriter,
        weather: Weather,
        line: _Line,
    ) -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            while weather.held:
                await asyncio.sleep(POLL_S)
            if weather.swallowed:
                continue
            if weather.cut_after is not None:
                data = data[: weather.cut_after]
                weather.cut_after -= len(data)
            target.write(data)
            weather.passed += len(data)
            with contextlib.suppress(ConnectionError):
                await target.drain()
            if not data or weather.cut_after == 0:
                weather.cut_after = None
                break
            if weather.bytes_per_s:
                await asyncio.sleep(len(data) / weather.bytes_per_s)
        for end in (line.client, line.server):
            if end is not None:
                end.close()
