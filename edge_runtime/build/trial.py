"""A graph that is not yet anybody's model, run through the very pipeline of the device.

Knows nothing of quantizing: it is what makes a candidate comparable with the reference.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime.build.readings import Reading, read_frames
from edge_runtime.errors import BackendError, ConfigError
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import Artifact, Manifest, Model
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame


@dataclass(frozen=True, slots=True)
class Trial:
    """Runs graphs that share one manifest; `folder` is a scratch folder of the caller's."""

    manifest: Manifest
    folder: Path

    def pipeline(self, graph: bytes, name: str = "the graph that was made") -> Pipeline:
        """A pipeline of `graph` on onnxruntime in fp32, the caller's to close. Raises ConfigError or BackendError, which
        call the graph by `name`.
        """
        digest = hashlib.sha256(graph).hexdigest()
        file = self.folder / f"{digest[:16]}.onnx"
        file.write_bytes(graph)
        plain = msgspec.structs.replace(
            self.manifest, artifacts={"fp32": Artifact(file=file.name, sha256=digest)}, tensorrt={}, files={}
        )
        model = Model(home=self.folder, manifest=plain, sha256=digest)
        try:
            return build_pipeline(model, open_backend(model, "onnxruntime", "fp32", threads()))
        except (BackendError, ConfigError) as exc:  # its path is nothing to a person: it is gone in a moment
            told = str(exc).replace(str(file), name).replace(str(self.folder), name)
            raise type(exc)(told) from exc
        finally:
            file.unlink()

    def read(self, graph: bytes, frames: Sequence[Frame]) -> list[Reading]:
        """What `graph` makes of each frame."""
        with closing(self.pipeline(graph)) as pipeline:
            return read_frames(pipeline, frames)


def threads() -> int:
    """A build may use the machine; a device in use may not."""
    return max(1, min(8, os.cpu_count() or 1))
