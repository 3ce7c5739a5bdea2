"""What `auto` means: measured here, gated here, remembered, and never a wrong number for speed's sake."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from edge_runtime.build import precision
from edge_runtime.build.bundle import Contents, write_bundle
from edge_runtime.build.gate_frames import GateSet, gate_files
from edge_runtime.build.precision import Decision, decision_file, key_of, open_gated, open_with_decision
from edge_runtime.errors import BackendError, ConfigError
from edge_runtime.infer.backends.table import offered_precisions, open_backend
from edge_runtime.infer.model import GATE_FRAMES, Model, load_model
from tests.build import bundles
from tests.e2e.command import edge_runtime, findings

BACKENDS = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed"),
    ),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RUNTIME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def idle_gate() -> dict[str, bytes]:
    """Gate files of the frames as the idling fp32 graph reads them: the same readings, another digest."""
    digest = hashlib.sha256(bundles.idling()).hexdigest()
    made = bundles.gate_set()
    return gate_files(GateSet(made.frames, made.reference, digest, made.recipes))


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory, idle_gate: dict[str, bytes]) -> dict[str, Path]:
    """Bundles whose fp32 idles, with an int8 graph that is right, or harmful, or broken; and one that idles itself."""
    home = tmp_path_factory.mktemp("bundles")
    quick = {
        "right": bundles.plain(),
        "harmful": bundles.harmful(),
        "broken": bundles.edited(lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop()),
    }
    made = {
        name: bundles.bundle(home / name, {"fp32": bundles.idling(), "int8": graph}, idle_gate).home
        for name, graph in quick.items()
    }
    made["slow"] = bundles.bundle(home / "slow", {"fp32": bundles.plain(), "int8": bundles.idling()}).home
    return made


def decided(model: Model, backend: str = "onnxruntime") -> Decision:
    opened, decision = open_with_decision(model, backend)
    opened.close()
    assert decision is not None
    assert opened.precision == decision.chosen
    return decision


def of(decision: Decision, name: str) -> precision.Candidate:
    return next(one for one in decision.candidates if one.precision == name)


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_faster_precision_that_passes_the_gate_is_kept(homes: dict[str, Path], backend: str) -> None:
    decision = decided(load_model(str(homes["right"])), backend)
    exact = of(decision, "fp32")
    sound = [
        one for one in decision.candidates if one.verdict in ("reference", "passed") and one.ms is not None
    ]
    fastest = min(sound, key=lambda one: one.ms or 0.0)
    assert exact.ms is not None and fastest.ms is not None
    assert decision.chosen == (fastest if fastest.ms < 0.95 * exact.ms else exact).precision
    assert all("36 gate frames" in one.reason for one in sound if one.verdict == "passed")
    assert "ms" in decision.reason and decision.chosen in decision.reason


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_harmful_precision_is_refused_however_fast_and_the_reason_is_in_the_file(
    homes: dict[str, Path], backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")  # without bf16, which would be right
    model = load_model(str(homes["harmful"]))
    with caplog.at_level(logging.WARNING):
        decision = decided(model, backend)
    assert decision.chosen == "fp32"
    refused = of(decision, "int8")
    assert refused.verdict == "refused"
    assert refused.reason.startswith(f"gate: int8 on {backend} refused: ")
    assert "int8 refused by the gate" in decision.reason
    assert [record.message for record in caplog.records] == [
        f"int8 of fetal_head is not used: {refused.reason}"
    ]
    kept = msgspec.json.decode(decision_file(decision.key).read_bytes(), type=Decision)
    assert kept == decision


@pytest.mark.skipif("int8" not in bundles.shipped().manifest.artifacts, reason="no INT8 graph is shipped yet")
@pytest.mark.parametrize("backend", [pytest.param("onnxruntime", marks=pytest.mark.slow), *BACKENDS[1:]])
def test_one_layers_scale_times_8_in_the_shipped_int8_graph_is_refused(
    tmp_path: Path, idle_gate: dict[str, bytes], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    whole = bundles.shipped().artifact("int8")[0].read_bytes()
    graphs = {"right": whole, "harmful": bundles.harmful_int8()}
    decisions = {
        name: decided(
            bundles.bundle(tmp_path / name, {"fp32": bundles.idling(), "int8": int8}, idle_gate), backend
        )
        for name, int8 in graphs.items()
    }
    assert {name: decision.chosen for name, decision in decisions.items()} == {
        "right": "int8",
        "harmful": "fp32",
    }
    assert of(decisions["harmful"], "int8").verdict == "refused"


def test_a_slower_precision_is_not_chosen_and_not_even_gated(homes: dict[str, Path]) -> None:
    decision = decided(load_model(str(homes["slow"])))
    assert decision.chosen == "fp32"
    assert (of(decision, "int8").verdict, of(decision, "int8").reason) == (
        "not needed",
        "not faster than fp32",
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_precision_that_cannot_run_is_told_and_passed_over(
    homes: dict[str, Path], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    decision = decided(load_model(str(homes["broken"])), backend)
    assert decision.chosen == "fp32"
    assert of(decision, "int8").verdict == "cannot run"
    assert of(decision, "int8").ms is None
    assert "int8.onnx" in of(decision, "int8").reason
    assert "cannot load it" in of(decision, "int8").reason


def test_fewer_gate_frames_than_the_manifest_wants_refuse_every_candidate(
    tmp_path: Path, idle_gate: dict[str, bytes]
) -> None:
    spec = msgspec.structs.replace(bundles.SPEC, min_frames=34)  # the set has 33 with a head
    manifest = msgspec.structs.replace(
        bundles.manifest({"fp32": "fp32.onnx", "int8": "int8.onnx"}), gate=spec
    )
    files = {"fp32.onnx": bundles.idling(), "int8.onnx": bundles.plain(), **idle_gate}
    decision = decided(write_bundle(tmp_path / "bundle", Contents(manifest, files)))
    assert decision.chosen == "fp32"
    assert "limit at least 34" in of(decision, "int8").reason


def test_a_damaged_gate_set_is_an_error_and_no_choice(homes: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(homes["right"], tmp_path / "copy")
    (tmp_path / "copy" / GATE_FRAMES).unlink()
    (tmp_path / "copy" / GATE_FRAMES).write_text("{}")
    with pytest.raises(ConfigError, match=r"frames\.json: sha256"):
        open_gated(load_model(str(tmp_path / "copy")), "onnxruntime")


def test_a_model_without_gate_frames_keeps_the_manifests_word(own_cache: Path) -> None:
    model = bundles.shipped()
    bare = Model(model.home, msgspec.structs.replace(model.manifest, files={}), model.sha256)
    opened, decision = open_with_decision(bare)
    plain = open_backend(bare)
    assert (opened.name, opened.precision, decision) == (plain.name, plain.precision, None)
    opened.close()
    plain.close()
    assert not own_cache.exists()


@pytest.mark.parametrize("asked", ["fp32", "int8"])
def test_a_precision_that_was_asked_for_is_taken_without_a_look(
    homes: dict[str, Path], own_cache: Path, asked: str
) -> None:
    opened, decision = open_with_decision(load_model(str(homes["harmful"])), "onnxruntime", asked)
    assert (opened.precision, decision) == (asked, None)
    opened.close()
    assert not own_cache.exists()


def test_the_null_backend_and_a_single_precision_need_no_decision(
    homes: dict[str, Path], own_cache: Path, tmp_path: Path
) -> None:
    open_gated(load_model(str(homes["right"])), "null").close()
    only = bundles.bundle(tmp_path / "only", {"fp32": bundles.plain()})
    opened, decision = open_with_decision(only, "onnxruntime")
    assert (opened.precision, decision) == ("fp32", None)
    opened.close()
    assert not own_cache.exists()


def test_wrong_flags_are_refused_as_ever(homes: dict[str, Path]) -> None:
    model = load_model(str(homes["right"]))
    with pytest.raises(ConfigError, match="--threads 0"):
        open_gated(model, "onnxruntime", threads=0)
    with pytest.raises(ConfigError, match="backend 'cuda11'"):
        open_gated(model, "cuda11")
    with pytest.raises(ConfigError, match="--precision fp16"):
        open_gated(model, "onnxruntime", "fp16")


# ---------------------------------------------------------------- what is remembered


def test_a_second_start_measures_nothing(homes: dict[str, Path], own_cache: Path) -> None:
    model, said = load_model(str(homes["right"])), list[str]()
    first, decision = open_with_decision(model, "onnxruntime", say=said.append)
    first.close()
    assert len(said) == 1
    (kept,) = own_cache.rglob("*.json")
    before = kept.read_bytes(), kept.stat().st_mtime_ns, kept.stat().st_ino
    code = (
        "import sys, time, edge_runtime.pipeline, onnxruntime, cv2\n"
        "from edge_runtime.infer.model import load_model\n"
        "from edge_runtime.infer.backends.table import open_backend\n"
        "model = load_model(sys.argv[1])\n"
        "open_backend(model, 'onnxruntime', 'int8').close()\n"
        "a = time.process_time()\n"  # the processor's: how busy the machine is does not count
        "open_backend(model, 'onnxruntime', 'int8').close()\n"
        "b = time.process_time()\n"
        "from edge_runtime.build.precision import open_gated\n"
        "opened = open_gated(model, 'onnxruntime')\n"
        "c = time.process_time()\n"
        "print(opened.precision, c - b - (b - a), 'edge_runtime.build.gate' in sys.modules)\n"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code, str(model.home)], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert decision is not None
    assert {answer[0] for answer in told} == {decision.chosen}
    assert {answer[2] for answer in told} == {"False"}  # the gate was not even imported
    assert min(float(answer[1]) for answer in told) < 0.010 + 0.010  # 10 ms and the machine's noise
    assert (kept.read_bytes(), kept.stat().st_mtime_ns, kept.stat().st_ino) == before


def test_a_first_start_is_quick_too(homes: dict[str, Path]) -> None:
    start_s, start_busy_s = time.monotonic(), time.process_time()
    decision = decided(load_model(str(homes["right"])))
    assert time.process_time() - start_busy_s < 5  # 0.8 s
    assert decision.spent_ms < 1e3 * (time.monotonic() - start_s)


def test_what_could_change_the_decision_changes_its_key(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = load_model(str(homes["right"]))
    offers = offered_precisions(model, "onnxruntime")

    def digest(model: Model = model, backend: str = "onnxruntime", threads: int = 1) -> str:
        return key_of(model, backend, offers, threads).digest()

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    seen = {digest(), digest(threads=2), digest(load_model(str(homes["slow"])))}
    if find_spec("openvino"):
        seen.add(digest(backend="openvino"))
    assert len(seen) == (4 if find_spec("openvino") else 3)
    assert digest() in seen  # and nothing else does
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert digest() not in seen
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv("EDITOR", "vi")
    assert digest() in seen
    other = tmp_path / "cpuinfo"
    other.write_text(Path("/proc/cpuinfo").read_text().replace("avx512", "avx999"))
    monkeypatch.setattr(precision, "CPUINFO", other)
    assert digest() not in seen
    other.write_text("processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd\nCPU part\t: 0xd42\n\n")
    name, flags = precision.processor()
    assert name == "0xd42"
    assert "Features=fp asimd" in flags
    assert "BogoMIPS" not in flags  # differs from boot to boot


def test_a_graph_that_the_manifest_names_without_a_digest_counts_by_its_own(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(homes["right"], tmp_path / "copy")
    text = (tmp_path / "copy" / "model.toml").read_text()
    head, _, rest = text.partition("[artifacts.int8]\n")
    file, _, rest = rest.partition("sha256 = ")
    (tmp_path / "copy" / "model.toml").unlink()
    (tmp_path / "copy" / "model.toml").write_text(
        f"{head}[artifacts.int8]\n{file}{rest.partition(chr(10))[2]}"
    )
    model = load_model(str(tmp_path / "copy"))
    before = decided(model)
    (model.home / "int8.onnx").unlink()
    (model.home / "int8.onnx").write_bytes(bundles.harmful())
    after = decided(model)
    assert (before.chosen, after.chosen) == ("int8", "fp32")
    assert before.key.manifest_sha256 == after.key.manifest_sha256


@pytest.mark.parametrize("content", [b"", b'{"chosen": "int8"}', b"\xff\x00garbage"])
def test_a_damaged_decision_is_measured_again_and_said_once(
    homes: dict[str, Path], caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    model = load_model(str(homes["right"]))
    path = decision_file(key_of(model, "onnxruntime", offered_precisions(model, "onnxruntime"), 1))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        made = decided(model)
    assert [record.message.count("measuring anew") for record in caplog.records] == [1]
    assert msgspec.json.decode(path.read_bytes(), type=Decision) == made


def test_a_decision_for_what_was_refused_or_for_another_key_is_not_believed(homes: dict[str, Path]) -> None:
    model = load_model(str(homes["harmful"]))
    first = decided(model)
    table = msgspec.to_builtins(first)
    decision_file(first.key).write_bytes(msgspec.json.encode({**table, "chosen": "int8"}))
    assert decided(model).chosen == "fp32"
    strange = msgspec.structs.replace(first, key=msgspec.structs.replace(first.key, threads=7))
    decision_file(first.key).write_bytes(msgspec.json.encode(strange))
    assert decided(model).key == first.key


@pytest.mark.parametrize("where", ["a file", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_costs_time_and_one_line(
    homes: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("EDGE_RUNTIME_CACHE", str(tmp_path / where))
    with caplog.at_level(logging.WARNING):
        assert of(decided(load_model(str(homes["right"]))), "fp32").ms
    (told,) = [record.message for record in caplog.records]
    assert "each start measures anew" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_costs_time_and_one_line(
    homes: dict[str, Path], own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.mkdir(mode=0o500)
    with caplog.at_level(logging.WARNING):
        assert of(decided(load_model(str(homes["right"]))), "fp32").ms
    assert len(caplog.records) == 1


def test_a_graph_that_was_exchanged_after_the_decision_is_refused(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(homes["right"], tmp_path / "copy")
    model = load_model(str(tmp_path / "copy"))
    assert of(decided(model), "fp32").ms
    (model.home / "int8.onnx").unlink()
    (model.home / "int8.onnx").write_bytes(bundles.harmful())
    with pytest.raises(ConfigError, match="sha256"):
        open_gated(model, "onnxruntime")


def test_without_fp32_nothing_is_chosen(tmp_path: Path) -> None:
    broken = bundles.edited(lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop())
    made = bundles.gate_set()
    frames = GateSet(made.frames, made.reference, hashlib.sha256(broken).hexdigest(), made.recipes)
    model = bundles.bundle(tmp_path / "bundle", {"fp32": broken, "int8": bundles.plain()}, gate_files(frames))
    with pytest.raises(BackendError, match=r"fp32\.onnx: onnxruntime cannot load it"):
        open_gated(model, "onnxruntime")


# ---------------------------------------------------------------- the commands


@pytest.mark.slow
def test_a_finding_names_the_precision_that_ran_and_doctor_says_why(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ("--model", homes["right"], "--backend", "onnxruntime", "--out", "f.jsonl", "--json")
    source = "phantom:fetal_head?frames=2&width=320&height=216"
    for _ in range(2):  # measured, then remembered
        done = edge_runtime("run", "--source", source, *arguments, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        assert done.json["precision"] == "int8"
        assert {line["model"]["precision"] for line in findings(tmp_path / "f.jsonl")} == {"int8"}
    kept = list((tmp_path / "cache").rglob("*"))
    assert [path.suffix for path in kept if path.is_file()] == [".json"]
    told = edge_runtime("doctor", cwd=tmp_path).out
    assert "precision of fetal_head: " in told


@pytest.mark.slow
def test_evaluate_and_bench_run_what_was_decided(homes: dict[str, Path], tmp_path: Path) -> None:
    done = edge_runtime(
        "bench",
        *("--model", homes["harmful"], "--backend", "onnxruntime", "--scenario", "single-stream"),
        *("--frames", "5", "--json"),
        cwd=tmp_path,
    )
    assert done.json["precision"] == "fp32"


def test_models_tells_which_graphs_there_are(tmp_path: Path) -> None:
    (line,) = [
        one
        for one in edge_runtime("models", "--json", cwd=tmp_path).json["models"]
        if one["name"] == "fetal_head"
    ]
    assert line["graphs"]["fp32"] == "model.onnx"
    assert isinstance(line["gate_frames"], bool)
