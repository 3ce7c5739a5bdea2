"""The committed JSON Schema is the type's own, and real findings fit it."""

from __future__ import annotations

import json

from edge_runtime import codes
from edge_runtime.records import json_schema
from tests.parties.documents import FINDING_SCHEMA


def test_the_committed_schema_is_the_one_of_the_types() -> None:
    assert FINDING_SCHEMA.read_bytes() == json_schema(), (
        "the types changed: run `make schema`, and raise SCHEMA_VERSION"
    )


def test_every_closed_word_is_in_the_schema() -> None:
    defined = json.loads(FINDING_SCHEMA.read_text())["$defs"]
    for enumeration in (
        codes.Status,
        codes.Kind,
        codes.Priority,
        codes.SourceKind,
        codes.SpacingSource,
        codes.Reason,
    ):
        assert set(defined[enumeration.__name__]["enum"]) == {member.value for member in enumeration}


def test_every_reason_has_a_severity() -> None:
    assert set(codes.SEVERITY) == set(codes.Reason)
    assert codes.Status.USABLE not in codes.SEVERITY.values()
