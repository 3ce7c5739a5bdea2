"""`edge-runtime lint`: TensorRT's rules for a graph, checked without a GPU."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.build.graph import load_onnx
from edge_runtime.build.lint import Problem
from edge_runtime.build.lint import lint as problems_of

TOLD = 5  # nodes for each rule; --json tells all


class LintReport(msgspec.Struct, frozen=True):
    """What was found in a file, errors first."""

    model: str
    errors: int
    warnings: int
    problems: tuple[Problem, ...]


def lint(path: Path) -> LintReport:
    """The linter's word on a file, which is read as it is. Raises ConfigError for one that is not ONNX."""
    problems = problems_of(load_onnx(path))
    errors = sum(problem.severity == "error" for problem in problems)
    return LintReport(str(path), errors, len(problems) - errors, problems)


def lines(report: LintReport) -> list[str]:
    """Each rule that was broken once, its fix, and the first few nodes that break it."""
    by_rule: dict[str, list[Problem]] = {}
    for problem in report.problems:
        by_rule.setdefault(problem.code, []).append(problem)
    told = []
    for code, problems in by_rule.items():
        times = f" ({len(problems)})" if len(problems) > 1 else ""
        told.append(f"{problems[0].severity} {code}{times}: {problems[0].fix}")
        told += [f"    {problem.node}: {problem.message}" for problem in problems[:TOLD]]
        if len(problems) > TOLD:
            told.append(f"    and {len(problems) - TOLD} more")
    return [*told, f"{report.model}: {_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
