"""Which precision `auto` means on this CPU: measured once, gated, remembered.

A faster precision is taken only where it is faster here, and where its masks and millimetres on the model's own
gate frames stay within the manifest's limits here (`gate.py`). The decision is a file in the cache, named by
all that could change it; it says what was measured and why. It lies in this machine's cache under `precision/`. A
cache that cannot be used costs a second at each start and nothing else. A model without gate frames keeps the rule of `open_backend`. TensorRT's engines are not chosen here.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import cv2
import msgspec

from edge_runtime import __version__, clock
from edge_runtime.errors import BackendError, GateError
from edge_runtime.files import cache_home, json_bytes, write_whole
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.backends.table import BACKENDS, choose_backend, offered_precisions, open_backend
from edge_runtime.infer.model import GATE_FRAMES, Model, Precision
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Frame

if TYPE_CHECKING:
    from edge_runtime.build.gate_frames import GateSet

MEASURED = ("openvino", "onnxruntime")
WARM_UP = 2
ROUNDS = (5, 15)  # fewest and most; one inference of each candidate in each
ROUNDS_NS = 150_000_000  # no further round begins after this
WORTH = 0.95  # of fp32's time: what is hardly faster is not worth being another
CPUINFO = Path("/proc/cpuinfo")
CPU_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "Features",
)
ISA_SETTINGS = ("ONEDNN_", "DNNL_")  # environment that takes instructions away from OpenVINO

Verdict = Literal["reference", "passed", "refused", "cannot run", "not needed"]

_log = logging.getLogger(__name__)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """All that may change the decision, and nothing that does not."""

    manifest_sha256: str
    graphs: dict[str, str]  # digests of graphs that the manifest names without one
    backend: str
    library: str  # its version
    processor: str
    flags_sha256: str  # of what the processor says it can do
    isa: dict[str, str]
    threads: int
    opencv: str
    edge_runtime: str

    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One precision, as it was found."""

    precision: Precision
    ms: float | None  # one inference, median; None: it cannot run
    verdict: Verdict
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What `auto` is here, and why."""

    schema_version: int = 1
    model: str
    chosen: Precision
    reason: str
    candidates: tuple[Candidate, ...]
    measured_at: str
    spent_ms: float
    key: Key

    def __post_init__(self) -> None:
        sound = {one.precision for one in self.candidates if one.verdict in ("reference", "passed")}
        if self.schema_version != 1 or self.chosen not in sound:
            raise ValueError(f"decision: {self.chosen} was not found sound")


def open_gated(
    model: Model,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] | None = None,
) -> Backend:
    """The model, loaded and ready, as `open_backend` does it; `auto` precision is measured and gated first.

    `say` gets a line where a person has to wait for that. Raises ConfigError or BackendError.
    """
    return open_with_decision(model, backend, precision, threads, say)[0]


def open_with_decision(
    model: Model,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] | None = None,
) -> tuple[Backend, Decision | None]:
    """As `open_gated`, with the decision that it rests on; None where there was nothing to decide."""
    name = choose_backend(backend, model, precision)
    if precision != "auto" or name not in MEASURED or GATE_FRAMES not in model.manifest.files:
        return open_backend(model, name, precision, threads), None
    offers = offered_precisions(model, name)
    if offers == ("fp32",):
        return open_backend(model, name, "fp32", threads), None
    key = key_of(model, name, offers, threads)
    known = _remembered(key)
    if known is not None:
        try:
            return open_backend(model, name, known.chosen, threads), known
        except BackendError as exc:  # the library has changed under its own version: look again
            _log.warning("%s no longer runs here, measuring anew: %s", known.chosen, exc)
    if say is not None:
        say(f"{model.manifest.name}: finding the fastest precision that is right on this machine; done once")
    opened, decision = _decide(model, name, offers, threads, key)
    _remember(decision)
    return opened, decision


# ---------------------------------------------------------------- measuring and gating


@dataclass(slots=True)
class _Contender:
    """A candidate while it is looked at."""

    precision: Precision
    pipeline: Pipeline | None  # None: it cannot run
    spent_ms: list[float] = field(default_factory=list)
    verdict: Verdict = "not needed"
    reason: str = ""

    @property
    def ms(self) -> float:
        return median(self.spent_ms) if self.spent_ms else math.inf

    def drop(self, exc: BackendError) -> None:
        """It cannot run; without fp32 nothing can."""
        if self.precision == "fp32":
            raise exc
        self.pipeline, self.verdict, self.reason = None, "cannot run", str(exc)
        self.spent_ms.clear()

    def told(self) -> Candidate:
        ms = round(self.ms, 3) if self.spent_ms else None
        return Candidate(precision=self.precision, ms=ms, verdict=self.verdict, reason=self.reason)


def _decide(
    model: Model, name: str, offers: tuple[Precision, ...], threads: int, key: Key
) -> tuple[Backend, Decision]:
    """Measures every offer, gates the fast ones, and keeps one open."""
    from edge_runtime.build.gate_frames import load_gate_set

    start_ns = clock.monotonic_ns()
    gate_set = load_gate_set(model)
    backends: dict[Precision, Backend] = {}
    kept: Precision | None = None
    try:
        trials = [_open(model, name, precision, threads, backends) for precision in offers]
        _time(trials, gate_set.frames)
        chosen = _choose(trials, gate_set, model)
        kept = chosen.precision
    finally:
        for precision, backend in backends.items():
            if precision != kept:
                backend.close()
    for trial in trials:
        if trial.verdict in ("refused", "cannot run"):
            _log.warning("%s of %s is not used: %s", trial.precision, model.manifest.name, trial.reason)
    decision = Decision(
        model=f"{model.manifest.name} {model.manifest.version}",
        chosen=kept,
        reason=_reason(chosen, trials),
        candidates=tuple(trial.told() for trial in trials),
        measured_at=clock.utc_now(),
        spent_ms=round((clock.monotonic_ns() - start_ns) / 1e6, 1),
        key=key,
    )
    return backends[kept], decision


def _open(
    model: Model, name: str, precision: Precision, threads: int, backends: dict[Precision, Backend]
) -> _Contender:
    trial = _Contender(precision, None)
    try:
        backends[precision] = open_backend(model, name, precision, threads)
        trial.pipeline = build_pipeline(model, backends[precision])
    except BackendError as exc:
        trial.drop(exc)
    return trial


def _time(trials: Sequence[_Contender], frames: Sequence[Frame]) -> None:
    """Inference alone, in interleaved rounds: what the machine does besides meets all of them alike."""
    for number in range(-WARM_UP, ROUNDS[1]):
        if number == 0:
            start_ns = clock.monotonic_ns()
        if number >= ROUNDS[0] and clock.monotonic_ns() - start_ns > ROUNDS_NS:
            return
        for trial in trials:
            if trial.pipeline is None:
                continue
            try:
                result = trial.pipeline.step(frames[number % len(frames)])
            except BackendError as exc:
                trial.drop(exc)
                continue
            if number >= 0:
                trial.spent_ms.append(result.stages_ms["infer"])


def _choose(trials: Sequence[_Contender], gate_set: GateSet, model: Model) -> _Contender:
    """The fastest that passes the gate; what is not faster than the choice is not asked."""
    exact = next(trial for trial in trials if trial.precision == "fp32")
    exact.verdict, exact.reason = "reference", "the others are held to it"
    chosen = exact
    for trial in sorted(trials, key=lambda trial: trial.ms):
        if trial.pipeline is None or trial is exact:
            continue
        if chosen is not exact:
            trial.reason = f"slower than {chosen.precision}"
        elif trial.ms > WORTH * exact.ms:
            trial.reason = "not faster than fp32"
        else:
            if _passes(trial, trial.pipeline, gate_set, model):
                chosen = trial
    return chosen


def _passes(trial: _Contender, pipeline: Pipeline, gate_set: GateSet, model: Model) -> bool:
    from edge_runtime.build.gate import judge
    from edge_runtime.build.readings import read_frames

    subject = f"{trial.precision} on {pipeline.backend.name}"
    try:
        report = judge(
            gate_set.reference,
            read_frames(pipeline, gate_set.frames),
            model.manifest.gate,
            subject=subject,
            model=model.manifest.name,
        )
        report.require()
    except BackendError as exc:
        trial.drop(exc)
        return False
    except GateError as exc:
        trial.verdict, trial.reason = "refused", str(exc)
        return False
    trial.verdict = "passed"
    trial.reason = f"within the limits of model.toml on {len(gate_set.frames)} gate frames"
    return True


def _reason(chosen: _Contender, trials: Sequence[_Contender]) -> str:
    others = ", ".join(
        f"{trial.precision} {trial.ms:.2f} ms" if trial.spent_ms else f"{trial.precision} {trial.verdict}"
        for trial in trials
        if trial is not chosen
    )
    refused = [trial.precision for trial in trials if trial.verdict == "refused"]
    but = f"; {' and '.join(refused)} refused by the gate" if refused else ""
    return f"{chosen.precision} is the fastest that is right here: {chosen.ms:.2f} ms ({others}){but}"


# ---------------------------------------------------------------- what was decided before


def decision_file(key: Key) -> Path:
    return cache_home() / "precision" / f"{key.digest()}.json"


def key_of(model: Model, backend: str, offers: Sequence[Precision], threads: int) -> Key:
    """The key of a decision about `model` here and now. Raises ConfigError for a graph that is not as named."""
    unnamed: dict[str, str] = {}
    for precision in offers:
        graph = model.manifest.artifacts.get(precision)
        if graph is not None and graph.sha256 is None:
            unnamed[precision] = model.artifact(precision)[1]
    name, flags = processor()
    return Key(
        manifest_sha256=model.sha256,
        graphs=unnamed,
        backend=backend,
        library=str(import_module(BACKENDS[backend][1]).__version__),
        processor=name,
        flags_sha256=hashlib.sha256(flags.encode()).hexdigest(),
        isa={name: value for name, value in sorted(os.environ.items()) if name.startswith(ISA_SETTINGS)},
        threads=threads,
        opencv=cv2.__version__,
        edge_runtime=__version__,
    )


def processor() -> tuple[str, str]:
    """What the first processor is called, and what it says of itself, features included."""
    try:
        with CPUINFO.open("rb") as file:
            first = file.read(1 << 14).decode(errors="replace").partition("\n\n")[0]
    except OSError:  # not Linux
        return platform.processor() or platform.machine(), platform.machine()
    said = dict(_field(line) for line in first.splitlines() if ":" in line)
    name = said.get("model name") or said.get("CPU part") or platform.machine()
    lasting = [f"{what}={said.get(what, '')}" for what in CPU_FIELDS]
    return name, "\n".join((platform.machine(), *lasting))


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _remembered(key: Key) -> Decision | None:
    """The decision under `key`; None where there is none that can be used."""
    path = decision_file(key)
    try:
        decision = msgspec.json.decode(path.read_bytes(), type=Decision)
    except OSError:  # there is none; where nothing can be read, writing will say so
        return None
    except msgspec.DecodeError as exc:
        _log.warning("%s: cannot be used, measuring anew: %s", path, exc)
        return None
    if decision.key != key:
        _log.warning("%s: is about something else, measuring anew", path)
        return None
    return decision


def _remember(decision: Decision) -> None:
    """Writes the decision down, where that is possible."""
    path = decision_file(decision.key)
    try:
        write_whole(path, json_bytes(decision))
    except OSError as exc:
        _log.warning("%s: cannot be kept (%s), so each start measures anew", path, exc.strerror)
