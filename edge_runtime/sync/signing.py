"""Who signed a command: Ed25519 over its topic and the exact bytes of its payload. Knows nothing about what is in them.

The device holds public keys only, as PEM (`openssl pkey -pubout`, or what `edge-runtime command --new-key` writes). The
arithmetic is all `cryptography`'s; it is imported when the first key is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import ConfigError, first_line
from edge_runtime.files import sync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MOST_KEYS = 16  # each is tried on each command
MOST_KEY_BYTES = 64 * 2**10
SIGNATURE_BYTES = 64
_DOMAIN = b"edge-runtime command 1\0"  # these keys' signatures mean nothing anywhere else
_PUBLIC, _PRIVATE = b"-----BEGIN PUBLIC KEY-----", b"PRIVATE KEY-----"


def signed_bytes(topic: str, payload: bytes) -> bytes:
    """What is signed. A topic has no NUL, so no two pairs give the same bytes."""
    return _DOMAIN + topic.encode() + b"\0" + payload


def decode_signature(text: str) -> bytes | None:
    """The 64 bytes that `text` is the base64url of, with or without padding; None for anything else."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return None
    return raw if len(raw) == SIGNATURE_BYTES and _encode(raw) == text.rstrip("=") else None


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Signer:
    """A private key, on the operator's machine."""

    key: Ed25519PrivateKey

    @classmethod
    def load(cls, path: Path) -> Signer:
        """The Ed25519 key in the PEM file `path`. ConfigError when there is none."""
        ed25519, serialization = _library()
        try:
            key = serialization.load_pem_private_key(_read(path), password=None)
        except (ValueError, TypeError) as exc:
            raise ConfigError(
                f"{path}: want an Ed25519 private key as PEM, without a passphrase ({first_line(exc)})"
            ) from exc
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ConfigError(f"{path}: want an Ed25519 key, got another kind; make one with --new-key")
        return cls(key)

    @property
    def key_id(self) -> str:
        return key_id(self.key.public_key())

    def sign(self, topic: str, payload: bytes) -> str:
        """The signature as it travels: base64url without padding."""
        return _encode(self.key.sign(signed_bytes(topic, payload)))


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys whose commands a device does, by their ids."""

    keys: dict[str, Ed25519PublicKey]

    @classmethod
    def load(cls, path: Path) -> TrustedKeys:
        """Every key in the PEM file `path`, or in the `*.pem` files of that folder. ConfigError naming what is wrong.

        A private key there is refused: it would let this device command others.
        """
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        keys: dict[str, Ed25519PublicKey] = {}
        for file in files:
            found = _public_keys(file, _read(file))
            keys.update({key_id(key): key for key in found})
        if not 0 < len(keys) <= MOST_KEYS:
            raise ConfigError(f"command keys {path}: want 1 to {MOST_KEYS} public keys, got {len(keys)}")
        return cls(keys)

    def signer_of(self, topic: str, payload: bytes, signature: bytes) -> str | None:
        """The id of the key that made `signature`; None when none of these did."""
        from cryptography.exceptions import InvalidSignature

        message = signed_bytes(topic, payload)
        for name, key in self.keys.items():
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return name
        return None


NO_KEYS = TrustedKeys({})


def key_id(key: Ed25519PublicKey) -> str:
    """Names a key without a register: 16 hex digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def new_key(path: Path) -> tuple[Path, str]:
    """Makes a key: the private one at `path` (mode 0600), the public one beside it as `.pub.pem`; that path and the key's id.

    ConfigError when either exists: a key that is overwritten is a fleet that no longer listens.
    """
    ed25519, serialization = _library()
    public_path = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
    for taken in (path, public_path):
        if taken.exists():
            raise ConfigError(f"{taken}: exists already; name another file")
    key = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        _write_new(path, private, 0o600)
        _write_new(public_path, public, 0o644)
        sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written ({exc.strerror}); name another place") from exc
    return public_path, key_id(key.public_key())


def _write_new(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def _public_keys(path: Path, content: bytes) -> list[Ed25519PublicKey]:
    if _PRIVATE in content:
        raise ConfigError(
            f"command keys {path}: holds a private key; a device needs the public one only, keep this one away from it"
        )
    ed25519, serialization = _library()
    found = []
    for block in content.split(_PUBLIC)[1:]:
        try:
            key = serialization.load_pem_public_key(_PUBLIC + block)
        except ValueError as exc:
            raise ConfigError(f"command keys {path}: not a public key as PEM ({first_line(exc)})") from exc
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise ConfigError(f"command keys {path}: want Ed25519 keys, got another kind")
        found.append(key)
    if not found:
        raise ConfigError(f"command keys {path}: no PUBLIC KEY in it; want PEM")
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_KEY_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"key {path}: cannot be read ({exc.strerror}); name an existing PEM file") from exc
    if len(content) > MOST_KEY_BYTES:
        raise ConfigError(f"key {path}: larger than {MOST_KEY_BYTES} bytes; want a PEM file")
    return content


def _library() -> tuple[Any, Any]:
    """`cryptography`'s two modules; it is an extra."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as exc:
        raise ConfigError("commands need a library: pip install 'edge-runtime[commands]'") from exc
    return ed25519, serialization
