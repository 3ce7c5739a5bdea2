"""The stand-in for libcuda.so.1, compiled for a test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "libcuda.c"


def compiled_driver(folder: Path) -> Path:
    """`folder` with the library in it; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for the stand-in of libcuda.so.1")
    out = folder / "libcuda.so.1"
    flags = ["-shared", "-O2", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", str(out), str(SOURCE), "-ldl"], check=True)
    return folder
