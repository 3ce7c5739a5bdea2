"""Every name of TensorRT that our code uses exists in the real bindings of 10.3, 10.13 and 11.4.

The binding wheels are small and on PyPI; only the libraries below them are not. So a few lines of C stand for those,
the real binding is imported over them in a process of its own, and each name is looked up. No GPU, nothing is called.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BINDINGS = {
    "10.3.0": "tensorrt_cu12_bindings==10.3.0",  # JetPack 6
    "10.13.3.9": "tensorrt_cu13_bindings==10.13.3.9",  # JetPack 7.0
    "11.4.0.106": "tensorrt_cu13_bindings==11.4.0.106",
}
WHEELS = Path(
    os.environ.get("EDGE_RUNTIME_TEST_WHEELS", Path(tempfile.gettempdir()) / "edge-runtime-test-wheels")
)

# Where TensorRT is used: file -> the classes and functions in it (none: all of it)
USERS: dict[str, tuple[str, ...]] = {
    "edge_runtime/build/compiler.py": (),
    "edge_runtime/infer/backends/tensorrt.py": ("TensorRtBackend", "make_logger"),
}
# What our variables are, by their last name
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "error": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
STUB = """
void *createInferBuilder_INTERNAL(void *a, int b) { return 0; }
void *createInferRefitter_INTERNAL(void *a, void *b, int c) { return 0; }
void *createInferRuntime_INTERNAL(void *a, int b) { return 0; }
void *getBuilderPluginRegistry(int a) { return 0; }
void *getPluginRegistry(void) { return 0; }
int initLibNvInferPlugins(void *a, const char *b) { return 1; }
void *createNvOnnxParserRefitter_INTERNAL(void *a, void *b, int c) { return 0; }
void *createNvOnnxParser_INTERNAL(void *a, void *b, int c) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
"""
LOOK_UP = """
import json, sys
import tensorrt_bindings as trt
def has(name):
    at = trt
    for part in name.split("."):
        if not hasattr(at, part):
            return False
        at = getattr(at, part)
    return True
print(json.dumps({"version": trt.__version__, "missing": [n for n in json.load(sys.stdin) if not has(n)]}))
"""

RUN = """
import json, logging
import numpy as np
import tensorrt_bindings as trt
from edge_runtime.build.compiler import _monitor, build_plan
from edge_runtime.errors import EngineError
from edge_runtime.infer.backends.tensorrt import make_logger
logger, shares = make_logger(trt), []
logger.log(trt.ILogger.ERROR, "a fault")
logger.log(trt.ILogger.VERBOSE, "chatter")
monitor = _monitor(trt, lambda phase, share: shares.append(round(share, 3)))
monitor.phase_start("whole", None, 2)
monitor.phase_start("part", "whole", 4)
going = [monitor.step_complete("part", 1), monitor.step_complete("whole", 0)]
monitor.phase_finish("part")
try:
    build_plan(trt, b"graph", "tiny int8")
    said = "built"
except EngineError as exc:
    said = str(exc)
kinds = [trt.nptype(kind) is wanted for kind, wanted in ((trt.uint8, np.uint8), (trt.float32, np.float32))]
print(json.dumps({"errors": list(logger.errors), "going": going, "shares": shares, "said": said, "kinds": kinds}))
"""


def names_in(source: str, scopes: tuple[str, ...] = ()) -> tuple[set[str], set[str]]:
    """Names of TensorRT that `source` uses (`Builder.create_network`), and those it asks for by hasattr first."""
    tree = ast.parse(source)
    parts = [n for n in ast.walk(tree) if getattr(n, "name", None) in scopes] if scopes else [tree]
    used: set[str] = set()
    guarded: set[str] = set()
    for node in (node for part in parts for node in ast.walk(part)):
        if isinstance(node, ast.Attribute):
            used |= {name for name in (_name(node),) if name}
        elif isinstance(node, ast.ClassDef):
            used |= set(_overridden(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
            owner, asked = node.args
            if isinstance(asked, ast.Constant):
                guarded.add(".".join(filter(None, (_owner(owner), str(asked.value)))))
    return used, guarded


def _owner(node: ast.expr) -> str | None:
    """The class of a variable, "" for the module, None for what is not TensorRT's."""
    last = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    if last in ("trt", "_trt"):
        return ""
    return CLASSES.get(last)


def _name(node: ast.Attribute) -> str | None:
    """`trt.TensorIOMode.INPUT` -> TensorIOMode.INPUT, `builder.create_network` -> Builder.create_network."""
    chain, at = [node.attr], node.value
    while _owner(at) is None and isinstance(at, ast.Attribute):
        chain.append(at.attr)
        at = at.value
    owner = _owner(at)
    return None if owner is None else ".".join(filter(None, (owner, *reversed(chain))))


def _overridden(node: ast.ClassDef) -> Iterator[str]:
    """Methods of a class derived from one of TensorRT's: a misspelt one would never be called."""
    for base in node.bases:
        name = _name(base) if isinstance(base, ast.Attribute) else None
        if name:
            yield from (
                f"{name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef) and part.name[0] != "_"
            )


def used_names() -> tuple[set[str], set[str]]:
    used: set[str] = set()
    guarded: set[str] = set()
    for file, scopes in USERS.items():
        some, asked = names_in((ROOT / file).read_text(), scopes)
        used |= some
        guarded |= asked
    return used, guarded


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for the libraries below the bindings."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for the stand-ins of TensorRT's libraries")
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "stub.c"
    source.write_text(STUB)
    for major in ("10", "11"):
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            name = f"lib{library}.so.{major}"
            subprocess.run(
                [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)],
                check=True,
            )
    return folder


def binding(version: str) -> Path:
    """The folder that the binding of this version was unpacked in; fetched once, by whichever process is first."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WHEELS) as part:
        wheel = wheel_of(version, Path(part))
        folder = WHEELS / wheel.stem
        if not folder.is_dir():
            unpacked = Path(part) / wheel.stem
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(unpacked)
            try:
                unpacked.replace(folder)
            except OSError:
                assert folder.is_dir(), "neither this process nor another could unpack it"
    return folder


def wheel_of(version: str, part: Path) -> Path:
    """The binding's wheel in `WHEELS`; what has to be fetched comes to `part` first, so that none is there half."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    package, _, _ = BINDINGS[version].partition("==")
    pattern = f"{package}-{version}-{tag}-*.whl"
    if not list(WHEELS.glob(pattern)):
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        fetched = subprocess.run(
            [*fetch, "-d", str(part), BINDINGS[version]],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        if fetched.returncode != 0 or not list(part.glob(pattern)):
            pytest.skip(f"{BINDINGS[version]}: no wheel for {tag} from this index")
        for wheel in part.glob(pattern):
            wheel.replace(WHEELS / wheel.name)
    return next(WHEELS.glob(pattern))


def over_the_binding(program: str, given: str, version: str, libraries: Path) -> dict[str, Any]:
    """What `program` prints, run with the real binding of this version."""
    paths = os.pathsep.join([str(binding(version)), str(ROOT)])
    told = subprocess.run(
        [sys.executable, "-c", program],
        input=given,
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def missing(names: set[str], version: str, libraries: Path) -> set[str]:
    """Those of `names` that the real binding of this version does not have."""
    answer = over_the_binding(LOOK_UP, json.dumps(sorted(names)), version, libraries)
    assert answer["version"] == version
    return set(answer["missing"])


@pytest.mark.parametrize("version", BINDINGS)
def test_every_name_that_is_used_exists(version: str, libraries: Path) -> None:
    used, guarded = used_names()
    gone = missing(used, version, libraries)
    assert {
        name for name in gone if not any(name == ask or name.startswith(f"{ask}.") for ask in guarded)
    } == set()


@pytest.mark.parametrize("version", BINDINGS)
def test_what_we_derive_from_it_works_and_a_builder_that_cannot_be_made_is_one_clear_error(
    version: str, libraries: Path
) -> None:
    told = over_the_binding(RUN, "", version, libraries)
    assert told["errors"] == ["a fault"]
    assert told["going"] == [True, True]
    assert told["shares"] == [0.25, 0.5]
    assert told["kinds"] == [True, True]
    assert told["said"].startswith(f"tiny int8: TensorRT {version} cannot build here: ")
    assert "\n" not in told["said"]


def test_the_names_are_found_in_the_source() -> None:
    used, guarded = used_names()
    assert len(used) > 35
    assert {
        "Builder",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "MemoryPoolType.WORKSPACE",
        "Builder.build_serialized_network",
        "OnnxParser.parse",
        "ParserError.node_name",
        "IBuilderConfig.progress_monitor",
        "IProgressMonitor.step_complete",
        "ILogger.log",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_mode",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address",
        "TensorIOMode.INPUT",
        "nptype",
    } <= used
    assert guarded == {"IProgressMonitor"}


def test_what_tensorrt_11_removed_would_be_noticed(libraries: Path) -> None:
    old = """
def build(trt, builder, config, engine):
    config.set_flag(trt.BuilderFlag.FP16)
    config.int8_calibrator = trt.IInt8EntropyCalibrator2
    flag = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    return builder.platform_has_fast_int8, engine.device_memory_size
"""
    used, _ = names_in(old)
    removed = used - {"IBuilderConfig.set_flag", "BuilderFlag", "NetworkDefinitionCreationFlag"}
    assert missing(used, "10.3.0", libraries) == set()
    assert missing(used, "11.4.0.106", libraries) == removed
    assert len(removed) == 6
