"""`edge-runtime quantize`: from an ONNX file and real frames to a bundle that a device may trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_runtime import clock
from edge_runtime.build.bundle import bundle_id
from edge_runtime.build.inspect import model_name
from edge_runtime.build.quantize import Job, Quantized, quantize
from edge_runtime.commands.evaluate import read_subjects
from edge_runtime.config import read_toml
from edge_runtime.infer.model import Manifest, load_model, shipped_models

BAR = 24  # characters
KEPT = (".md", ".txt", ".png")  # card, its plots, lists of subjects


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `quantize --json` prints."""

    bundle: str
    id: str  # first digits of the manifest's digest
    layers: int
    int8: int
    kept_fp16: dict[str, str]  # layer -> why
    methods: dict[str, int]  # how often each way to choose a range was the best
    observed: int
    gate_frames: int
    worst_frames: tuple[str, ...]  # of those given, by name: look at them first
    worst_on_page: tuple[str, ...]  # the same as the gate's page names them: by content, for a bundle travels
    gate: dict[str, dict[str, float | None]]  # by what was judged: its numbers
    limits: dict[str, float]  # of these numbers
    units: dict[str, str]
    seconds: float


def run(
    model: str,
    frames: str,
    out: Path,
    recipe: Path | None,
    labels: Path | None,
    without: Path | None,
    progress: Callable[[str], None] | None = None,
) -> QuantizeReport:
    """Quantizes; nothing is written unless the gate passes. Raises ConfigError, CalibrationError, GateError."""
    start_ns = clock.monotonic_ns()
    file, manifest, keep = _model(model, recipe)
    job = Job(
        model=file,
        manifest=manifest,
        frames=frames,
        out=out,
        labels=labels,
        without=frozenset() if without is None else frozenset(read_subjects(without)),
        keep=keep,
    )
    done = quantize(job, (lambda what, share: None) if progress is None else _bar(progress, start_ns))
    return _report(done, (clock.monotonic_ns() - start_ns) / 1e9)


def _model(model: str, recipe: Path | None) -> tuple[Path, Manifest, dict[str, bytes]]:
    """The ONNX file, what is said of it, and what goes along with it.

    `model` is a file, a model directory or a shipped model's name; the card with its plots and the lists of subjects that lie in
    a model directory stay with the model.
    """
    if model in shipped_models() or (Path(model) / "model.toml").is_file():
        loaded = load_model(model)
        file, _ = loaded.artifact("fp32")
    else:
        file = Path(model)
    said = file.parent / "model.toml"
    ours = said.is_file() and _names(said, file)
    if recipe is not None:
        manifest = read_toml(recipe, Manifest)
    else:
        manifest = read_toml(said, Manifest) if ours else Manifest(name=model_name(file))
    along = [path for path in sorted(file.parent.iterdir()) if path.suffix in KEPT] if ours else []
    return file, manifest, {path.name: path.read_bytes() for path in along}


def _names(manifest: Path, file: Path) -> bool:
    """Whether the model.toml beside a file is about it."""
    return any(artifact.file == file.name for artifact in read_toml(manifest, Manifest).artifacts.values())


def _bar(show: Callable[[str], None], start_ns: int) -> Callable[[str, float], None]:
    def told(what: str, share: float) -> None:
        full = round(BAR * share)
        spent = (clock.monotonic_ns() - start_ns) / 1e9
        show(f"[{'#' * full}{'.' * (BAR - full)}] {share:4.0%}  {spent:4.0f} s  {what}")

    return told


def _report(done: Quantized, seconds: float) -> QuantizeReport:
    methods: dict[str, int] = {}
    for chosen in done.ranges:
        methods[chosen.method] = methods.get(chosen.method, 0) + 1
    return QuantizeReport(
        bundle=str(done.model.home),
        id=bundle_id(done.model),
        layers=len(done.layers),
        int8=sum(not layer.fp16_because for layer in done.layers),
        kept_fp16={layer.name: layer.fp16_because for layer in done.layers if layer.fp16_because},
        methods=methods,
        observed=done.observed,
        gate_frames=done.gate_frames,
        worst_frames=tuple(name for name, _ in done.worst),
        worst_on_page=tuple(told for _, told in done.worst),
        limits={number.name: number.limit for number in done.reports[0].numbers if number.limit is not None},
        units={number.name: number.unit for number in done.reports[0].numbers if number.unit},
        gate={
            report.subject: {number.name: number.value for number in report.numbers}
            for report in done.reports
        },
        seconds=seconds,
    )


def lines(report: QuantizeReport) -> list[str]:
    """The verdict, what was kept, and where to look."""
    out = [
        f"accepted: {report.int8} of {report.layers} layers in INT8, judged on {report.gate_frames} frames, "
        f"observed on {report.observed} ({report.seconds:.0f} s)"
    ]
    out += [f"FP16  {name}: {why}" for name, why in report.kept_fp16.items()]
    for subject, numbers in report.gate.items():
        out += [subject, *(f"    {line}" for line in _against_limits(numbers, report))]
    if report.worst_frames:
        named = zip(report.worst_frames, report.worst_on_page, strict=True)
        out.append(f"look first at {', '.join(f'{name} (on the page {told})' for name, told in named)}")
    out.append(f"bundle {report.id}: {report.bundle}")
    out.append(f"why it was accepted: {report.bundle}/gate/report.html")
    return out


def _against_limits(numbers: dict[str, float | None], report: QuantizeReport) -> list[str]:
    """The numbers that have a range of their own, with it; counts that must be 0 are 0 in what was accepted."""
    told = []
    for name, value in numbers.items():
        limit, unit = report.limits.get(name), report.units.get(name, "")
        if value is not None and limit and name != "frames":
            bound = "at least" if value > limit else "at most"
            told.append(f"{name.replace('_', ' '):28} {value:.4g} {unit:6} {bound} {limit:g}")
    return told
