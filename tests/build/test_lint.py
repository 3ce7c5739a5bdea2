"""A broken rule is reported with its code and node, its clean twin in silence; TensorRT-RTX is asked about both."""

from __future__ import annotations

import importlib.util
from typing import get_args

import pytest

from edge_runtime.build.lint import lint
from edge_runtime.build.lint.rule import Code
from edge_runtime.build.lint.table import RULES
from tests.build.lint_cases import ALSO, CASES, as_text, drawn
from tests.build.qdq import rtx_verdicts


@pytest.mark.parametrize("name", CASES)
def test_a_broken_rule_is_reported_with_its_code_and_the_node(name: str) -> None:
    wanted = CASES[name]
    problems = lint(drawn(name, broken=True))
    assert (wanted.code, wanted.node) in {(problem.code, problem.node) for problem in problems}, as_text(
        problems
    )
    assert {problem.code for problem in problems} == {wanted.code} | ALSO.get(name, set()), as_text(problems)


@pytest.mark.parametrize("name", CASES)
def test_the_clean_twin_of_a_broken_graph_passes_in_silence(name: str) -> None:
    problems = lint(drawn(name, broken=False))
    assert not {problem.code for problem in problems} - ALSO.get(name, set()), as_text(problems)


def test_every_rule_has_a_row_and_a_broken_graph() -> None:
    assert [rule.code for rule in RULES] == sorted(get_args(Code), key=[rule.code for rule in RULES].index)
    assert {wanted.code for wanted in CASES.values()} == set(get_args(Code))


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs the wheel tensorrt-rtx")
    models = {
        f"{name}-{word}": drawn(name, broken=word == "broken")
        for name in CASES
        for word in ("broken", "clean")
    }
    return rtx_verdicts(models, tmp_path_factory.mktemp("rtx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_tensorrt_rtx_refuses_what_lint_says_it_refuses(name: str, verdicts: dict[str, str]) -> None:
    refused, verdict = CASES[name].refused, verdicts[f"{name}-broken"]
    if refused is None:
        assert not verdict
    else:
        assert refused in verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_tensorrt_rtx_builds_the_clean_twin(name: str, verdicts: dict[str, str]) -> None:
    assert not verdicts[f"{name}-clean"]


def test_what_tensorrt_rtx_refuses_is_an_error_and_is_said_to_be_shown_by_it() -> None:
    refused = {wanted.code for wanted in CASES.values() if wanted.refused is not None}
    assert refused == {rule.code for rule in RULES if rule.shown_by == "tensorrt-rtx"}
    assert {rule.severity for rule in RULES if rule.code in refused} == {"error"}
