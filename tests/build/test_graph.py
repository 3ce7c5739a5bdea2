"""A stranger's ONNX file: read into one normal form that computes the same, or refused in one clear line."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edge_runtime.build.graph import OPERATORS, load_onnx, read_graph, refuse_reduced
from edge_runtime.errors import ConfigError
from edge_runtime.infer.model import load_model
from tests.build.foreign_models import band_network, info, model, one_conv, save, tensor

node = helper.make_node


def run(made: ModelProto, x: NDArray[np.generic]) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def difference(original: ModelProto, read: ModelProto, x: NDArray[np.generic]) -> float:
    """The largest absolute difference of what the two compute, in units of the original's largest value."""
    pairs = list(zip(run(original, x), run(read, x), strict=True))
    for one, other in pairs:
        assert one.shape == other.shape
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(a).max())) for a, b in pairs)


def noise(channels: int = 1, size: int = 16, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, channels, size, size)).astype(np.float32)


# ---------------------------------------------------------------- the normal form


def rich(opset: int, groups: int = 1, *, free: bool = False, seed: int = 0) -> ModelProto:
    """A U with all that is to be folded: constants, identities, dropout, normalizations, computed sizes."""
    rng = np.random.default_rng(seed)
    size: list[int | str] = ["n", 1, "h", "w"] if free else [1, 1, 16, 16]
    nodes = [
        node("Identity", ["x"], ["x1"]),
        node("Conv", ["x1", "w1", "b1"], ["c1"], pads=[1] * 4),
        *_norm("c1", "n1", 4),
        node("Relu", ["n1"], ["r1"]),
        node("MaxPool", ["r1"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w2"], ["c2"], pads=[1] * 4, group=groups),
        *_norm("c2", "n2", 4),
        node("LeakyRelu", ["n2"], ["r2"]),
        *([node("Dropout", ["r2"], ["d2"])] if opset >= 12 else [node("Dropout", ["r2"], ["d2"], ratio=0.3)]),
        node("ConvTranspose", ["d2", "w3", "b3"], ["t"], kernel_shape=[2, 2], strides=[2, 2], group=groups),
        *_norm("t", "n3", 4),
        node("Shape", ["r1"], ["shape"]),
        node("Constant", [], ["begin"], value=tensor("", [2], np.int64)),
        node("Constant", [], ["end"], value=tensor("", [4], np.int64)),
        node("Slice", ["shape", "begin", "end"], ["hw"]),
        node("Constant", [], ["nc"], value=tensor("", [1, 4], np.int64)),
        node("Concat", ["nc", "hw"], ["target"], axis=0),
        node("Reshape", ["n3", "target"], ["u"]),
        node("Concat", ["u", "r1"], ["k"], axis=1),
        node("Conv", ["k", "w4", "b4"], ["scores"]),
        node("Identity", ["scores"], ["y"]),
    ]
    weights = [
        tensor("w1", rng.normal(size=(4, 1, 3, 3))),
        tensor("b1", rng.normal(size=4)),
        tensor("w2", rng.normal(size=(4, 4 // groups, 3, 3))),
        tensor("w3", rng.normal(size=(4, 4 // groups, 2, 2))),
        tensor("b3", rng.normal(size=4)),
        tensor("w4", rng.normal(size=(2, 8, 1, 1))),
        tensor("b4", rng.normal(size=2)),
        tensor("unused", rng.normal(size=7)),
    ]
    for name in ("n1", "n2", "n3"):
        weights += [
            tensor(f"{name}.scale", rng.uniform(0.5, 2, 4)),
            tensor(f"{name}.shift", rng.normal(size=4)),
            tensor(f"{name}.mean", rng.normal(size=4)),
            tensor(f"{name}.variance", rng.uniform(0.1, 2, 4)),
        ]
    outputs = [info("y", ["n", 2, "h", "w"] if free else None)]
    return model(nodes, weights, [info("x", size)], outputs, opset=opset)


def _norm(source: str, name: str, channels: int) -> list[onnx.NodeProto]:
    inputs = [source, *(f"{name}.{part}" for part in ("scale", "shift", "mean", "variance"))]
    return [node("BatchNormalization", inputs, [name], epsilon=1e-3)]


@given(
    opset=st.sampled_from([10, 11, 13, 15, 17, 19, 20, 21, 22]),
    groups=st.sampled_from([1, 2, 4]),
    free=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_normal_form_computes_what_the_file_computes(
    tmp_path_factory: pytest.TempPathFactory, opset: int, groups: int, free: bool, seed: int
) -> None:
    original = rich(opset, groups, free=free, seed=seed)
    path = save(original, tmp_path_factory.mktemp("rich") / "m.onnx")
    read = read_graph(path, (16, 16) if free else None)
    assert difference(original, read, noise(seed=seed)) < 2e-6


def test_only_what_computes_is_left(tmp_path: Path) -> None:
    made = rich(13)
    for one in made.graph.node:
        one.name = one.op_type  # several of one name
    read = read_graph(save(made, tmp_path / "m.onnx"))
    assert Counter(one.op_type for one in read.graph.node) == {
        "Conv": 3, "ConvTranspose": 1, "Relu": 1, "LeakyRelu": 1, "MaxPool": 1, "Reshape": 1, "Concat": 1,
    }  # fmt: skip
    names = [one.name for one in read.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    used = {name for one in read.graph.node for name in one.input}
    assert {weight.name for weight in read.graph.initializer} <= used
    assert read.opset_import[0].version == 19
    assert [value.name for value in read.graph.output] == ["y"]
    known = {value.name for value in (*read.graph.value_info, *read.graph.output)}
    assert {name for one in read.graph.node for name in one.output} <= known
    onnx.checker.check_model(read, full_check=True)


def test_a_normalization_that_others_need_unfolded_stays(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        *_norm("c", "n", 2),
        node("Add", ["n", "c"], ["y"]),
    ]
    parts = {"scale": 2.0, "shift": 0.5, "mean": 0.1, "variance": 0.3}
    weights = [tensor("w", np.ones((2, 1, 1, 1))), *(tensor(f"n.{k}", [v, 2 * v]) for k, v in parts.items())]
    original = model(nodes, weights)
    read = read_graph(save(original, tmp_path / "m.onnx"))
    assert [one.op_type for one in read.graph.node] == ["Conv", "BatchNormalization", "Add"]
    assert difference(original, read, noise()) < 1e-6


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_an_old_upsampling_keeps_its_corners(tmp_path: Path, mode: str) -> None:
    """onnx's own converter forgets that Resize 10 maps by the corner of a pixel."""
    nodes = [node("Upsample", ["x", "s"], ["y"], mode=mode)]
    original = model(nodes, [tensor("s", [1, 1, 2, 2])], opset=9)
    read = read_graph(save(original, tmp_path / "m.onnx"))
    assert difference(original, read, noise()) < 1e-6


def test_an_operator_younger_than_the_normal_form_is_written_out(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("GroupNormalization", ["c", "s", "b"], ["g"], num_groups=2),
        node("Gelu", ["g"], ["y"]),
    ]
    rng = np.random.default_rng(1)
    weights = [
        tensor("w", rng.normal(size=(4, 1, 1, 1))),
        tensor("s", rng.normal(size=4)),
        tensor("b", rng.normal(size=4)),
    ]
    original = model(nodes, weights, opset=21, ir_version=10)
    read = read_graph(save(original, tmp_path / "m.onnx"))
    assert {one.op_type for one in read.graph.node} <= OPERATORS - {"Gelu", "GroupNormalization"}
    assert difference(original, read, noise()) < 1e-5


def test_functions_of_the_models_own_are_put_in_place(tmp_path: Path) -> None:
    square = helper.make_function(
        "mine", "Square", ["a"], ["b"], [node("Mul", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    made = model(
        [node("Square", ["x"], ["y"], domain="mine")],
        functions=[square],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)],
    )
    read = read_graph(save(made, tmp_path / "m.onnx"))
    assert [one.op_type for one in read.graph.node] == ["Mul"]
    assert difference(made, read, noise()) == 0


def test_what_tells_of_the_exporting_machine_is_taken_away(tmp_path: Path) -> None:
    made = one_conv()
    made.graph.node[0].doc_string = "/home/someone/train.py(12): forward"
    assert b"someone" not in read_graph(save(made, tmp_path / "m.onnx")).SerializeToString()


def test_weights_in_another_file_are_read_into_the_model(tmp_path: Path) -> None:
    made = band_network()
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    read = read_graph(tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    x = np.random.default_rng(0).random((1, 1, 64, 96)).astype(np.float32)
    assert difference(band_network(), read, x) < 1e-6
    assert not any(weight.external_data for weight in read.graph.initializer)


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    made = one_conv(ir_version=3, opset=9)
    made.graph.input.append(info("w", [1, 1, 3, 3]))
    assert [value.name for value in read_graph(save(made, tmp_path / "m.onnx")).graph.input] == ["x"]


def test_a_free_batch_is_one_and_free_sizes_are_the_manifests(tmp_path: Path) -> None:
    batch = save(one_conv(inputs=[info("x", ["batch", 1, 16, 16])]), tmp_path / "batch.onnx")
    sizes = save(one_conv(inputs=[info("x", [None, 1, "h", "w"])]), tmp_path / "sizes.onnx")
    shapes = [
        tuple(axis.dim_value for axis in read.graph.output[0].type.tensor_type.shape.dim)
        for read in (read_graph(batch), read_graph(sizes, (24, 40)))
    ]
    assert shapes == [(1, 1, 16, 16), (1, 1, 24, 40)]


def test_free_channels_are_what_the_first_convolution_wants(tmp_path: Path) -> None:
    made = one_conv(inputs=[info("x", ["n", "c", 16, 16])])
    made.graph.initializer[0].CopyFrom(tensor("w", np.ones((1, 3, 3, 3))))
    read = read_graph(save(made, tmp_path / "m.onnx"))
    assert [axis.dim_value for axis in read.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]


def test_the_shipped_model_is_read_and_computes_the_same() -> None:
    path, _ = load_model("fetal_head").artifact("fp32")
    x = np.random.default_rng(0).integers(0, 256, (1, 1, 192, 288), dtype=np.uint8)
    assert difference(onnx.load(path), read_graph(path), x) < 1e-6


# ---------------------------------------------------------------- refusals


def refused(path: Path, grid_hw: tuple[int, int] | None = None) -> str:
    """The one line with which `path` is refused; it names the file."""
    with pytest.raises(ConfigError) as caught:
        read_graph(path, grid_hw)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    return line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"this is a text\n" * 20, "not an ONNX file"),
        (b"\x00" * 500, "not an ONNX file"),
        (b"PK\x03\x04" + b"\x00" * 200, "PyTorch checkpoint.*torch.onnx.export"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x89HDF\r\n\x1a\n" + b"\x00" * 50, "Keras.*tf2onnx"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1c\x00\x00\x00TFL3" + b"\x00" * 50, "TensorFlow Lite"),
        (b'<?xml version="1.0"?><net/>', "OpenVINO"),
        (b"ftrt" + b"\x00" * 50, "TensorRT engine"),
    ],
)  # fmt: skip
def test_what_is_no_onnx_file_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert re.search(said, refused(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent.onnx")
    assert "a directory" in refused(tmp_path)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    content = band_network().SerializeToString()
    path = tmp_path / "short.onnx"
    path.write_bytes(content[: int(kept * len(content))])
    assert "cut short" in refused(path)


def nonzero() -> ModelProto:
    return model([node("NonZero", ["x"], ["i"], name="find"), node("Cast", ["i"], ["y"], to=1)])


def looped() -> ModelProto:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["v", "v"], ["v2"])],
        "body",
        [
            info("i", [], TensorProto.INT64),
            info("go", [], TensorProto.BOOL),
            info("v", [1, 1, 16, 16]),
        ],
        [info("on", [], TensorProto.BOOL), info("v2", [1, 1, 16, 16])],
    )
    weights = [tensor("times", 3, np.int64), tensor("yes", True, np.bool_)]
    return model([node("Loop", ["times", "yes", "x"], ["y"], name="again", body=body)], weights)


def foreign() -> ModelProto:
    return model(
        [node("Fancy", ["x"], ["y"], domain="com.example", name="fancy")],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)],
    )


def doubled() -> ModelProto:
    nodes = [
        node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        node("Conv", ["d", "w"], ["c"]),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    return model(nodes, [tensor("w", np.ones((1, 1, 1, 1)), np.float64)])


def training_norm() -> ModelProto:
    names = ["x", "s", "s", "s", "s"]
    return model(
        [node("BatchNormalization", names, ["y", "m", "v"], training_mode=1, name="bn")],
        [tensor("s", [1.0])],
        opset=15,
    )


def training_dropout() -> ModelProto:
    return model(
        [node("Dropout", ["x", "ratio", "train"], ["y"], name="drop")],
        [tensor("ratio", 0.5), tensor("train", True, np.bool_)],
    )


def picked() -> ModelProto:
    """A shape that depends on a value: TopK by a sum of the picture."""
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["k0"], to=TensorProto.INT64),
        node("Reshape", ["k0", "one"], ["k"]),
        node("TopK", ["x", "k"], ["y", "i"], name="best"),
    ]
    return model(nodes, [tensor("one", [1], np.int64)])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: one_conv(opset=99), "opset 99.*7 to .*opset_version=17"),
        (lambda: one_conv(opset=5), "opset 5"),
        (lambda: one_conv(ir_version=99), "IR version 99"),
        (lambda: one_conv(inputs=[info("x", [1, 1, "h", "w"])]), "height and width.*grid_hw"),
        (lambda: one_conv(inputs=[info("x", [4, 1, 16, 16])]), "batch 1"),
        (lambda: one_conv(inputs=[info("x", [1, 16, 16, 1])]), "channels last.*--inputs-as-nchw"),
        (lambda: one_conv(inputs=[info("x", [1, 2, 16, 16])]), "2 channels"),
        (lambda: one_conv(inputs=[info("x", [1, 256])]), "want one picture"),
        (lambda: one_conv(inputs=[info("x", [1, 1, 4, 16, 16])]), "want one picture"),
        (lambda: one_conv(inputs=[info("x", [1, 1, 16, 16], TensorProto.INT64)]), "is int64, want a picture"),
        (lambda: one_conv(inputs=[info("x", [1, 1, 16, 16], TensorProto.FLOAT16)]), "is float16"),
        (lambda: one_conv(inputs=[info("x", [1, 1, 16, 16]), info("z", [1])]), r"2 inputs \(x, z\)"),
        (nonzero, r"NonZero \(find\).*no fixed shape"),
        (looped, r"Loop \(again\).*fixed sizes"),
        (foreign, r"com.example.Fancy \(fancy\)"),
        (doubled, "float64.*model.float"),
        (training_norm, "bn .*training mode.*model.eval"),
        (training_dropout, "drop .*training mode.*model.eval"),
        (picked, "known only when it runs"),
        (
            lambda: model([node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], name="pool")]),
            r"MaxPool with indices \(pool\)",
        ),
        (
            lambda: model(
                [node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1, name="big")],
                [tensor("s", [1, 1, 2, 2])],
                opset=18,
            ),
            r"Resize with antialias \(big\)",
        ),
        (lambda: model([node("Conv", ["x", "w"], ["y"])], [tensor("w", np.ones((1, 3, 3, 3)))]), "given 1 channels.*weights for 3"),
        (lambda: model([node("Relu", ["gone"], ["y"])]), "m.onnx"),
        (lambda: ModelProto(), "not an ONNX file|empty file"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(
    tmp_path: Path, made: Callable[[], ModelProto], said: str
) -> None:
    line = refused(save(made(), tmp_path / "m.onnx"))
    assert re.search(said, line), line


def test_a_grid_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    assert "grid 32" in refused(save(one_conv(), tmp_path / "m.onnx"), (32, 16))


def external(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(band_network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_missing_short_and_outlying_weights_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    weights = tmp_path / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "weights.bin is too short" in refused(path)
    weights.unlink()
    assert "weights are in weights.bin, which is not there" in refused(path)
    made = onnx.load(path, load_external_data=False)
    for weight in made.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../../etc/hostname"
    assert "outside its directory" in refused(save(made, tmp_path / "out.onnx"))


def test_without_onnx_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(one_conv(), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'edge-runtime\[build\]'"):
        load_onnx(path)


def test_what_is_quantized_or_halved_already_is_no_start_for_quantizing(tmp_path: Path) -> None:
    pair = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="Q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Conv", ["d", "w"], ["y"]),
    ]
    weights = [tensor("s", 0.01), tensor("z", 0, np.int8), tensor("w", np.ones((1, 1, 1, 1)))]
    quantized = read_graph(save(model(pair, weights), tmp_path / "q.onnx"))
    with pytest.raises(ConfigError, match=r"quantized already \(Q\)"):
        refuse_reduced(quantized, "q.onnx")
    halved = model(
        [
            node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            node("Conv", ["h", "w"], ["c"]),
            node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
        ],
        [tensor("w", np.ones((1, 1, 1, 1)), np.float16)],
    )
    with pytest.raises(ConfigError, match=r"weights in 16 bit \(w\)"):
        refuse_reduced(read_graph(save(halved, tmp_path / "h.onnx")), "h.onnx")
    refuse_reduced(read_graph(save(one_conv(), tmp_path / "f.onnx")), "f.onnx")
