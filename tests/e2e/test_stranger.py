"""From a stranger's ONNX file to the first overlay: inspect, its drafted model.toml, run, masks as they must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.build.foreign_models import band_network, info, one_conv, picture, save
from tests.e2e.command import Done, edge_runtime

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
COUNT = 10  # more than a contact sheet shows
# Dice: the edge of one band passes through the other, and padding is grey where a mean is taken off.
WHOLE = 0.9

STRANGERS: dict[str, dict[str, Any]] = {
    "one_channel_sigmoid": {},
    "colour_softmax_three_classes": {"channels": 3, **IMAGENET, "classes": 2, "end": "Softmax"},
    "one_channel_logits": {"mean": (0.5,), "std": (0.5,), "end": None},
    "many_class_logits": {"classes": 2, "end": None, "scale": 1.0},
    "uint8": {"uint8": True, "scale": 1.0},
    "colour_uint8": {"uint8": True, "scale": 1.0, "channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3},
}


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other))


def draw(folder: Path, classes: int) -> dict[str, NDArray[np.uint8]]:
    """Writes pictures; stem -> labels."""
    folder.mkdir()
    truth = {}
    for seed in range(COUNT):
        grey, labels = picture(seed, classes)
        cv2.imwrite(str(folder / f"p{seed:02d}.png"), grey)
        truth[f"p{seed:02d}"] = labels
    return truth


def inspected(tmp_path: Path, *args: str | Path) -> Done:
    return edge_runtime("inspect", *args, cwd=tmp_path)


@pytest.mark.parametrize("backend", [pytest.param("onnxruntime", marks=pytest.mark.slow), "auto"])
@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_file_gives_its_masks_with_the_drafted_manifest(
    tmp_path: Path, name: str, backend: str
) -> None:
    network = STRANGERS[name]
    classes = network.get("classes", 1)
    truth = draw(tmp_path / "frames", classes)
    save(band_network(**network), tmp_path / f"{name}.onnx")

    report = inspected(tmp_path, f"{name}.onnx", "--frames", "frames", "--out", "mine", "--json").json
    assert [Path(path).name for path in report["wrote"]] == ["model.onnx", "contact.png", "model.toml"]
    assert len(report["frames"]) == 9
    sheet = cv2.imread(str(tmp_path / "mine" / "contact.png"))
    assert sheet is not None
    assert sheet.std() > 10

    done = edge_runtime(
        *("run", "--model", "mine", "--source", "folder:frames", "--masks", "masks"),
        *("--backend", backend, "--json"),
        cwd=tmp_path,
    )
    assert done.json["findings"] == COUNT
    for stem, labels in truth.items():
        mask = cv2.imread(str(tmp_path / "masks" / f"{stem}.png"), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == labels.shape
        for value in range(1, classes + 1):
            assert dice(mask == value * (255 // classes), labels == value) > WHOLE, (stem, value)


def test_a_person_is_told_what_is_a_guess_and_what_to_type_next(tmp_path: Path) -> None:
    draw(tmp_path / "frames", 1)
    save(band_network(), tmp_path / "model.onnx")
    done = inspected(tmp_path, "model.onnx", "--frames", "frames", "--out", "mine")
    assert done.code == 0, done.err
    assert done.err == ""
    assert "0 to 1 (a guess)" in done.out
    assert "# guess: confirm" in done.out
    commands = [line.split(maxsplit=1)[1] for line in done.out.splitlines() if line.startswith("next")]
    assert commands == [
        "edge-runtime run --model mine --source folder:frames --masks masks",
        "edge-runtime quantize mine --frames frames --out mine_bundle",
    ]
    again = edge_runtime(*commands[0].split()[1:], cwd=tmp_path)
    assert again.code == 0, again.err


def test_after_a_correction_the_sheet_is_made_anew_by_the_manifest(tmp_path: Path) -> None:
    draw(tmp_path / "frames", 1)
    save(band_network(), tmp_path / "model.onnx")
    assert inspected(tmp_path, "model.onnx", "--frames", "frames", "--out", "mine").code == 0
    manifest = tmp_path / "mine" / "model.toml"
    manifest.write_text(manifest.read_text().replace('"class_1"', '"cyst"'))
    before = (tmp_path / "mine" / "contact.png").read_bytes()
    report = inspected(tmp_path, "mine", "--frames", "frames", "--json").json
    assert report["model"]["labels"] == ["cyst"]
    assert set(report["frames"][0]["areas"]) == {"cyst"}
    assert (tmp_path / "mine" / "contact.png").read_bytes() != before


def test_without_frames_and_without_out_nothing_is_written(tmp_path: Path) -> None:
    save(band_network(), tmp_path / "model.onnx")
    report = inspected(tmp_path, "model.onnx", "--json").json
    assert report["wrote"] == []
    assert report["frames"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_a_manifest_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    save(band_network(), tmp_path / "model.onnx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.toml").write_text('name = "precious"\n')
    line = inspected(tmp_path, "model.onnx", "--out", "mine").failed_in_one_line(2)
    assert "never overwritten" in line
    assert (tmp_path / "mine" / "model.toml").read_text() == 'name = "precious"\n'
    assert not (tmp_path / "mine" / "model.onnx").exists()


def test_a_model_is_described_where_it_lies(tmp_path: Path) -> None:
    save(band_network(), tmp_path / "model.onnx")
    report = inspected(tmp_path, "model.onnx", "--out", ".", "--json").json
    assert [Path(path).name for path in report["wrote"]] == ["model.toml"]


def test_free_sizes_are_asked_for_and_then_used(tmp_path: Path) -> None:
    draw(tmp_path / "frames", 1)
    free = band_network()
    for value in (*free.graph.input, *free.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, ("n", None, "h", "w"), strict=True):
            if name:
                axis.dim_param = name
    save(free, tmp_path / "free.onnx")
    assert "grid_hw" in inspected(tmp_path, "free.onnx").failed_in_one_line(2)
    done = inspected(tmp_path, "free.onnx", "--grid", "64,96", "--frames", "frames", "--out", "mine")
    assert done.code == 0, done.err
    ran = edge_runtime("run", "--model", "mine", "--source", "folder:frames", "--json", cwd=tmp_path)
    assert ran.json["findings"] == COUNT


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("model.onnx", "--frames", "nowhere"), "no such folder"),
        (("model.onnx", "--frames", "empty"), "no image in it"),
        (("model.onnx", "--frames", "broken"), "no frame in it can be read"),
        (("model.onnx", "--frames", "phantom:nothing"), "phantom"),
        (("model.onnx", "--grid", "64"), "--grid 64"),
        (("model.onnx", "--grid", "0,64"), "--grid 0,64"),
        (("model.onnx", "--grid", "32,96"), "grid 32"),
        (("text.onnx",), "not an ONNX file"),
        (("last.onnx", "--out", "mine"), "channels last"),
    ],
)
def test_what_cannot_be_is_one_clear_line(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    save(band_network(), tmp_path / "model.onnx")
    save(one_conv(inputs=[info("x", [1, 16, 16, 3])]), tmp_path / "last.onnx")
    (tmp_path / "text.onnx").write_text("hello\n" * 10)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    assert said in inspected(tmp_path, *args).failed_in_one_line(2)
    assert not (tmp_path / "mine").exists()


def test_without_onnx_inspect_says_how_to_get_it(tmp_path: Path) -> None:
    save(band_network(), tmp_path / "model.onnx")
    (tmp_path / "onnx.py").write_text("raise ImportError('not here')\n")  # `python -m` looks here first
    line = inspected(tmp_path, "model.onnx").failed_in_one_line(2)
    assert "pip install 'edge-runtime[build]'" in line
