"""docs/wire.md: each requirement has a test of its name, and each such test its requirement."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from tests.parties.documents import WIRE_TEXT

ROOT = Path(__file__).parents[2]
REQUIREMENT = re.compile(r"^\* \*\*(ER-[A-Z]+-\d+)\*\* (.+?)(?=^\* \*\*|^$)", re.MULTILINE | re.DOTALL)
IDS = [name for name, _ in REQUIREMENT.findall(WIRE_TEXT)]
NAMED = re.compile(r"test_er_([a-z]+)_(\d+)_[a-z]")


def _tested() -> Counter[str]:
    """The ids that functions of tests/conformance are named after, `test_er_topic_1_...`; how many each."""
    found: Counter[str] = Counter()
    for path in (ROOT / "tests" / "conformance").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_er_"):
                match = NAMED.match(node.name)
                assert match, f"{path.name}: {node.name}: want test_er_<group>_<number>_<what>"
                found[f"ER-{match[1].upper()}-{match[2]}"] += 1
    return found


def test_every_requirement_has_a_test_and_every_test_a_requirement() -> None:
    assert set(_tested()) == set(IDS)


def test_an_id_is_given_once_and_its_numbers_have_no_hole() -> None:
    assert len(IDS) > 40
    assert len(set(IDS)) == len(IDS)
    groups: dict[str, list[int]] = {}
    for name in IDS:
        group, number = name.removeprefix("ER-").split("-")
        groups.setdefault(group, []).append(int(number))
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in groups.values()), groups


def test_every_requirement_says_must() -> None:
    assert not [name for name, text in REQUIREMENT.findall(WIRE_TEXT) if "MUST" not in text]


def test_no_sentence_outside_a_requirement_says_must() -> None:
    assert "MUST" not in REQUIREMENT.sub("", WIRE_TEXT)
