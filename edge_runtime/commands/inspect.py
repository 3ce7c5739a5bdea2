"""`edge-runtime inspect`: from a stranger's ONNX file to a model directory that runs, and a sheet to confirm it by."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.build.calibration import as_uri
from edge_runtime.build.contact import COLUMNS, ROWS, Seen, areas, contact_sheet, in_words
from edge_runtime.build.graph import one_file
from edge_runtime.build.inspect import (
    Inspection,
    TensorLine,
    as_manifest_says,
    draft,
    inspect_model,
    model_name,
)
from edge_runtime.commands.contract import contract_lines
from edge_runtime.errors import ConfigError, OutputError
from edge_runtime.files import write_whole
from edge_runtime.frames.source import Source, open_source
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import Model, load_model
from edge_runtime.infer.preprocess import Fit
from edge_runtime.pictures import write_png
from edge_runtime.pipeline import build_pipeline
from edge_runtime.types import Frame

MANIFEST, MODEL, SHEET = "model.toml", "model.onnx", "contact.png"
LOOKED_AT = 200  # frames of a long source among which nine are chosen
TOLD = 8  # lint problems in words; the rest are counted


class FrameSeen(msgspec.Struct, frozen=True):
    name: str
    index: int
    areas: dict[str, float]  # label -> share of the picture, 0 to 1
    confidence: dict[str, float]
    words: str


class InspectReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `inspect --json` prints."""

    model: Inspection
    manifest: str  # the drafted model.toml
    frames: tuple[FrameSeen, ...]
    wrote: tuple[str, ...]
    next: tuple[str, ...]  # commands
    contract: tuple[str, ...] = ()  # of a model directory: what a picture must be, in words


def inspect(
    model: Path, frames: str | None, out: Path | None, grid: str | None, fit: Fit = "letterbox"
) -> InspectReport:
    """Looks, tries, drafts and, with `out`, writes: all of it or nothing.

    Raises ConfigError for a file that cannot be used and an `out` that has a model already, BackendError for a model
    that does not run, OutputError for a full disk.
    """
    if (model / MANIFEST).is_file():
        return _look_again(model, frames, out)
    if out is not None:
        _refuse_taken(out, model)
    chosen = [] if frames is None else _nine(as_uri(frames))
    seen = inspect_model(model, _grid(grid), chosen, fit)
    if seen.mask.problem is not None and (out is not None or chosen):
        raise ConfigError(f"{model}: {seen.mask.problem}")
    text, content = draft(seen), one_file(model)
    found = _run(text, content, chosen) if chosen else []
    return InspectReport(
        model=seen,
        manifest=text,
        frames=tuple(map(_told, found)),
        wrote=() if out is None else _write(out, text, content, found),
        next=_next(seen, frames, out),
    )


def _look_again(home: Path, frames: str | None, out: Path | None) -> InspectReport:
    """A model directory as its model.toml says, with a new contact sheet in place of its old one.

    A bundle is looked at too, and never changed.
    """
    if out is not None:
        raise ConfigError(f"{home}: a model directory; its {SHEET} is made in it, leave --out away")
    model = load_model(str(home))
    file, _ = model.artifact("fp32")
    seen = as_manifest_says(inspect_model(file, model.manifest.input.grid_hw), model.manifest)
    found = [] if frames is None else _through(model, _nine(as_uri(frames)))
    written = bool(found) and not model.manifest.files
    if written:
        write_png(home / SHEET, contact_sheet(found))
    return InspectReport(
        model=seen,
        manifest=(home / MANIFEST).read_text(encoding="utf-8"),
        frames=tuple(map(_told, found)),
        wrote=(str(home / SHEET),) if written else (),
        next=_next(seen, frames, home),
        contract=contract_lines(model.manifest),
    )


def _refuse_taken(out: Path, model: Path) -> None:
    for name in (MANIFEST, SHEET, MODEL):
        place = out / name
        if place.exists() and not (name == MODEL and model.exists() and place.samefile(model)):
            raise ConfigError(f"{place}: is there already and is never overwritten; name another --out")


def _grid(text: str | None) -> tuple[int, int] | None:
    """`H,W` as two numbers."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and 8 <= int(part) <= 8192 for part in parts):
        raise ConfigError(f"--grid {text}: want height,width in pixels, for example 256,256")
    return int(parts[0]), int(parts[1])


def _nine(uri: str) -> list[Frame]:
    """Nine frames from all over the source, or as many as it has. Raises ConfigError where none can be read."""
    with open_source(uri, limit=LOOKED_AT) as source:
        wanted = _places(source)
        chosen = [frame for frame in islice(_readable(source), LOOKED_AT) if frame.index in wanted]
    if not chosen:
        raise ConfigError(f"{uri}: no frame in it can be read; name a folder of pictures of the model's kind")
    return chosen


def _places(source: Source) -> set[int]:
    """Nine indices evenly over the source; the first nine where its length is not known."""
    most = ROWS * COLUMNS
    length = most if source.length is None else source.length
    return {int(place) for place in np.linspace(0, length - 1, min(most, length)).round()}


def _readable(source: Source) -> Iterator[Frame]:
    for frame in source.frames():
        if isinstance(frame, Frame):
            yield frame


def _run(text: str, content: bytes, frames: list[Frame]) -> list[Seen]:
    """The frames through the pipeline of a model directory made of the draft, as `run` would do it."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-inspect-") as folder:
        home = Path(folder)
        (home / MODEL).write_bytes(content)
        (home / MANIFEST).write_text(text, encoding="utf-8")
        return _through(load_model(str(home)), frames)


def _through(model: Model, frames: list[Frame]) -> list[Seen]:
    with closing(build_pipeline(model, open_backend(model, "auto", "fp32"))) as pipeline:
        return [Seen(frame, pipeline.step(frame).mask) for frame in frames]


def _told(seen: Seen) -> FrameSeen:
    mask = seen.mask
    confidence = {} if mask is None else dict(zip(mask.names, mask.confidence, strict=True))
    return FrameSeen(seen.frame.origin.name, seen.frame.index, areas(mask), confidence, in_words(mask))


def _write(out: Path, text: str, content: bytes, found: list[Seen]) -> tuple[str, ...]:
    """The model, the sheet, and last the manifest: where it is, the rest is whole."""
    wrote = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / MODEL).exists():
            write_whole(out / MODEL, content)
            wrote.append(MODEL)
        if found:
            write_png(out / SHEET, contact_sheet(found))
            wrote.append(SHEET)
        write_whole(out / MANIFEST, text.encode())
    except OSError as exc:
        raise OutputError(
            f"{exc.filename or out}: cannot be written ({exc.strerror}); free some space or name another --out"
        ) from exc
    return tuple(str(out / name) for name in (*wrote, MANIFEST))


def _next(seen: Inspection, frames: str | None, out: Path | None) -> tuple[str, ...]:
    """The commands that come after this one; none for a model that cannot be run."""
    if seen.mask.problem is not None:
        return ()
    pictures = "DIR" if frames is None else shlex.quote(frames)
    if out is None:
        return (
            f"edge-runtime inspect {shlex.quote(seen.file)} --frames {pictures} --out {model_name(Path(seen.file))}_model",
        )
    home, source = shlex.quote(str(out)), shlex.quote(as_uri(frames or "DIR"))
    run = f"edge-runtime run --model {home} --source {source} --masks masks"
    quantize = f"edge-runtime quantize {home} --frames {pictures} --out {shlex.quote(f'{out}_bundle')}"
    return (run,) if seen.quantized else (run, quantize)


def lines(report: InspectReport) -> list[str]:
    """What it is, what it wants, what it gives, what was found, and what to do next."""
    seen = report.model
    out = [
        f"{seen.file}: opset {seen.opset}{f' ({seen.producer})' if seen.producer else ''}, "
        f"{seen.parameters / 1e6:.3g} M parameters, {seen.multiply_adds / 1e9:.3g} G multiply-adds",
        f"input   {_tensor(seen.input)}",
        *(
            f"output  {_tensor(one)}{'  <- the mask' if one.name == seen.mask.output else ''}"
            for one in seen.outputs
        ),
        "nodes   " + ", ".join(f"{count} {name}" for name, count in seen.operators.items()),
        *_wants(seen),
        f"gives   {_gives(seen)}",
        *_lint_lines(seen),
    ]
    out += [f"contract {line}" for line in report.contract]
    out += [f"frame   {one.name} [{one.index}]: {one.words}" for one in report.frames]
    if seen.mask.caution:
        out.append(f"caution {seen.mask.caution}")
    if seen.mask.problem:
        out.append(f"problem {seen.mask.problem}")
    out += ["", *report.manifest.rstrip().splitlines(), ""]
    if report.wrote:
        out.append(f"wrote   {', '.join(report.wrote)}")
        out.append(f"confirm {_confirm(report)}")
    return [*out, *(f"next    {command}" for command in report.next)]


def _confirm(report: InspectReport) -> str:
    home = shlex.quote(str(Path(report.wrote[0]).parent))
    if not report.frames:
        return f"correct the lines of model.toml that say guess; edge-runtime inspect {home} --frames DIR shows them at work"
    return (
        f"look at {SHEET}; where it is wrong, correct the lines of model.toml that say guess "
        f"and look again: edge-runtime inspect {home} --frames ..."
    )


def _tensor(one: TensorLine) -> str:
    return f"{one.name}  {' x '.join(map(str, one.shape))}  {one.dtype}"


def _wants(seen: Inspection) -> list[str]:
    guess = seen.normalisation
    what = f"{guess.chosen.name}{'' if guess.sure else ' (a guess)'}: {guess.why}"
    return [f"wants   {what}"] + [
        f"        {one.name:<15} score {one.score:.2f}: confidence {one.confidence:.2f}, in one piece {one.whole:.2f}, "
        f"steady {one.steady:.2f}, scores reach {one.span:.3g}"
        for one in guess.tried
    ]


def _gives(seen: Inspection) -> str:
    guessed = "" if seen.mask.source == "graph" else " (a guess)"
    todo = (
        "probabilities" if seen.mask.activation == "none" else f"scores, {seen.mask.activation} to be applied"
    )
    return f"{todo}{guessed}: {seen.mask.why}; {len(seen.labels)} label{'s' * (len(seen.labels) > 1)}"


def _lint_lines(seen: Inspection) -> list[str]:
    if not seen.quantized:
        return []
    told = [
        f"lint    {one.severity} {one.code} {one.node}: {one.message}; {one.fix}" for one in seen.lint[:TOLD]
    ]
    more = len(seen.lint) - TOLD
    return (told or ["lint    quantized already, and no rule of TensorRT broken"]) + (
        [f"lint    and {more} more, see --json"] if more > 0 else []
    )
