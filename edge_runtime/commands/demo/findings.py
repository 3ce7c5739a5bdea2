"""What the demo's runs reported, read back from their `--out` files, and what the cloud's database has of it.

A part of the demo is judged only by what left the run that made it: nothing is measured a second time here.
"""

from __future__ import annotations

import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime.codes import SEVERITY, MeasurementName, Status
from edge_runtime.errors import UplinkError
from edge_runtime.types import Finding, Measurement

_decode = msgspec.json.Decoder(Finding).decode


def whole_lines(path: Path) -> bytes:
    """The told part of an `--out` file; nothing when it is not there yet.

    A last line without its newline was being written when its process was killed: it had not been told yet.
    """
    body = path.read_bytes() if path.exists() else b""
    return body[: body.rfind(b"\n") + 1]


def read(path: Path) -> list[Finding]:
    """The findings of one `--out` file, in order."""
    return [_decode(line) for line in whole_lines(path).splitlines()]


@dataclass(slots=True)
class Tail:
    """Follows a growing `--out` file and reads no byte of it twice."""

    path: Path
    count: int = 0
    last: Finding | None = None
    _offset: int = 0

    def look(self) -> bool:
        """Takes in what has come since the last look; whether anything had."""
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        if not new:
            return False
        self._offset += len(new)
        self.count += new.count(b"\n")
        self.last = _decode(new.splitlines()[-1])
        return True


def shown(finding: Finding, name: MeasurementName) -> Measurement | None:
    """The measurement of this name; None where it was withheld or the finding has none."""
    for measurement in finding.measurements:
        if measurement.name is name and measurement.value is not None:
            return measurement
    return None


def circumference(finding: Finding) -> Measurement | None:
    """The head circumference in mm, None where it was withheld or is in pixels only."""
    return shown(finding, MeasurementName.HEAD_CIRCUMFERENCE)


def middle(findings: Iterable[Finding], name: MeasurementName) -> Finding | None:
    """The finding with the median value of this name; None when no finding has one."""
    sized = [(one.value or 0.0, finding) for finding in findings if (one := shown(finding, name)) is not None]
    return sorted(sized, key=lambda pair: pair[0])[len(sized) // 2][1] if sized else None


def frame_index(finding: Finding) -> int:
    """The number of the frame that it is about, at its source."""
    return int(finding.source.frame_ids[0].partition(".")[0])


def gives_a_size(finding: Finding) -> bool:
    """Whether it gives any number at all."""
    return any(one.value is not None for one in finding.measurements)


def in_millimetres(finding: Finding) -> bool:
    """Whether it gives any number in mm."""
    return any(one.value is not None and one.unit == "mm" for one in finding.measurements)


def withheld_reasons(findings: Iterable[Finding]) -> dict[str, int]:
    """How often each reason that withholds came; those of caution are not counted."""
    counts = Counter(
        reason.value
        for finding in findings
        if finding.status is Status.WITHHELD
        for reason in finding.reasons
        if SEVERITY[reason] is Status.WITHHELD
    )
    return dict(counts.most_common())


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A head circumference against the true one: of a phantom the median finding and its interval."""

    true_mm: float
    value_mm: float
    interval_mm: tuple[float, float]
    status: Status
    reasons: list[str]
    values: int  # findings with a value
    inside: int  # of them: the true value lies in the interval


def measured(findings: Sequence[Finding], true_mm: float) -> Measured | None:
    """The finding with the median circumference; None when no finding has one."""
    heads = [one for finding in findings if (one := circumference(finding)) is not None]
    chosen = middle(findings, MeasurementName.HEAD_CIRCUMFERENCE)
    median = None if chosen is None else circumference(chosen)
    if median is None or median.value is None:
        return None
    return Measured(
        true_mm=true_mm,
        value_mm=median.value,
        interval_mm=median.interval or (median.value, median.value),
        status=median.status,
        reasons=[reason.value for reason in median.reasons],
        values=len(heads),
        inside=sum(covers(one, true_mm) for one in heads),
    )


def covers(measurement: Measurement, true_mm: float) -> bool:
    """Whether the interval holds the true value."""
    low, high = measurement.interval or (0.0, 0.0)
    return low <= true_mm <= high


def mean_error_mm(pairs: Sequence[tuple[Measurement, float]]) -> float | None:
    """The mean absolute difference to the true values."""
    if not pairs:
        return None
    return statistics.fmean(abs((one.value or 0.0) - true_mm) for one, true_mm in pairs)


def stored(database: Path) -> list[tuple[str, str, str, int]]:
    """(finding id, device, epoch, number) of every row in the cloud's database, doubles included.

    Raises UplinkError when there is a file that cannot be read.
    """
    if not database.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
            return db.execute("SELECT finding_id, device_id, epoch, seq FROM findings").fetchall()
    except sqlite3.Error as exc:
        if "no such table" in str(exc):
            return []
        raise UplinkError(f"store {database}: cannot be read ({exc})") from exc


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The promise in numbers: every finding that was reported is stored, none twice."""

    broker: str | None  # None: mosquitto is not installed and the demo stayed offline
    reported: int
    stored: int
    missing: int  # reported, not in the database; offline: 0, they wait
    twice: int
    untold: int = 0  # in the database and in no file: committed when the run was killed, not yet told
    waiting: int = 0  # in the outbox at the end
    repeated: int = 0  # came a second time over the wire and were recognised


def delivery(
    reported: Sequence[str],
    rows: Sequence[tuple[str, str, str, int]],
    *,
    broker: str | None,
    waiting: int,
    repeated: int,
) -> Delivery:
    """Compares ids with ids, and numbers with numbers: a doubled finding may not hide behind a new id."""
    ids, numbers = Counter(row[0] for row in rows), Counter(row[1:] for row in rows)
    told = Counter(reported)
    doubled = max(len(rows) - len(ids), len(rows) - len(numbers)) + len(reported) - len(told)
    return Delivery(
        broker=broker,
        reported=len(told),
        stored=len(told.keys() & ids.keys()),
        missing=len(told.keys() - ids.keys()) if broker else 0,
        twice=doubled,
        untold=len(ids.keys() - told.keys()),
        waiting=waiting,
        repeated=repeated,
    )
