"""Reads the frames, finds limits and intervals, writes the profile whole or not at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime import clock
from edge_runtime.build.precision import open_gated
from edge_runtime.codes import Reason
from edge_runtime.commands.calibrate import intervals, limits
from edge_runtime.commands.calibrate.reading import Reading, Seen, models_own, read
from edge_runtime.commands.calibrate.report import CalibrateReport, report_of
from edge_runtime.commands.words import listed
from edge_runtime.config import read_toml, toml_text
from edge_runtime.errors import CalibrationError, ConfigError, OutputError
from edge_runtime.files import write_whole
from edge_runtime.infer.model import load_model
from edge_runtime.measure.anatomy import ELLIPTIC
from edge_runtime.measure.profile import ForModel, Gate, Grade, Profile, ProfileFile, read_profile
from edge_runtime.measure.quality import GRADED
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.reporting import model_used

LEAST_FRAMES = 30  # that the model accepts: the worst of fewer says little of the next
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `calibrate`, as `--help` explains them."""

    model: str
    frames: str
    out: Path
    labels: Path | None = None
    name: str | None = None
    target: float = 0.02
    backend: str = "auto"
    precision: str = "auto"
    threads: int = 1


def calibrate(options: Options, progress: Callable[[str], None] | None = None) -> CalibrateReport:
    """Writes the profile and says what it will do.

    Raises ConfigError, CalibrationError or OutputError in one line; then nothing is written.
    """
    name = _name(options)
    if not 0 <= options.target < 0.5:  # also refuses NaN
        raise ConfigError(f"--reject {options.target:g}: want a share from 0 to below 0.5")
    _require_writable(options.out)
    model = load_model(options.model)
    backend = open_gated(model, options.backend, options.precision, options.threads, say=progress)
    pipeline = build_pipeline(model, backend)
    try:
        reading = read(options.frames, options.labels, pipeline, progress)
    finally:
        pipeline.close()
    accepted = _accepted(reading, options.frames)
    standing = limits.standing_limits(pipeline.limits.ultrasound, _models_gate(pipeline))
    found = limits.find(
        [one.numbers for one in accepted], [one.subject for one in accepted], standing, options.target
    )
    coverage = pipeline.settings.coverage
    widths = {} if options.labels is None else intervals.find_all(accepted, pipeline.settings, coverage)
    file = _file(name, options.target, accepted, found, widths, pipeline)
    written = _write(options.out, file, pipeline)
    return report_of(written, reading, accepted, found, widths, pipeline)


def _name(options: Options) -> str:
    name = options.out.stem if options.name is None else options.name
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r}: want 1 to 64 letters, digits, blanks, dots, dashes and underscores; findings carry it"
        )
    return name


def _require_writable(out: Path) -> None:
    """Raises ConfigError before the work begins where it could not be kept, or would replace another file."""
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.parent}; name a file in an existing one")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file")
    if not out.exists():
        return
    try:
        read_toml(out, ProfileFile)
    except ConfigError as exc:
        raise ConfigError(f"--out {out}: exists and is no profile; name another file") from exc


def _accepted(reading: Reading, frames: str) -> list[Seen]:
    """The frames that the model itself does not withhold. Raises CalibrationError where they are too few."""
    seen = reading.seen
    accepted = [one for one in seen if not one.withheld]
    reasons: Counter[Reason] = Counter(reason for one in seen for reason in one.withheld)
    why = listed({reason.value: count for reason, count in reasons.items()})
    if 2 * len(accepted) < len(seen):
        raise CalibrationError(
            f"{frames}: the model withholds {len(seen) - len(accepted)} of {len(seen)} frames ({why}); "
            "these are not good frames of what it was made for"
        )
    if len(accepted) < LEAST_FRAMES:
        more = f", {len(seen) - len(accepted)} are withheld ({why})" if reasons else ""
        more += f", {reading.repeated} show a picture again" if reading.repeated else ""
        raise CalibrationError(
            f"{frames}: {len(accepted)} different good frames{more}; want at least {LEAST_FRAMES}, of several subjects"
        )
    return accepted


def _file(
    name: str,
    target: float,
    accepted: list[Seen],
    found: limits.Found,
    widths: Mapping[str, intervals.Interval],
    pipeline: Pipeline,
) -> ProfileFile:
    used = model_used(pipeline)
    return ProfileFile(
        schema_version=1,
        name=name,
        created=clock.utc_now(),
        model=ForModel(
            name=used.name,
            version=used.version,
            sha256=used.sha256,
            precision=used.precision,
            backend=used.backend,
        ),
        frames=len(accepted),
        subjects=len({one.subject for one in accepted}),
        labelled_subjects=max((one.subjects for one in widths.values()), default=0),
        target_reject=target,
        coverage=pipeline.settings.coverage,
        gate=_gate(found, pipeline),
        grades={
            key: Grade(limit=one.limit, good=one.good) for key, one in found.limits.items() if key in GRADED
        },
        half_width={key: one.width for key, one in widths.items()},
    )


def _models_gate(pipeline: Pipeline) -> dict[str, float]:
    """The model's own gate: presence only where it has one, shape only of ellipses."""
    manifest = pipeline.model.manifest
    asked = {"presence": manifest.output.presence is not None, "ellipse_iou": manifest.anatomy in ELLIPTIC}
    return {name: limit for name, limit in models_own(pipeline).items() if asked.get(name, True)}


def _gate(found: limits.Found, pipeline: Pipeline) -> Gate:
    """The limits below which a value is withheld: never lower than the model's own, whatever the frames say."""
    asked = {
        f"min_{name}": max(floor, found.limits[name].limit if name in found.limits else 0.0)
        for name, floor in models_own(pipeline).items()
    }
    return Gate(**asked)


def _write(out: Path, file: ProfileFile, pipeline: Pipeline) -> Profile:
    """The profile as it lies on the disk, read back as `run` would; one that cannot be used replaces nothing."""
    content = toml_text(file).encode()
    try:
        msgspec.toml.decode(content, type=ProfileFile)
    except msgspec.ValidationError as exc:
        raise CalibrationError(
            f"--out {out}: these frames give a profile that cannot be used ({exc}); nothing was written, "
            "check meta.csv and the labels"
        ) from exc
    try:
        write_whole(out, content)
    except OSError as exc:
        raise OutputError(
            f"--out {out}: cannot be written ({exc.strerror}); nothing was; name another place"
        ) from exc
    profile = read_profile(out)
    profile.on_settings(pipeline.settings)
    profile.on_limits(pipeline.limits)
    return profile
