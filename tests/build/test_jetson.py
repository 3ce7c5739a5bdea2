"""What a board says of itself, from files as a Jetson has them; and the commands for what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.build import jetson

RELEASES = {
    "JetPack 6": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025",
    "JetPack 7.2": "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Mon Jun 1 2026",
}


def board(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize("name", RELEASES)
def test_a_jetpack_is_known_by_its_release(name: str, tmp_path: Path) -> None:
    found = jetson.jetpack(board(tmp_path, {"etc/nv_tegra_release": RELEASES[name]}))
    assert found is not None
    assert found.name == name


def test_anything_else_is_no_jetson(tmp_path: Path) -> None:
    assert jetson.l4t_release(tmp_path) is None
    assert jetson.power_state(tmp_path) == {}


def test_an_old_jetpack_is_told_to_be_flashed(tmp_path: Path) -> None:
    root = board(tmp_path, {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1"})
    for missing in ("driver", "tensorrt", "binding"):
        assert jetson.fix(missing, root) == "L4T R35 is not supported: flash JetPack 6.1 or later"


def test_the_fix_for_pycudas_missing_header_names_the_packages_of_this_jetpack(tmp_path: Path) -> None:
    root = board(tmp_path, {"etc/nv_tegra_release": RELEASES["JetPack 6"]})
    fix = jetson.fix("binding", root)
    for part in (
        "cuda-cudart-dev-12-6",
        "python3-dev",
        "g++",
        "CUDA_ROOT=/usr/local/cuda",
        "CPATH=",
        "cuda-bindings==12.*",
    ):
        assert part in fix
    assert "python3-libnvinfer" in jetson.fix("tensorrt", root)
    assert "--system-site-packages" in jetson.fix("tensorrt", root)
    assert "cuda-bindings==13.*" in jetson.fix(
        "binding", board(tmp_path / "7", {"etc/nv_tegra_release": RELEASES["JetPack 7.2"]})
    )


def test_power_mode_clocks_and_heat_are_read(tmp_path: Path) -> None:
    root = board(
        tmp_path,
        {
            "var/lib/nvpmodel/status": "pmode:0002",
            "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "51000\n",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "48500\n",
        },
    )
    assert jetson.power_state(root) == {
        "mode": "mode 2",
        "clocks": "306 to 1020 MHz, not locked",
        "gpu_c": "48.5",
    }
    (root / "sys/class/devfreq/17000000.gpu/min_freq").write_text("1020000000\n")
    assert jetson.power_state(root)["clocks"] == "locked at 1020 MHz"


def test_files_that_say_nonsense_say_nothing(tmp_path: Path) -> None:
    root = board(
        tmp_path,
        {
            "etc/nv_tegra_release": "hello",
            "sys/class/devfreq/17000000.gpu/min_freq": "fast",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": "",
        },
    )
    assert jetson.power_state(root) == {}
    assert jetson.jetpack(root) is None
