"""A model version as one directory that is written once, whole or not at all, and never changed.

`model.toml` names every other file by its digest, so its own digest is the bundle's id. It is written last,
into a directory of another name beside the target; one rename makes the bundle appear. The files are
read-only. It knows nothing about how graphs are made and judged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from edge_runtime.config import toml_text
from edge_runtime.errors import ConfigError, OutputError
from edge_runtime.files import sync_folder
from edge_runtime.infer.model import Artifact, Manifest, Model, load_model

MANIFEST_FILE = "model.toml"
ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a bundle. `manifest` needs no digests: they are those of `files`."""

    manifest: Manifest
    files: Mapping[str, bytes | Path]  # path in the bundle -> content, or a file that has it; no model.toml


def write_bundle(out: Path, contents: Contents) -> Model:
    """Writes the directory `out` and returns the model in it, checked.

    The same content where it already is, is left as it is. Raises ConfigError where `out` is anything else, and
    for contents that do not fit their manifest; OutputError where it cannot be written. Whatever happens,
    nothing is under `out` but the whole bundle.
    """
    check_target(out)
    files = {name: _content(name, source) for name, source in contents.files.items()}
    manifest = with_digests(contents.manifest, files)
    text = manifest_toml(manifest).encode()
    if out.is_dir() and any(out.iterdir()):
        return _same(out, text)
    try:
        _write_whole(out, files, text)
    except OSError as exc:
        if out.is_dir() and any(out.iterdir()):  # another process was first
            return _same(out, text)
        raise OutputError(
            f"{out}: cannot be written ({exc.strerror}); free some space or name another folder"
        ) from exc
    return load_model(str(out.resolve()))


def check_target(out: Path) -> None:
    """Raises ConfigError where no bundle can come to lie at `out`: to be asked before the work is done."""
    if out.is_dir():
        if any(out.iterdir()) and not (out / MANIFEST_FILE).is_file():
            raise ConfigError(f"{out}: is a folder with other things in it; name a new one")
        if out.is_symlink() and not any(out.iterdir()):
            raise ConfigError(f"{out}: is a link, which a folder cannot replace; name a new folder")
    elif out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: is a file; name a new folder")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent} to write it in; make it first")


def with_digests(manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """`manifest` naming each of `files` by its digest: its graphs where it has them, the rest in [files].

    Raises ConfigError for a graph that is not among the files, and for a path that leaves the bundle.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name in digests:
        _require_inside(name)

    def named(graphs: Mapping[Any, Artifact]) -> dict[Any, Artifact]:
        missing = [graph.file for graph in graphs.values() if graph.file not in digests]
        if missing:
            raise ConfigError(f"bundle of {manifest.name}: {missing[0]} is named and not among the files")
        return {
            precision: Artifact(file=graph.file, sha256=digests[graph.file])
            for precision, graph in graphs.items()
        }

    artifacts, tensorrt = named(manifest.artifacts), named(manifest.tensorrt)
    graphs = {graph.file for graph in (*artifacts.values(), *tensorrt.values())}
    rest = {name: digest for name, digest in sorted(digests.items()) if name not in graphs}
    return msgspec.structs.replace(manifest, artifacts=artifacts, tensorrt=tensorrt, files=rest)


def bundle_id(model: Model) -> str:
    """The first 12 hex digits of the manifest's SHA-256, which stands for every byte of the bundle."""
    return model.sha256[:ID_DIGITS]


# ---------------------------------------------------------------- checking


def verify_bundle(model: Model) -> None:
    """Checks that every file is what the manifest names and that nothing else lies in the directory.

    Names that begin with a dot are nobody's business. Raises ConfigError that names the first file.
    """
    for precision in model.manifest.artifacts:
        model.artifact(precision)
    for kind in model.manifest.tensorrt:
        model.tensorrt_graph(kind)
    graphs = [*model.manifest.artifacts.values(), *model.manifest.tensorrt.values()]
    for graph in graphs:
        if graph.sha256 is None:
            raise ConfigError(f"{model.home / graph.file}: model.toml names it without a sha256; add it")
    for name in model.manifest.files:
        _require_inside(name)
        model.named_file(name)
    named = {MANIFEST_FILE, *model.manifest.files, *(graph.file for graph in graphs)}
    strange = sorted(set(_files_of(model.home)) - named)
    if strange:
        raise ConfigError(
            f"{model.home / strange[0]}: is not a file that model.toml names; take it out of the bundle"
        )


def _files_of(home: Path) -> Iterator[str]:
    """The paths of all files below `home`, links included, hidden ones not."""
    for folder, folders, names in os.walk(home):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(home).as_posix()


def _require_inside(name: str) -> None:
    path = PurePosixPath(name)
    odd = not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name
    if odd or name != str(path) or name == MANIFEST_FILE:
        raise ConfigError(f"bundle: {name!r} is not a path of a file in a bundle")


def _same(out: Path, text: bytes) -> Model:
    """The bundle that is already there. Raises ConfigError where it is another one or damaged."""
    model = load_model(str(out.resolve()))
    wanted = hashlib.sha256(text).hexdigest()
    if model.sha256 != wanted:
        raise ConfigError(
            f"{out}: holds another bundle ({bundle_id(model)}, not {wanted[:ID_DIGITS]}); "
            "bundles are never changed: name a new folder"
        )
    verify_bundle(model)
    return model


# ---------------------------------------------------------------- writing


def _content(name: str, source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{source}: cannot be read ({exc.strerror}); it is to become {name}") from exc


def _write_whole(out: Path, files: Mapping[str, bytes], text: bytes) -> None:
    """Everything into a folder beside `out`, which then takes its name. Raises OSError."""
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        part.chmod(0o755)  # mkdtemp's is for its owner alone
        for name, content in {**files, MANIFEST_FILE: text}.items():
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_durably(target, content)
        for folder, _, _ in os.walk(part, topdown=False):
            sync_folder(Path(folder))
        part.rename(out)  # an empty folder gives way, any other does not
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(out.parent)


def _write_durably(target: Path, content: bytes) -> None:
    with target.open("xb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())


# ---------------------------------------------------------------- model.toml


def manifest_toml(manifest: Manifest) -> str:
    """The text of `model.toml`: everything the manifest says, defaults included.

    A bundle must not change its meaning when a later version has other defaults. What is None is left out; TOML
    has no word for it. msgspec reads the same manifest back.
    """
    return toml_text(manifest)
