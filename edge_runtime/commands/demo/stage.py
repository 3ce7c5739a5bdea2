"""The demo's folder: what is in it, how it is made anew, and which real images are at hand."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edge_runtime.commands.evaluate import published_hc_mm
from edge_runtime.commands.models import models
from edge_runtime.errors import ConfigError
from edge_runtime.frames.meta_csv import MetaTable
from edge_runtime.infer.model import load_model

MARKER = ".edge-runtime-demo"
HEADS = 12
COLUMNS = ("file", "subject", "hc_mm")  # of a meta.csv that the demo can use
CAPTURES = """\
# The demo captures several times a second, so that there is much to lose when a process is killed.
[capture]
hold_s = 0.2
gap_s = 0.25
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Absolute paths of one demo. `state`, `work` and `cloud.db` belong to it alone and are made anew each time."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def database(self) -> Path:
        return self.folder / "cloud.db"

    @property
    def config(self) -> Path:
        return self.work / "demo.toml"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.html"

    @property
    def findings(self) -> Path:
        return self.folder / "findings.jsonl"

    @property
    def overlay(self) -> Path:
        return self.folder / "overlay.png"

    @property
    def phantoms(self) -> Path:
        return self.folder / "phantoms.png"

    @property
    def measurement(self) -> Path:
        return self.folder / "measurement.png"


def set_up(out: Path) -> Stage:
    """The folder, emptied of an earlier demo's files and of nothing else.

    Raises ConfigError, and writes nothing, for one that holds anything and that no demo made.
    """
    stage = Stage(out.resolve())
    results = (stage.summary, stage.findings, stage.overlay, stage.phantoms, stage.measurement)
    cloud = [stage.folder / f"cloud.db{end}" for end in ("", "-wal", "-shm")]
    mine = stage.folder / MARKER
    try:
        stage.folder.mkdir(parents=True, exist_ok=True)
        if not mine.exists() and any(stage.folder.iterdir()):
            raise ConfigError(f"--out {out}: holds files and no demo made it; name a new or an empty folder")
        mine.write_text(
            "state/, work/ and cloud.db in this folder are made anew by each edge-runtime demo.\n"
        )
        for folder in (stage.state, stage.work):
            if folder.exists():
                shutil.rmtree(folder)
        for file in (*cloud, *results):
            file.unlink(missing_ok=True)
        stage.work.mkdir()
        stage.config.write_text(CAPTURES)
    except OSError as exc:
        raise ConfigError(f"--out {out}: cannot be written ({exc.strerror}); name another folder") from exc
    return stage


def claim(out: Path) -> AbstractContextManager[object]:
    """Held while a demo is in the folder, and given back however its process ends: another one would make it anew
    under its hands. Raises ConfigError where one is at it; what no demo made is `set_up`'s to refuse.
    """
    if out.exists() and not (out / MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
        return nullcontext()
    try:
        out.mkdir(parents=True, exist_ok=True)
        marker = (out / MARKER).open("a")
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            marker.close()
            raise
    except BlockingIOError as exc:
        raise ConfigError(
            f"--out {out}: another demo runs in this folder; wait for it, or name another"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"--out {out}: cannot be written ({exc.strerror}); name another folder") from exc
    return marker


def write(path: Path, body: bytes) -> None:
    """Writes a file of the demo whole or not at all. Raises ConfigError."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(body)
        part.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written ({exc.strerror}); free some space") from exc


def installed() -> dict[str, str]:
    """Anatomy -> name of the model that came with this installation. Raises ConfigError for a damaged one."""
    return {model.anatomy: model.name for model in models()}


def echo_cine() -> Path | None:
    """The heart that ships inside the pydicom wheel; found without importing or downloading anything."""
    spec = find_spec("pydicom")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.rglob("examples_ybr_color.dcm"), None)


def find_data(named: Path | None) -> Path | None:
    """The folder with real fetal heads: the one named, else `EDGE_RUNTIME_DATA`, else `data` in the working
    directory, else `shared/data` beside the project. One that was told is the only place that is looked at.

    Raises ConfigError for one that was named and has none.
    """
    if named is not None and not _has_heads(named):
        raise ConfigError(
            f"--data {named}: no fetal_head/ with images/ and a meta.csv ({', '.join(COLUMNS)}) in it; leave --data out or name another"
        )
    beside = [Path("data"), Path("../shared/data"), Path(__file__).resolve().parents[4] / "shared" / "data"]
    told = os.environ.get("EDGE_RUNTIME_DATA")
    places = [named] if named else [Path(told)] if told else beside
    return next((place.resolve() for place in places if _has_heads(place)), None)


def _has_heads(data: Path) -> bool:
    table = data / "fetal_head" / "meta.csv"
    if not table.is_file() or not (data / "fetal_head" / "images").is_dir():
        return False
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return set(COLUMNS) <= set(next(csv.reader(file), []))


@dataclass(frozen=True, slots=True)
class Heads:
    """A few real heads in a folder of their own, with the published circumference of each by file name."""

    folder: Path
    true_mm: dict[str, float]
    held_out: bool


def choose_heads(data: Path, work: Path) -> Heads | None:
    """One image each of `HEADS` exams, from the smallest head to the largest in even steps: nobody picks.

    Raises ConfigError for a table that is damaged.
    """
    images, table = data / "fetal_head" / "images", data / "fetal_head" / "meta.csv"
    listed = MetaTable.read(table).rows.items()
    rows = [
        {**row, "hc_mm": str(published_hc_mm(row, name))}
        for name, row in listed
        if row.get("hc_mm") and row.get("subject") and Path(name).name == name and (images / name).is_file()
    ]
    kept = load_model("fetal_head").home / "test_subjects.txt"
    held_out = kept.is_file()
    if held_out:
        subjects = set(kept.read_text().split())
        rows = [row for row in rows if row["subject"] in subjects]
    rows = list({row["subject"]: row for row in rows}.values())
    rows.sort(key=lambda row: float(row["hc_mm"]))
    if not rows:
        return None
    steps = min(HEADS, len(rows))
    rows = [rows[(2 * at + 1) * len(rows) // (2 * steps)] for at in range(steps)]
    folder = work / "heads"
    folder.mkdir()
    for row in rows:
        shutil.copyfile(images / row["file"], folder / row["file"])
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return Heads(folder, {row["file"]: float(row["hc_mm"]) for row in rows}, held_out)
