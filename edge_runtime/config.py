"""One TOML file for a site's settings; every key has a default and an unknown key is an error.

`--config FILE`, else `config.toml` in the state directory, else the defaults below. Flags stand above it.
What a model needs is not here: that is its own `model.toml`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from edge_runtime.errors import ConfigError

T = TypeVar("T")

Positive = Annotated[float, msgspec.Meta(gt=0)]
MOST_MB = 1_000_000
Topic = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML table: a typo in a key is an error, not a default."""


class Site(Table, frozen=True):
    """Where this device stands, as MQTT topics name it."""

    tenant: Topic = "local"
    site: Topic = "site"


class JournalLimits(Table, frozen=True):
    """What the state directory may grow to. The reserve is kept free for findings when the disk is full."""

    quota_mb: Annotated[float, msgspec.Meta(gt=0, le=MOST_MB)] = 512
    reserve_mb: Annotated[float, msgspec.Meta(ge=0, le=MOST_MB)] = 64
    keep_delivered_days: Positive | None = None  # as long as the quota has room
    keep_unsent_days: Positive | None = 30  # masks and telemetry that no cloud took; never findings or events


class Capture(Table, frozen=True):
    """When a live stream captures by itself."""

    min_score: Annotated[int, msgspec.Meta(ge=0, le=100)] = 70
    hold_s: Positive = 0.5  # quality and stability must last this long
    gap_s: Positive = 10.0  # at most one capture per structure in this time
    spread: Positive = 0.02  # relative range of the value while it holds


class Config(Table, frozen=True):
    site: Site = Site()
    journal: JournalLimits = JournalLimits()
    capture: Capture = Capture()


def read_config(path: Path | None, state_dir: Path) -> Config:
    """The settings of `path`, else of `config.toml` in `state_dir`, else the defaults. Raises ConfigError."""
    if path is None:
        path = state_dir / "config.toml"
        if not path.is_file():
            return Config()
    return read_toml(path, Config)


def read_toml(path: Path, table: type[T]) -> T:
    """The file as a checked `table`. Raises ConfigError that names the file, the key and what was wanted."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=table)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror}); name an existing TOML file") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def toml_string(text: str) -> str:
    """`text` as TOML writes it: JSON's escapes are TOML's; DEL alone is forbidden there and not here."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_text(record: msgspec.Struct) -> str:
    """`record` as TOML that `read_toml` reads back. What is None is left out: TOML has no word for it."""
    lines: list[str] = []
    _table(lines, (), msgspec.to_builtins(record))
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(lines: list[str], path: tuple[str, ...], table: Mapping[str, Any]) -> None:
    """One table: its own keys, then the tables in it."""
    own = {key: value for key, value in table.items() if value is not None and not isinstance(value, dict)}
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    if path and (own or not inner):
        lines += ["", f"[{'.'.join(_key(part) for part in path)}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in own.items()]
    for key, value in inner.items():
        _table(lines, (*path, key), value)


def _key(text: str) -> str:
    bare = text.replace("-", "a").replace("_", "a")
    return text if bare.isascii() and bare.isalnum() else toml_string(text)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):  # in an array: `{ up_to = 100.0, absolute = 2.0 }`
        return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())} }}"
    return repr(value)  # int and float: Python's words are TOML's, inf and nan included
