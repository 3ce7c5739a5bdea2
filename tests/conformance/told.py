"""What rows, numbers and headers tell of a conversation, and receipts that a test says itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import msgspec

from edge_runtime.sync.wire import Receipt, encode_receipt
from tests.parties.documents import DOCUMENT
from tests.parties.ear import Ear, Heard, records
from tests.parties.place import Place


def read(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store)) as db:
        return db.execute(sql).fetchall()


def numbers(ranges: Any) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


def headers_of(one: Heard) -> dict[str, str]:
    """Its user properties as they came; they fit the document."""
    headers = DOCUMENT["components"]["messages"][one.kind]["headers"]
    told = dict(one.properties["UserProperty"])
    jsonschema.Draft7Validator({**headers, "additionalProperties": False}).validate(told)
    return told


def stored(place: Place, *ranges: tuple[int, int], **over: Any) -> Receipt:
    return Receipt(**{"epoch": place.device.epoch, "status": "stored", "ranges": ranges, **over})


def say(ear: Ear, place: Place, receipt: Receipt, sender: str = "") -> None:
    """A receipt to the process that was heard last."""
    word = sender or records(ear.heard)[-1].user["sender"]
    ear.say(place.device.topics.receipts, encode_receipt(msgspec.structs.replace(receipt, sender=word)))
