"""From trained weights to the bundle that ships: `python -m models.training.ship fetal_head`.

Exports, measures, chooses limits and intervals, quantizes behind the gate, measures what came out, writes the card
and only then the bundle, in `models/`; beside it the recipe in `calibration/`. Everything that was measured is kept in
evaluation.json next to the weights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import torch

from edge_runtime.build.bundle import MANIFEST_FILE, Contents, check_target, manifest_toml, write_bundle
from edge_runtime.build.quantize import Job, quantize
from edge_runtime.errors import BackendError, ConfigError
from edge_runtime.infer.backends.table import open_backend
from edge_runtime.infer.model import (
    GateSpec,
    HalfWidth,
    InputSpec,
    IntervalSpec,
    LimitSpec,
    Manifest,
    PrecisionSpec,
    SelftestSpec,
    Tolerance,
    load_model,
)
from edge_runtime.pipeline import build_pipeline
from models.training.acquisition import acquisition_rates
from models.training.card import card_of
from models.training.command import parser_of, told_in_a_line
from models.training.data import data_root, measured_items
from models.training.drawing import bland_altman, risk_curve
from models.training.evaluate import REFERENCE, cases_of, output_of
from models.training.export import export_onnx, multiply_adds
from models.training.recipe import Recipe, read_recipe
from models.training.report import ENDPOINTS, Seens, look_at_all, report_of, true_and_error
from models.training.statistics import COVERAGE, agreement

ROOT = Path(__file__).resolve().parents[2]
BF16_P99, BF16_MAX = 0.5, 1.0  # mm, or percent of the value: how far bf16 may be from fp32


def manifest_of(recipe: Recipe, results: dict[str, Any]) -> Manifest:
    """What the model is, before it has files: the recipe of `quantize`."""
    ship, rule = recipe.ship, results["rule"]
    scale = 100.0 if results["relative"] else 1.0
    bf16 = results["agreement"]["openvino_bf16"]
    close = (
        scale * bf16["p99"] <= BF16_P99
        and scale * bf16["max"] <= BF16_MAX
        and bf16["dice_difference"] <= 0.001
    )
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        anatomy=recipe.anatomy,
        modality=ship.modality,
        view=ship.view,
        body_part=ship.body_part,
        view_position=ship.view_position,
        input=InputSpec(name="image", grid_hw=recipe.network.grid_hw, dtype="uint8"),
        output=output_of(recipe),
        limits=LimitSpec(spacing_mm=ship.spacing_mm, min_size_px=ship.min_size_px, **rule),
        interval=IntervalSpec(
            coverage=COVERAGE, exams=results["conformal_subjects"], half_width=_half_widths(results)
        ),
        precision=PrecisionSpec(accepted=("fp32", "bf16") if close else ("fp32",)),
        selftest=SelftestSpec(relative=ship.selftest),
        gate=GateSpec(
            phantoms=True,
            measurement={name: msgspec.convert(limits, Tolerance) for name, limits in ship.tolerance.items()},
        ),
    )


def _half_widths(results: dict[str, Any]) -> dict[str, HalfWidth]:
    """By measurement. A share of a pixel value holds for the same value in millimetres; which band that would be in
    is not known there, so it gets the widest."""
    found: dict[str, HalfWidth] = {}
    for name, one in results["intervals"].items():
        *bands, last = one["half"]
        width = msgspec.convert(
            {"absolute": last["absolute"], "relative": last["relative"], "bands": bands}, HalfWidth
        )
        found[name] = width
        if name.endswith("_px"):
            widest = max(band["relative"] for band in one["half"])
            found[name.removesuffix("_px")] = HalfWidth(relative=widest)
    return found


def ship(recipe: Recipe, built: Path, to: Path) -> None:
    """Makes everything of `built`/weights.pt. Raises EdgeError; then `to` is as it was, as it is after Ctrl-C."""
    check_target(to)  # a folder of something else is not ours to replace
    root, model = data_root(), built / "model.onnx"
    export_onnx(recipe, built / "weights.pt", model)
    seens = look_at_all(recipe, root, built)
    results = report_of(recipe, root, seens) | _making(built, model)
    if recipe.anatomy == "lungs":
        results["acquisition"] = acquisition_rates(recipe, root, built)
    manifest, subjects = manifest_of(recipe, results), _subjects(recipe)
    first = _quantized(recipe, manifest, model, built / "first", subjects)
    results["agreement"]["openvino_int8"] = _int8(recipe, root, first, seens)
    results["speed"] = _speed(first)
    (built / "evaluation.json").write_text(json.dumps(results, indent=1))
    last = _with(first, built / "bundle", subjects | _card(recipe, results, seens))
    _replace(to, last)
    said = ROOT / "calibration" / recipe.name / "recipe.toml"
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_text(manifest_toml(manifest))


def _making(built: Path, model: Path) -> dict[str, Any]:
    """How the network was trained, how large it is, and what its folds said where there are some."""
    trained = torch.load(built / "weights.pt", weights_only=True, map_location="cpu")
    parameters = (value for name, value in trained["network"].items() if "running" not in name)
    return {
        "training": {key: trained[key] for key in ("seconds", "steps", "seed")},
        "parameters": sum(value.numel() for value in parameters),
        "size_bytes": model.stat().st_size,
        "gmac": multiply_adds(model) / 1e9,
        **_folds(built / "folds.json"),
    }


def _folds(told: Path) -> dict[str, Any]:
    """What cross-validation said, under its key; nothing where there was none. Raises ConfigError."""
    if not told.is_file():
        return {}
    try:
        return {"folds": json.loads(told.read_text())}
    except ValueError as error:
        raise ConfigError(f"{told}: is damaged; run models.training.folds again") from error


def _subjects(recipe: Recipe) -> dict[str, bytes]:
    """The lists by which a figure of the card can be measured again; none where nobody was held out."""
    if not recipe.held_out:
        return {}
    return {
        "test_subjects.txt": _listed(recipe.splits.test),
        "held_out_subjects.txt": _listed(recipe.held_out),
    }


def _card(recipe: Recipe, results: dict[str, Any], seens: Seens) -> dict[str, bytes]:
    """The card and its plots."""
    endpoint = ENDPOINTS[recipe.anatomy]
    true, error = true_and_error(seens.unseen, endpoint.value)
    return {
        "CARD.md": card_of(recipe, results).encode(),
        "bland_altman.png": bland_altman(true, error, endpoint.words, endpoint.unit),
        "risk_coverage.png": risk_curve(results["risk"], endpoint.words, endpoint.unit),
    }


def _quantized(recipe: Recipe, manifest: Manifest, model: Path, out: Path, keep: dict[str, bytes]) -> Path:
    """A bundle at `out`, made of frames that were trained on. Raises GateError and what `quantize` raises."""
    shutil.rmtree(out, ignore_errors=True)
    frames, held = f"{data_root() / recipe.data.folder / 'images'}", frozenset(recipe.held_out)
    quantize(Job(model=model, manifest=manifest, frames=frames, out=out, without=held, keep=keep))
    return out


def _with(bundle: Path, out: Path, keep: dict[str, bytes]) -> Path:
    """The bundle again at `out`, with `keep` in the place of what it has of these names."""
    shutil.rmtree(out, ignore_errors=True)
    there = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    del there[MANIFEST_FILE]
    write_bundle(out, Contents(load_model(str(bundle)).manifest, {**there, **keep}))
    return out


def _replace(to: Path, bundle: Path) -> None:
    """Puts a copy of `bundle` at `to`, whole: the one that was there stays until the new one is beside it."""
    new, old = (to.with_name(f".{to.name}.{word}") for word in ("new", "old"))
    for left in (new, old):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(bundle, new)
    if to.exists():
        to.rename(old)
    new.rename(to)
    shutil.rmtree(old, ignore_errors=True)


def _listed(subjects: Iterable[str]) -> bytes:
    return "".join(f"{subject}\n" for subject in sorted(subjects)).encode()


def _int8(recipe: Recipe, root: Path, bundle: Path, seens: Seens) -> dict[str, Any]:
    """How far the bundle's INT8 graph is from FP32 on everything that was not trained on."""
    model = load_model(str(bundle))
    with closing(build_pipeline(model, open_backend(model, "openvino", "int8", 1))) as pipeline:
        cases = cases_of(recipe, root, {"int8": pipeline}, measured_items(recipe, root))["int8"]
    endpoint = ENDPOINTS[recipe.anatomy]
    return agreement(seens.cases[REFERENCE], cases, endpoint.value, endpoint.relative)


def _speed(bundle: Path) -> dict[str, dict[str, float]]:
    """Milliseconds by instruction set, runtime and precision."""
    script = ROOT / "benchmarks" / "precisions.py"
    command = [sys.executable, str(script), "--model", str(bundle), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"{script}: failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    told = json.loads(done.stdout)
    return {"all": told["ms"], "AVX2-VNNI at most": told["ms_avx2_vnni"]}


def main() -> None:
    parser = parser_of("ship", __doc__)
    parser.add_argument("--built", type=Path, help="folder of weights.pt; default build/NAME")
    parser.add_argument("--to", type=Path, help="the bundle; default models/NAME")
    arguments = parser.parse_args()
    with told_in_a_line("stopped; nothing was replaced"):
        recipe = read_recipe(arguments.recipe)
        built = arguments.built or Path("build") / recipe.name
        if not (built / "weights.pt").is_file():
            raise ConfigError(f"{built}/weights.pt: does not exist; train first")
        ship(recipe, built, arguments.to or ROOT / "models" / recipe.name)


if __name__ == "__main__":
    main()
