"""What a Jetson board says of itself in files and one tool: JetPack, power mode, clocks, temperature; and what to do
about libraries it lacks.

Timings without the power mode they were taken in cannot be compared, so every engine carries it. Read from sysfs and
`nvpmodel`: jetson-stats has a licence that this project does not take. On anything else than a Jetson the answers are
few and say so. `root` is where the file system begins: tests give their own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path("/")
NVPMODEL_S = 10.0  # it answers at once or not at all


@dataclass(frozen=True, slots=True)
class JetPack:
    """One line of JetPack and what belongs to it."""

    name: str
    cuda: str  # as packages are named after it
    python: str
    tensorrt: str


# L4T's major release, from /etc/nv_tegra_release -> JetPack
JETPACKS = {
    36: JetPack("JetPack 6", "12-6", "3.10", "10.3"),
    38: JetPack("JetPack 7.0 or 7.1", "13-0", "3.12", "10.13"),
    39: JetPack("JetPack 7.2", "13-2", "3.12", "10.16"),
}
Missing = Literal["driver", "tensorrt", "binding"]


def l4t_release(root: Path = ROOT) -> tuple[int, str] | None:
    """Major release and revision of a Jetson's system, (36, "4.3"); None on anything else."""
    text = _read(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return (int(found[1]), found[2]) if found else None


def jetpack(root: Path = ROOT) -> JetPack | None:
    """The JetPack of this board, as far as it is known here."""
    release = l4t_release(root)
    return None if release is None else JETPACKS.get(release[0])


def fix(missing: Missing, root: Path = ROOT) -> str:
    """The commands that bring what is missing, for this board's JetPack, or in general."""
    board = jetpack(root)
    release = l4t_release(root)
    if release is not None and board is None:
        return f"L4T R{release[0]} is not supported: flash JetPack 6.1 or later"
    if missing == "driver":
        if board is not None:
            return "sudo apt-get install nvidia-jetpack, then reboot; in a container: --runtime nvidia"
        return "install the NVIDIA driver of this GPU; without a GPU there is nothing to do"
    if missing == "tensorrt":
        if board is None:
            return "pip install tensorrt (x86-64, from NVIDIA's own index)"
        return (
            f"sudo apt-get install tensorrt python3-libnvinfer, and python{board.python} -m venv "
            "--system-site-packages (a plain virtual environment does not see it)"
        )
    if board is None:
        return "pip install 'edge-runtime[cuda]' (the major version of the driver's CUDA), or build pycuda: device/README.md"
    return f"pip install 'cuda-bindings=={board.cuda.partition('-')[0]}.*', or pycuda: {pycuda_build(board)}"


def pycuda_build(board: JetPack | None) -> str:
    """The commands that build pycuda where `cuda.h` or `-lcuda` was not found."""
    cuda = board.cuda if board else "13-0"
    packages = f"cuda-cudart-dev-{cuda} cuda-driver-dev-{cuda} libcurand-dev-{cuda} python3-dev g++"
    return (
        f"sudo apt-get install {packages} && PATH=/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda "
        "CPATH=/usr/local/cuda/include LIBRARY_PATH=/usr/local/cuda/lib64:/usr/local/cuda/lib64/stubs pip install pycuda"
    )


def power_state(root: Path = ROOT) -> dict[str, str]:
    """Power mode, clocks and temperature as they are now; what the board does not say is left out."""
    state = {
        "mode": _power_mode(root),
        "clocks": _clocks(root),
        "gpu_c": _gpu_temperature(root),
    }
    return {name: value for name, value in state.items() if value}


def _power_mode(root: Path) -> str:
    """The mode by its name; its number where the name cannot be had."""
    tool = shutil.which("nvpmodel", path="/usr/sbin:/usr/bin:/sbin:/bin") if root == ROOT else None
    if tool is not None:
        try:
            told = subprocess.run(
                [tool, "-q"], capture_output=True, text=True, timeout=NVPMODEL_S, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            told = ""
        found = re.search(r"NV Power Mode:\s*(\S+)", told)
        if found:
            return found[1]
    found = re.search(r"pmode:0*(\d+)", _read(root / "var/lib/nvpmodel/status"))
    return f"mode {found[1]}" if found else ""


def _gpu_clock(root: Path) -> Path | None:
    """The GPU's devfreq folder: named `17000000.gpu` or `.ga10b` on Orin, `gpu-gpc-0` on Thor."""
    folders = sorted((root / "sys/class/devfreq").glob("*"))
    return next((f for f in folders if re.search(r"gpu|ga10b|gv11b|gb10b", f.name)), None)


def _clocks(root: Path) -> str:
    """`locked at 1020 MHz` after jetson_clocks, else the range they move in."""
    folder = _gpu_clock(root)
    if folder is None:
        return ""
    lowest, highest = _read(folder / "min_freq").strip(), _read(folder / "max_freq").strip()
    if not (lowest.isdigit() and highest.isdigit()):
        return ""
    low, high = int(lowest) // 1_000_000, int(highest) // 1_000_000
    return f"locked at {high} MHz" if low == high else f"{low} to {high} MHz, not locked"


def _gpu_temperature(root: Path) -> str:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if "gpu" in _read(zone / "type").lower():
            millidegrees = _read(zone / "temp").strip()
            return f"{int(millidegrees) / 1000:.1f}" if millidegrees.lstrip("-").isdigit() else ""
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
