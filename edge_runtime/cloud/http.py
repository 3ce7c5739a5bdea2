"""`/metrics` and `/healthz` of one receiver, on a thread beside it; nothing else is answered.

There is no password on it: it belongs on the loopback or inside the cluster. Knows nothing about what it shows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6

import msgspec

from edge_runtime.errors import ConfigError

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT`; port 0 is any that is free. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--http {text}: want HOST:PORT, as 127.0.0.1:9108")
    return host, int(port)


@contextmanager
def serving(
    where: tuple[str, int], metrics: Callable[[], bytes], troubles: Callable[[], dict[str, str]]
) -> Iterator[str]:
    """Answers while the block runs; gives the address it is at. ConfigError when it cannot be taken."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds that a client may take to say what it wants

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, _TEXT, metrics())
            elif path == "/healthz":
                wrong = troubles()
                said = {"status": "unhealthy" if wrong else "ok", **wrong}
                self._answer(503 if wrong else 200, "application/json", msgspec.json.encode(said) + b"\n")
            else:
                self._answer(404, _TEXT, b"/metrics and /healthz\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
            """Nobody reads a line for each scrape."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is its own affair."""

    if ":" in where[0]:
        Server.address_family = AF_INET6
    try:
        server = Server(where, Handler)
    except OSError as exc:
        raise ConfigError(f"--http {where[0]}:{where[1]}: cannot listen ({exc.strerror or exc})") from exc
    threading.Thread(target=server.serve_forever, daemon=True, name="http").start()
    try:
        yield f"http://{where[0]}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
