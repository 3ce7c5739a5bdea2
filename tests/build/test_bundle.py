"""A bundle: whole or not there, named by its content, never changed, checked to the last byte."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.build.bundle import (
    Contents,
    bundle_id,
    check_target,
    manifest_toml,
    verify_bundle,
    with_digests,
    write_bundle,
)
from edge_runtime.errors import ConfigError, OutputError
from edge_runtime.infer.model import Artifact, Manifest, load_model

ROOT = Path(__file__).parents[2]


def contents(note: bytes = b"a note", name: str = "mine") -> Contents:
    graphs: Any = {"fp32": Artifact(file="model.onnx"), "int8": Artifact(file="model.int8.cpu.onnx")}
    manifest = Manifest(name=name, artifacts=graphs, tensorrt={"fp16": Artifact(file="model.fp16.onnx")})
    files: dict[str, bytes | Path] = {
        "model.onnx": b"fp32 " * 999,
        "model.int8.cpu.onnx": b"int8",
        "model.fp16.onnx": b"fp16",
        "CARD.md": note,
        "gate/frames/gate_000.png": b"\x89PNG",
    }
    return Contents(manifest, files)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_names_every_file_by_its_digest_and_is_read_only(tmp_path: Path) -> None:
    model = write_bundle(tmp_path / "bundle", contents())
    verify_bundle(model)
    files = everything(model.home)
    named = {graph.file: graph.sha256 for graph in model.manifest.artifacts.values()}
    named |= {graph.file: graph.sha256 for graph in model.manifest.tensorrt.values()}
    named |= dict(model.manifest.files)
    text = files.pop("model.toml")
    assert named == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert bundle_id(model) == hashlib.sha256(text).hexdigest()[:12]
    modes = {path.stat().st_mode & 0o777 for path in model.home.rglob("*") if path.is_file()}
    assert modes == {0o444}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert model.home.stat().st_mode & 0o777 == 0o755


def test_the_same_content_has_the_same_id_wherever_it_lies_and_another_byte_another(tmp_path: Path) -> None:
    ids = [
        bundle_id(write_bundle(tmp_path / name, contents(note)))
        for name, note in (("a", b"x"), ("b", b"x"), ("c", b"y"))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_file_may_be_given_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.onnx").write_bytes(b"graph")
    made = Contents(Manifest(name="mine"), {"model.onnx": tmp_path / "elsewhere.onnx"})
    assert write_bundle(tmp_path / "bundle", made).artifact("fp32")[0].read_bytes() == b"graph"
    gone = Contents(Manifest(name="mine"), {"model.onnx": tmp_path / "gone.onnx"})
    with pytest.raises(ConfigError, match=r"gone\.onnx: cannot be read"):
        write_bundle(tmp_path / "other", gone)
    assert not (tmp_path / "other").exists()


def test_what_is_already_there_is_left_as_it_is_and_nothing_else_is_taken_for_it(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    first = write_bundle(out, contents())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert write_bundle(out, contents()) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ConfigError, match="holds another bundle"):
        write_bundle(out, contents(b"another note"))
    (out / "CARD.md").unlink()
    with pytest.raises(ConfigError, match=r"CARD\.md: cannot be read"):
        write_bundle(out, contents())


def test_an_empty_folder_is_taken_and_any_other_place_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "bare")
    check_target(tmp_path / "empty")
    verify_bundle(write_bundle(tmp_path / "empty", contents()))
    for name, told in (
        ("full", "other things"),
        ("file", "is a file"),
        ("dangling", "is a file"),
        ("link", "is a link"),
        ("no/folder", "there is no folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            check_target(tmp_path / name)
        with pytest.raises(ConfigError, match=told):
            write_bundle(tmp_path / name, contents())
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "full", "file", "dangling", "bare", "link"}


def test_who_comes_second_to_the_same_place_finds_the_bundle_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, others = tmp_path / "out", [contents()]
    rename = Path.rename

    def beaten(part: Path, target: Path) -> Path:
        """Another process is there first, between the look and the rename."""
        monkeypatch.undo()
        write_bundle(out, others.pop())
        return rename(part, target)

    monkeypatch.setattr(Path, "rename", beaten)
    verify_bundle(write_bundle(out, contents()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "name", ["../up.txt", "/etc/passwd", "a/../b", "./a", "a//b", "", ".", "model.toml", "a/", "a\0b"]
)
def test_a_path_that_leaves_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    made = contents()
    with pytest.raises(ConfigError, match="not a path of a file"):
        write_bundle(tmp_path / "bundle", Contents(made.manifest, {**made.files, name: b"x"}))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_not_among_the_files_is_refused(tmp_path: Path) -> None:
    made = contents()
    files = {name: content for name, content in made.files.items() if name != "model.fp16.onnx"}
    with pytest.raises(ConfigError, match=r"model\.fp16\.onnx is named and not among the files"):
        write_bundle(tmp_path / "bundle", Contents(made.manifest, files))


# ---------------------------------------------------------------- checking


@pytest.mark.parametrize("name", sorted(contents().files))
def test_one_changed_byte_anywhere_is_found(tmp_path: Path, name: str) -> None:
    model = write_bundle(tmp_path / "bundle", contents())
    path = model.home / name
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match="sha256") as caught:
        verify_bundle(model)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def put_file(home: Path) -> None:
    (home / "gate" / "more.json").write_text("{}")


def put_link(home: Path) -> None:
    (home / "more").symlink_to("/etc")


@pytest.mark.parametrize("put", [put_file, put_link])
def test_what_nobody_named_is_found(tmp_path: Path, put: Callable[[Path], None]) -> None:
    model = write_bundle(tmp_path / "bundle", contents())
    (model.home / ".directory").write_text("a file manager's")
    verify_bundle(model)
    put(model.home)
    with pytest.raises(ConfigError, match=r"more.*: is not a file that model\.toml names"):
        verify_bundle(model)


def test_a_graph_without_a_digest_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.toml").write_text('name = "mine"\n')
    with pytest.raises(ConfigError, match="without a sha256"):
        verify_bundle(load_model(str(tmp_path)))


# ---------------------------------------------------------------- kills and full disks

WRITER = """
import sys
from pathlib import Path
from edge_runtime.build.bundle import Contents, write_bundle
from edge_runtime.infer.model import Manifest
files = {"model.onnx": b"fp32", **{f"part/{k:03d}": bytes([k % 256]) * 4096 for k in range(300)}}
print("ready", flush=True)
write_bundle(Path(sys.argv[1]), Contents(Manifest(name="mine"), files))
"""


def test_a_kill_in_the_middle_leaves_nothing_or_all_under_the_name(tmp_path: Path) -> None:
    caught_in_the_middle = 0
    for attempt in range(12):
        out = tmp_path / f"bundle{attempt}"
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, out], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.002 * attempt)
            writer.send_signal(signal.SIGKILL)
        if out.exists():
            verify_bundle(load_model(str(out)))
        else:
            caught_in_the_middle += any(tmp_path.glob(f".bundle{attempt}.*.part"))
            assert bundle_id(write_bundle(out, contents()))  # and the next one is not in its way
    assert caught_in_the_middle


@contextmanager
def small_files() -> Iterator[None]:
    """The kernel refuses to let any file grow beyond 2 KB, as a full disk would: the test's own report too, so be brief."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    made = contents()
    with pytest.raises(OutputError, match="bundle: cannot be written") as caught, small_files():
        write_bundle(tmp_path / "bundle", made)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "told"), [("size=16k", "No space left"), ("ro", "Read-only")])
def test_a_full_or_a_read_only_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, options: str, told: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True)
    if done.returncode != 0:
        pytest.skip("may not mount a small tmpfs here")
    try:
        made = contents(note=os.urandom(40_000))
        with pytest.raises(OutputError, match=told) as caught:
            write_bundle(disk / "bundle", made)
        assert "\n" not in str(caught.value)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# ---------------------------------------------------------------- model.toml

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NUMBER = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
ARTIFACT = st.fixed_dictionaries(
    {"file": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True)},
    optional={"sha256": DIGEST},
)
TOLERANCE = st.fixed_dictionaries(
    {"mean": NUMBER, "p99": NUMBER, "max": NUMBER}, optional={"relative": st.booleans()}
)
BAND = st.fixed_dictionaries({"up_to": NUMBER}, optional={"absolute": NUMBER, "relative": NUMBER})
HALF_WIDTH = st.fixed_dictionaries(
    {}, optional={"absolute": NUMBER, "relative": NUMBER, "bands": st.lists(BAND, max_size=3)}
)
TEXTS = st.lists(TEXT, max_size=3)
MANIFEST = st.fixed_dictionaries(
    {"name": st.from_regex("[a-z0-9_-]{1,9}", fullmatch=True)},
    optional={
        "version": TEXT,
        "anatomy": TEXT,
        "modality": TEXTS,
        "body_part": st.lists(st.sampled_from(["CHEST", "THORAX"]), max_size=2),
        "view": TEXT,
        "artifacts": st.dictionaries(st.sampled_from(["fp32", "bf16", "fp16", "int8"]), ARTIFACT),
        "tensorrt": st.dictionaries(st.sampled_from(["fp16", "int8"]), ARTIFACT),
        "input": st.fixed_dictionaries(
            {},
            optional={
                "name": TEXT,
                "grid_hw": st.tuples(st.integers(1, 999), st.integers(1, 999)),
                "scale": st.floats(1e-12, 1e6),
                "mean": st.lists(NUMBER, max_size=3),
            },
        ),
        "output": st.fixed_dictionaries(
            {},
            optional={
                "mask": TEXT,
                "labels": TEXTS,
                "presence": TEXT,
                "rotation": TEXT,
                "outline": st.sampled_from(["mask", "ellipse"]),
            },
        ),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "spacing_mm": st.tuples(NUMBER, NUMBER),
                "min_size_px": st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
                "max_aspect": st.floats(1, 99),
                "min_upright": st.floats(0, 1),
            },
        ),
        "interval": st.fixed_dictionaries(
            {}, optional={"coverage": NUMBER, "half_width": st.dictionaries(TEXT, HALF_WIDTH)}
        ),
        "gate": st.fixed_dictionaries(
            {},
            optional={
                "min_frames": st.integers(8, 2**40),
                "min_agreement": NUMBER,
                "measurement": st.dictionaries(TEXT, TOLERANCE, max_size=3),
            },
        ),
        "calibration": st.fixed_dictionaries({}, optional={"keep_fp16": TEXTS}),
        "files": st.dictionaries(TEXT, DIGEST, max_size=3),
    },
)


@settings(max_examples=200, deadline=None)
@given(MANIFEST)
def test_a_manifest_that_was_written_is_read_as_it_was(said: dict[str, Any]) -> None:
    manifest = msgspec.convert(said, Manifest, strict=False)
    assert msgspec.toml.decode(manifest_toml(manifest).encode(), type=Manifest) == manifest


def test_the_shipped_manifest_keeps_its_meaning_and_spells_out_its_defaults() -> None:
    manifest = load_model("fetal_head").manifest
    text = manifest_toml(manifest)
    assert msgspec.toml.decode(text.encode(), type=Manifest) == manifest
    assert f"min_agreement = {manifest.gate.min_agreement}" in text  # though model.toml may not say it
    assert text.startswith('name = "fetal_head"\nversion = ')
    assert "\n[artifacts.fp32]\nfile = " in text


def test_digests_that_were_wrong_are_replaced_by_those_of_the_files() -> None:
    manifest = Manifest(name="mine", artifacts={"fp32": Artifact(file="model.onnx", sha256="0" * 64)})
    named = with_digests(manifest, {"model.onnx": b"graph", "z": b"1", "a": b"2"})
    assert named.artifacts["fp32"].sha256 == hashlib.sha256(b"graph").hexdigest()
    assert list(named.files) == ["a", "z"]
