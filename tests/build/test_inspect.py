"""What `inspect` says of a stranger's model: facts off the graph, guesses that name their source, a valid draft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from edge_runtime.build.contact import Seen, areas, contact_sheet, in_words
from edge_runtime.build.graph import one_file, read_graph
from edge_runtime.build.guess import Scorer, mask_of, normalisation_by_trial, normalisation_of
from edge_runtime.build.inspect import (
    draft,
    inspect_model,
    model_name,
    multiply_adds_of,
    parameters_of,
)
from edge_runtime.codes import SourceKind
from edge_runtime.errors import ConfigError
from edge_runtime.infer.model import Manifest
from edge_runtime.infer.preprocess import fit_region
from edge_runtime.types import Box, Frame, Mask, Origin
from tests.build.foreign_models import GRID, band_network, info, model, one_conv, picture, save, tensor

node = helper.make_node
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def frames(count: int = 5, classes: int = 1) -> list[Frame]:
    return [
        Frame(picture(seed, classes)[0], seed, 0, Origin(SourceKind.FOLDER, f"{seed:03d}.png"), f"{seed}.x")
        for seed in range(count)
    ]


def settings_in(text: str) -> int:
    """How many keys a TOML text sets."""
    return sum(len(value) if isinstance(value, dict) else 1 for value in msgspec.toml.decode(text).values())


# ---------------------------------------------------------------- facts


def test_shapes_parameters_operators_and_work_are_read_off_the_graph(tmp_path: Path) -> None:
    seen = inspect_model(save(band_network(opset=13), tmp_path / "m.onnx"))
    assert (seen.input.name, seen.input.shape, seen.input.dtype) == ("picture", (1, 1, *GRID), "float32")
    assert [one.shape for one in seen.outputs] == [(1, 1, *GRID)]
    assert seen.opset == 13
    assert seen.operators == {"Conv": 3, "Relu": 1, "Sigmoid": 1}
    assert seen.parameters == (9 + 1) + (2 + 2) + (2 + 1)
    assert seen.multiply_adds == GRID[0] * GRID[1] * (9 + 2 + 2)


def test_the_work_of_groups_transposed_convolutions_and_products_is_counted(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("Conv", ["a", "w2"], ["b"], group=4, pads=[1] * 4),
        node("ConvTranspose", ["b", "w3"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["b"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w4"], ["z"]),
    ]
    weights = [
        tensor("w1", np.ones((4, 1, 1, 1))),
        tensor("w2", np.ones((4, 1, 3, 3))),
        tensor("w3", np.ones((4, 2, 2, 2))),
        tensor("w4", np.ones((4, 5))),
    ]
    made = model(nodes, weights, outputs=[info("y", None), info("z", None)])
    read = read_graph(save(made, tmp_path / "m.onnx"))
    assert multiply_adds_of(read) == 256 * 4 + 256 * 4 * 9 + 256 * 4 * 2 * 4 + 5 * 4
    assert parameters_of(read) == 4 + 36 + 32 + 20


# ---------------------------------------------------------------- what it wants, by its graph


def with_front(front: Sequence[tuple[str, Any]], channels: int = 1) -> ModelProto:
    """A network whose graph begins with arithmetic on its input."""
    nodes, weights, at = [], [], "x"
    for place, (name, value) in enumerate(front):
        weights.append(tensor(f"v{place}", np.reshape(value, (1, -1, 1, 1))))
        nodes.append(node(name, [at, f"v{place}"], [f"t{place}"]))
        at = f"t{place}"
    weights.append(tensor("w", np.ones((1, channels, 1, 1))))
    nodes += [node("Conv", [at, "w"], ["c"]), node("Sigmoid", ["c"], ["y"])]
    return model(nodes, weights, [info("x", [1, channels, 16, 16])])


@pytest.mark.parametrize(
    ("front", "channels", "scale"),
    [
        ([("Div", 255.0)], 1, 1.0),
        ([("Mul", 1 / 255)], 1, 1.0),
        ([("Sub", 127.5), ("Div", 127.5)], 1, 1.0),
        ([("Sub", (123.7, 116.3, 103.5)), ("Div", (58.4, 57.1, 57.4))], 3, 1.0),
        ([("Sub", 0.5), ("Div", 0.5)], 1, 1 / 255),
        ([("Mul", 2.0), ("Add", -1.0)], 1, 1 / 255),
        ([("Sub", IMAGENET["mean"]), ("Div", IMAGENET["std"])], 3, 1 / 255),
    ],
)
def test_a_graph_that_normalises_says_what_it_is_given(
    tmp_path: Path, front: list[tuple[str, Any]], channels: int, scale: float
) -> None:
    guess = normalisation_of(read_graph(save(with_front(front, channels), tmp_path / "m.onnx")))
    assert guess is not None
    assert guess.sure
    assert guess.chosen.scale == pytest.approx(scale)
    assert guess.chosen.mean == ()


def test_a_graph_that_says_nothing_is_not_read_into(tmp_path: Path) -> None:
    assert normalisation_of(read_graph(save(one_conv(), tmp_path / "m.onnx"))) is None
    seen = inspect_model(tmp_path / "m.onnx")
    assert (seen.normalisation.source, seen.normalisation.sure) == ("custom", False)


# ---------------------------------------------------------------- what it wants, by trial


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ({}, "0 to 1"),
        ({"mean": (0.5,), "std": (0.5,)}, "-1 to 1"),
        ({"mean": (0.449,), "std": (0.226,)}, "ImageNet, grey"),
        ({"scale": 1.0}, "0 to 255"),
        ({"channels": 3, **IMAGENET}, "ImageNet"),
        ({"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3}, "0 to 1"),
    ],
)
@pytest.mark.parametrize("end", ["Sigmoid", None])
def test_the_normalisation_a_network_was_made_for_wins_the_trial(
    tmp_path: Path, network: dict[str, Any], name: str, end: str | None
) -> None:
    read = read_graph(save(band_network(**network, end=end), tmp_path / "m.onnx"))
    guess = normalisation_by_trial(Scorer(read, mask_of(read), "letterbox"), frames())
    assert guess.chosen.name == name
    assert guess.source == "trial"
    assert [one.score for one in guess.tried] == sorted((one.score for one in guess.tried), reverse=True)


def test_a_network_that_finds_nothing_is_not_ranked(tmp_path: Path) -> None:
    silent = model(
        [node("Conv", ["x", "w", "b"], ["c"]), node("Sigmoid", ["c"], ["y"])],
        [tensor("w", np.zeros((1, 1, 1, 1))), tensor("b", [-9.0])],
        [info("x", [1, 1, *GRID])],
    )
    seen = inspect_model(save(silent, tmp_path / "m.onnx"), frames=frames())
    assert seen.normalisation.source == "custom"
    assert "nothing or of everything" in seen.normalisation.why


# ---------------------------------------------------------------- what it gives


@pytest.mark.parametrize(
    ("classes", "end", "activation", "labels"),
    [
        (1, "Sigmoid", "none", 1),
        (1, None, "sigmoid", 1),
        (2, "Softmax", "none", 2),
        (2, None, "softmax", 2),
        (2, "LogSoftmax", "softmax", 2),
    ],
)
def test_what_is_still_to_be_applied_follows_from_the_graphs_end(
    tmp_path: Path, classes: int, end: str | None, activation: str, labels: int
) -> None:
    seen = inspect_model(
        save(band_network(classes=classes, end=end), tmp_path / "m.onnx"), frames=frames(3, classes)
    )
    assert seen.mask.activation == activation
    assert len(seen.labels) == labels
    assert seen.mask.source == ("graph" if end else "trial")


def test_probabilities_made_in_an_unusual_way_are_known_by_their_values(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Tanh", ["c"], ["t"]),
        node("Mul", ["t", "half"], ["h"]),
        node("Add", ["h", "half"], ["y"]),
    ]
    made = model(
        nodes, [tensor("w", np.full((1, 1, 1, 1), 3.0)), tensor("half", 0.5)], [info("x", [1, 1, *GRID])]
    )
    seen = inspect_model(save(made, tmp_path / "m.onnx"), frames=frames(3))
    assert seen.mask.activation == "none"
    assert "within 0 to 1" in seen.mask.why


def ends_with(*tail: onnx.NodeProto, outputs: Sequence[Any] = ()) -> ModelProto:
    weights = [tensor("w", np.ones((3, 1, 1, 1))), tensor("half", [1, 1, 0.5, 0.5])]
    return model([node("Conv", ["x", "w"], ["c"]), *tail], weights, outputs=outputs)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (ends_with(node("ArgMax", ["c"], ["l"], axis=1), node("Cast", ["l"], ["y"], to=1)), "ArgMax"),
        (ends_with(node("ArgMax", ["c"], ["y"], axis=1), outputs=[info("y", None, 7)]), "ArgMax"),
        (ends_with(node("Resize", ["c", "", "half"], ["y"], mode="linear")), "8 x 8, the input 16 x 16"),
        (
            ends_with(
                node("Relu", ["c"], ["y"]),
                node("Cast", ["c"], ["z"], to=6),
                outputs=[info("y", None), info("z", None, 6)],
            ),
            "'z' is not float32",
        ),
    ],
)
def test_a_mask_that_run_cannot_read_is_told_with_the_way_out(
    tmp_path: Path, made: ModelProto, said: str
) -> None:
    seen = inspect_model(save(made, tmp_path / "m.onnx"))
    assert seen.mask.problem is not None
    assert said in seen.mask.problem


def test_a_network_without_a_mask_is_refused(tmp_path: Path) -> None:
    classifier = ends_with(node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"], ["y"]))
    with pytest.raises(ConfigError, match=r"m.onnx: no output is a mask .* y \[1, 3\]"):
        inspect_model(save(classifier, tmp_path / "m.onnx"))


def test_independent_channels_come_with_a_caution(tmp_path: Path) -> None:
    seen = inspect_model(save(ends_with(node("Sigmoid", ["c"], ["y"])), tmp_path / "m.onnx"))
    assert "channel 0 is read as the background" in (seen.mask.caution or "")


def test_a_graph_that_is_quantized_already_gets_the_linters_word(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="Q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], name="DQ"),
        node("Conv", ["d", "w"], ["y"], name="conv"),
    ]
    weights = [tensor("s", 0.01), tensor("z", 128, np.uint8), tensor("w", np.ones((1, 1, 1, 1)))]
    seen = inspect_model(save(model(nodes, weights), tmp_path / "m.onnx"))
    assert seen.quantized
    assert "Q01-zero-point" in {problem.code for problem in seen.lint}
    assert msgspec.json.encode(seen)


# ---------------------------------------------------------------- the draft


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"channels": 3, **IMAGENET, "classes": 2, "end": "Softmax"},
        {"end": None},
        {"uint8": True},
    ],
)
def test_the_draft_is_a_manifest_of_at_most_ten_settings(tmp_path: Path, network: dict[str, Any]) -> None:
    path = save(band_network(**network), tmp_path / "My Model (v2).onnx")
    seen = inspect_model(path, frames=frames(3, network.get("classes", 1)))
    text = draft(seen)
    manifest = msgspec.toml.decode(text, type=Manifest)
    assert settings_in(text) <= 10
    assert manifest.name == "my_model__v2"
    assert manifest.output.activation == seen.mask.activation
    assert manifest.input.mean == seen.normalisation.chosen.mean
    assert (manifest.output.labels or ()) == seen.labels
    assert all("# guess: confirm" in line for line in text.splitlines() if line.startswith(("fit", "labels")))


def test_a_grid_that_was_named_is_in_the_draft(tmp_path: Path) -> None:
    made = one_conv(inputs=[info("x", [1, 1, "h", "w"])])
    text = draft(inspect_model(save(made, tmp_path / "m.onnx"), (24, 40)))
    assert msgspec.toml.decode(text, type=Manifest).input.grid_hw == (24, 40)
    assert settings_in(text) <= 10


@pytest.mark.parametrize(
    ("file", "name"), [("U-Net.v2.onnx", "u-net_v2"), ("Größe.onnx", "gr__e"), ("___.onnx", "model")]
)
def test_every_file_has_a_name_that_a_manifest_takes(file: str, name: str) -> None:
    assert model_name(Path(file)) == name
    msgspec.convert({"name": name}, Manifest)


def test_weights_of_other_files_come_into_the_one_file(tmp_path: Path) -> None:
    onnx.save(
        band_network(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    plain = save(band_network(), tmp_path / "plain.onnx")
    assert onnx.load_model_from_string(one_file(tmp_path / "m.onnx")).graph.initializer[0].raw_data
    assert one_file(plain) == plain.read_bytes()


# ---------------------------------------------------------------- the contact sheet


def test_the_sheet_shows_each_frame_with_its_outline_and_areas() -> None:
    shown = frames(9)
    geometry = fit_region(Box(0, 0, 300, 200), GRID, "letterbox")
    labels = np.zeros(GRID, np.uint8)
    labels[20:40, 30:60] = 1
    mask = Mask(labels, ("head",), geometry, (0.9,), (0.0,), 1.0)
    sheet = contact_sheet([Seen(frame, mask if frame.index % 2 else None) for frame in shown])
    plain = contact_sheet([Seen(frame, None) for frame in shown])
    height, width = (side // 3 for side in sheet.shape[:2])
    for place in range(9):
        y, x = (place // 3) * height, (place % 3) * width
        tiles = (whole[y : y + height - 60, x : x + width] for whole in (sheet, plain))
        assert (np.any(next(tiles) != next(tiles))) == bool(place % 2)
    assert areas(mask)["head"] == pytest.approx(600 / (64 * 96), rel=0.01)
    assert in_words(mask) == "head 9.8 %"
    assert in_words(None) == "no answer that can be used"


def test_fewer_than_nine_frames_make_a_sheet_too() -> None:
    assert contact_sheet([Seen(frames(1)[0], None)]).shape == contact_sheet([]).shape
