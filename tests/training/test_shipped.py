"""What ships: the file, its digest and its interface."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge_runtime.frames.phantom import PhantomSpec, render
from models.training import evaluate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parents[2] / "models" / "fetal_head"


def test_the_manifest_names_the_file_by_its_digest() -> None:
    manifest = tomllib.loads((FOLDER / "model.toml").read_text())
    artifact = manifest["artifacts"]["fp32"]
    assert hashlib.sha256((FOLDER / artifact["file"]).read_bytes()).hexdigest() == artifact["sha256"]


def test_the_model_takes_grey_bytes_and_gives_probabilities() -> None:
    session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", [1, 1, 192, 288])
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, 192, 288)).astype(np.uint8)
    mask, presence = session.run(["mask", "presence"], {"image": noise})
    assert (mask.shape, mask.dtype) == ((1, 1, 192, 288), np.float32)
    assert presence.shape == (1, 1)
    assert 0 <= mask.min() <= mask.max() <= 1


@pytest.mark.parametrize("hc_mm", [120.0, 200.0, 300.0])
def test_a_drawn_head_is_measured_within_three_percent(hc_mm: float) -> None:
    pipeline = evaluate.pipeline_of(FOLDER / "model.onnx", "onnxruntime")
    spec = PhantomSpec(hc_mm=hc_mm, seed=11)
    seen = evaluate.look(pipeline, evaluate.frame_of(render(spec, 3)[0], "phantom", spec.pixel_mm))
    pipeline.close()
    assert seen.hc_mm == pytest.approx(hc_mm, rel=0.03)


def test_the_card_is_the_shipped_models_own() -> None:
    card = (FOLDER / "CARD.md").read_text()
    assert "Research use only, not a medical device" in card
    for name in ("van den Heuvel", "Burgos-Artizzu", "Sendra-Balcells", "Momot", "no licence text"):
        assert name in card
