"""Where a broker is. Knows nothing about connections."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is: `mqtt[s]://[user:password@]host[:port]`; what a URL cannot hold is written as %XX."""

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
        if parts.scheme not in ("mqtt", "mqtts"):
            raise ConfigError(f"broker: does not begin with mqtt:// or mqtts://; {wanted}")
        if not host or port == 0:
            raise ConfigError(f"broker: {'0 is no port' if host else 'has no host name'}; {wanted}")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError(f"broker: ends in more than a host name and a port; {wanted}")
        secure = parts.scheme == "mqtts"
        user, password = (None if it is None else unquote(it) for it in (parts.username, parts.password))
        return cls(parts.hostname or "", port or (8883 if secure else 1883), secure, user, password)

    def __str__(self) -> str:  # without the password
        return f"{'mqtts' if self.secure else 'mqtt'}://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Broker({str(self)!r})"
