"""What an installation brings along: no GPL or AGPL, and none of the packages that smuggle it in."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions, requires

import pytest
from packaging.requirements import Requirement

DENIED_PACKAGES = {"pylibjpeg-libjpeg", "jetson-stats", "av", "pyav", "ultralytics", "pyqt5", "pyqt6"}
# Weak copyleft, unchanged and unlinked, or a choice among licences that includes a permissive one.
ALLOWED_ANYWAY = {
    "hypothesis",  # MPL-2.0, test only
    "certifi",
    "pathspec",
    "psycopg",  # LGPL-3, an extra, used as a library
    "psycopg-binary",
}


def licence_of(package: Distribution) -> str:
    fields = package.metadata.get_all("License-Expression") or []
    classifiers = [
        line for line in package.metadata.get_all("Classifier") or [] if line.startswith("License")
    ]
    return " | ".join([*fields, *classifiers]) or (package.metadata.get("License") or "")[:200]


def installed() -> dict[str, Distribution]:
    return {package.metadata["Name"].lower().replace("_", "-"): package for package in distributions()}


def install_path(root: str, extras: set[str]) -> set[str]:
    """Names of everything that installing `root[extras]` brings, as far as it is installed here."""
    have, found, todo = installed(), set[str](), [(root, frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        for line in requires(name) or []:
            requirement = Requirement(line)
            if not any(
                requirement.marker is None or requirement.marker.evaluate({"extra": extra})
                for extra in {*wanted, ""}
            ):
                continue
            needed = requirement.name.lower().replace("_", "-")
            if needed in have and (needed == root or needed not in found):
                found.add(needed)
                todo.append((needed, frozenset(requirement.extras)))
            if needed == root and set(requirement.extras) - wanted:
                todo.append((root, wanted | set(requirement.extras)))
    return found - {root}


@pytest.mark.parametrize(
    "extras", [set[str](), {"openvino"}, {"demo"}, {"test"}], ids=lambda extras: "+".join(extras) or "base"
)
def test_no_copyleft_in_the_install_path(extras: set[str]) -> None:
    have = installed()
    names = install_path("edge-runtime", extras)
    assert {"numpy", "pydicom", "onnxruntime"} <= names, "the walk over the metadata found too little"
    bad = {
        name: licence_of(have[name])
        for name in names - ALLOWED_ANYWAY
        if name in DENIED_PACKAGES
        or any(word in licence_of(have[name]) for word in ("GPL", "General Public License", "Affero"))
    }
    assert not bad
