"""Models are found from a wheel and from a checkout alike, and are what their manifest says."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.infer.model import load_model, shipped_models

ROOT = Path(__file__).parents[2]


def test_a_shipped_model_is_found_in_the_checkout_by_its_name() -> None:
    assert shipped_models()["fetal_head"] == ROOT / "models" / "fetal_head"
    model = load_model("fetal_head")
    path, digest = model.artifact("fp32")
    assert path.is_file()
    assert digest == model.manifest.artifacts["fp32"].sha256


@pytest.mark.slow
def test_a_shipped_model_is_found_in_the_wheel_by_its_name(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "-o", tmp_path, ROOT], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "from edge_runtime.infer.model import *; print(load_model('fetal_head').artifact('fp32')[0])",
        ],
        cwd=tmp_path / "site",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert Path(told) == tmp_path / "site" / "edge_runtime" / "models" / "fetal_head" / "model.onnx"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "x"\nmodle = 1\n', "unknown field `modle`"),
        ('name = "x"\n[input]\ndtype = "int4"\n', "dtype"),
        ('name = "a b"\n', "name"),
        ("name = \n", "model.toml"),
    ],
)
def test_a_mistake_in_the_manifest_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_model(str(tmp_path))
    assert "model.toml" in str(caught.value)


def test_an_unknown_model_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="fetal_head"):
        load_model("foetal_head")


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    digest = 64 * "0"
    (tmp_path / "model.toml").write_text(f'name = "odd"\n[files]\n"CARD.md" = "{digest}"\n')
    for name in ("model.onnx", "CARD.md"):
        os.mkfifo(tmp_path / name)
    model = load_model(str(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.onnx: is not a file; model\.toml names it"):
        model.artifact("fp32")
    with pytest.raises(ConfigError, match=r"CARD\.md: is not a file"):
        model.named_file("CARD.md")
