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
    """Rows by their `file`: a path relative to the table, or to the folder `images` beside it."""

    rows: dict[str, dict[str, str]]
    prefixes: tuple[str, ...] = ("",)  # what may stand before a name, best first

    @classmethod
    def beside(cls, folder: Path) -> MetaTable | None:
        """The table in `folder`, else the one in its parent, else None. Raises ConfigError, see `read`.

        A table in the parent knows the files of its folders by their paths, and only those of `images` also
        by their bare names: `001.png` there is not `001.png` here.
        """
        real = folder.resolve()
        if (folder / NAME).is_file():
            return cls.read(folder / NAME)
        if not (real.parent / NAME).is_file():
            return None
        prefixes = (f"{real.name}/", "") if real.name == "images" else (f"{real.name}/",)
        return cls.read(real.parent / NAME, prefixes)

    @classmethod
    def read(cls, path: Path, prefixes: tuple[str, ...] = ("",)) -> MetaTable:
        """The table in `path`.

        Raises ConfigError for one that has no column `file`, says something twice or cannot be read.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as lines:
                return cls(_rows(path, csv.DictReader(lines)), prefixes)
        except PermissionError as exc:
            raise ConfigError(f"{path}: permission denied; let this user read it") from exc
        except (OSError, UnicodeDecodeError, csv.Error) as exc:
            raise ConfigError(f"{path}: cannot be read as a table of comma-separated values") from exc

    def spacing(self, name: str) -> Resolved:
        """What the table says of the file `name` of the folder it was looked up for."""
        row = self._row(name)
        return from_meta_csv(_number(row.get("spacing_y_mm")), _number(row.get("spacing_x_mm")))

    def subject(self, name: str) -> str | None:
        """Who or what the file belongs to: the column `subject`, or the time series it is one of."""
        row = self._row(name)
        return row.get("subject") or row.get("sequence") or None

    def _row(self, name: str) -> dict[str, str]:
        keys = (prefix + name for prefix in self.prefixes)
        return next((self.rows[key] for key in keys if key in self.rows), {})


def _rows(path: Path, table: csv.DictReader[str]) -> dict[str, dict[str, str]]:
    """The rows of `table` by file. What was read is only named where it is a column or a file: no person."""
    columns = list(table.fieldnames or ())
    if "file" not in columns:
        raise ConfigError(
            f"{path}: want a column `file`; the first row has none ({len(columns)} columns, parted by commas)"
        )
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: the column `{twice}` is there twice; remove one")
    rows: dict[str, dict[str, str]] = {}
    for row in table:
        if row["file"] and rows.setdefault(row["file"], row) != row:
            raise ConfigError(f"{path}: the file `{row['file']}` is there twice with different values")
    return rows


def _number(text: str | None) -> float | None:
    """None = blank, NaN = not a number; `0_1.5` is one to Python only."""
    if text is None or not text.strip():
        return None
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
