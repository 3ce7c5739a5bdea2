"""An engine as two files: the plan, and beside it the sidecar that says what it was built from and whether it may run.

An engine is good for one model, one TensorRT and one device: all of that is its key, and the key's digest is in its
name. Reading believes nothing: a plan counts only when its sidecar has this very key, the plan's own digest, and the
word of a gate that it passed. `build/engine.py` writes them; this module only reads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.errors import EngineError, GateError
from edge_runtime.files import cache_home
from edge_runtime.infer.backends.cuda import DeviceFacts
from edge_runtime.infer.model import Model
from edge_runtime.types import Sha256

SCHEMA = 1
SHORT = 16  # digits of a digest in a file's name
WORKSPACE_BYTES = 1 << 30  # what a tactic may use while it runs; an 8 GB board shares it with everything else
DECISION = 1  # version of what `build/decide.py` appends to a graph

EnginePrecision = Literal["fp16", "int8"]
PRECISIONS: tuple[EnginePrecision, ...] = ("int8", "fp16")


class EngineOptions(msgspec.Struct, frozen=True):
    """What the builder was told; another value makes another engine."""

    workspace_bytes: int = WORKSPACE_BYTES
    decision: int = DECISION


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine depends on. Two equal keys may share an engine; any other two never."""

    manifest_sha256: Sha256
    graph_sha256: Sha256  # of the ONNX file it was built from
    precision: EnginePrecision
    tensorrt: str
    gpu: str
    compute_capability: str
    sm_count: int
    driver: str
    options: EngineOptions = EngineOptions()

    def digest(self) -> str:
        """sha256 over the key's JSON, fields in the order of the declaration."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Verdict(msgspec.Struct, frozen=True):
    """The gate's word on one plan."""

    passed: bool
    message: str
    frames: int


class Sidecar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies beside a plan as JSON."""

    schema: int = SCHEMA
    model: str
    key: EngineKey
    plan_sha256: Sha256
    plan_bytes: int
    built_at: str
    build_s: float
    gate: Verdict
    timings_ms: dict[str, float] = {}  # of each precision that was timed beside it, median
    power: dict[str, str] = {}  # the mode it was timed in
    chosen: bool = False  # `auto` takes this one
    reason: str = ""  # why, in words


@dataclass(frozen=True, slots=True)
class Engine:
    """A plan that may run, as far as its files can say."""

    path: Path
    sidecar: Sidecar

    @property
    def key(self) -> EngineKey:
        return self.sidecar.key

    def plan(self) -> bytes:
        """The plan, checked against its sidecar. Raises EngineError where it is gone or damaged."""
        try:
            content = self.path.read_bytes()
        except OSError as exc:
            raise EngineError(f"{self.path}: cannot be read ({exc.strerror})") from exc
        if hashlib.sha256(content).hexdigest() != self.sidecar.plan_sha256:
            raise EngineError(
                f"{self.path}: is damaged ({len(content)} bytes, its sidecar says {self.sidecar.plan_bytes})"
            )
        return content


def engines_home() -> Path:
    """Where engines lie in this machine's cache."""
    return cache_home() / "engines"


def key_for(model: Model, precision: EnginePrecision, gpu: DeviceFacts, tensorrt: str) -> EngineKey:
    """The key of `model` in `precision` on this GPU. Raises ConfigError for a model without such a graph."""
    _, graph_sha256 = model.tensorrt_graph(precision)
    return EngineKey(
        manifest_sha256=model.sha256,
        graph_sha256=graph_sha256,
        precision=precision,
        tensorrt=tensorrt,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        sm_count=gpu.sm_count,
        driver=gpu.driver,
    )


def plan_path(home: Path, key: EngineKey) -> Path:
    return home / f"{key.digest()[:SHORT]}-{key.precision}.plan"


def sidecar_path(plan: Path) -> Path:
    return plan.with_suffix(".json")


def find_engine(home: Path, key: EngineKey) -> Engine:
    """The engine of this very key, its plan unread.

    Raises EngineError (missing, unreadable, of another key) or GateError (judged, and refused).
    """
    path = plan_path(home, key)
    where = sidecar_path(path)
    try:
        sidecar = msgspec.json.decode(where.read_bytes(), type=Sidecar)
    except FileNotFoundError as exc:
        raise EngineError(f"{where}: there is no engine for this model on this device") from exc
    except OSError as exc:
        raise EngineError(f"{where}: cannot be read ({exc.strerror})") from exc
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise EngineError(f"{where}: is damaged: {exc}") from exc
    if sidecar.schema != SCHEMA or sidecar.key != key:
        raise EngineError(f"{where}: is of another model, TensorRT, driver or device")
    if not sidecar.gate.passed:
        raise GateError(f"{where}: the gate refused this engine: {sidecar.gate.message}")
    if not path.is_file():
        raise EngineError(f"{path}: is missing beside its sidecar")
    return Engine(path, sidecar)
