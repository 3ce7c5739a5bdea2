"""The tables of the cloud's database: numbered migrations, one file of SQL for each database they are for.

Those in `migrations/` are applied in the order of their numbers, each in one transaction, and noted in the table
`schema_version`. A migration that has been released is never changed: the next one changes what it made. Knows
nothing about connections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edge_runtime.errors import ConfigError

_FILES = Path(__file__).parent / "migrations"
VERSIONS = """CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL
)"""
APPLIED = "SELECT coalesce(max(version), 0) FROM schema_version"


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    statements: tuple[str, ...]


@cache
def migrations(database: str) -> tuple[Migration, ...]:
    """All that were ever made for `database`, `sqlite` or `postgresql`, in order."""
    found = []
    for path in sorted(_FILES.glob(f"*.{database}.sql")):
        number, _, name = path.name.removesuffix(f".{database}.sql").partition("_")
        found.append(Migration(int(number), name, _statements(path.read_text("utf-8"))))
    return tuple(found)


def outstanding(database: str, applied: int, where: str) -> tuple[Migration, ...]:
    """What a database at version `applied` still needs. ConfigError when it is of a later release."""
    known = migrations(database)
    if applied > known[-1].version:
        raise ConfigError(
            f"store {where}: tables of version {applied}, known are those to {known[-1].version}; use a newer edge-runtime"
        )
    return tuple(migration for migration in known if migration.version > applied)


def _statements(text: str) -> tuple[str, ...]:
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return tuple(part.strip() for part in re.split(r";\s*(?:\n|$)", plain) if part.strip())
