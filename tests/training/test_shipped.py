"""What ships: every bundle in models/ that has a card."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge_runtime.commands.evaluate import evaluate as runtime_evaluate
from edge_runtime.frames.phantom import PhantomSpec, render
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import Model, load_model
from edge_runtime.pipeline import Pipeline, build_pipeline
from models.training.evaluate import frame_of, look
from models.training.recipe import read_recipe
from tests.real import DATA, needs_data

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = sorted(card.parent.name for card in MODELS.glob("*/CARD.md"))
# The smallest, a common and the largest structure that is drawn.
SIZES = {
    "fetal_head": [{"hc_mm": size} for size in (120.0, 200.0, 300.0)],
    "carotid": [{"lumen_mm": size} for size in (5.0, 6.5, 8.5)],
    "lungs": [{"chest_mm": size} for size in (220.0, 280.0, 330.0)],
}
SOURCES = ("van den Heuvel", "Burgos-Artizzu", "Sendra-Balcells", "Momot", "Jaeger", "no licence text")
by_bundle = pytest.mark.parametrize("name", SHIPPED)


def pipeline_of(model: Model) -> Pipeline:
    return build_pipeline(model, open_backend(model, "openvino", "fp32", 1))


def test_a_bundle_ships() -> None:
    assert "fetal_head" in SHIPPED


@by_bundle
def test_the_manifest_names_every_file_by_its_digest(name: str) -> None:
    model = load_model(str(MODELS / name))
    manifest = model.manifest
    named = dict(manifest.files)
    for artifact in (*manifest.artifacts.values(), *manifest.tensorrt.values()):
        assert artifact.sha256
        named[artifact.file] = artifact.sha256
    there = {path.relative_to(model.home).as_posix() for path in model.home.rglob("*") if path.is_file()}
    assert there == {*named, "model.toml"}
    for file, digest in named.items():
        assert hashlib.sha256((model.home / file).read_bytes()).hexdigest() == digest, file


@by_bundle
def test_the_model_takes_grey_bytes_and_gives_probabilities(name: str) -> None:
    model = load_model(str(MODELS / name))
    grid, output = model.manifest.input.grid_hw, model.manifest.output
    assert grid is not None
    assert output.labels is not None
    session = onnxruntime.InferenceSession(str(model.artifact("fp32")[0]), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", [1, 1, *grid])
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, *grid)).astype(np.uint8)
    found = dict(
        zip([one.name for one in session.get_outputs()], session.run(None, {"image": noise}), strict=True)
    )
    classes = 1 if len(output.labels) == 1 else 1 + len(output.labels)
    assert found["mask"].shape == (1, classes, *grid)
    assert {key: one.shape for key, one in found.items() if key != "mask"} == {
        word: (1, numbers) for word, numbers in output.words.items()
    }
    assert all(0 <= one.min() <= one.max() <= 1 and one.dtype == np.float32 for one in found.values())


@pytest.mark.slow
@by_bundle
def test_drawn_structures_of_every_size_are_outlined_and_nothing_is_where_there_is_none(name: str) -> None:
    model = load_model(str(MODELS / name))
    pipeline, least = pipeline_of(model), model.manifest.limits.min_presence
    assert 0 < least < 1
    for size in SIZES[name]:
        spec = PhantomSpec(name, seed=11, **size)
        image, truth = render(spec, 3)
        assert truth is not None
        seen = look(pipeline, frame_of(image, name, spec.pixel_mm), truth.mask(image.shape))
        assert seen.presence >= least, size
        assert min(seen.dice) > 0.9, size
        if name == "fetal_head":
            assert seen.values["head_circumference"] == pytest.approx(size["hc_mm"], rel=0.03)
    image, _ = render(PhantomSpec(name, seed=11, empty=1), 0)
    assert look(pipeline, frame_of(image, "empty")).presence < least
    pipeline.close()


@by_bundle
def test_the_subjects_that_were_not_trained_on_are_the_recipes(name: str) -> None:
    recipe, kept = read_recipe(name), MODELS / name / "test_subjects.txt"
    assert kept.is_file() == bool(recipe.held_out)
    if kept.is_file():
        assert kept.read_text().split() == sorted(recipe.splits.test)
        assert set(recipe.splits.test) <= set((MODELS / name / "held_out_subjects.txt").read_text().split())


@by_bundle
def test_the_card_is_the_shipped_models_own_and_whole(name: str) -> None:
    card = (MODELS / name / "CARD.md").read_text()
    assert card.startswith(f"# {name}\n")
    assert "Research use only, not a medical device" in card
    assert [source for source in SOURCES if source.lower() not in card.lower()] == []
    limits = load_model(str(MODELS / name)).manifest.limits
    assert f"{limits.min_presence:.3f}" in card
    assert not re.search(r"\bnan\b|\bNone\b|TODO|[{}]", card)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (MODELS / name / picture).is_file()


@pytest.mark.slow
@needs_data
@by_bundle
def test_the_card_has_the_figures_that_the_runtime_gives(name: str) -> None:
    recipe, card = read_recipe(name), (MODELS / name / "CARD.md").read_text()
    data, subjects = DATA / recipe.data.folder, MODELS / name / "test_subjects.txt"
    if not recipe.held_out:  # trained on them all
        told = re.search(r"\| all labels \| ([0-9.]+) ", card)
        assert told is not None
        assert runtime_evaluate(name, data, None, "openvino", "fp32").dice.mean > float(told[1])
        return
    report = runtime_evaluate(name, data, subjects, "openvino", "fp32")
    assert f"| {report.dice.mean:.4f} | {report.dice.median:.4f} | {report.dice.p5:.4f} |" in card
    if report.hc_mm is not None:
        assert f"{report.hc_mm.mae:.2f}" in card
        assert f"{report.hc_mm.bias:+.2f}" in card
