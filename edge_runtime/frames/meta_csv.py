"""`meta.csv` beside images: spacing and subject of each file. It opens no image."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.frames.spacing import Resolved, from_meta_csv

NAME = "meta.csv"


@dataclass(frozen=True, slots=True)
class MetaTable:
    """Rows by their `file`: a path relative to the table, or to the folder of images beside it."""

    rows: dict[str, dict[str, str]]

    @classmethod
    def beside(cls, folder: Path) -> MetaTable | None:
        """The table in `folder`, else the one in its parent, else None. Raises ConfigError, see `read`."""
        for place in (folder / NAME, folder.resolve().parent / NAME):
            if place.is_file():
                return cls.read(place)
        return None

    @classmethod
    def read(cls, path: Path) -> MetaTable:
        """The table in `path`. Raises ConfigError for one that has no column `file` or cannot be read."""
        try:
            with path.open(newline="", encoding="utf-8-sig") as lines:
                table = csv.DictReader(lines)
                if "file" not in (table.fieldnames or ()):
                    raise ConfigError(
                        f"{path}: want a column `file`, got {', '.join(table.fieldnames or ())}"
                    )
                return cls({row["file"]: row for row in table if row["file"]})
        except (OSError, UnicodeDecodeError, csv.Error) as exc:
            raise ConfigError(f"{path}: cannot be read as a table of comma-separated values") from exc

    def spacing(self, *names: str) -> Resolved:
        """What the table says of the first of `names` that it has."""
        row = self._row(names)
        return from_meta_csv(_number(row.get("spacing_y_mm")), _number(row.get("spacing_x_mm")))

    def subject(self, *names: str) -> str | None:
        return self._row(names).get("subject") or None

    def _row(self, names: tuple[str, ...]) -> dict[str, str]:
        return next((self.rows[name] for name in names if name in self.rows), {})


def _number(text: str | None) -> float | None:
    """None = blank, NaN = not a number."""
    if text is None or not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan
