"""What the documents of the wire say, for tests that hold real messages, brokers and programs against it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

_DOCS = Path(__file__).parents[2] / "docs"
WIRE, ASYNCAPI_JSON, FINDING_SCHEMA = (
    _DOCS / "wire.md",
    _DOCS / "asyncapi.json",
    _DOCS / "finding.schema.json",
)
WIRE_TEXT = WIRE.read_text()
DOCUMENT: dict[str, Any] = json.loads(ASYNCAPI_JSON.read_text())


@cache
def payload_of(name: str) -> Any:
    """A validator of one message's payload, with the document's own parts."""
    schema = {"$ref": f"#/components/messages/{name}/payload", "components": DOCUMENT["components"]}
    return jsonschema.Draft7Validator(schema)


def documented(who: str) -> str:
    """The access list of docs/wire.md that knows devices by `who`, %c or %u, to the letter."""
    block = re.search(
        rf"(?m)^(?:    (?:pattern|user|topic) .*\n)*    pattern .*{who}.*\n(?:    .*\n)+", WIRE_TEXT
    )
    assert block is not None, f"no access list with {who} in {WIRE}"
    return re.sub(r"(?m)^    ", "", block.group())
