"""What a stranger's model wants and gives, as far as its graph says or a trial on real frames suggests.

Three sources, the surest first: the graph itself (a uint8 input, constants that normalise), a trial of the
usual normalisations on frames, the custom of the field. Each answer says which one it is from: a guess is to
be confirmed by eye. Works on the normal form of `graph.py`; writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.build.graph import EXPORT
from edge_runtime.build.onnx_run import open_session
from edge_runtime.errors import BackendError, ConfigError, FrameError, first_line
from edge_runtime.infer.postprocess import Postprocess
from edge_runtime.infer.preprocess import Fit, Preprocess
from edge_runtime.types import Frame, Mask

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Activation = Literal["none", "sigmoid", "softmax"]
Source = Literal["graph", "manifest", "trial", "custom"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's
IMAGENET_GREY = 0.449, 0.226  # their means over the channels
MOST_CLASSES = 256  # of a mask output; more channels are features
TRIED_FRAMES = 5
TRIED_GAIN = 0.8  # a picture a little darker shows the same structure
USUAL_SPAN = 60.0  # logits of a trained network seldom reach further; a wrong scale multiplies them
FOUND = (0.0005, 0.98)  # share of the grid: less is nothing, more is everything
CLEAR = 0.05  # lead in score under which the runner-up is as likely
DECIDED = 0.75  # score under which even the best is doubtful


class Normalisation(msgspec.Struct, frozen=True):
    """What a float input is given: (grey * scale - mean) / std."""

    name: str  # in words
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Tried(msgspec.Struct, frozen=True):
    """How one normalisation did on the frames; all but `span` are from 0 to 1."""

    name: str
    score: float  # the product of the others, less where `span` is unusual
    confidence: float  # mean Soft Dice Confidence of what was found; 0 in frames with nothing
    whole: float  # mean share of the mask that is in its largest part
    steady: float  # mean Dice against the mask of the same frame, darker
    span: float  # of the scores before the activation


class NormalisationGuess(msgspec.Struct, frozen=True):
    chosen: Normalisation
    source: Source
    why: str
    tried: tuple[Tried, ...] = ()  # the best first

    @property
    def sure(self) -> bool:
        return self.source in ("graph", "manifest")


class MaskGuess(msgspec.Struct, frozen=True):
    """Which output is the mask, and what is still to be applied to it."""

    output: str
    channels: int
    activation: Activation
    source: Source
    why: str
    scores: str  # the tensor before the activation, inside of the graph or the output itself
    presence: str | None  # an output that may say whether the anatomy is there
    problem: str | None = None  # what keeps `run` from reading it; None: nothing
    caution: str | None = None  # what `run` reads in one way where there are two


def candidates(channels: int) -> tuple[Normalisation, ...]:
    """The usual ones, in the order in which a tie is settled."""
    unit = Normalisation("0 to 1")
    symmetric = Normalisation("-1 to 1", mean=(0.5,) * channels, std=(0.5,) * channels)
    byte = Normalisation("0 to 255", scale=1.0)
    if channels == 3:
        return Normalisation("ImageNet", mean=IMAGENET_MEAN, std=IMAGENET_STD), unit, symmetric, byte
    mean, std = IMAGENET_GREY
    return unit, symmetric, Normalisation("ImageNet, grey", mean=(mean,), std=(std,)), byte


# ---------------------------------------------------------------- read off the graph


def mask_of(model: ModelProto) -> MaskGuess:
    """The mask output and its activation by the graph's last operators. Raises ConfigError without one."""
    graph = model.graph
    grid = tuple(axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim)[2:]
    shapes = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in graph.output
    }
    masks = [name for name, shape in shapes.items() if len(shape) == 4 and shape[0] == 1]
    if not masks:
        told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ConfigError(
            f"no output is a mask (1, channels, height, width), there is {told}; export a segmentation network"
        )
    name = next((name for name in masks if shapes[name][2:] == grid), masks[0])
    channels = shapes[name][1]
    end, kind = _end_of(graph, name)
    activation, why = _activation_of(kind, channels)
    scores = end.input[0] if end is not None and kind in ("Sigmoid", "Softmax") else name
    return MaskGuess(
        name,
        channels,
        activation,
        "custom" if kind is None else "graph",
        why,
        scores,
        _presence_of(graph, shapes),
        _problem_of(graph, name, shapes[name], grid, kind),
        None
        if kind != "Sigmoid" or channels == 1
        else f"{channels} channels that are independent (Sigmoid): channel 0 is read as the background",
    )


_PASSING = frozenset(
    {"Resize", "Reshape", "Transpose", "Slice", "Pad", "Cast", "Squeeze", "Unsqueeze", "Clip"}
)
_ENDS = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "ArgMax"})


def _end_of(graph: GraphProto, name: str) -> tuple[NodeProto | None, str | None]:
    """The operator that makes the mask what it is, behind those that only move it about."""
    producer = {output: node for node in graph.node for output in node.output}
    node = producer.get(name)
    while node is not None and node.op_type in _PASSING:
        node = producer.get(node.input[0])
    return (node, node.op_type) if node is not None and node.op_type in _ENDS else (None, None)


def _activation_of(kind: str | None, channels: int) -> tuple[Activation, str]:
    if kind == "LogSoftmax":
        return "softmax", "the graph ends with LogSoftmax, which softmax makes probabilities"
    if kind is not None:
        return "none", f"the graph ends with {kind}"
    if channels == 1:
        return "sigmoid", "one channel, and no activation at the graph's end"
    return "softmax", f"{channels} channels, and no activation at the graph's end"


def _presence_of(graph: GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    producer = {output: node.op_type for node in graph.node for output in node.output}
    return next(
        (name for name, shape in shapes.items() if shape == (1, 1) and producer.get(name) == "Sigmoid"), None
    )


def _problem_of(
    graph: GraphProto, name: str, shape: tuple[int, ...], grid: tuple[int, ...], kind: str | None
) -> str | None:
    """Why `run` could not read the mask, with what to do."""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    odd = [output for output, elem_type in types.items() if elem_type != 1]  # TensorProto.FLOAT
    if kind == "ArgMax":
        return f"output {name!r} gives labels (ArgMax); end the model one step earlier, at the scores"
    if odd:
        return f"output {odd[0]!r} is not float32; {EXPORT}"
    if shape[2:] != grid:
        return (
            f"output {name!r} is {shape[2]} x {shape[3]}, the input {grid[0]} x {grid[1]}; "
            "enlarge it in the model (bilinear) before it is exported"
        )
    if shape[1] > MOST_CLASSES:
        return f"output {name!r} has {shape[1]} channels, want one a class; export the classifying layer too"
    return None


class _Affine(NamedTuple):
    """What the graph does to the input before anything else: x * gain + offset, for each channel."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    words: tuple[str, ...]  # the operators


def normalisation_of(model: ModelProto) -> NormalisationGuess | None:
    """What the graph itself says of its input; None where it says nothing.

    A graph that normalises says by its constants what it is given: the grey that it maps to 0, and the range
    that it stretches, are of the order of 1 or of the order of 100.
    """
    graph = model.graph
    given = graph.input[0]
    if given.type.tensor_type.elem_type == 2:  # TensorProto.UINT8
        return NormalisationGuess(Normalisation("uint8"), "graph", "the input is uint8: grey as it is")
    affine = _affine_of(graph)
    if affine is None:
        return None
    centre = float(np.max(-affine.offset / affine.gain))
    reach = float(np.max(np.abs(1 / affine.gain)))
    words = ", ".join(affine.words)
    if centre > 2 or reach > 20:
        return NormalisationGuess(
            Normalisation("0 to 255", scale=1.0), "graph", f"the graph itself makes 0 to 255 small ({words})"
        )
    if centre > 0.02:
        return NormalisationGuess(
            Normalisation("0 to 1"), "graph", f"the graph itself centres 0 to 1 ({words})"
        )
    return None


def _affine_of(graph: GraphProto) -> _Affine | None:
    """The leading Cast, Add, Sub, Mul, Div by constants and a batch normalization; None where there are none."""
    from edge_runtime.build.normal_form import initializers

    known = initializers(graph)
    tensor = graph.input[0].name
    gain, offset, words = np.ones(1), np.zeros(1), []
    while True:
        users = [node for node in graph.node if tensor in node.input]
        if len(users) != 1:
            break
        step = _step(users[0], tensor, known)
        if step is None:
            break
        gain, offset = gain * step[0], offset * step[0] + step[1]
        if users[0].op_type != "Cast":
            words.append(users[0].op_type)
        tensor = users[0].output[0]
    if not words or not np.all(gain):
        return None
    return _Affine(gain, offset, tuple(words))


def _step(
    node: NodeProto, tensor: str, known: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(gain, offset) of one operator on its input; None for any other than those by constants."""
    if node.op_type == "Cast":
        return np.ones(1), np.zeros(1)
    if node.op_type == "BatchNormalization" and all(name in known for name in node.input[1:5]):
        scale, shift, mean, variance = (known[name].astype(np.float64) for name in node.input[1:5])
        gain = scale / np.sqrt(variance + 1e-5)
        return gain, shift - mean * gain
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    first = node.input[0] == tensor
    other = known.get(node.input[1] if first else node.input[0])
    if other is None or other.size not in (1, 3):
        return None
    value = other.astype(np.float64).ravel()
    if node.op_type == "Add":
        return np.ones(1), value
    if node.op_type == "Sub":
        return (np.ones(1), -value) if first else (-np.ones(1), value)
    if node.op_type == "Mul":
        return value, np.zeros(1)
    return (1 / value, np.zeros(1)) if first and np.all(value) else None


# ---------------------------------------------------------------- tried on frames


class Scorer:
    """The model in onnxruntime, with the scores before its activation among its outputs."""

    def __init__(self, model: ModelProto, mask: MaskGuess, fit: Fit) -> None:
        import onnx

        opened = onnx.ModelProto.FromString(model.SerializeToString())
        self.outputs = [mask.output]
        if mask.scores != mask.output:
            opened.graph.output.add().name = mask.scores
            self.outputs.append(mask.scores)
        try:
            self._session = open_session(opened.SerializeToString(), threads=1)
        except Exception as exc:  # onnxruntime raises a type for each of its codes
            raise BackendError(f"onnxruntime cannot load the model: {first_line(exc)}; {EXPORT}") from exc
        given = self._session.get_inputs()[0]
        self._name = given.name
        self.slot = np.zeros(given.shape, np.uint8 if given.type == "tensor(uint8)" else np.float32)
        self.fit: Fit = fit
        self._mask = mask

    def run(self, frame: Frame, chosen: Normalisation) -> tuple[Mask, NDArray[np.float32]]:
        """The cleaned mask of `frame` and the scores before the activation, (channels, h, w).

        Raises FrameError where the model gives values that are not finite, BackendError where it fails.
        """
        geometry = self._prepare(chosen).into(frame, self.slot)
        try:
            values = self._session.run(self.outputs, {self._name: self.slot})
        except Exception as exc:  # onnxruntime raises a type for each of its codes
            raise BackendError(f"the model fails when it runs: {first_line(exc)}; {EXPORT}") from exc
        names = tuple(f"class_{k}" for k in range(1, max(2, self._mask.channels)))
        post = Postprocess(self._mask.output, self._mask.activation, names, None, keep_largest=True)
        return post.read({self._mask.output: values[0]}, geometry), values[-1][0]

    def _prepare(self, chosen: Normalisation) -> Preprocess:
        grid_hw = (self.slot.shape[2], self.slot.shape[3])
        if self.slot.dtype == np.uint8:
            return Preprocess(grid_hw, self.fit)
        return Preprocess(grid_hw, self.fit, chosen.scale, chosen.mean, chosen.std)


def normalisation_by_trial(scorer: Scorer, frames: Sequence[Frame]) -> NormalisationGuess:
    """The usual normalisations, ranked by how decided, whole and steady the masks are that they give."""
    channels = scorer.slot.shape[1]
    known = candidates(channels)
    tried = [_try(scorer, candidate, _spread(frames, TRIED_FRAMES)) for candidate in known]
    order = sorted(range(len(known)), key=lambda k: (-tried[k].score, k))
    best, second = tried[order[0]], tried[order[1]]
    chosen = known[order[0]]
    if best.score <= 0:
        return by_custom(
            channels,
            f"on {len(frames)} frames each of the usual ones gives masks of nothing or of everything",
        )
    lead = "" if best.score - second.score > CLEAR else f"; {second.name} is as likely"
    lead += "" if best.score >= DECIDED else "; none is convincing: is it trained, are these its pictures?"
    return NormalisationGuess(
        chosen,
        "trial",
        f"of {len(known)} tried it gives the most decided masks{lead}",
        tuple(tried[k] for k in order),
    )


def by_custom(channels: int, why: str = "nothing in the graph says") -> NormalisationGuess:
    """The commonest one."""
    return NormalisationGuess(
        candidates(channels)[0],
        "custom",
        f"{why}; the commonest for {channels} channel{'s' * (channels > 1)}",
    )


def _try(scorer: Scorer, candidate: Normalisation, frames: Sequence[Frame]) -> Tried:
    rows, spans = [], []
    for frame in frames:
        try:
            mask, scores = scorer.run(frame, candidate)
            darker, _ = scorer.run(_darker(frame), candidate)
        except FrameError:  # not finite: this is not the way
            rows.append((0.0, 0.0, 0.0))
            continue
        rows.append(_judge(mask, darker))
        spans.append(_span(scores))
    confidence, whole, steady = (float(value) for value in np.mean(rows, axis=0))
    span = float(np.median(spans)) if spans else 0.0
    each = float(np.mean([np.prod(row) for row in rows]))
    usual = min(1.0, USUAL_SPAN / span) ** 0.5 if span > 0 else 0.0
    return Tried(candidate.name, each * usual, confidence, whole, steady, span)


def _judge(mask: Mask, darker: Mask) -> tuple[float, float, float]:
    """(confidence, whole, steady) of one frame; zeros where nothing or everything was found."""
    sizes = np.bincount(mask.labels.ravel(), minlength=len(mask.names) + 1)[1:]
    share = float(sizes.sum()) / mask.labels.size
    if not FOUND[0] <= share <= FOUND[1]:
        return 0.0, 0.0, 0.0
    weights = sizes / sizes.sum()
    both = int(np.count_nonzero((mask.labels == darker.labels) & (mask.labels > 0)))
    either = int(np.count_nonzero(mask.labels) + np.count_nonzero(darker.labels))
    return (
        float(weights @ np.array(mask.confidence)),
        float(weights @ (1 - np.array(mask.discarded))),
        2 * both / either,
    )


def _span(scores: NDArray[np.float32]) -> float:
    """How far the scores reach: of one channel from 0, of several from one another; the 99th percentile."""
    reach = np.abs(scores[0]) if len(scores) == 1 else scores.max(axis=0) - scores.min(axis=0)
    return float(np.percentile(reach, 99, method="higher"))


def _darker(frame: Frame) -> Frame:
    pixels: NDArray[np.uint8] = cv2.convertScaleAbs(frame.pixels, alpha=TRIED_GAIN)
    return dataclasses.replace(frame, pixels=pixels)


def _spread(frames: Sequence[Frame], most: int) -> list[Frame]:
    """At most so many of the frames, evenly."""
    places = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    return [frames[place] for place in places]


def activation_by_trial(
    scorer: Scorer, mask: MaskGuess, chosen: Normalisation, frames: Sequence[Frame]
) -> MaskGuess:
    """`mask` with what its values on the frames say, where the graph itself said nothing."""
    if mask.source == "graph" or not frames:
        return mask
    least, most, apart = np.inf, -np.inf, 0.0
    for scores in _raw(scorer, chosen, frames):
        least, most = min(least, float(np.min(scores))), max(most, float(np.max(scores)))
        apart = max(apart, float(np.abs(scores.sum(axis=0) - 1).max()))
    if least < -1e-3 or most > 1 + 1e-3 or (mask.channels > 1 and apart > 0.01):
        return msgspec.structs.replace(
            mask, source="trial", why=f"{mask.why}; its values reach from {least:.3g} to {most:.3g}"
        )
    why = "its values lie within 0 to 1" + (" and add up to 1" if mask.channels > 1 else "")
    return msgspec.structs.replace(mask, activation="none", source="trial", why=why)


def _raw(scorer: Scorer, chosen: Normalisation, frames: Sequence[Frame]) -> Iterator[NDArray[np.float32]]:
    for frame in _spread(frames, TRIED_FRAMES):
        try:
            yield scorer.run(frame, chosen)[1]
        except FrameError:
            continue
