"""Which records go first when the link has room: the four lanes of the outbox. Knows nothing about SQLite or MQTT."""

from __future__ import annotations

from enum import IntEnum

from edge_runtime.records import RecordKind


class Lane(IntEnum):
    """The smaller, the sooner; a lane that waits still gets its share (`sync/flight.py`)."""

    URGENT = 0  # a finding that a person marked
    FINDING = 1  # findings, exam events, gaps, audits: never removed before they are delivered
    TELEMETRY = 2
    MASK = 3


def lane_of(kind: RecordKind) -> Lane:
    """The lane of a record that nobody marked."""
    if kind == "mask":
        return Lane.MASK
    return Lane.TELEMETRY if kind == "telemetry" else Lane.FINDING
