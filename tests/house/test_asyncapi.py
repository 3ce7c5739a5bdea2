"""The committed AsyncAPI document is the types' own, is whole, and says what a real message is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from edge_runtime.sync.asyncapi import document
from edge_runtime.sync.wire import CONTENT_TYPE, SENT, outgoing
from edge_runtime.types import encode
from tests.builders import STAMP, event, finding, telemetry
from tests.parties.documents import ASYNCAPI_JSON, DOCUMENT, FINDING_SCHEMA, payload_of


def _object(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    names = dict.fromkeys((required + " " + optional).split(), True)
    return {
        "type": "object",
        "required": required.split(),
        "properties": {**names, **properties},
        "additionalProperties": False,
    }


def _each(value: Any) -> dict[str, Any]:
    return {"type": "object", "minProperties": 1, "additionalProperties": value}


REF = _object("$ref", **{"$ref": {"type": "string", "pattern": "^#/"}})
SCHEMA = {"$ref": "http://json-schema.org/draft-07/schema#"}
# Those parts of the AsyncAPI 3.0 specification that this document is made of, and nothing that is not in it.
ASYNCAPI = _object(
    "asyncapi info channels operations components",
    asyncapi={"const": "3.0.0"},
    defaultContentType={"type": "string"},
    info=_object("title version", "description license", version={"type": "string"}),
    channels=_each(
        _object(
            "address messages parameters",
            address={"type": "string"},
            messages=_each(REF),
            parameters=_each(_object("description")),
        )
    ),
    operations=_each(
        _object(
            "action channel bindings tags",
            "description",
            action={"enum": ["send", "receive"]},
            channel=REF,
            reply=_object("channel", channel=REF),
            bindings=_object(
                "mqtt",
                mqtt=_object("qos bindingVersion", qos={"enum": [0, 1, 2]}, retain={"type": "boolean"}),
            ),
        )
    ),
    components=_object(
        "messages schemas",
        messages=_each(
            _object("payload contentType", contentType={"type": "string"}, payload=SCHEMA, headers=SCHEMA)
        ),
        schemas=_each(SCHEMA),
    ),
)


def refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from refs(value)


def at(ref: str) -> Any:
    node: Any = DOCUMENT
    for name in ref.removeprefix("#/").split("/"):
        node = node[name]
    return node


def test_the_committed_document_is_the_one_of_the_types() -> None:
    assert ASYNCAPI_JSON.read_bytes() == document(), "the types changed: run `make schema`"


def test_the_document_is_an_asyncapi_3_document() -> None:
    jsonschema.Draft7Validator(ASYNCAPI).validate(DOCUMENT)


def test_a_document_with_a_part_that_asyncapi_does_not_know_is_refused() -> None:
    broken = json.loads(ASYNCAPI_JSON.read_text())
    broken["channels"]["finding"]["topic"] = broken["channels"]["finding"].pop("address")
    assert not jsonschema.Draft7Validator(ASYNCAPI).is_valid(broken)


def test_every_reference_leads_somewhere() -> None:
    found = set(refs(DOCUMENT))
    assert len(found) > 50
    for ref in found:
        at(ref)


def test_nothing_is_described_that_nobody_says() -> None:
    used = {ref.rsplit("/", 1)[1] for channel in DOCUMENT["channels"].values() for ref in refs(channel)}
    assert used == set(DOCUMENT["components"]["messages"])
    channels = {ref.rsplit("/", 1)[1] for one in DOCUMENT["operations"].values() for ref in refs(one)}
    assert channels == set(DOCUMENT["channels"])


@pytest.mark.parametrize("channel", [name for name in DOCUMENT["channels"] if not name.startswith("command")])
def test_what_one_sends_another_receives(channel: str) -> None:
    actions = {
        (one["action"], one["tags"][0]["name"])
        for one in DOCUMENT["operations"].values()
        if one["channel"]["$ref"] == f"#/channels/{channel}"
        or one.get("reply", {}).get("channel", {}).get("$ref") == f"#/channels/{channel}"
    }
    assert len({action for action, _ in actions}) == 2
    assert len({who for _, who in actions}) == 2


def test_a_record_as_it_is_sent_fits_and_one_with_a_wrong_word_does_not() -> None:
    for kind, record in (
        ("finding", finding(STAMP)),
        ("event", event(STAMP)),
        ("telemetry", telemetry(STAMP)),
    ):
        said = json.loads(outgoing(kind, encode(record)))  # type: ignore[arg-type]
        payload_of(kind).validate(said)
        assert not payload_of(kind).is_valid({**said, "clock": "sundial"})
        del said["seq"]
        assert not payload_of(kind).is_valid(said)


def test_a_finding_on_the_wire_has_no_place_for_a_name_or_a_pixel() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert "name" not in schemas["SourceUsed"]["properties"]
    assert "data" not in schemas["MaskRecord"]["properties"]
    kept = json.loads(FINDING_SCHEMA.read_text())["$defs"]  # what the device itself keeps
    assert "name" in kept["SourceUsed"]["properties"]


def test_every_kind_of_record_has_its_channel_and_content_type() -> None:
    for kind in SENT:
        assert DOCUMENT["channels"][kind]["address"] == f"er/v1/{{tenant}}/{{site}}/{{device}}/evt/{kind}"
        assert DOCUMENT["components"]["messages"][kind]["contentType"] == CONTENT_TYPE[kind]
