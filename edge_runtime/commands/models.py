"""`edge-runtime models`: what is shipped, and where it lies."""

from __future__ import annotations

import msgspec

from edge_runtime.infer.model import load_model, shipped_models


class ModelLine(msgspec.Struct, frozen=True):
    name: str
    version: str
    anatomy: str
    modality: tuple[str, ...]
    precisions: tuple[str, ...]
    sha256: str
    path: str


def models() -> list[ModelLine]:
    """The shipped models. Raises ConfigError for one whose manifest is damaged."""
    found = []
    for name, home in shipped_models().items():
        model = load_model(name)
        manifest = model.manifest
        found.append(
            ModelLine(
                name,
                manifest.version,
                manifest.anatomy,
                manifest.modality,
                manifest.precision.accepted,
                model.sha256,
                str(home),
            )
        )
    return found


def lines(found: list[ModelLine]) -> list[str]:
    """One line a model."""
    return [
        f"{model.name} {model.version}  {model.anatomy}  {'/'.join(model.modality) or 'any modality'}  "
        f"{','.join(model.precisions)}  {model.sha256[:12]}  {model.path}"
        for model in found
    ] or ["no model is shipped: run from a checkout or install the wheel"]
