"""Packed payloads come back as they were, small, and a hostile one makes little."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.codes import Clock
from edge_runtime.errors import UplinkError
from edge_runtime.sync import packing
from edge_runtime.sync.journal import Stamp
from edge_runtime.sync.packing import ENCODING, MAX_BYTES, pack, unpack
from edge_runtime.sync.wire import outgoing
from edge_runtime.types import encode
from tests.builders import finding

STAMP = Stamp("dev-1a2b3c4d", "0123456789ab", "89ab01234567", 7, "2026-01-01T00:00:00.000Z", Clock.NTP, 1)
DIGESTS = {"zd1": "0b2dc2284d88f27871f95e3cb226c8cd1e1471aaf35bc71c3520d42a81de59f4"}


@given(payload=st.binary(max_size=3000))
def test_what_is_packed_comes_back(payload: bytes) -> None:
    assert unpack(pack(payload), ENCODING) == payload


def test_a_finding_for_a_slow_link_takes_a_ninth() -> None:
    plain = outgoing("finding", encode(finding(STAMP)))
    packed = pack(outgoing("finding", encode(finding(STAMP)), thin=True))
    assert len(packed) * 6 < len(plain)


def test_what_is_not_packed_passes_as_it_is() -> None:
    assert unpack(b"{}", None) == b"{}"


@pytest.mark.parametrize("encoding", ["zd2", "gzip", ""])
def test_an_encoding_that_is_not_known_is_named(encoding: str) -> None:
    with pytest.raises(UplinkError, match="want one of zd1"):
        unpack(b"", encoding)


@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused_or_read_but_never_worse(garbage: bytes) -> None:
    try:
        assert len(unpack(garbage, ENCODING)) <= MAX_BYTES
    except UplinkError as error:
        assert "zd1" in str(error)


def test_a_payload_cut_short_or_followed_by_more_is_refused() -> None:
    whole = pack(b"x" * 100)
    for wrong in (whole[:-1], whole + b"x"):
        with pytest.raises(UplinkError, match="cut off"):
            unpack(wrong, ENCODING)


def test_a_bomb_is_refused_without_being_unpacked_whole() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflate.compress(bytes(64 * MAX_BYTES)) + deflate.flush()
    with pytest.raises(UplinkError, match=f"over {MAX_BYTES}"):
        unpack(bomb, ENCODING)


@pytest.mark.parametrize("encoding", packing.KNOWN)
def test_a_dictionary_never_changes_once_devices_use_it(encoding: str) -> None:
    path = Path(packing.__file__).with_name(f"dictionary_{encoding}.txt")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGESTS[encoding]
