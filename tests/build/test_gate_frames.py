"""The frames a device gates with: kept to the last bit, or refused where a file is not what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.build.bundle import Contents, write_bundle
from edge_runtime.build.gate_frames import (
    GateSet,
    gate_files,
    has_gate_set,
    load_gate_set,
    make_gate_set,
)
from edge_runtime.build.gate_phantoms import draw, recipes_for
from edge_runtime.codes import Reason, SourceKind, SpacingSource, Status
from edge_runtime.errors import CalibrationError, ConfigError
from edge_runtime.frames.phantom import parse_spec
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import GATE_FRAMES, Model, load_model
from edge_runtime.measure.ellipse import outlined
from edge_runtime.pipeline import Pipeline, build_pipeline
from edge_runtime.types import Box, Frame, Origin, Spacing
from tests.build import bundles


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    model = bundles.shipped()
    opened = build_pipeline(model, open_backend(model, "onnxruntime", "fp32"))
    yield opened
    opened.close()


def same(one: GateSet, other: GateSet) -> None:
    """Every frame and every reading, to the last bit."""
    assert len(one.frames) == len(other.frames)
    for ours, theirs in zip(one.frames, other.frames, strict=True):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        assert replace(ours, pixels=theirs.pixels) == theirs
    for ours, theirs in zip(one.reference, other.reference, strict=True):
        assert (ours.frame_id, ours.name, ours.status) == (theirs.frame_id, theirs.name, theirs.status)
        assert (ours.values, ours.reasons) == (theirs.values, theirs.reasons)
        assert ours.mask is not None
        assert theirs.mask is not None
        np.testing.assert_array_equal(ours.mask.labels, theirs.mask.labels)
        assert replace(ours.mask, labels=theirs.mask.labels) == theirs.mask


def bundle_of(folder: Path, files: dict[str, bytes]) -> Model:
    """The shipped graph with these gate files."""
    contents = Contents(bundles.manifest({"fp32": "fp32.onnx"}), {"fp32.onnx": bundles.plain(), **files})
    return write_bundle(folder / "bundle", contents)


def test_a_set_is_read_as_it_was_made(tmp_path: Path) -> None:
    model = bundle_of(tmp_path, bundles.gate_set_files())
    assert has_gate_set(model)
    assert len(list(tmp_path.rglob("*.png"))) == 36
    read = load_gate_set(model)
    assert read.recipes == bundles.HEADS + bundles.OTHERS
    same(read, bundles.gate_set())


def test_ellipses_and_the_models_words_are_kept_with_a_set(tmp_path: Path) -> None:
    """A stored reading is held against a fresh one: what is drawn of it must be the same."""
    made = bundles.gate_set()
    first = made.reference[0]
    assert first.mask is not None
    drawn = replace(outlined(first.mask), rotation=(0.7, 0.1, 0.1, 0.1), inverted=0.125)
    made = replace(made, reference=(replace(first, mask=drawn), *made.reference[1:]))
    same(load_gate_set(bundle_of(tmp_path, gate_files(made))), made)


def test_a_model_without_a_named_set_has_none(tmp_path: Path) -> None:
    model = bundle_of(tmp_path, {})
    assert not has_gate_set(model)
    (model.home / "gate").mkdir()
    (model.home / GATE_FRAMES).write_bytes(b"{}")  # nobody vouches for it
    with pytest.raises(ConfigError, match="has no gate frames"):
        load_gate_set(model)


def test_frames_that_another_graph_has_read_are_refused(tmp_path: Path) -> None:
    files = {"fp32.onnx": bundles.harmful(), **bundles.gate_set_files()}
    other = write_bundle(tmp_path / "other", Contents(bundles.manifest({"fp32": "fp32.onnx"}), files))
    with pytest.raises(ConfigError, match=r"was read with graph \w{12}, the model's is"):
        load_gate_set(other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.update(more=1), "unknown field"),
        (lambda table: table.update(schema_version=2), "<= 1"),
        (lambda table: table["frames"][0].update(status="good"), "Invalid enum value"),
        (lambda table: table["frames"].__delitem__(slice(31, None)), "has 31 frames, want 32"),
        (lambda table: table["frames"][0].pop("file"), "missing required field `file`"),
        (lambda table: table["frames"][0].update(sha256="0" * 64), "is not the picture"),
        (lambda table: table["frames"][0].update(size_hw=[320, 216]), "is not the picture"),
        (lambda table: table["frames"][0].update(file=table["frames"][1]["file"]), "is not the picture"),
        (lambda table: table["frames"][0].update(file="CARD.md"), "not a file that model.toml names"),
        (lambda table: table["frames"][0]["mask"].update(counts=["01"]), "not a mask of"),
    ],
)
def test_a_table_that_is_not_right_is_refused_in_one_line(tmp_path: Path, change: object, told: str) -> None:
    files = bundles.gate_set_files()
    table = msgspec.json.decode(files[GATE_FRAMES])
    change(table)  # type: ignore[operator]
    model = bundle_of(tmp_path, {**files, GATE_FRAMES: msgspec.json.encode(table)})
    with pytest.raises(ConfigError, match=told) as caught:
        load_gate_set(model)
    assert "\n" not in str(caught.value)
    assert GATE_FRAMES.rpartition("/")[2] in str(caught.value) or "CARD.md" in str(caught.value)


@pytest.mark.parametrize("name", [GATE_FRAMES, "gate/frames/gate_003.png"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_of_the_set_is_named(tmp_path: Path, name: str, damage: str) -> None:
    model = bundle_of(tmp_path, bundles.gate_set_files())
    path = model.home / name
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(content[:-9] + bytes(9))
    with pytest.raises(ConfigError, match=path.name) as caught:
        load_gate_set(model)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- making one


draw_once = cache(draw)


def heads(count: int) -> list[Frame]:
    return [draw_once(recipe) for recipe in bundles.HEADS[:count]]


def test_too_few_frames_make_no_set(pipeline: Pipeline) -> None:
    with pytest.raises(CalibrationError, match="31 frames, want 32"):
        make_gate_set(heads(31), pipeline)


def test_the_same_picture_twice_makes_no_set(pipeline: Pipeline) -> None:
    with pytest.raises(CalibrationError, match="frames 4 and 32 are the same picture"):
        make_gate_set([*heads(32), heads(5)[4]], pipeline)


def test_frames_that_show_nothing_make_no_set(pipeline: Pipeline) -> None:
    empty = [draw(f"phantom:noise?seed={seed}&width=320&height=240#0") for seed in range(32)]
    with pytest.raises(CalibrationError, match="finds a structure in 0 of 32 frames, want 32"):
        make_gate_set(empty, pipeline)


def test_only_fp32_may_be_the_reference(pipeline: Pipeline, tmp_path: Path) -> None:
    model = bundles.bundle(tmp_path / "bundle", {"fp32": bundles.plain(), "int8": bundles.plain()})
    other = build_pipeline(model, open_backend(model, "onnxruntime", "int8"))
    with pytest.raises(CalibrationError, match="read with int8, want fp32"):
        make_gate_set(heads(32), other)
    other.close()


def test_what_lies_beside_the_region_and_what_a_file_was_called_is_not_kept(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    frames = []
    for index, head in enumerate(heads(32)):
        screen = np.full((300, 420), 255, np.uint8)  # white stands for a burned-in name
        screen[40:256, 60:380] = head.pixels
        origin = Origin(SourceKind.FOLDER, "DOE^JANE.png", "US", study_uid="1.2.3", subject="Jane")
        frames.append(replace(head, pixels=screen, index=index, region=Box(60, 40, 380, 256), origin=origin))
    made = make_gate_set(frames, pipeline)
    same_heads = make_gate_set(heads(32), pipeline)
    for ours, theirs in zip(made.reference, same_heads.reference, strict=True):
        assert ours.values == theirs.values
    files = gate_files(made)
    assert not any(word in content for content in files.values() for word in (b"DOE", b"1.2.3", b"Jane"))
    read = load_gate_set(bundle_of(tmp_path, files))
    assert {frame.size_hw for frame in read.frames} == {(216, 320)}
    same(read, made)


def test_a_picture_of_many_more_pixels_than_the_model_sees_is_kept_smaller_and_measures_the_same(
    pipeline: Pipeline,
) -> None:
    large = [
        replace(head, pixels=head.pixels.repeat(4, 0).repeat(4, 1), spacing=spacing(head, 1 / 4))
        for head in heads(33)
    ]
    made, plain = make_gate_set(large, pipeline), make_gate_set(heads(33), pipeline)
    assert {frame.size_hw for frame in made.frames} == {(432, 640)}
    for ours, theirs in zip(made.reference, plain.reference, strict=True):
        length = theirs.values["head_circumference"]
        assert ours.values["head_circumference"] == pytest.approx(length, abs=0.01 * length)
        assert ours.status == theirs.status
    coarse = [
        replace(frame, spacing=spacing(frame, 3.8)) for frame in large
    ]  # twice that is beyond the model
    assert {frame.size_hw for frame in make_gate_set(coarse, pipeline).frames} == {(864, 1280)}


def spacing(frame: Frame, factor: float) -> Spacing:
    assert frame.spacing is not None
    return Spacing(frame.spacing.row_mm * factor, frame.spacing.col_mm * factor, SpacingSource.OPERATOR)


def test_a_frame_without_a_spacing_stays_without_one(pipeline: Pipeline, tmp_path: Path) -> None:
    bare = [replace(head, spacing=None, spacing_reason=Reason.SPACING_MISSING) for head in heads(32)]
    read = load_gate_set(bundle_of(tmp_path, gate_files(make_gate_set(bare, pipeline))))
    assert {frame.spacing for frame in read.frames} == {None}
    assert {frame.spacing_reason for frame in read.frames} == {Reason.SPACING_MISSING}
    assert "head_circumference_px" in read.reference[0].values


# ---------------------------------------------------------------- recipes


def test_the_recipes_cover_the_range_and_none_comes_twice() -> None:
    recipes = recipes_for("fetal_head")
    specs = [parse_spec(recipe.removeprefix("phantom:").partition("#")[0]) for recipe in recipes]
    drawn = [spec for spec in specs if spec.pattern == "fetal_head" and not spec.empty]
    assert (len(recipes), len(set(recipes)), len(drawn)) == (48, 48, 40)
    lengths = sorted({spec.hc_mm for spec in drawn})
    assert (lengths[0], lengths[-1]) == (80.0, 340.0)
    assert max(np.diff(lengths)) < 15
    spacings = {spec.pixel_mm for spec in drawn}
    assert len(spacings) > 10
    low, high = bundles.shipped().manifest.limits.spacing_mm or (0, 0)
    assert low < min(spacings) <= max(spacings) < high


@pytest.mark.parametrize(("anatomy", "pattern"), [("vessel", "carotid"), ("lungs", "lungs")])
def test_arteries_and_chests_have_recipes_too(anatomy: str, pattern: str) -> None:
    recipes = recipes_for(anatomy)
    specs = [parse_spec(recipe.removeprefix("phantom:").partition("#")[0]) for recipe in recipes]
    assert (len(recipes), len(set(recipes))) == (48, 48)
    assert all(spec.pattern == pattern and not spec.empty for spec in specs[:40])
    assert all(spec.pattern != pattern or spec.empty for spec in specs[40:])
    assert len({spec.pixel_mm for spec in specs[:40]}) >= 20
    frame = draw(recipes[39])
    assert frame.spacing is not None and frame.spacing.source is SpacingSource.PHANTOM
    assert frame.origin.modality == ("DX" if anatomy == "lungs" else "US")


def test_an_anatomy_that_is_not_drawn_has_no_recipes() -> None:
    with pytest.raises(ConfigError, match="mask_only"):
        recipes_for("mask_only")


@pytest.mark.slow
def test_every_recipe_gives_what_it_is_there_for(pipeline: Pipeline) -> None:
    recipes = recipes_for("fetal_head")
    made = make_gate_set([draw(recipe) for recipe in recipes], pipeline, recipes)
    for recipe, reading in zip(recipes[:40], made.reference[:40], strict=True):
        asked = parse_spec(recipe.removeprefix("phantom:").partition("#")[0]).hc_mm
        assert reading.status is not Status.WITHHELD, recipe
        assert reading.values["head_circumference"] == pytest.approx(asked, rel=0.03), recipe
    assert {reading.status for reading in made.reference[40:]} == {Status.WITHHELD}
    assert sum(map(len, gate_files(made).values())) < 2_000_000


@pytest.mark.parametrize(
    "recipe", ["fetal_head#0", "phantom:fetal_head", "phantom:fetal_head#x", "phantom:whale#0", "phantom:#0"]
)
def test_what_is_no_recipe_is_refused(recipe: str) -> None:
    with pytest.raises(ConfigError):
        draw(recipe)


def test_the_shipped_models_own_set_is_whole() -> None:
    model = load_model("fetal_head")
    if not has_gate_set(model):
        pytest.skip("the shipped model has no gate frames yet")
    read = load_gate_set(model)
    assert len(read.frames) >= 32
    assert len(read.reference) == len(read.frames)
