"""selftest, calibrate and what follows from them, as a user types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from edge_runtime.infer.model import load_model
from edge_runtime.types import Finding, canonical
from tests.e2e.command import edge_runtime, findings

GOOD = "phantom:fetal_head?hc_mm=250&seed=3&frames=32&width=320&height=216"
SOURCE = "phantom:fetal_head?hc_mm=250&frames=2&width=320&height=216"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site.toml"
    done = edge_runtime(
        "calibrate", "--model", "fetal_head", "--frames", GOOD, "--out", out, "--name", "probe B", "--json",
        cwd=out.parent,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["accepted"] == 32
    return out


def run(cwd: Path, *more: str | Path, model: str | Path = "fetal_head") -> list[str | Path]:
    return [
        "run",
        "--model",
        model,
        "--source",
        SOURCE,
        "--state",
        cwd / "state",
        "--out",
        cwd / "f.jsonl",
        *more,
    ]


@pytest.mark.slow
def test_findings_name_the_profile_and_a_replay_gives_the_same(tmp_path: Path, profile: Path) -> None:
    seen = []
    for _ in range(2):
        done = edge_runtime(*run(tmp_path, "--profile", profile), cwd=tmp_path)
        assert done.code == 0, done.err
        seen.append(findings(tmp_path / "f.jsonl"))
    assert all(line["profile"]["name"] == "probe B" for line in seen[0])
    assert len({line["profile"]["sha256"] for line in seen[0] + seen[1]}) == 1
    first, second = ([canonical(_finding(line)) for line in lines] for lines in seen)
    assert first == second
    assert b'"profile":{"name":"probe B"' in first[0]
    assert edge_runtime(*run(tmp_path), cwd=tmp_path).code == 0
    assert findings(tmp_path / "f.jsonl")[0]["profile"] is None


def _finding(line: dict[str, object]) -> Finding:
    return msgspec.convert(line, Finding)


def test_a_profile_of_another_model_stops_run_and_evaluate(tmp_path: Path, profile: Path) -> None:
    home = tmp_path / "other"
    shutil.copytree(load_model("fetal_head").home, home)
    manifest = home / "model.toml"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('version = "', 'version = "9.'))
    done = edge_runtime(*run(tmp_path, "--profile", profile, model=home), cwd=tmp_path)
    assert "was made for model fetal_head" in done.failed_in_one_line(2)
    assert not (tmp_path / "f.jsonl").exists()
    done = edge_runtime("evaluate", "--model", home, "--data", tmp_path, "--profile", profile, cwd=tmp_path)
    assert "was made for model fetal_head" in done.failed_in_one_line(2)


@pytest.mark.slow
def test_a_selftest_says_pass_and_its_time(tmp_path: Path) -> None:
    done = edge_runtime("selftest", "--state", tmp_path / "state", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["ok"]
    assert 0 < done.json["seconds"] < 60


@pytest.mark.slow
def test_a_run_with_selftest_starts_only_when_it_passes(tmp_path: Path) -> None:
    done = edge_runtime(*run(tmp_path, "--selftest"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert len(findings(tmp_path / "f.jsonl")) == 2
    (tmp_path / "f.jsonl").unlink()
    home = tmp_path / "damaged"
    shutil.copytree(load_model("fetal_head").home, home)
    graph = home / load_model("fetal_head").manifest.artifacts["fp32"].file
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    for command in (run(tmp_path, "--selftest", model=home), ["selftest", "--model", home]):
        line = edge_runtime(*command, cwd=tmp_path).failed_in_one_line(1)
        assert "files: wanted files that are what model.toml names" in line
        assert graph.name in line
    assert not (tmp_path / "f.jsonl").exists()


@pytest.mark.parametrize("command", ["selftest", "calibrate"])
def test_the_help_has_an_example(tmp_path: Path, command: str) -> None:
    done = edge_runtime(command, "--help", cwd=tmp_path)
    assert done.code == 0
    assert f"edge-runtime {command}" in done.out.partition("Example")[2]


def test_calibrating_on_what_is_no_head_is_one_line(tmp_path: Path) -> None:
    done = edge_runtime(
        "calibrate", "--model", "fetal_head", "--frames", "phantom:noise?frames=40&width=320&height=240",
        "--out", tmp_path / "p.toml", cwd=tmp_path,
    )  # fmt: skip
    assert "not good frames of what it was made for" in done.failed_in_one_line(1)
    assert not (tmp_path / "p.toml").exists()
