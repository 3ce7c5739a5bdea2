"""A model as a directory: `model.toml` and the ONNX files it names. The only source of names, shapes and
limits.

A shipped model is found by its name, from a wheel and from a checkout alike; any other by its directory. A
stranger's directory needs `model.onnx` and a `model.toml` of one line (`name = "..."`); the rest is read
off the graph.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.config import Table, read_toml
from edge_runtime.errors import ConfigError
from edge_runtime.types import Fraction, Sha256

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Pixels = Annotated[int, msgspec.Meta(ge=1)]
Tag = Annotated[str, msgspec.Meta(pattern="^[A-Z0-9]{1,16}$")]  # one word of a DICOM code string

GATE_FRAMES = "gate/frames.json"  # in a bundle: the frames by which a device gates an engine by itself
EXTERNAL_DATA = b"\n\x08location\x12"  # the key of an external tensor's file, as protobuf writes it

PACKAGE = Path(__file__).resolve().parent.parent
MODEL_HOMES = (PACKAGE / "models", PACKAGE.parent / "models")  # in a wheel, in a checkout


class Artifact(Table, frozen=True):
    file: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # beside model.toml
    sha256: Sha256 | None = None  # None: not checked, only reported


class InputSpec(Table, frozen=True):
    """A float input is given (grey * scale - mean) / std; grey is repeated where a model wants colour."""

    name: str | None = None  # None: the graph's only input
    grid_hw: tuple[int, int] | None = None  # None: the graph's own
    dtype: Literal["uint8", "float32"] | None = None
    channels: Literal[1, 3] | None = None  # None: the graph's own
    scale: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1 / 255  # of 8-bit grey, for a float input
    mean: tuple[float, ...] = ()  # one for each channel, in the graph's order; none: 0
    std: tuple[float, ...] = ()  # likewise; none: 1
    fit: Literal["letterbox", "stretch"] = "letterbox"


class OutputSpec(Table, frozen=True):
    mask: str | None = None  # None: the graph's first output
    activation: Literal["none", "sigmoid", "softmax"] = "none"  # still to be applied to get probabilities
    labels: tuple[str, ...] | None = None  # without the background; None: class_1, class_2, ...
    presence: str | None = None  # output (1, 1): the picture shows this anatomy in its plane, 0 to 1
    rotation: str | None = None  # output (1, 4): probabilities of 0, 90, 180, 270 degrees clockwise
    polarity: str | None = None  # output (1, 1): probability that black and white are exchanged
    outline: Literal["mask", "ellipse"] = "mask"  # what is shown of a part that is measured as an ellipse

    @property
    def words(self) -> dict[str, int]:
        """The outputs beside the mask that are named, each with how many numbers it gives."""
        named = {self.presence: 1, self.rotation: 4, self.polarity: 1}
        return {name: count for name, count in named.items() if name is not None}


class LimitSpec(Table, frozen=True):
    """Outside of these the model's word is withheld."""

    spacing_mm: tuple[float, float] | None = None
    min_size_px: tuple[Pixels, Pixels] | None = None  # rows and columns of the region that is looked at
    max_aspect: Annotated[float, msgspec.Meta(ge=1)] | None = None  # its longer side over its shorter one
    min_presence: float = 0.0
    min_confidence: float = 0.0
    min_ellipse_iou: float = 0.0
    min_upright: Fraction = 0.5  # probability below which a picture counts as turned
    max_inverted: Fraction = 0.5  # probability above which black and white count as exchanged


class Band(Table, frozen=True):
    """Half an interval of values up to `up_to`: the larger of the two."""

    up_to: float  # in the value's own unit, included; `inf` for all that are larger
    absolute: float = 0.0
    relative: float = 0.0


class HalfWidth(Table, frozen=True):
    """Half an interval: the larger of the two. With `bands` that of the first which the value does not exceed.

    A value beyond the last band takes the two outside of the bands; where they are not given, it has no interval.
    """

    absolute: float = 0.0  # in the value's own unit
    relative: float = 0.0
    bands: tuple[Band, ...] = ()  # `up_to` rising


class IntervalSpec(Table, frozen=True):
    """Split-conformal half-widths by measurement, from exams that neither trained nor tuned the model."""

    coverage: float = 0.9
    exams: int = 0
    half_width: dict[str, HalfWidth] = msgspec.field(default_factory=dict)


class PrecisionSpec(Table, frozen=True):
    """Precisions that were measured to agree with fp32 on masks and millimetres; `auto` chooses among them."""

    accepted: tuple[Precision, ...] = ("fp32",)


class Tolerance(Table, frozen=True):
    """How far a candidate's value may lie from the reference's, frame by frame."""

    mean: float  # of the differences' absolute values
    p99: float
    max: float
    relative: bool = False  # of the reference's value; else in the value's own unit


class GateSpec(Table, frozen=True):
    """What a quantized or compiled model must keep of the fp32 one, or it is not used."""

    phantoms: bool = False  # a bundle's own gate frames are drawn, not those of --frames: for shipped models
    min_frames: Annotated[int, msgspec.Meta(ge=8)] = 32  # with a structure to measure
    max_dice_drop: float = 0.001  # mean, where frames have labels
    min_agreement: float = 0.985  # mean Dice of the candidate's masks against the reference's
    max_boundary_cells: float = 2.0  # 99th percentile over frames of the 95th percentile distance of outlines
    max_lost: float = 0.02  # share of frames that the reference shows and the candidate withholds
    measurement: dict[str, Tolerance] = msgspec.field(
        default_factory=lambda: {"area_share": Tolerance(mean=0.01, p99=0.03, max=0.05, relative=True)}
    )


class SelftestSpec(Table, frozen=True):
    """What `edge-runtime selftest` holds the model to, on phantoms whose truth is known."""

    # By measurement, as a share of the truth; where it is silent: commands/selftest/frames.py.
    relative: dict[str, Annotated[float, msgspec.Meta(gt=0, lt=1)]] = msgspec.field(default_factory=dict)
    max_frame_ms: Annotated[float, msgspec.Meta(gt=0)] = 200.0  # one frame through all stages, median


class CalibrationSpec(Table, frozen=True):
    """How `quantize` uses the frames it is given."""

    min_frames: Annotated[int, msgspec.Meta(ge=8)] = 32  # distinct ones to observe, besides those of the gate
    max_frames: Annotated[int, msgspec.Meta(ge=8)] = 128
    keep_fp16: tuple[str, ...] = ()  # nodes that are never quantized


class Manifest(Table, frozen=True):
    """The schema of `model.toml`."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9_-]{1,64}$")]
    version: str = "0"
    anatomy: str = "mask_only"  # a row of measure/anatomy.py
    modality: tuple[str, ...] = ()  # DICOM (0008,0060) accepted; empty: any
    body_part: tuple[Tag, ...] = ()  # words of DICOM (0018,0015) accepted; empty: any
    view_position: tuple[Tag, ...] = ()  # words of DICOM (0018,5101) accepted; empty: any
    view: Annotated[str, msgspec.Meta(max_length=120)] = ""  # what the picture must show, for people
    artifacts: dict[Precision, Artifact] = msgspec.field(
        default_factory=lambda: {"fp32": Artifact(file="model.onnx")}  # a stranger's one file
    )
    tensorrt: dict[Literal["fp16", "int8"], Artifact] = msgspec.field(default_factory=dict)
    input: InputSpec = InputSpec()
    output: OutputSpec = OutputSpec()
    limits: LimitSpec = LimitSpec()
    interval: IntervalSpec | None = None
    precision: PrecisionSpec = PrecisionSpec()
    gate: GateSpec = GateSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    selftest: SelftestSpec = SelftestSpec()
    files: dict[str, Sha256] = msgspec.field(default_factory=dict)  # the rest of a bundle: path -> digest


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest that was read and whose artefacts are what it says."""

    home: Path
    manifest: Manifest
    sha256: str  # of model.toml

    def artifact(self, precision: Precision) -> tuple[Path, str]:
        """The ONNX file that `precision` starts from on a CPU and its digest. Raises ConfigError if it is not
        what was named.

        bf16 and fp16 are ways to run the fp32 file unless the model brings a file of their own.
        """
        named = self.manifest.artifacts.get(precision)
        if named is None and precision != "int8":
            named = self.manifest.artifacts.get("fp32")
        if named is None:
            raise ConfigError(
                f"model {self.manifest.name}: has no {precision} graph; edge-runtime quantize makes one"
            )
        return self._checked(named)

    def tensorrt_graph(self, precision: Literal["fp16", "int8"]) -> tuple[Path, str]:
        """The strongly typed ONNX file that TensorRT compiles, and its digest. Raises ConfigError."""
        named = self.manifest.tensorrt.get(precision)
        if named is None:
            raise ConfigError(
                f"model {self.manifest.name}: has no {precision} graph for TensorRT; edge-runtime quantize makes one"
            )
        return self._checked(named)

    def named_file(self, name: str) -> bytes:
        """The content of one of the bundle's other files, by its path in it. Raises ConfigError if the manifest
        does not name it or it is not what was named.
        """
        path, wanted = self.home / name, self.manifest.files.get(name)
        if wanted is None:
            raise ConfigError(f"{path}: is not a file that model.toml names")
        content = _content(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest != wanted:
            raise ConfigError(
                f"{path}: sha256 is {digest[:12]}..., model.toml says {wanted[:12]}...; restore the file"
            )
        return content

    def _checked(self, named: Artifact) -> tuple[Path, str]:
        path = self.home / named.file
        content = _content(path)
        if EXTERNAL_DATA in content:
            raise ConfigError(
                f"{path}: keeps weights in other files, which no digest covers; save it as one file"
            )
        digest = hashlib.sha256(content).hexdigest()
        if named.sha256 is not None and named.sha256 != digest:
            raise ConfigError(
                f"{path}: sha256 is {digest[:12]}..., model.toml says {named.sha256[:12]}...; restore the file"
            )
        return path, digest


def _content(path: Path) -> bytes:
    """The bytes of a file that a manifest names. Raises ConfigError; a pipe or a device would never end."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror}); model.toml names it") from exc
    raise ConfigError(f"{path}: is not a file; model.toml names it")


def shipped_models() -> dict[str, Path]:
    """Name -> directory of every model that came with the package or the checkout."""
    found: dict[str, Path] = {}
    for home in MODEL_HOMES:
        for manifest in sorted(home.glob("*/model.toml")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def load_model(name_or_dir: str) -> Model:
    """The model shipped under this name, else the one in this directory. Raises ConfigError."""
    home = shipped_models().get(name_or_dir) or Path(name_or_dir).expanduser()
    path = home / "model.toml"
    try:
        found = path.is_file()
    except OSError:  # a name that no file can have
        found = False
    if not found:
        known = ", ".join(shipped_models()) or "none"
        raise ConfigError(
            f"model {name_or_dir!r}: neither a shipped model ({known}) nor a directory with a model.toml"
        )
    manifest = read_toml(path, Manifest)
    return Model(home=home, manifest=manifest, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
