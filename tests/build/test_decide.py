"""A graph that decides gives the mask that its probabilities would have given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.build.decide import append_decision
from edge_runtime.errors import BackendError, EngineError, FrameError
from edge_runtime.frames.source import open_source
from edge_runtime.infer.model import Manifest, Model, OutputSpec, load_model
from edge_runtime.infer.postprocess import COLUMNS, LABELS, ROWS, TOTAL, postprocess_for
from edge_runtime.infer.preprocess import Preprocess, fit_region
from edge_runtime.types import Box, Frame, Geometry, Mask
from tests.real import DATA, needs_data

GRID = (24, 32)


def run(graph: bytes, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True))


def read(model: Model, outputs: Mapping[str, NDArray[Any]], tensor: NDArray[Any], geometry: Geometry) -> Mask:
    backend: Any = SimpleNamespace(slots=[SimpleNamespace(input=tensor, outputs=outputs)])
    return postprocess_for(model, backend).read(outputs, geometry)


def both(model: Model, graph: bytes, tensor: NDArray[Any], geometry: Geometry) -> tuple[Mask, Mask]:
    """The mask by the graph as it is, and by the graph that decides."""
    decided = append_decision(graph, model.manifest.output, "model.onnx")
    onnx.checker.check_model(onnx.load_model_from_string(decided), full_check=True)
    return (
        read(model, run(graph, tensor), tensor, geometry),
        read(model, run(decided, tensor), tensor, geometry),
    )


def assert_same(mask: Mask, other: Mask) -> None:
    np.testing.assert_array_equal(mask.labels, other.labels)
    assert mask.names == other.names
    assert other.confidence == pytest.approx(mask.confidence, abs=1e-5)
    assert other.discarded == mask.discarded
    assert other.presence == pytest.approx(mask.presence, abs=1e-6)


def heads(frames: list[Frame]) -> None:
    model = load_model("fetal_head")
    path, _ = model.artifact("fp32")
    graph = path.read_bytes()
    decided = append_decision(graph, model.manifest.output, str(path))
    before, after = (
        ort.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in (graph, decided)
    )
    shown = 0
    for frame in frames:
        tensor = np.zeros((1, 1, 192, 288), np.uint8)
        geometry = Preprocess((192, 288)).into(frame, tensor)
        masks = [
            read(
                model,
                dict(
                    zip(
                        [o.name for o in session.get_outputs()],
                        session.run(None, {"image": tensor}),
                        strict=True,
                    )
                ),
                tensor,
                geometry,
            )
            for session in (before, after)
        ]
        assert_same(*masks)
        shown += bool(masks[0].labels.any())
    assert shown >= len(frames) - 1


@pytest.mark.parametrize("region_hw", [None, (540, 400), (300, 800)], ids=["whole", "tall", "wide"])
def test_heads_of_phantoms_come_out_the_same_with_padding_on_either_side(
    region_hw: tuple[int, int] | None,
) -> None:
    with open_source("phantom:fetal_head?hc_mm=240&frames=6&seed=11") as source:
        frames = [frame for frame in source.frames() if isinstance(frame, Frame)]
    heads(frames if region_hw is None else [_middle(frame, *region_hw) for frame in frames])


def _middle(frame: Frame, height: int, width: int) -> Frame:
    whole_h, whole_w = frame.size_hw
    y0, x0 = (whole_h - height) // 2, (whole_w - width) // 2
    return replace(frame, region=Box(x0, y0, x0 + width, y0 + height))


@needs_data
def test_heads_of_real_images_come_out_the_same() -> None:
    with open_source(f"folder:{DATA / 'fetal_head' / 'images'}", limit=24) as source:
        heads([frame for frame in source.frames() if isinstance(frame, Frame)])


# ---------------------------------------------------------------- small graphs of other kinds


def scores_graph(channels: int, opset: int = 19, kind: int = TensorProto.FLOAT, grid: Any = GRID) -> bytes:
    """Float scores (1, channels, h, w) that are the input itself."""
    shape = [1, channels, *grid]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["scores"])],
        "scores",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("scores", kind, shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(made.SerializeToString())


def stranger(activation: Any) -> Model:
    manifest = Manifest(name="stranger", output=OutputSpec(activation=activation))
    return Model(Path("stranger"), manifest, "0" * 64)


WHOLE = fit_region(Box(0, 0, GRID[1], GRID[0]), GRID, "letterbox")
NARROW = fit_region(Box(0, 0, 11, 24), GRID, "letterbox")
FLAT = fit_region(Box(0, 0, 64, 20), GRID, "letterbox")
STRETCHED = fit_region(Box(0, 0, 64, 20), GRID, "stretch")
GEOMETRIES = [WHOLE, NARROW, FLAT, STRETCHED]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["whole", "narrow", "flat", "stretched"])
@pytest.mark.parametrize(
    ("activation", "channels"),
    [("none", 1), ("none", 3), ("sigmoid", 1), ("sigmoid", 4), ("softmax", 2), ("softmax", 6)],
)
def test_every_activation_and_number_of_classes_gives_the_same_mask(
    activation: str, channels: int, geometry: Geometry
) -> None:
    rng = np.random.default_rng(channels)
    scores = rng.normal(size=(1, channels, *GRID)).astype(np.float32) * 2
    if activation == "none":
        scores = rng.random((1, channels, *GRID), dtype=np.float32)
    mask, other = both(stranger(activation), scores_graph(channels), scores, geometry)
    assert_same(mask, other)
    assert mask.labels.any()


@pytest.mark.parametrize("activation", ["none", "softmax"])
def test_ties_fall_to_the_first_as_they_do_outside_of_the_graph(activation: str) -> None:
    scores = np.random.default_rng(1).integers(0, 3, (1, 5, *GRID)).astype(np.float32) / 4
    mask, other = both(stranger(activation), scores_graph(5), scores, WHOLE)
    np.testing.assert_array_equal(mask.labels, other.labels)
    assert (scores[0].argmax(axis=0) == other.labels).all()
    assert sum((scores[0] == scores[0].max(axis=0)).sum(axis=0).ravel() > 1) > 100  # and there were many


def test_one_half_is_not_above_one_half() -> None:
    scores = np.full((1, 1, *GRID), 0.5, np.float32)
    _, other = both(stranger("none"), scores_graph(1), scores, WHOLE)
    assert not other.labels.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_value_that_is_not_finite_is_found_in_the_sums(bad: float, channels: int) -> None:
    model = stranger("none")
    scores = np.random.default_rng(0).random((1, channels, *GRID), dtype=np.float32)
    scores[0, 0, 5, 7] = bad
    outputs = run(append_decision(scores_graph(channels), model.manifest.output, "x"), scores)
    with pytest.raises(FrameError, match="not finite"):
        read(model, outputs, scores, WHOLE)


def test_what_leaves_the_graph_is_small_and_typed() -> None:
    model = stranger("softmax")
    outputs = run(
        append_decision(scores_graph(4), model.manifest.output, "x"), np.zeros((1, 4, *GRID), np.float32)
    )
    assert {name: (array.shape, str(array.dtype)) for name, array in outputs.items()} == {
        LABELS: ((1, *GRID), "uint8"),
        TOTAL: ((1, 4), "float32"),
        ROWS: ((1, 3, GRID[0]), "float32"),
        COLUMNS: ((1, 3, GRID[1]), "float32"),
    }


def test_sums_of_a_map_beyond_the_range_of_fp16_are_right() -> None:
    grid = (512, 512)  # 262 144 ones; FP16 ends at 65 504
    outputs = run(
        append_decision(scores_graph(1, grid=grid), OutputSpec(), "x"), np.ones((1, 1, *grid), np.float32)
    )
    assert outputs[TOTAL][0, 0] == 512 * 512


def test_a_decided_graph_of_the_same_file_has_the_same_bytes() -> None:
    spec = OutputSpec(activation="softmax")
    assert append_decision(scores_graph(3), spec, "x") == append_decision(scores_graph(3), spec, "x")


def test_the_other_outputs_go_and_presence_stays() -> None:
    model = load_model("fetal_head")
    path, _ = model.artifact("fp32")
    decided = onnx.load_model_from_string(append_decision(path.read_bytes(), model.manifest.output, "x"))
    assert [value.name for value in decided.graph.output] == [LABELS, TOTAL, ROWS, COLUMNS, "presence"]


@pytest.mark.parametrize(
    ("graph", "spec", "said"),
    [
        (scores_graph(2, opset=11), OutputSpec(), "opset 11, want 13 or later"),
        (scores_graph(2), OutputSpec(mask="mask"), "no output 'mask', the graph has scores"),
        (scores_graph(2), OutputSpec(presence="here"), "no output 'here'"),
        (scores_graph(2, kind=TensorProto.FLOAT16), OutputSpec(), "is not float32"),
        (scores_graph(2, grid=("h", 32)), OutputSpec(), "want \\[1, channels, h, w\\]"),
    ],
    ids=["opset", "mask", "presence", "fp16", "free axis"],
)
def test_a_graph_that_cannot_decide_is_refused_in_one_line(graph: bytes, spec: OutputSpec, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        append_decision(graph, spec, "model.onnx")
    assert str(caught.value).startswith("model.onnx: ")
    assert "\n" not in str(caught.value)


def test_an_engine_with_another_number_of_labels_is_refused() -> None:
    spec = OutputSpec(activation="softmax", labels=("left", "right"))
    model = Model(Path("lungs"), Manifest(name="lungs", output=spec), "0" * 64)
    tensor = np.zeros((1, 4, *GRID), np.float32)
    outputs = run(append_decision(scores_graph(4), spec, "x"), tensor)
    with pytest.raises(BackendError, match="decides 3 labels, want 2"):
        read(model, outputs, tensor, WHOLE)
    del outputs[ROWS]
    with pytest.raises(BackendError, match=f"no output '{ROWS}'"):
        read(model, outputs, tensor, WHOLE)


def test_an_fp16_graph_decides_as_its_own_probabilities_do() -> None:
    """FP16 inside, float32 at the rim, as the graphs for TensorRT are."""
    half = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "gain"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["scores"], to=TensorProto.FLOAT),
    ]
    shape = [1, 3, *GRID]
    graph = helper.make_graph(
        half,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array([3.0], np.float16), "gain")],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    ).SerializeToString()
    scores = np.random.default_rng(4).normal(size=(1, 3, *GRID)).astype(np.float32)
    assert_same(*both(stranger("softmax"), made, scores, FLAT))


def test_rotation_and_polarity_pass_through_untouched_and_other_outputs_go() -> None:
    """A graph that decides says the same of a picture's turn and polarity, at the same numbers."""
    model = lungs_model()
    graph = lungs_graph()
    tensor = np.random.default_rng(4).random((1, 3, *GRID), dtype=np.float32)
    mask, other = both(model, graph, tensor, WHOLE)
    assert_same(mask, other)
    assert mask.rotation is not None
    assert mask.rotation == other.rotation
    assert sum(mask.rotation) == pytest.approx(1.0, abs=1e-6)
    assert mask.inverted is not None
    assert mask.inverted == other.inverted
    outputs = run(append_decision(graph, model.manifest.output, "x"), tensor)
    assert set(outputs) == {LABELS, TOTAL, ROWS, COLUMNS, "presence", "rotation", "polarity"}


@pytest.mark.parametrize(
    "named", [{"rotation": "turned"}, {"polarity": "negative"}, {"polarity": "rotation"}]
)
def test_a_word_that_the_graph_does_not_have_or_has_in_another_size_is_refused(named: dict[str, str]) -> None:
    output = msgspec.structs.replace(lungs_model().manifest.output, **named)
    model = Model(Path("lungs"), Manifest(name="lungs", anatomy="lungs", output=output), "0" * 64)
    tensor = np.zeros((1, 3, *GRID), np.float32)
    with pytest.raises(BackendError, match="turned|negative|rotation"):
        read(model, run(lungs_graph(), tensor), tensor, WHOLE)
    if named != {"polarity": "rotation"}:
        with pytest.raises(EngineError, match="no output"):
            append_decision(lungs_graph(), output, "x")


def lungs_model() -> Model:
    output = OutputSpec(
        mask="mask",
        labels=("lung_right", "lung_left"),
        presence="presence",
        rotation="rotation",
        polarity="polarity",
    )
    return Model(Path("lungs"), Manifest(name="lungs", anatomy="lungs", output=output), "0" * 64)


def lungs_graph() -> bytes:
    """Probabilities of two lungs, presence, rotation, polarity and an output that nobody named."""
    weights = np.random.default_rng(5).normal(size=(3, 6)).astype(np.float32)
    names = {"presence": (0, 1), "rotation": (1, 5), "polarity": (5, 6)}
    nodes = [
        helper.make_node("Softmax", ["x"], ["mask"], axis=1),
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["words"]),
        helper.make_node("Identity", ["words"], ["features"]),
    ]
    constants = [numpy_helper.from_array(weights, "weights")]
    for name, (first, last) in names.items():
        for edge, value in (("first", first), ("last", last), ("axis", 1)):
            constants.append(numpy_helper.from_array(np.array([value], np.int64), f"{name}_{edge}"))
        nodes.append(
            helper.make_node(
                "Slice", ["words", *(f"{name}_{e}" for e in ("first", "last", "axis"))], [f"{name}_raw"]
            )
        )
        kind = {"axis": 1} if name == "rotation" else {}
        nodes.append(helper.make_node("Softmax" if kind else "Sigmoid", [f"{name}_raw"], [name], **kind))
    shapes = {
        "mask": [1, 3, *GRID],
        "features": [1, 6],
        "presence": [1, 1],
        "rotation": [1, 4],
        "polarity": [1, 1],
    }
    graph = helper.make_graph(
        nodes,
        "lungs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *GRID])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(made.SerializeToString())
