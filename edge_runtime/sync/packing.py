"""Payloads made small for slow links: zlib with a preset dictionary that both ends hold.

A dictionary is named on the wire (`zd1`), never changes once a device has used it, and stays with the consumers for
ever; a better one is a new name beside it. Knows nothing about what the payloads say.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

from edge_runtime.errors import UplinkError

ENCODING = "zd1"  # what this device packs with
KNOWN = ("zd1",)
MAX_BYTES = 4 * 2**20  # unpacked; a record of two X-ray masks is 3 kB
_RAW = -zlib.MAX_WBITS  # no header, no checksum: TCP has one, and the schema is checked


@cache
def _dictionary(encoding: str) -> bytes:
    return Path(__file__).with_name(f"dictionary_{encoding}.txt").read_bytes()


def pack(payload: bytes) -> bytes:
    """`payload` as `unpack(..., ENCODING)` gives it back."""
    strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED)  # the second where numbers abound: 4 % less
    tries = (
        zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, strategy, _dictionary(ENCODING))
        for strategy in strategies
    )
    return min((deflate.compress(payload) + deflate.flush() for deflate in tries), key=len)


def unpack(payload: bytes, encoding: str | None) -> bytes:
    """What was packed; without an encoding, what came. Raises UplinkError, and never makes more than MAX_BYTES."""
    if encoding is None:
        return payload
    if encoding not in KNOWN:
        raise UplinkError(f"encoding {encoding[:20]!r}: want one of {', '.join(KNOWN)}")
    inflate = zlib.decompressobj(_RAW, _dictionary(encoding))
    try:
        unpacked = inflate.decompress(payload, MAX_BYTES)
    except zlib.error as exc:
        raise UplinkError(f"encoding {encoding}: cannot be unpacked ({exc})") from exc
    if not inflate.eof or inflate.unused_data:
        raise UplinkError(f"encoding {encoding}: cut off, followed by more, or over {MAX_BYTES} bytes")
    return unpacked
