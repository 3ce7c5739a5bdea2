"""Folders of images: sorted, measured by their table, and a text file does not end the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.codes import Reason, SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import open_source
from edge_runtime.types import MAX_COLOURED, BadFrame, Frame, Spacing
from tests.frames.dicom_files import ramp
from tests.real import DATA, needs_data


def save(path: Path, pixels: NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ramp() if pixels is None else pixels).save(path)
    return path


def read(path: Path, **options: Any) -> list[Frame | BadFrame]:
    with open_source(f"folder:{path}", **options) as source:
        return list(source.frames())


def only(path: Path, **options: Any) -> Frame:
    (frame,) = read(path, **options)
    assert isinstance(frame, Frame), frame
    return frame


def bad(path: Path) -> BadFrame:
    (frame,) = read(path)
    assert isinstance(frame, BadFrame)
    assert "\n" not in str(frame.error)
    return frame


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "jpg"])
def test_each_kind_of_image_is_read(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(ramp())
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    frame = only(tmp_path)
    off = np.abs(frame.pixels.astype(int) - ramp())
    assert off.max() <= (60 if suffix == "jpg" else 1) and off.mean() < 4


def test_files_come_in_order_of_name_with_spacing_and_subject_of_the_table(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "meta.csv").write_text(
        "file,subject,spacing_x_mm,spacing_y_mm\na.png,s1,0.2,0.3\nb.png,,,\nc.png,s2,0,0\n"
    )
    a, b, c = read(tmp_path)
    assert isinstance(a, Frame) and isinstance(b, Frame) and isinstance(c, Frame)
    assert (a.spacing, a.spacing_reason, a.origin.subject) == (
        Spacing(0.3, 0.2, SpacingSource.META_CSV),
        None,
        "s1",
    )
    assert (b.spacing, b.spacing_reason, b.origin.subject) == (None, Reason.SPACING_MISSING, None)
    assert (c.spacing, c.spacing_reason, c.origin.subject) == (None, Reason.SPACING_ZERO, "s2")


@pytest.mark.parametrize("value", ["-0.1", "0_1.5", "nan", "inf", "abc", "100", "1e-9"])
def test_an_absurd_spacing_in_the_table_is_no_spacing(tmp_path: Path, value: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "meta.csv").write_text(f"file,spacing_x_mm,spacing_y_mm\na.png,{value},{value}\n")
    frame = only(tmp_path)
    assert frame.spacing is None and frame.spacing_reason is Reason.SPACING_IMPLAUSIBLE


@pytest.mark.parametrize("named", ["images", "."])
def test_images_may_lie_in_images_with_the_table_beside_it(tmp_path: Path, named: str) -> None:
    save(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png")
    (tmp_path / "meta.csv").write_text("file,subject,spacing_x_mm,spacing_y_mm\na.png,7,0.1,0.1\n")
    frame = only(tmp_path / named)
    assert frame.origin.subject == "7" and frame.spacing is not None


def test_folders_of_folders_are_read_by_their_paths(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "w" / "deep" / "a.png")
    save(tmp_path / "masks" / "a.png")
    (tmp_path / "meta.csv").write_text("file,subject\nx/a.png,one\nw/deep/a.png,two\n")
    assert [(f.origin.name, f.origin.subject) for f in read(tmp_path)] == [
        ("w/deep/a.png", "two"),
        ("x/a.png", "one"),
    ]


def test_one_folder_of_several_finds_its_rows_in_the_table_above(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png")
    (tmp_path / "meta.csv").write_text("file,subject\nx/a.png,one\ny/a.png,two\n")
    assert only(tmp_path / "y").origin.subject == "two"


def test_a_row_is_never_taken_for_a_file_of_the_same_name_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png")
    (tmp_path / "meta.csv").write_text("file,spacing_x_mm,spacing_y_mm\na.png,0.1,0.1\n")
    assert only(tmp_path).spacing is None


def test_a_bare_name_in_the_table_above_is_another_folders_file(tmp_path: Path) -> None:
    save(tmp_path / "001.png")
    save(tmp_path / "exam1" / "001.png")
    (tmp_path / "meta.csv").write_text("file,subject,spacing_x_mm,spacing_y_mm\n001.png,one,0.3,0.3\n")
    assert only(tmp_path).spacing is not None
    inner = only(tmp_path / "exam1")
    assert (inner.spacing, inner.origin.subject) == (None, None)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file,spacing_x_mm\na.png,0.1\na.png,0.2\n", "file `a.png` is there twice"),
        ("file,spacing_x_mm,spacing_x_mm\na.png,0.1,0.2\n", "column `spacing_x_mm` is there twice"),
        ("a.png,0.15,Doe 1970-01-01\n", r"the first row has none \(3 columns, parted by commas\)"),
    ],
)
def test_a_table_that_says_something_twice_or_has_no_header_is_refused(
    tmp_path: Path, table: str, words: str
) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "meta.csv").write_text(table)
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path)
    assert "Doe" not in str(caught.value)


def test_a_row_that_is_there_twice_with_the_same_values_is_one_row(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "meta.csv").write_text("file,subject\na.png,1\na.png,1\n")
    assert only(tmp_path).origin.subject == "1"


def test_one_image_is_taken_with_its_row_of_the_table(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    (tmp_path / "meta.csv").write_text("file,subject\na.png,1\nb.png,2\n")
    frame = only(tmp_path / "b.png")
    assert (frame.origin.name, frame.origin.subject) == ("b.png", "2")


def test_links_that_lead_back_neither_hang_nor_repeat(tmp_path: Path) -> None:
    save(tmp_path / "sub" / "x.png")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "c").symlink_to("sub")
    (tmp_path / "sub" / "up").symlink_to("..")
    assert [frame.origin.name for frame in read(tmp_path)] == ["sub/x.png"]


def test_a_name_that_cannot_be_printed_is_escaped(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"new\nline.png", "Größe ☃.png".encode()):
        save(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    (tmp_path / os.fsdecode(b"\xe9.txt")).write_text("not an image")
    frames = read(tmp_path)
    names = {frame.origin.name for frame in frames}
    assert names == {"caf\\udce9.png", "new\\nline.png", "Größe ☃.png", "\\udce9.txt"}
    for frame in frames:
        assert isinstance(frame, Frame) or str(frame.error).encode() == b"\\udce9.txt: not an image"


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_file_of_several_images_is_not_taken_for_its_first(tmp_path: Path, suffix: str) -> None:
    stills = [Image.fromarray(np.roll(ramp(), 9 * k, axis=1)) for k in range(3)]
    stills[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=stills[1:])
    assert "3 images in one file" in str(bad(tmp_path).error)


def test_a_folder_takes_no_more_colour_than_the_quality_check_does(tmp_path: Path) -> None:
    tinted = np.repeat(ramp(100, 100)[..., None], 3, axis=2)
    tinted[:16, :16] = (255, 0, 0)  # 2.6 %
    save(tmp_path / "a.png", tinted)
    assert bad(tmp_path).error.reason is Reason.COLOUR_IMAGE


def test_an_eps_named_png_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("ghostscript was asked for")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    Image.fromarray(ramp()).save(tmp_path / "a.png", "EPS")
    assert str(bad(tmp_path).error) == "a.png: not an image"


def test_a_text_file_is_a_frame_that_could_not_be_had(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("not an image")
    (tmp_path / ".hidden").write_text("")
    save(tmp_path / "c.png")
    kinds = [type(frame) for frame in read(tmp_path)]
    assert kinds == [Frame, BadFrame, Frame]
    second = read(tmp_path)[1]
    assert isinstance(second, BadFrame)
    assert str(second.error) == "b.txt: not an image" and second.error.reason is Reason.FRAME_UNREADABLE


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_off_image_is_a_bad_frame(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"a.{suffix}", np.random.default_rng(1).integers(0, 255, (90, 90), np.uint8))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert bad(tmp_path).error.reason is Reason.FRAME_UNREADABLE


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 1), Reason.IMAGE_TOO_SMALL),
        ((20, 400), Reason.IMAGE_TOO_SMALL),
        ((7000, 7000), Reason.IMAGE_TOO_LARGE),
        ((10_000, 10_000), Reason.IMAGE_TOO_LARGE),
        ((14_000, 14_000), Reason.IMAGE_TOO_LARGE),
    ],
)
def test_an_absurd_size_is_refused_by_its_header(
    tmp_path: Path, size: tuple[int, int], reason: Reason
) -> None:
    Image.new("1", size[::-1]).save(tmp_path / "a.png")
    assert bad(tmp_path).error.reason is reason


def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path: Path) -> None:
    save(tmp_path / "a.png", ramp().astype(np.uint16) * 257)
    np.testing.assert_array_equal(only(tmp_path).pixels, ramp())


def test_colour_is_refused_and_grey_in_rgb_is_not(tmp_path: Path) -> None:
    grey = np.repeat(ramp(100, 100)[..., None], 3, axis=2)
    logo = grey.copy()
    logo[:10, :10] = (0, 0, 255)
    doppler = grey.copy()
    doppler[20:60, 20:60] = (255, 60, 0)
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", logo)
    save(tmp_path / "c.png", doppler)
    a, b, c = read(tmp_path)
    assert isinstance(a, Frame) and a.coloured == 0
    np.testing.assert_array_equal(a.pixels, ramp(100, 100))
    assert isinstance(b, Frame) and 0 < b.coloured < MAX_COLOURED
    assert isinstance(c, BadFrame) and c.error.reason is Reason.COLOUR_IMAGE and "16 %" in str(c.error)


@pytest.mark.parametrize("table", ["a.png,0.1,0.1\nb.png,0.1,0.1\n", ""])
def test_an_operators_spacing_comes_first_and_what_is_said_where_the_size_changes(
    tmp_path: Path, table: str
) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", ramp(50, 50))
    (tmp_path / "meta.csv").write_text(f"file,spacing_x_mm,spacing_y_mm\n{table}")
    a, b = read(tmp_path, spacing_mm=Spacing(0.2, 0.2, SpacingSource.OPERATOR), force_spacing=True)
    assert isinstance(a, Frame) and a.spacing_reason is Reason.SPACING_OPERATOR
    assert isinstance(b, Frame) and b.spacing_reason is Reason.SPACING_GEOMETRY_CHANGED
    assert (b.spacing is not None and b.spacing.source is SpacingSource.META_CSV) == bool(table)


def test_an_operators_spacing_that_cannot_be_or_contradicts_the_table_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "meta.csv").write_text("file,spacing_x_mm,spacing_y_mm\nb.png,0.1,0.1\n")
    for row_mm, col_mm, words in ((0.1, 0.9, "not plausible"), (0.103, 0.103, "b.png: .* contradicts")):
        with pytest.raises(ConfigError, match=words):
            open_source(f"folder:{tmp_path}", spacing_mm=Spacing(row_mm, col_mm, SpacingSource.OPERATOR))
    near = read(tmp_path, spacing_mm=Spacing(0.101, 0.101, SpacingSource.OPERATOR))
    assert all(isinstance(f, Frame) and f.spacing_reason is Reason.SPACING_OPERATOR for f in near)


def test_each_unusable_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").mkdir()
    (tmp_path / "table").mkdir()
    save(tmp_path / "table" / "a.png")
    (tmp_path / "table" / "meta.csv").write_text("name,subject\na.png,1\n")
    for place, words in (
        ("none", "no such folder"),
        ("file.txt", "no image; want"),
        ("fifo", "neither a folder nor a file"),
        ("empty", "no image"),
        ("table", "want a column `file`"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            read(tmp_path / place)
        assert "\n" not in str(caught.value)


@needs_data
@pytest.mark.parametrize(("name", "count"), [("fetal_head", 760), ("foreign", 116), ("lungs", 110)])
def test_a_real_folder_is_read_whole(name: str, count: int) -> None:
    with open_source(f"folder:{DATA / name}", limit=40) as source:
        frames = list(source.frames())
    with open_source(f"folder:{DATA / name}") as source:
        assert source.length == count
    assert len(frames) == 40 and all(isinstance(frame, Frame) for frame in frames)
    if name != "foreign":
        assert all(isinstance(frame, Frame) and frame.spacing for frame in frames)
    if name == "fetal_head":
        assert all(frame.origin.subject for frame in frames)
