"""`quantize` as a user types it: a bundle that runs, or one clear line and nothing at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.build.bundle import verify_bundle
from edge_runtime.infer.model import load_model
from tests.build.foreign_models import band_network, info, model, picture, save, tensor, wide_band_network
from tests.e2e.command import Done, edge_runtime
from tests.real import DATA, needs_data

COUNT = 80


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stranger's file, its frames and their labels."""
    folder = tmp_path_factory.mktemp("stranger")
    for name in ("frames", "labels"):
        (folder / name).mkdir()
    for seed in range(COUNT):
        grey, labels = picture(seed)
        cv2.imwrite(str(folder / "frames" / f"p{seed:02d}.png"), grey)
        cv2.imwrite(str(folder / "labels" / f"p{seed:02d}.png"), 255 * labels)
    save(wide_band_network(), folder / "mine.onnx")
    return folder


def quantize(
    place: Path, *more: str | Path, model: str = "mine.onnx", frames: str = "frames", timeout_s: float = 120
) -> Done:
    return edge_runtime("quantize", model, "--frames", frames, *more, cwd=place, timeout_s=timeout_s)


@pytest.mark.slow
def test_a_strangers_file_becomes_a_bundle_that_runs_in_int8(place: Path) -> None:
    report = quantize(place, "--out", "bundle", "--labels", "labels", "--json").json
    assert report["int8"] == report["layers"] == 2
    bundle = load_model(str(place / "bundle"))
    verify_bundle(bundle)
    assert report["id"] == bundle.sha256[:12]
    assert set(bundle.manifest.artifacts) == {"fp32", "int8"}
    assert set(bundle.manifest.tensorrt) == {"fp16", "int8"}
    assert report["gate"]["INT8 for TensorRT, emulated by onnxruntime"]["dice_drop"] < 0.001
    page = (place / "bundle" / "gate" / "report.html").read_text()
    assert "Why this engine was accepted" in page
    masks = {}
    for precision in ("fp32", "int8"):
        done = edge_runtime(
            *("run", "--model", "bundle", "--source", "folder:frames", "--limit", "6", "--json"),
            *("--precision", precision, "--masks", precision),
            cwd=place,
        )
        assert done.json["findings"] == 6
        masks[precision] = [cv2.imread(str(path), 0) for path in sorted((place / precision).glob("*.png"))]
    flipped = [np.mean(one != other) for one, other in zip(masks["fp32"], masks["int8"], strict=True)]
    assert all(mask.any() for mask in masks["int8"])
    assert max(flipped) < 0.01


@pytest.fixture(scope="module")
def once(place: Path) -> dict[str, Any]:
    """What is told of the bundle `once`, made for all who only read it."""
    report: dict[str, Any] = quantize(place, "--out", "once", "--json").json
    return report


@pytest.mark.slow
def test_the_same_frames_give_the_same_bundle_byte_for_byte(place: Path, once: dict[str, Any]) -> None:
    first, second = once, quantize(place, "--out", "twice", "--json").json
    assert first["id"] == second["id"]
    again = quantize(place, "--out", "twice")
    assert again.code == 0, again.err


@pytest.mark.usefixtures("once")
def test_no_name_of_a_frame_is_in_the_bundle(place: Path) -> None:
    for path in (place / "once").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".html", ".toml", ".md"):
            assert "p01.png" not in path.read_text() and "p02" not in path.read_text(), path


def test_a_bundle_that_is_there_is_never_overwritten(place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken" / "thesis.txt").write_text("precious")
    line = quantize(place, "--out", "taken").failed_in_one_line(2)
    assert "other things in it" in line
    assert (place / "taken" / "thesis.txt").read_text() == "precious"


# ---------------------------------------------------------------- bad models


def text(path: Path) -> None:
    path.write_text("this is a letter, not a network")


def too_new(path: Path) -> None:
    save(band_network(opset=17), path)
    made = onnx.load(str(path))
    made.opset_import[0].version = 99
    save(made, path)


def free_axes(path: Path) -> None:
    made = wide_band_network()
    for value in (*made.graph.input, *made.graph.output):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].ClearField("dim_value")
            value.type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    save(made, path)


def unsupported(path: Path) -> None:
    made = model(
        [helper.make_node("NonZero", ["x"], ["y"], name="odd")], outputs=[info("y", None, TensorProto.INT64)]
    )
    save(made, path)


def double(path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Conv", ["wide", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = [tensor("w", np.ones((1, 1, 3, 3)), np.float64)]
    save(model(nodes, weights, [info("x", [1, 1, 16, 16])], [info("y", [1, 1, 16, 16])]), path)


def weights_elsewhere(path: Path) -> None:
    onnx.save(
        wide_band_network(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (path.parent / "weights.bin").unlink()


def one_name_for_all(path: Path) -> None:
    made = wide_band_network()
    for node in made.graph.node:
        node.name = "same"
    save(made, path)


def beyond_half(path: Path) -> None:
    made = wide_band_network()
    for k, weights in enumerate(made.graph.initializer):
        if weights.name == "same0":
            made.graph.initializer[k].CopyFrom(tensor("same0", 1e30 * numpy_helper.to_array(weights)))
    save(made, path)


def of_one_side(path: Path, side: int) -> None:
    made = wide_band_network()
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[2].dim_value = side
    save(made, path)


def of_one_row(path: Path) -> None:
    of_one_side(path, 1)


def of_a_million_rows(path: Path) -> None:
    of_one_side(path, 1 << 20)


def nothing_to_gain(path: Path) -> None:
    save(
        model(
            [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
            [tensor("w", np.ones((1, 1, 3, 3)))],
            [info("x", [1, 1, 16, 16])],
            [info("y", [1, 1, 16, 16])],
        ),
        path,
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (text, "not an ONNX file"),
        (too_new, "opset 99"),
        (free_axes, "grid_hw"),
        (unsupported, "NonZero"),
        (double, "float64"),
        (weights_elsewhere, "weights.bin"),
        (beyond_half, "'same0' holds 1e+30"),
        (of_one_row, "grid is 1 x 96"),
        (of_a_million_rows, "grid is 1048576 x 96"),
        (nothing_to_gain, "no convolution that INT8 could speed up"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bad_model_is_one_clear_line_and_no_bundle(
    place: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(tmp_path / "bad.onnx")
    done = edge_runtime("quantize", "bad.onnx", "--frames", place / "frames", "--out", "bundle", cwd=tmp_path)
    line = done.failed_in_one_line(2)
    assert says in line and "bad.onnx" in line
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["bad.onnx"]


def test_a_model_that_does_not_load_is_called_by_its_name(place: Path, tmp_path: Path) -> None:
    one_name_for_all(tmp_path / "bad.onnx")
    done = edge_runtime("quantize", "bad.onnx", "--frames", place / "frames", "--out", "bundle", cwd=tmp_path)
    line = done.failed_in_one_line(1)
    assert line.startswith("error: bad.onnx: onnxruntime cannot load it") and "edge-runtime-" not in line


# ---------------------------------------------------------------- bad frames


def few(frames: Path) -> None:
    for path in sorted(frames.iterdir())[40:]:
        path.unlink()


def all_the_same(frames: Path) -> None:
    first, *others = sorted(frames.iterdir())
    for path in others:
        shutil.copy(first, path)


def one_torn(frames: Path) -> None:
    middle = frames / "p40.png"
    middle.write_bytes(middle.read_bytes()[:300])


def one_tiny(frames: Path) -> None:
    cv2.imwrite(str(frames / "p40.png"), np.full((20, 24), 90, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (few, "40 different frames"),
        (all_the_same, "1 different frames"),
        (one_torn, "p40.png"),
        (one_tiny, "p40.png"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_frames_are_one_clear_line_and_no_bundle(
    place: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(place / "frames", tmp_path / "frames")
    spoil(tmp_path / "frames")
    done = edge_runtime(
        "quantize", place / "mine.onnx", "--frames", "frames", "--out", "bundle", cwd=tmp_path
    )
    assert says in done.failed_in_one_line(1)
    assert not (tmp_path / "bundle").exists()


def test_there_are_no_frames_by_default(place: Path) -> None:
    done = edge_runtime("quantize", "mine.onnx", "--out", "bundle0", cwd=place)
    assert "--frames" in done.failed_in_one_line(2)


@pytest.mark.parametrize("kind", ["black", "noise"])
def test_the_head_model_is_not_quantized_on_what_is_no_head(tmp_path: Path, kind: str) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    random = np.random.default_rng(5)
    for index in range(70):
        pixels = random.integers(0, 256 if kind == "noise" else 3, (216, 320), np.uint8)
        cv2.imwrite(str(frames / f"{index:02d}.png"), pixels)
    done = edge_runtime("quantize", "fetal_head", "--frames", "frames", "--out", "bundle", cwd=tmp_path)
    line = done.failed_in_one_line(1)
    assert (
        "gate: the frames given refused: the number of different frames in which the reference shows a structure is 0"
        in line
    )
    assert not (tmp_path / "bundle").exists()


@needs_data
def test_the_head_model_is_not_quantized_on_another_modality(tmp_path: Path) -> None:
    done = edge_runtime(
        "quantize", "fetal_head", "--frames", DATA / "lungs" / "images", "--out", "bundle", cwd=tmp_path
    )
    assert "the frames given refused" in done.failed_in_one_line(1)
    assert not (tmp_path / "bundle").exists()


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_shipped_head_model_is_quantized_again_within_its_limits(tmp_path: Path) -> None:
    done = quantize(
        tmp_path,
        "--out",
        "bundle",
        "--json",
        model="fetal_head",
        frames=str(DATA / "fetal_head" / "images"),
        timeout_s=800,
    )
    report = done.json
    for numbers in report["gate"].values():
        assert numbers["head_circumference_mean"] <= 0.05
        assert numbers["head_circumference_p99"] <= 0.5
        assert numbers["head_circumference_max"] <= 1.0
    assert report["gate_frames"] >= 80


def test_a_model_that_marks_whole_frames_is_refused(place: Path) -> None:
    made = onnx.load(str(place / "mine.onnx"))
    last = next(one for one in made.graph.initializer if one.name == "b3")
    last.CopyFrom(tensor("b3", [50.0]))
    save(made, place / "everything.onnx")
    line = quantize(place, "--out", "all", model="everything.onnx").failed_in_one_line(1)
    assert "which is no structure" in line and "edge-runtime inspect" in line
    assert not (place / "all").exists()


def test_logits_without_a_word_on_them_are_refused(place: Path) -> None:
    made = onnx.load(str(place / "mine.onnx"))
    del made.graph.node[-1]
    made.graph.node[-1].output[0] = "found"
    save(made, place / "logits.onnx")
    line = quantize(place, "--out", "raw", model="logits.onnx").failed_in_one_line(2)
    assert "not probabilities" in line and "activation" in line
    recipe = place / "recipe.toml"
    recipe.write_text('name = "band"\n[output]\nactivation = "sigmoid"\n')
    assert quantize(place, "--out", "raw", "--recipe", "recipe.toml", model="logits.onnx").code == 0


def test_a_file_with_free_sizes_is_a_bundle_of_fixed_ones(place: Path) -> None:
    free_axes(place / "free.onnx")
    (place / "fixed.toml").write_text('name = "band"\n[input]\ngrid_hw = [64, 96]\n')
    assert quantize(place, "--out", "fixed", "--recipe", "fixed.toml", model="free.onnx").code == 0
    fp32 = onnx.load(str(place / "fixed" / "model.onnx"))
    assert [axis.dim_value for axis in fp32.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 64, 96]
    done = edge_runtime("compile", "fixed", "--validate-only", cwd=place)
    assert done.code == 0 or "tensorrt-rtx" in done.err


@pytest.mark.usefixtures("once")
def test_a_bundle_with_a_damaged_file_is_not_compiled(place: Path) -> None:
    shutil.copytree(place / "once", place / "damaged")
    card = place / "damaged" / "CARD.md"
    card.chmod(0o644)
    card.write_text("Accurate to a micrometre.\n")
    line = edge_runtime("compile", "damaged", "--validate-only", cwd=place).failed_in_one_line(2)
    assert "CARD.md" in line and "sha256" in line
