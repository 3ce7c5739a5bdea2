"""Video files: every frame, and a clear word when the file ends too early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.codes import Reason, SpacingSource
from edge_runtime.errors import ConfigError, SourceLostError
from edge_runtime.frames.source import open_source
from edge_runtime.types import Frame, Spacing
from tests.frames.dicom_files import ramp


def film(path: Path, code: str = "MJPG", frames: int = 12, colour: bool = False) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (160, 120))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {code}")
    noise = np.random.default_rng(1).integers(0, 60, (120, 160, 1), np.uint8)
    for index in range(frames):
        grey = np.roll(ramp(120, 160), 5 * index, axis=1)[..., None] // 2 + noise
        image = np.repeat(grey, 3, axis=2)
        if colour:
            image[:60] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_every_frame_comes_with_its_time(tmp_path: Path, name: str, code: str) -> None:
    with open_source(f"video:{film(tmp_path / name, code)}") as source:
        frames = list(source.frames())
        assert source.length == 12 == len(frames)
        assert source.due_s(5) == pytest.approx(0.2)
    for frame in frames:
        assert isinstance(frame, Frame) and frame.pixels.shape == (120, 160)
        assert frame.coloured == 0 and frame.spacing is None
        assert frame.spacing_reason is Reason.SPACING_MISSING
    assert len({frame.frame_id.split(".")[1] for frame in frames}) == 12


def test_colour_is_counted(tmp_path: Path) -> None:
    with open_source(f"video:{film(tmp_path / 'a.avi', colour=True)}", limit=1) as source:
        (frame,) = source.frames()
    assert isinstance(frame, Frame) and frame.coloured == pytest.approx(0.5, abs=0.05)


def test_the_operator_can_give_its_millimetres(tmp_path: Path) -> None:
    spacing = Spacing(0.2, 0.2, SpacingSource.OPERATOR)
    with open_source(f"video:{film(tmp_path / 'a.avi')}", limit=1, spacing_mm=spacing) as source:
        (frame,) = source.frames()
    assert isinstance(frame, Frame)
    assert (frame.spacing, frame.spacing_reason) == (spacing, Reason.SPACING_OPERATOR)


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_video_that_ends_mid_frame_keeps_the_frames_before(tmp_path: Path, share: float) -> None:
    path = film(tmp_path / "a.avi")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    got = []
    with open_source(f"video:{path}") as source, pytest.raises(SourceLostError) as caught:
        for frame in source.frames():
            got.append(frame)
    assert 0 < len(got) < 12 and all(isinstance(frame, Frame) for frame in got)
    assert str(caught.value) == f"a.avi: damaged or cut off, it ends after frame {len(got)} of 12"


def test_what_is_no_video_is_refused_in_one_line_and_the_decoder_says_nothing(tmp_path: Path) -> None:
    cut = film(tmp_path / "cut.mp4", "mp4v")
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "text.avi").write_text("hello" * 50)
    code = """
import sys
from edge_runtime.errors import ConfigError
from edge_runtime.frames.source import open_source
for place in sys.argv[1:]:
    try:
        list(open_source("video:" + place).frames())
    except ConfigError as exc:
        print(exc)
"""
    places = [str(tmp_path / name) for name in ("cut.mp4", "text.avi", "none.avi", ".")]
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", b"#EXTM3U\n#EXTINF:1,\nm.avi\n#EXT-X-ENDLIST\n\xe9\0"),
        ("a.txt", b"ffconcat version 1.0\nfile m.avi\n#\xe9\n"),
        ("a.mp4", b"Gr\xc3\xb6\xc3\x9fe\n" * 50),
        ("long.mp4", b"x" + 3000 * b"\xc3\xb6"),  # cut in the middle of a character
    ],
)
def test_text_is_no_video_whatever_its_letters(tmp_path: Path, name: str, text: bytes) -> None:
    film(tmp_path / "m.avi")
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match="is a text file"):
        open_source(f"video:{tmp_path / name}")


def test_a_dicom_file_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 500)
    with pytest.raises(ConfigError, match="use dicom:"):
        open_source(f"video:{tmp_path / 'a.dcm'}")


def test_a_tiny_video_is_refused(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (16, 16))
    writer.write(np.zeros((16, 16, 3), np.uint8))
    writer.release()
    with pytest.raises(ConfigError, match="16x16 is smaller"):
        open_source(f"video:{tmp_path / 'a.avi'}")
