"""The tables of a findings database of version 1, as the first release made them."""

from __future__ import annotations

VERSION_1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL CHECK (kind IN ('finding', 'event')),
        id TEXT NOT NULL,
        exam_id TEXT NOT NULL,
        created_at TEXT NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE TABLE outbox (seq INTEGER PRIMARY KEY REFERENCES journal (seq))",
    "CREATE TABLE dead (seq INTEGER PRIMARY KEY REFERENCES journal (seq), reason TEXT NOT NULL)",
)
