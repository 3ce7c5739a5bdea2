"""The certificates of a connection: made into a context, watched for a new one, and asked how long they last.

Knows nothing about brokers.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError

_UTC_TIME, _GENERALIZED_TIME, _CONTEXT_0 = 0x17, 0x18, 0xA0


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
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"--ca {self.ca}: no PEM certificates in it ({_short(exc)}); name another"
            ) from exc
        if self.cert is not None:
            self._load_own(context)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = WatchedSocket
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        cert, key = f"--cert {self.cert}", f"--key {self.key}" if self.key else "no --key"
        try:
            context.load_cert_chain(str(self.cert), self.key, password=_no_password)
        except _EncryptedKeyError:
            raise ConfigError(
                f"{key if self.key else cert}: the key is encrypted, and nobody is there to type a password; give it "
                "unencrypted (openssl pkey), readable by this user alone"
            ) from None
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"{cert}, {key}: want a PEM certificate and the private key that belongs to it ({_short(exc)})"
            ) from exc

    def mark(self) -> tuple[object, ...]:
        """Another one when a file was written or replaced; a link is followed to what it points at."""
        return tuple(_mark(path) for path in (self.ca, self.cert, self.key) if path is not None)

    def days_left(self, now: datetime) -> float | None:
        """Of this device's certificate; negative once it has ended, None where there is none or it cannot be read."""
        if self.cert is None:
            return None
        try:
            return (ends_at(self.cert.read_text()) - now).total_seconds() / 86400
        except (OSError, ValueError):
            return None


class _EncryptedKeyError(Exception):
    """A key that wants a password."""


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal, and wait."""
    raise _EncryptedKeyError


def _short(exc: OSError) -> str:
    """OpenSSL's own word, where it has one."""
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "it is not PEM").lower().replace("_", " ")
    return exc.strerror or str(exc)


def _mark(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class WatchedSocket(ssl.SSLSocket):
    """Closes itself when its handshake fails, since paho forgets it then and leaves it open; and keeps the peer's last
    word, which paho drops: with TLS 1.3 a refused client certificate is told only after the handshake, and sometimes
    the line is gone for writing before that word has been read.
    """

    refusal: ssl.SSLError | None = None

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as exc:
            if not isinstance(exc, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                self.refusal = exc
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except OSError as exc:
            if not isinstance(exc, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                with contextlib.suppress(OSError, ValueError):
                    self.recv(1)
            raise


# ------------------------------------------------------------ when a certificate ends


def ends_at(pem: str) -> datetime:
    """When the first certificate of a PEM file ends; ValueError when there is none. RFC 5280, 4.1.

    Python's own ssl says it only of a peer, and a library for this one date would be the largest that we have.
    """
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    first = pem[pem.find(begin) : pem.find(end) + len(end)]
    certificate, _ = _element(ssl.PEM_cert_to_DER_cert(first))
    fields, _ = _element(certificate)
    if fields[:1] == bytes([_CONTEXT_0]):  # the version; absent in version 1
        _, fields = _element(fields)
    for _ in ("serial number", "signature", "issuer"):
        _, fields = _element(fields)
    validity, _ = _element(fields)
    _, not_after = _element(validity)
    text, _ = _element(not_after)
    year = {_UTC_TIME: "%y", _GENERALIZED_TIME: "%Y"}.get(not_after[0])
    if year is None:
        raise ValueError(f"a time of type {not_after[0]:#x}")
    return datetime.strptime(text.decode("ascii"), f"{year}%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _element(der: bytes) -> tuple[bytes, bytes]:
    """The content of the first element of DER bytes, and what follows it."""
    if len(der) < 2:
        raise ValueError("certificate: cut short")
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise ValueError("certificate: cut short")
    return der[start : start + length], der[start + length :]
