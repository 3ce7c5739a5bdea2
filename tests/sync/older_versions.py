"""Tables of a findings database as earlier versions made them."""

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

# where it differs from today's
VERSION_2 = (
    """CREATE TABLE lost (
        first INTEGER PRIMARY KEY,
        last INTEGER NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
)
