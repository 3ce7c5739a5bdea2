"""What leaves the device: no name, no path, no pixel, no key outside the schema; and receipts."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.codes import SourceKind
from edge_runtime.errors import ConfigError, UplinkError
from edge_runtime.sync.topics import DeviceTopics, parse_event
from edge_runtime.sync.wire import Receipt, decode_receipt, encode_receipt, outgoing, ranges_of
from edge_runtime.types import SourceUsed, encode
from tests.builders import STAMP, event, finding

SECRET = "/home/anna/DOE^JANE 1987-03-02.dcm"


def test_a_finding_leaves_without_its_source_name_and_pixels_and_otherwise_as_it_is() -> None:
    source = SourceUsed(kind=SourceKind.DICOM, study_uid_pseudonym="a1", frame_ids=("7.ff",), name=SECRET)
    record = finding(STAMP, source=source)
    here, there = json.loads(encode(record)), json.loads(outgoing("finding", encode(record)))
    assert here["source"].pop("name") == SECRET
    assert [mask.pop("data") for mask in here["masks"]] == [record.masks[0].data]
    assert there == here
    assert b"DOE" not in outgoing("finding", encode(record))


@given(
    where=st.sampled_from(["", "source", "model", "quality", "timing", "masks", "measurements"]),
    key=st.sampled_from(["patient_name", "path", "PatientID", "subject", "thumbnail", "x"]),
)
def test_a_key_that_the_schema_does_not_know_cannot_leave(where: str, key: str) -> None:
    body = json.loads(encode(finding(STAMP)))
    part = body[where] if where else body
    (part[0] if isinstance(part, list) else part)[key] = SECRET
    sent = outgoing("finding", json.dumps(body).encode())
    assert b"DOE" not in sent
    assert key not in _keys(json.loads(sent))


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for part in value.values() for key in _keys(part)}
    return {key for part in value for key in _keys(part)} if isinstance(value, list) else set()


def test_an_event_leaves_as_it_is() -> None:
    record = event(STAMP)
    assert json.loads(outgoing("event", encode(record))) == json.loads(encode(record))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"seq": 1}', b"\xff\xfe", b"null"])
def test_a_body_outside_the_schema_is_refused_and_never_sent(body: bytes) -> None:
    with pytest.raises(UplinkError, match="does not fit"):
        outgoing("finding", body)


@given(seqs=st.sets(st.integers(1, 60)))
def test_ranges_hold_exactly_what_went_in(seqs: set[int]) -> None:
    ranges = ranges_of(seqs)
    assert {seq for first, last in ranges for seq in range(first, last + 1)} == seqs
    assert all(after[0] > before[1] + 1 for before, after in pairwise(ranges))


def test_a_receipt_comes_back_as_it_was_sent_and_ignores_keys_it_does_not_know() -> None:
    receipt = Receipt(epoch="e1", status="rejected", ranges=((1, 3), (7, 7)), reason="schema 9.0")
    assert decode_receipt(encode_receipt(receipt)) == receipt
    newer = {**msgspec.to_builtins(receipt), "signature": "abc"}
    assert decode_receipt(msgspec.json.encode(newer)) == receipt


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"yes",
        b"{}",
        b"\xff",
        b'{"v":2,"epoch":"e","status":"stored","ranges":[[1,2]]}',
        b'{"v":1,"epoch":"e","status":"maybe","ranges":[[1,2]]}',
        b'{"v":1,"epoch":"e","status":"stored","ranges":[[2,1]]}',
        b'{"v":1,"epoch":"e","status":"stored","ranges":[[0,5]]}',
        b'{"v":1,"epoch":"e","status":"stored","ranges":[[1,2,3]]}',
        b'{"v":1,"epoch":"e","status":"rejected","ranges":[[1,2]],"reason":"' + b"x" * 201 + b'"}',
    ],
)
def test_anything_else_than_a_receipt_confirms_nothing(payload: bytes) -> None:
    with pytest.raises(UplinkError, match="ignored"):
        decode_receipt(payload)


@pytest.mark.parametrize("level", ["", "a/b", "+", "#", "$SYS", "a b", "ä", "x" * 65, "-x"])
def test_a_level_that_mqtt_would_read_otherwise_is_refused_where_it_is_made(level: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        DeviceTopics("t", "s", level)


def test_an_event_topic_is_read_back_and_nothing_else_is() -> None:
    device = DeviceTopics("clinic", "room-1", "dev-1")
    parsed = parse_event(device.event("finding"))
    assert parsed is not None
    assert (parsed.device, parsed.kind) == (device, "finding")
    for other in (
        device.state,
        device.receipts,
        "er/v2/a/b/c/evt/finding",
        "er/v1/a/b/c/evt/x",
        "er/v1/+/b/c/evt/finding",
        "",
    ):
        assert parse_event(other) is None
