"""docs/hazards.csv: each hazard has a rule and a test that exists; without one the build fails."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
with (ROOT / "docs" / "hazards.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))

REQUIRED = {
    "wrong spacing",
    "operator spacing",
    "stale or foreign overlay",
    "number on a foreign image",
    "circular z-score",
    "oblique plane",
    "age out of validity",
    "wrong exam",
    "silent precision change",
    "lost finding",
    "doubled finding",
    "full disk",
}


def test_the_hazards_that_must_be_there_are_there() -> None:
    assert {row["hazard"] for row in ROWS} >= REQUIRED


def test_ids_are_unique_and_no_field_is_empty() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    assert all(value for row in ROWS for value in row.values())


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_each_hazard_names_a_test_that_exists(row: dict[str, str]) -> None:
    for test in row["test"].split(" "):
        path, _, name = test.partition("::")
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"{row['id']}: {test} does not exist"
