"""Where a broker is and how it is trusted. Knows nothing about connections."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files; all None is the system's trust store and no client certificate."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError, naming the file, when one of them cannot be used."""
        for path in (self.ca, self.cert, self.key):
            if path is not None and not path.is_file():
                raise ConfigError(f"TLS file {path}: not found")
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(f"TLS files {self.ca}, {self.cert}, {self.key}: {exc}") from exc
        context.sslsocket_class = _Socket
        return context


class _Socket(ssl.SSLSocket):
    """Closes itself when its handshake fails: paho forgets it then and leaves it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is: `mqtt[s]://[user:password@]host[:port]`."""

    host: str
    port: int
    secure: bool
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Broker:
        wanted = "want mqtt://host[:port] or mqtts://host[:port]"
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna")  # what the look-up will do with it
        except ValueError as exc:  # whose text may hold the password
            raise ConfigError(f"broker: not a URL with a host name and a port; {wanted}") from exc
        if parts.scheme not in ("mqtt", "mqtts") or not host or port == 0 or parts.path not in ("", "/"):
            raise ConfigError(f"broker {parts.scheme}://{parts.hostname or ''}: {wanted}")
        secure = parts.scheme == "mqtts"
        return cls(
            parts.hostname or "", port or (8883 if secure else 1883), secure, parts.username, parts.password
        )

    def __str__(self) -> str:  # without the password
        return f"{'mqtts' if self.secure else 'mqtt'}://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Broker({str(self)!r})"
