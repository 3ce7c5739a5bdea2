"""The wire as an AsyncAPI 3.0 document, made from the types that encode and decode it (`make schema` writes it).

The document is for programs: code generators, validators, catalogues. What its words cannot say, the order of things and
who must do what, `docs/wire.md` says.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.sync.commands.command import (
    ANSWER_CONTENT_TYPE,
    ARGUMENTS,
    COMMAND_CONTENT_TYPE,
    SIGNATURE_PROPERTY,
    Answer,
    Command,
    ResendResult,
)
from edge_runtime.sync.link.publishing import Message
from edge_runtime.sync.packing import KNOWN
from edge_runtime.sync.row_name import SHORT, SHORT_PATTERN
from edge_runtime.sync.topics import EVENTS_FILTER, DeviceTopics
from edge_runtime.sync.wire import CONTENT_TYPE, RECEIPT_CONTENT_TYPE, SENT, DeviceState, Receipt
from edge_runtime.types import SCHEMA_VERSION

STATE_CONTENT_TYPE = Message("", b"").content_type
LEVELS = {
    "tenant": "Who runs the fleet.",
    "site": "Where the device stands.",
    "device": "The device id, which is its MQTT client id too.",
}
_LEVEL = "1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first"
_SEQ = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
_CODE = {"type": "string", "pattern": "^[0-9a-f]{1,64}$"}
_RECORD_HEADERS = {
    "type": "object",
    "description": "MQTT v5 user properties. On a slow line schema and content type are left out: body and topic tell them.",
    "properties": {
        "epoch": {**_CODE, "description": "As in the body: a receipt answers even what cannot be read."},
        "seq": {**_SEQ, "description": "As in the body."},
        "sender": {
            "type": "string",
            "pattern": "^[0-9a-zA-Z_-]{1,64}$",
            "description": "The process that sends, with a number once rows go out again; receipts say it back.",
        },
        "schema": {"type": "string", "description": "As schema_version in the body."},
        "encoding": {
            "enum": list(KNOWN),
            "description": "The payload is packed: raw DEFLATE with the preset dictionary of this name. Absent: plain JSON.",
        },
        SHORT: {
            "type": "string",
            "pattern": f"^{SHORT_PATTERN}$",
            "description": "On a slow line, instead of encoding, epoch, seq and sender: the four in this order.",
        },
    },
    "anyOf": [{"required": ["epoch", "seq"]}, {"required": [SHORT]}],
}
_COMMAND_HEADERS = {
    "type": "object",
    "description": "MQTT v5 user properties.",
    "properties": {
        SIGNATURE_PROPERTY: {
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]{86}$",
            "description": "Ed25519 over 'edge-runtime command 1', NUL, the topic, NUL, the payload; base64url, unpadded.",
        }
    },
    "required": [SIGNATURE_PROPERTY],
}


def document() -> bytes:
    """The whole document, as committed in docs/asyncapi.json."""
    made = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edge-runtime wire",
            "version": SCHEMA_VERSION,
            "description": "What a device, a consumer and an operator say over MQTT v5. The requirements, with their ids, are"
            " in docs/wire.md. Research use only, not a medical device.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }
    return msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"


def _channels() -> dict[str, Any]:
    topics = DeviceTopics("tenant", "site", "device")
    addresses: dict[str, str] = {kind: topics.event(kind) for kind in SENT}
    addresses |= {"state": topics.state, "receipts": topics.receipts, "answers": topics.responses}
    addresses |= {f"command_{name}": topics.command(name) for name in ARGUMENTS}
    said = {"state": "state", "receipts": "receipt", "answers": "answer"}
    return {
        name: {
            "address": address.replace("/tenant/site/device/", "/{tenant}/{site}/{device}/"),
            "messages": {said.get(name, name): _ref("components", "messages", said.get(name, name))},
            "parameters": {level: {"description": f"{what} {_LEVEL}."} for level, what in LEVELS.items()},
        }
        for name, address in addresses.items()
    }


def _operations() -> dict[str, Any]:
    """Who sends and who receives: each operation is of the one that its first word names."""
    made: dict[str, Any] = {}
    for kind in SENT:
        made[f"device_sends_{kind}"] = _operation("send", kind, "device")
        made[f"consumer_receives_{kind}"] = {
            **_operation("receive", kind, "consumer"),
            "description": f"By the shared subscription {EVENTS_FILTER}.",
        }
    made["consumer_sends_receipts"] = _operation("send", "receipts", "consumer")
    made["device_receives_receipts"] = _operation("receive", "receipts", "device")
    made["device_sends_state"] = _operation("send", "state", "device", retain=True)
    made["consumer_receives_state"] = _operation("receive", "state", "consumer")
    for name in ARGUMENTS:
        answered = {"reply": {"channel": _ref("channels", "answers")}}
        made[f"operator_sends_{name}"] = {**_operation("send", f"command_{name}", "operator"), **answered}
        made[f"device_receives_{name}"] = {**_operation("receive", f"command_{name}", "device"), **answered}
    return made


def _operation(action: str, channel: str, who: str, *, retain: bool = False) -> dict[str, Any]:
    mqtt: dict[str, Any] = {"qos": 1, "bindingVersion": "0.2.0"}
    if action == "send":
        mqtt["retain"] = retain
    return {
        "action": action,
        "channel": _ref("channels", channel),
        "tags": [{"name": who}],
        "bindings": {"mqtt": mqtt},
    }


def _messages() -> dict[str, Any]:
    made: dict[str, Any] = {
        kind: _message(CONTENT_TYPE[kind], _schema(sent), _RECORD_HEADERS) for kind, sent in SENT.items()
    }
    made["receipt"] = _message(RECEIPT_CONTENT_TYPE, _schema(Receipt))
    made["state"] = _message(STATE_CONTENT_TYPE, _schema(DeviceState))
    resent = {
        "if": {"properties": {"command": {"const": "resend"}, "outcome": {"const": "done"}}},
        "then": {"properties": {"result": _schema(ResendResult)}},
    }
    made["answer"] = _message(ANSWER_CONTENT_TYPE, {"allOf": [_schema(Answer), resent]})
    for name, arguments in ARGUMENTS.items():
        narrowed = {"properties": {"command": {"const": name}, "arguments": _schema(arguments)}}
        made[f"command_{name}"] = _message(
            COMMAND_CONTENT_TYPE, {"allOf": [_schema(Command), narrowed]}, _COMMAND_HEADERS
        )
    return made


def _message(
    content_type: str, payload: dict[str, Any], headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    made = {"contentType": content_type, "payload": payload}
    return made if headers is None else {**made, "headers": headers}


def _schemas() -> dict[str, Any]:
    types = (*SENT.values(), Receipt, DeviceState, Command, Answer, ResendResult, *ARGUMENTS.values())
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {name: _draft_7(components[name]) for name in sorted(components)}


def _draft_7(schema: Any) -> Any:
    """The same schema in the dialect of AsyncAPI, JSON Schema draft 7: it names the parts of a tuple otherwise."""
    if isinstance(schema, list):
        return [_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _draft_7(value) for key, value in sorted(schema.items())}
    if "prefixItems" in made:
        made["additionalItems"] = made.pop("items", True)
        made["items"] = made.pop("prefixItems")
    return made


def _schema(of: Any) -> dict[str, Any]:
    return _ref("components", "schemas", of.__name__)


def _ref(*path: str) -> dict[str, Any]:
    return {"$ref": "#/" + "/".join(path)}
