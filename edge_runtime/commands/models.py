"""`edge-runtime models`: what is shipped, and where it lies."""

from __future__ import annotations

import msgspec

from edge_runtime.commands.contract import contract_lines
from edge_runtime.infer.model import GATE_FRAMES, Manifest, load_model, shipped_models


class ModelLine(msgspec.Struct, frozen=True):
    name: str
    version: str
    anatomy: str
    modality: tuple[str, ...]
    precisions: tuple[str, ...]  # that the manifest accepts
    sha256: str
    path: str
    graphs: dict[str, str]  # "fp32", "tensorrt int8", ...: the ONNX file of each
    gate_frames: bool  # a device can judge for itself whether a precision is right
    contract: tuple[str, ...]  # what a picture must be, in words


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
                _graphs(manifest),
                GATE_FRAMES in manifest.files,
                contract_lines(manifest),
            )
        )
    return found


def _graphs(manifest: Manifest) -> dict[str, str]:
    own = {str(precision): graph.file for precision, graph in manifest.artifacts.items()}
    return own | {f"tensorrt {kind}": graph.file for kind, graph in manifest.tensorrt.items()}


def lines(found: list[ModelLine]) -> list[str]:
    """One line a model."""
    return [
        f"{model.name} {model.version}  {model.anatomy}  {'/'.join(model.modality) or 'any modality'}  "
        f"{','.join(model.precisions)}  {model.sha256[:12]}  {model.path}\n"
        f"    graphs: {', '.join(model.graphs)}; "
        + ("with" if model.gate_frames else "without")
        + " gate frames"
        + "".join(f"\n    {line}" for line in model.contract)
        for model in found
    ] or ["no model is shipped: run from a checkout or install the wheel"]
