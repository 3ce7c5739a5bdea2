"""Imports run one way only: a module uses rows below its own, and its own row's neighbours never."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the rim down. Within one row each name is a world of its own.
ROWS = [
    ["cli"],
    ["commands"],
    ["stream", "build"],
    ["pictures", "reporting"],
    ["pipeline", "cloud"],
    ["frames", "sync"],
    ["infer", "measure"],
    ["records"],
    ["types"],
    ["config", "files", "telemetry"],
    ["clock"],
    ["codes"],
    ["errors"],
]
# The words of a finding are needed where an error names the code it leads to, for typing only.
TYPING_ONLY = {("errors", "codes")}
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
PARTS = sorted(ROW_OF)


def modules(part: str) -> list[Path]:
    package = ROOT / "edge_runtime" / part
    return sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]


def imported_parts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("edge_runtime."):
                yield name.split(".")[1]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_from_rows_below(part: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in modules(part)
        for other in imported_parts(path)
        if other in ROW_OF
        and other != part
        and ROW_OF[other] <= ROW_OF[part]
        and (part, other) not in TYPING_ONLY
    ]
    assert not wrong


def test_every_part_of_the_package_has_its_row() -> None:
    found = {
        path.stem
        for path in (ROOT / "edge_runtime").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__", "__main__", "__pycache__"} == set(PARTS)


def test_only_the_command_line_prints() -> None:
    printing = [
        path.relative_to(ROOT)
        for path in (ROOT / "edge_runtime").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert {path.parent for path in printing} == {Path("edge_runtime/cli")}


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """pytest skips folders of some names without a word, `build` among them."""
    patterns: list[str] = pytestconfig.getini("norecursedirs")
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert {"build", "sync"} <= folders
    assert not [name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)]


# Within sync: what is kept and how it is worded, a connection, what the cloud may ask, and who puts them to work.
SYNC_ABOVE = {"": ("link", "commands", "uplink"), "link": ("commands", "uplink"), "commands": ("uplink",)}


@pytest.mark.parametrize("room", SYNC_ABOVE)
def test_a_room_of_sync_knows_nothing_of_those_above_it(room: str) -> None:
    folder = ROOT / "edge_runtime" / "sync" / room
    wrong = [
        f"{path.relative_to(ROOT)} imports {above}"
        for path in folder.glob("*.py")
        if path.name != "asyncapi.py"  # describes all of them
        for above in SYNC_ABOVE[room]
        if f"from edge_runtime.sync.{above}." in path.read_text()
    ]
    assert not wrong
