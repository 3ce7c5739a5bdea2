"""Every model that is asked for, from its files to a finding read back from the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import clock
from edge_runtime.build.bundle import verify_bundle
from edge_runtime.build.precision import open_gated
from edge_runtime.commands.selftest.examine import examine
from edge_runtime.commands.selftest.report import Check, ModelTold, SelftestReport, failed, passed, skipped
from edge_runtime.commands.state import default_state
from edge_runtime.errors import ConfigError, EdgeError, JournalError
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.model import Model, load_model, shipped_models
from edge_runtime.pipeline import build_pipeline
from edge_runtime.sync.state import make_state_dir, unwritable

PREFIX = ".selftest-"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `selftest`, as `--help` explains them."""

    models: tuple[str, ...] = ()  # none: every shipped one
    backend: str = "auto"
    precision: str = "auto"
    threads: int = 1
    state: Path | None = None


def selftest(options: Options, say: Callable[[str], None] | None = None) -> SelftestReport:
    """Looks at everything; what it records lies in a temporary folder of the state directory and is gone afterwards.

    Raises ConfigError for a model that does not exist; whatever else is wrong is a check that failed.
    """
    names = options.models or tuple(sorted(shipped_models()))
    if not names:
        raise ConfigError("selftest: no model is installed; pip install --force-reinstall edge-runtime")
    told = []
    for name in names:
        with _temporary(options.state or default_state()) as state:
            told.append(_one(name, options, state, say))
    ok = all(check.state != "failed" for one in told for check in one.checks)
    seconds = clock.since_process_start_s(clock.monotonic_ns())
    return SelftestReport(ok=ok, seconds=round(seconds, 2), models=told)


@contextmanager
def _temporary(state: Path) -> Iterator[Path | JournalError]:
    """An empty folder on the state directory's own file system, or why there is none."""
    try:
        make_state_dir(state)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=state))
    except JournalError as exc:
        yield exc
        return
    except OSError as exc:
        yield unwritable(state, exc)
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _one(
    name: str, options: Options, state: Path | JournalError, say: Callable[[str], None] | None
) -> ModelTold:
    checks: list[Check] = []
    if isinstance(state, JournalError):
        checks.append(failed("journal", "a state directory that can be written", str(state)))
    model, files = _files(name)
    checks.append(files)
    if model is None:
        return _not_opened(name, checks)
    backend, opened = _open(model, options, say)
    checks.append(opened)
    if backend is None:
        return _not_opened(name, checks)
    frame_ms = None
    try:
        pipeline = build_pipeline(model, backend)
        found, frame_ms = examine(pipeline, state if isinstance(state, Path) else None)
        checks += found
    except EdgeError as exc:
        checks.append(failed("backend", "a model that fits its manifest", str(exc)))
    finally:
        backend.close()
    return ModelTold(
        model=f"{model.manifest.name} {model.manifest.version} {model.sha256[:12]}",
        backend=backend.name,
        precision=backend.precision,
        frame_ms=frame_ms,
        checks=checks,
    )


def _not_opened(name: str, checks: list[Check]) -> ModelTold:
    return ModelTold(model=name, backend=None, precision=None, frame_ms=None, checks=checks)


def _files(name: str) -> tuple[Model | None, Check]:
    """The model, every file of it held against its manifest; None where one is not what was named."""
    there = name in shipped_models() or (Path(name).expanduser() / "model.toml").is_file()
    try:
        model = load_model(name)
        if model.manifest.files:
            verify_bundle(model)
        for precision in model.manifest.artifacts:
            model.artifact(precision)
    except ConfigError as exc:
        if not there:
            raise
        return None, failed("files", "files that are what model.toml names", str(exc))
    manifest = model.manifest
    graphs = [*manifest.artifacts.values(), *manifest.tensorrt.values()]
    named = len(manifest.files) + sum(graph.sha256 is not None for graph in graphs)
    if not named:
        return model, skipped("files", "model.toml names no digest")
    return model, passed("files", f"{named} files are what model.toml names")


def _open(model: Model, options: Options, say: Callable[[str], None] | None) -> tuple[Backend | None, Check]:
    """The backend; None where it cannot be opened. Raises ConfigError for a flag that cannot be followed here."""
    try:
        backend = open_gated(model, options.backend, options.precision, options.threads, say=say)
    except EdgeError as exc:
        asked = options.backend != "auto" or options.precision != "auto"
        if asked and isinstance(exc, ConfigError):
            raise
        return None, failed("backend", "a backend that loads the model", str(exc))
    return backend, passed("backend", f"{backend.precision} on {backend.device}")
