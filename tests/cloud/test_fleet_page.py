"""What docs/fleet.md shows as code is run as it stands."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cloud.store import open_store
from edge_runtime.sync.wire import decode_receipt
from tests.cloud.conftest import ROW, Reader, Write
from tests.parties.cloud import TOPICS, changed, message

PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"


def test_a_consumer_of_ones_own_stores_a_batch_and_then_tells_the_devices(url: str, read: Reader) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    told: list[tuple[str, str]] = []

    def publish(topic: str, payload: bytes) -> None:
        assert read("SELECT count(*) FROM findings") == [(1,)]  # committed before anybody is told
        told.append((topic, decode_receipt(payload).status))

    records = [
        (one.topic, one.payload, dict(one.properties)) for one in (message(), changed(schema_version="7.0"))
    ]
    with closing(open_store(url)) as store:
        names["settle"](store, records, publish)
    assert told == [(TOPICS.receipts, "stored"), (TOPICS.receipts, "rejected")]
    assert read("SELECT count(*) FROM quarantine") == [(1,)]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_findings_may_be_partitioned_by_their_ids_and_are_still_stored_once(
    url: str, write: Write, read: Reader
) -> None:
    write(
        'CREATE TABLE findings (device_id TEXT NOT NULL, finding_id TEXT COLLATE "C" PRIMARY KEY, seq BIGINT NOT NULL,'
        " epoch TEXT NOT NULL, exam_id TEXT NOT NULL, created_at TEXT NOT NULL, received_at TEXT NOT NULL,"
        " body TEXT NOT NULL) PARTITION BY RANGE (finding_id)"
    )
    write("CREATE TABLE findings_2026_01 PARTITION OF findings FOR VALUES FROM ('019b7') TO ('019c1')")
    write("CREATE TABLE findings_other PARTITION OF findings DEFAULT")
    rows = [ROW._replace(id=f"019b{n}000-0000-7000-8000-000000000000", seq=n + 1) for n in range(10)]
    with closing(open_store(url)) as store:
        assert store.put(rows).findings == 10
        assert store.put(rows).findings == 0
    assert read("SELECT count(*) FROM findings_2026_01") == [(3,)]
    assert read("SELECT * FROM missing") == []
