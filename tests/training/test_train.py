"""Training on a few drawn ellipses, from the command line to an exported model that the runtime runs."""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_runtime.build.bundle import manifest_toml  # noqa: E402
from edge_runtime.errors import ConfigError, OutputError  # noqa: E402
from edge_runtime.infer.model import Manifest  # noqa: E402
from models.training import folds, ship, train  # noqa: E402
from models.training.data import data_root  # noqa: E402
from models.training.evaluate import REFERENCE, frame_of, look, pipeline_of, unseen_by  # noqa: E402
from models.training.export import export_onnx  # noqa: E402
from models.training.recipe import Recipe  # noqa: E402
from tests.training.drawn import ellipse, tiny, write_heads  # noqa: E402
from tests.training.measured import measured_recipe, results_of  # noqa: E402

pytestmark = pytest.mark.train
torch.set_num_threads(1)  # threads that wait for one another gain nothing on pictures this small


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The small recipe, with its data where training looks for them."""
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(write_heads(tmp_path / "data")))
    return tiny(tmp_path)


def steps(recipe: Recipe, count: int) -> Recipe:
    return msgspec.structs.replace(recipe, training=msgspec.structs.replace(recipe.training, steps=count))


def logged(told: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.splitlines()]


def test_a_model_trains_exports_and_runs(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = train.train(recipe, tmp_path / "out")
    first, last = logged(capsys.readouterr().out)
    assert first == {"training on": {"own": 10}, "step": 0}
    assert last["step"] == 3
    assert 0.2 < last["cross"] < 20  # the mean over three batches
    export_onnx(recipe, weights, tmp_path / "model.onnx")
    pipeline = pipeline_of(recipe, tmp_path / "model.onnx", REFERENCE)
    image, mask = ellipse(np.random.default_rng(0))
    seen = look(pipeline, frame_of(image, "drawn", 0.2), (mask > 0).astype(np.uint8))
    pipeline.close()
    assert 0 <= seen.presence <= 1
    assert len(seen.dice) == 1


def test_training_again_gives_the_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    one, other = (torch.load(train.train(recipe, tmp_path / name))["network"] for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_goes_on_from_a_checkpoint(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    early = torch.load(train.train(steps(recipe, 2), out))
    kept = torch.load(out / "checkpoint.pt")
    assert (early["steps"], kept["step"]) == (2, 2)
    capsys.readouterr()
    late = torch.load(train.train(steps(recipe, 5), out))
    begin, end = logged(capsys.readouterr().out)
    assert (begin["step"], end["step"], late["steps"]) == (2, 5, 5)
    assert late["seconds"] > early["seconds"]
    assert late["network"]["stem.0.1.num_batches_tracked"] == 5
    train.train(steps(recipe, 5), out)  # is over: nothing more is trained
    assert torch.load(out / "weights.pt")["steps"] == 5


def test_a_checkpoint_of_another_network_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train.train(steps(recipe, 1), tmp_path / "out")
    wider = tiny(tmp_path, ("[4, 4, 8, 8]", "[4, 8, 8, 8]"))
    with pytest.raises(ConfigError, match=r"checkpoint\.pt.*remove it"):
        train.train(wider, tmp_path / "out")
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt.*remove it"):
        train.train(recipe, tmp_path / "out")


def test_a_checkpoint_that_saw_what_this_recipe_holds_out_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train.train(steps(recipe, 1), tmp_path / "out")
    other = tiny(tmp_path, ('["07"]', '["00"]'))
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: was made by another recipe.*remove it"):
        train.train(other, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"weights\.pt: was trained by another recipe"):
        export_onnx(other, tmp_path / "out" / "weights.pt", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_checkpoint_that_is_something_else_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    torch.save([1, 2], tmp_path / "out" / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt.*remove it"):
        train.train(recipe, tmp_path / "out")


def test_folds_with_a_subject_twice_are_refused_before_the_training_that_comes_first(
    recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"\[splits\] folds: want 03 in just one"):
        train.train(refit(recipe, ("00", "01", "02", "03"), ("03", "04", "05", "06", "07")), tmp_path / "out")
    assert not any((tmp_path / "out").glob("*.pt"))


def test_a_disk_that_is_full_leaves_the_last_checkpoint_whole(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    train.train(steps(recipe, 1), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    size = len(before["checkpoint.pt"]) // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OutputError, match=r"checkpoint\.pt: cannot be written"):
            train.train(steps(recipe, 2), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_that_is_no_bundle_is_not_replaced_by_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="mine: is a folder with other things in it"):
        ship.ship(recipe, tmp_path / "out", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_a_bundle_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for name in ("new", "models/tiny", "models/.tiny.new"):  # the last: left by a kill
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.toml").write_text(name)
    ship._replace(tmp_path / "models" / "tiny", tmp_path / "new")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    assert (tmp_path / "models" / "tiny" / "model.toml").read_text() == "new"


def test_a_loss_that_is_not_finite_stops_with_its_batch(recipe: Recipe, tmp_path: Path) -> None:
    wild = msgspec.structs.replace(recipe, training=msgspec.structs.replace(recipe.training, rate=1e38))
    with pytest.raises(ConfigError, match=r"loss of batch [12] is not finite.*mean grey and mask"):
        train.train(wild, tmp_path / "out")
    assert not (tmp_path / "out" / "weights.pt").exists()


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [train.one_cycle(done / 100) for done in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates.index(max(rates)) == 6
    assert 0 < rates[-1] < 0.01


# ---------------------------------------------------------------- from the command line


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # torch's loader forks
@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_command_trains_a_recipe_in_a_file(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    command = [
        "train",
        str(tmp_path / "tiny.toml"),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        workers,
        "--threads",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    assert (tmp_path / "out" / "weights.pt").is_file()


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (train, ["nosuch"], "error: recipe nosuch: "),
        (train, ["tiny.toml", "--out", "tiny.toml"], "error: .*tiny.toml"),
        (folds, ["nosuch"], "error: recipe nosuch: "),
        (folds, ["tiny.toml", "--steps", "2", "--out", "build"], "error: .*masks/00b.png"),
        (ship, ["nosuch"], "error: recipe nosuch: "),
        (ship, ["tiny.toml", "--built", "build"], "error: build/weights.pt: does not exist; train first"),
    ],
)
def test_an_error_is_one_line(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if module is folds:
        (tmp_path / "data" / "fetal_head" / "masks" / "00b.png").unlink()
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit, match=said) as stopped:
        module.main()
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "fetal_head", f"--threads={number}"])
    with pytest.raises(SystemExit):
        train.main()
    assert "want a whole number above 0" in capsys.readouterr().err


# ---------------------------------------------------------------- folds and manifest


@pytest.mark.slow
def test_five_folds_judge_every_image_once(recipe: Recipe, tmp_path: Path) -> None:
    folds.cross_validate(recipe, tmp_path / "out", steps=1, workers=0)
    told = json.loads((tmp_path / "out" / "folds.json").read_text())
    assert [fold["images"] for fold in told["each"]] == [4, 4, 4, 2, 2]
    assert told["all"]["images"] == 16
    with pytest.raises(ConfigError, match=r"fold_0/weights\.pt: was trained for 1 batches, not 2"):
        folds.cross_validate(recipe, tmp_path / "out", steps=2, workers=0)


def refit(recipe: Recipe, *folds: tuple[str, ...]) -> Recipe:
    splits = msgspec.structs.replace(recipe.splits, refit=True, folds=folds)
    return msgspec.structs.replace(recipe, splits=splits)


def test_a_refit_is_judged_by_a_network_that_was_not_trained_on_the_other_splits(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", refit(recipe)
    with pytest.raises(
        ConfigError, match=r"measured/model\.onnx: does not exist; run .*\.train tiny --measured first"
    ):
        list(unseen_by(whole, data_root(), out))
    train.train_measured(whole, out)
    with pytest.raises(ConfigError, match=r"out/model\.onnx: does not exist; run .*\.ship tiny first"):
        list(unseen_by(whole, data_root(), out))
    train.train(whole, out)
    began = [line["training on"]["own"] for line in logged(capsys.readouterr().out) if "training on" in line]
    assert began == [10, 14]
    export_onnx(whole, out / "weights.pt", out / "model.onnx")
    judged = [
        (model, {item.subject for item in items}) for model, items in unseen_by(whole, data_root(), out)
    ]
    assert judged == [(out / "measured" / "model.onnx", {"05", "06"}), (out / "model.onnx", {"07"})]
    with pytest.raises(ConfigError, match="--measured wants"):
        train.train_measured(recipe, out)


@pytest.mark.slow
def test_a_refit_with_folds_is_judged_by_each_of_them_on_its_own_subjects(
    recipe: Recipe, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", refit(recipe, ("00", "01", "02", "05"), ("03", "04", "06", "07"))
    with pytest.raises(ConfigError, match=r"fold_0/model\.onnx: does not exist; run .*\.folds tiny first"):
        list(unseen_by(whole, data_root(), out))
    folds.cross_validate(whole, out, steps=1, workers=0)
    judged = {
        model.parent.name: {item.subject for item in items}
        for model, items in unseen_by(whole, data_root(), out)
    }
    assert judged == {"fold_0": {"05"}, "fold_1": {"06", "07"}}


@pytest.mark.parametrize("name", ["carotid", "fetal_head", "lungs"])
def test_a_manifest_says_what_was_measured(name: str, tmp_path: Path) -> None:
    recipe = measured_recipe(name)
    results = results_of(recipe, tmp_path)
    manifest = ship.manifest_of(recipe, results)
    assert msgspec.toml.decode(manifest_toml(manifest), type=Manifest) == manifest
    assert manifest.limits.min_presence == results["rule"]["min_presence"]
    assert manifest.interval is not None
    assert manifest.interval.exams == results["conformal_subjects"]
    assert (manifest.output.rotation is None) == (name != "lungs")
    assert manifest.precision.accepted == ("fp32", "bf16")
    for value, half in manifest.interval.half_width.items():
        assert half.absolute or half.relative
        if value.endswith("_px"):  # bands are of pixels: in millimetres the widest holds
            widest = max(half.relative, *(band.relative for band in half.bands), 0.0)
            in_mm = manifest.interval.half_width[value.removesuffix("_px")]
            assert (in_mm.bands, in_mm.relative) == ((), widest)
