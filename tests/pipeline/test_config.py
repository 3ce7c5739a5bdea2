"""Settings from one file; a typo is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config import Config, read_config
from edge_runtime.errors import ConfigError


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_config(None, tmp_path) == Config()


def test_the_state_directorys_own_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[journal]\nquota_mb = 99\n")
    assert read_config(None, tmp_path).journal.quota_mb == 99


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[jurnal]\n", "jurnal"),
        ("[journal]\nquota = 3\n", "quota"),
        ("[journal]\nquota_mb = -1\n", "quota_mb"),
        ("[capture]\nmin_score = 101\n", "min_score"),
        ('[site]\ntenant = "a/b"\n', "tenant"),
        ("[journal\n", "config.toml"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_config(path, tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
