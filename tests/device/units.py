"""The unit files of device/systemd, and their command lines as systemd would build them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from tests.real import ROOT

SYSTEMD = ROOT / "device" / "systemd"
RUN = SYSTEMD / "edge-runtime.service"
UPLINK = SYSTEMD / "edge-runtime-uplink.service"
PROGRAM = "/opt/edge-runtime/bin/edge-runtime"
SPECIFIERS = {"%S": "/var/lib", "%C": "/var/cache", "%%": "%"}


def directives(unit: Path) -> dict[str, list[str]]:
    """Each directive's values in the order they stand there, specifiers filled in; none continues on a next line."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            assert not line.endswith("\\"), f"{unit.name}: {line}"
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(re.sub("%.", lambda match: SPECIFIERS[match[0]], value))
    return found


def one(unit: Path, name: str) -> str:
    (value,) = directives(unit)[name]
    return value


def environment(**over: str) -> dict[str, str]:
    """What the example file sets, and what the test puts in its place."""
    lines = (SYSTEMD / "edge-runtime.env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    known = {name: value for name, _, value in pairs}
    assert over.keys() <= known.keys()
    return {**known, **over}


def arguments(line: str, env: Mapping[str, str], state: Path | None = None) -> list[str]:
    """The words after the program: `${NAME}` is one word whatever is in it, `$NAME` as many as its value has."""
    program, *words = shlex.split(line)
    assert program == PROGRAM
    found: list[str] = []
    for word in words:
        if word.startswith("$") and not word.startswith("${"):
            found += env[word[1:]].split()
        else:
            found.append(re.sub(r"\$\{(\w+)\}", lambda match: env[match[1]], word))
    return [str(state) if state and word == "/var/lib/edge-runtime" else word for word in found]
