"""A probe's or a site's profile: quality limits and intervals found on its own frames, for one model.

`edge-runtime calibrate` writes it as TOML; `run` and `evaluate` apply it. It may grade pictures otherwise than the
defaults do, and it may ask for more presence, confidence and shape than the model, never for less: a site cannot
open the gate for foreign images. A profile belongs to one manifest, by its digest. Knows no frames.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from edge_runtime.codes import MeasurementName
from edge_runtime.config import Table, read_toml
from edge_runtime.errors import ConfigError
from edge_runtime.measure.quality import GRADED, Limits
from edge_runtime.measure.settings import MeasureSettings
from edge_runtime.types import Fraction, ProfileName, ProfileUsed, Sha256

Finite = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Scale = Annotated[float, msgspec.Meta(gt=0, le=1e3)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class ForModel(Table, frozen=True):
    """The model that a profile was made for and with."""

    name: str
    version: str
    sha256: Sha256  # of its manifest
    precision: str
    backend: str


class Gate(Table, frozen=True):
    """Below these a value is withheld; never lower than the model's own."""

    min_presence: Fraction = 0.0
    min_confidence: Fraction = 0.0
    min_ellipse_iou: Fraction = 0.0


class Grade(Table, frozen=True):
    """A number of the picture: at `limit` the score is 50 and its reason begins, at `good` and beyond 100."""

    limit: Finite
    good: Finite


class Width(Table, frozen=True):
    """Half an interval, in one of two ways."""

    scale: Scale | None = None  # of the model's own, whatever its shape
    relative: Share | None = None  # of the value, where the model has none


class ProfileFile(Table, frozen=True):
    """The schema of a profile."""

    schema_version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    name: ProfileName
    created: str  # UTC
    model: ForModel
    frames: Count  # that set the limits: accepted by the model itself
    subjects: Count
    labelled_subjects: Count  # that set the intervals
    target_reject: Fraction
    coverage: Annotated[float, msgspec.Meta(gt=0, lt=1)]  # of the intervals
    gate: Gate = Gate()
    grades: dict[str, Grade] = msgspec.field(default_factory=dict)  # by the names of `quality.Picture`
    half_width: dict[str, Width] = msgspec.field(default_factory=dict)  # by measurement


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that was read."""

    path: Path
    file: ProfileFile
    sha256: str  # of the file

    @property
    def used(self) -> ProfileUsed:
        """How a finding names it."""
        return ProfileUsed(name=self.file.name, sha256=self.sha256)

    def require_model(self, name: str, sha256: str) -> None:
        """Raises ConfigError where the profile was made for another manifest than this."""
        made = self.file.model
        if made.sha256 != sha256:
            raise ConfigError(
                f"--profile {self.path}: was made for model {made.name} {made.version} ({made.sha256[:12]}), "
                f"this is {name} ({sha256[:12]}); run edge-runtime calibrate with this model"
            )

    def on_limits(self, limits: Limits) -> Limits:
        """`limits` with the profile's own. Raises ConfigError where one would be lower than the model's."""
        gate = self.file.gate
        self._require_tighter("min_presence", gate.min_presence, limits.min_presence)
        self._require_tighter("min_confidence", gate.min_confidence, limits.min_confidence)
        grades = {name: (grade.limit, grade.good) for name, grade in self.file.grades.items()}
        return replace(
            limits, min_presence=gate.min_presence, min_confidence=gate.min_confidence, grades=grades
        )

    def on_settings(self, settings: MeasureSettings) -> MeasureSettings:
        """`settings` with the profile's intervals in place of the model's, where it has some of its own.

        Raises ConfigError for a lower limit of shape, and for intervals of another coverage beside the model's.
        """
        gate = self.file.gate
        self._require_tighter("min_ellipse_iou", gate.min_ellipse_iou, settings.min_ellipse_iou)
        tighter = replace(settings, min_ellipse_iou=gate.min_ellipse_iou)
        widths, models = self.file.half_width, settings.intervals or {}
        if not widths:
            return tighter
        twice = sorted(name for name, width in widths.items() if width.scale is None and name in models)
        if twice:
            raise ConfigError(
                f"--profile {self.path}: [half_width.{twice[0]}] wants a scale: the model has an interval of its own"
            )
        if set(models) - set(widths) and not math.isclose(settings.coverage, self.file.coverage):
            raise ConfigError(
                f"--profile {self.path}: its intervals hold {self.file.coverage:g}, the model's {settings.coverage:g}; "
                "calibrate again with this model"
            )
        return replace(
            tighter,
            intervals={
                **models,
                **{
                    name: (0.0, width.relative)
                    for name, width in widths.items()
                    if width.relative is not None
                },
            },
            scales={name: width.scale for name, width in widths.items() if width.scale is not None},
            coverage=self.file.coverage,
        )

    def _require_tighter(self, name: str, ours: float, models: float) -> None:
        if ours < models:
            raise ConfigError(
                f"--profile {self.path}: [gate] {name} is {ours:g}, the model's own is {models:g}; a profile may only "
                "ask for more: raise it or calibrate again"
            )


def read_profile(path: Path) -> Profile:
    """The profile in `path`. Raises ConfigError that names the file and what is wrong in it."""
    file = read_toml(path, ProfileFile)
    _require_known(path, "grades", file.grades, set(GRADED))
    _require_known(path, "half_width", file.half_width, {name.value for name in MeasurementName})
    for name, width in file.half_width.items():
        if (width.scale is None) == (width.relative is None):
            raise ConfigError(f"{path}: [half_width.{name}] want either scale or relative")
    for name, grade in file.grades.items():
        better_up = GRADED[name]
        if (grade.good < grade.limit) if better_up else (grade.good > grade.limit):
            raise ConfigError(
                f"{path}: [grades.{name}] good is {grade.good:g}, limit {grade.limit:g}; want good on the "
                f"{'higher' if better_up else 'lower'} side"
            )
    return Profile(path, file, hashlib.sha256(path.read_bytes()).hexdigest())


def _require_known(path: Path, table: str, found: Mapping[str, object], known: set[str]) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise ConfigError(f"{path}: [{table}] {unknown[0]}: unknown, choose from {', '.join(sorted(known))}")
