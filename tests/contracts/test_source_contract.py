"""What every source promises, for each of them alike."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.clock import monotonic_ns
from edge_runtime.errors import ConfigError
from edge_runtime.frames.memory import MemorySource
from edge_runtime.frames.source import Source, open_source
from edge_runtime.types import BadFrame, Frame
from tests.frames.dicom_files import dataset, jpeg_cine, ramp, write

FRAMES = 8
Opener = Callable[[int | None], Source]


def pictures() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.stack([np.roll(ramp(96, 128), 5 * k, axis=1) for k in range(FRAMES)])


def uri(kind: str, place: Path) -> str:
    if kind == "phantom":
        return f"phantom:fetal_head?frames={FRAMES}&width=320&height=240"
    if kind == "dicom":
        return f"dicom:{write(dataset(pictures(), FrameTime=40), place / 'a.dcm')}"
    if kind == "dicom-jpeg":
        return f"dicom:{write(jpeg_cine(pictures(), 2, False, FrameTime=40), place / 'a.dcm')}"
    if kind == "dicom-folder":
        for index, still in enumerate(pictures()):
            write(dataset(still, InstanceNumber=index), place / f"{index}.dcm")
        return f"dicom:{place}"
    if kind == "video":
        writer = cv2.VideoWriter(str(place / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 96))
        for still in pictures():
            writer.write(np.repeat(still[..., None], 3, axis=2))
        writer.release()
        return f"video:{place / 'a.avi'}"
    for index, still in enumerate(pictures()):
        Image.fromarray(still).save(place / f"{index}.png")
    if kind == "folder-with-text":
        (place / "0.png").write_text("not an image")
    return f"folder:{place}"


KINDS = ["phantom", "dicom", "dicom-jpeg", "dicom-folder", "video", "folder", "folder-with-text", "memory"]


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "memory":
        return lambda limit: MemorySource(pictures(), frames=limit)
    named = uri(request.param, tmp_path)
    return lambda limit: open_source(named, limit=limit)


def test_frames_are_numbered_from_zero_without_a_gap(opener: Opener) -> None:
    with opener(None) as source:
        frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert source.length == FRAMES
    assert len({frame.frame_id for frame in frames}) == FRAMES
    assert all(frame.frame_id.startswith(f"{frame.index}.") for frame in frames)


def test_a_frame_is_a_valid_picture_read_just_now_or_says_why_not(opener: Opener) -> None:
    before = monotonic_ns()
    with opener(None) as source:
        for frame in source.frames():
            assert before <= frame.captured_ns <= monotonic_ns()
            before = frame.captured_ns
            assert frame.origin.kind is source.kind
            if isinstance(frame, Frame):
                assert frame.pixels.dtype == np.uint8 and frame.pixels.ndim == 2
                assert (frame.spacing is None) == (frame.spacing_reason is not None)
            else:
                assert isinstance(frame, BadFrame) and "\n" not in str(frame.error)


def test_the_same_source_opened_twice_gives_the_same_bytes_and_ids(opener: Opener) -> None:
    with opener(None) as first, opener(None) as second:
        for one, other in zip(first.frames(), second.frames(), strict=True):
            assert one.frame_id == other.frame_id
            if isinstance(one, Frame):
                assert isinstance(other, Frame)
                np.testing.assert_array_equal(one.pixels, other.pixels)


def test_reading_begins_anew_with_every_call(opener: Opener) -> None:
    with opener(None) as source:
        first = [frame.frame_id for frame in itertools.islice(source.frames(), 3)]
        assert [frame.frame_id for frame in itertools.islice(source.frames(), 3)] == first


def test_a_frame_that_was_handed_out_does_not_change(opener: Opener) -> None:
    with opener(None) as source:
        kept = [(frame, frame.pixels.copy()) for frame in source.frames() if isinstance(frame, Frame)]
        for frame, copy in kept:
            np.testing.assert_array_equal(frame.pixels, copy)


def test_the_limit_counts_frames(opener: Opener) -> None:
    with opener(3) as source:
        assert source.length == 3
        assert len(list(source.frames())) == 3
    with opener(100) as source:
        assert len(list(itertools.islice(source.frames(), FRAMES))) == FRAMES


def test_frames_are_due_in_order_from_zero(opener: Opener) -> None:
    with opener(None) as source:
        due = [source.due_s(index) for index in range(FRAMES)]
    assert due[0] == 0.0 and due == sorted(due)
    assert not source.live


def test_closing_twice_is_closing_once_and_ends_an_iterator_in_use(opener: Opener) -> None:
    source = opener(None)
    frames = source.frames()
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
def test_the_given_rate_paces_every_source(kind: str, tmp_path: Path) -> None:
    named = uri(kind, tmp_path)
    with open_source(named, fps=20) as source:
        assert source.due_s(4) == pytest.approx(0.2)
    with open_source(named, fps=0) as source:
        assert source.due_s(4) == 0


@pytest.mark.parametrize("kind", ["phantom", "dicom-folder", "folder"])
def test_nothing_is_read_before_it_is_asked_for(kind: str, tmp_path: Path) -> None:
    with open_source(uri(kind, tmp_path)) as source:
        frames = source.frames()
        next(frames)
        for path in list(tmp_path.iterdir())[2:]:
            path.unlink()  # what was not asked for yet was not read yet
        rest = list(frames)
    gone = [frame for frame in rest if isinstance(frame, BadFrame)]
    assert len(gone) >= (0 if kind == "phantom" else FRAMES - 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "foo:bar",
        "dicom:",
        "dicom:/no/such/file",
        "video:/no/such/file",
        "folder:/no/such/folder",
        "dicom:/dev/null",
        "video:/dev/null",
        "folder:/dev/null",
        f"dicom:/{'a' * 5000}",
        f"video:/{'a' * 5000}",
        f"folder:/{'a' * 5000}",
        "phantom:nothing",
        "phantom:fetal_head?hc_mm=9",
        "v4l2:/dev/video0",
        "rtsp://host/stream",
        "igtl://host:18944",
        "dicom-scp:11112",
    ],
)
def test_a_source_that_cannot_be_is_a_usage_error_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source(text)
    assert "\n" not in str(caught.value) and 15 < len(str(caught.value)) < 400


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that an ordinary user may enter; the test runs as one, because root may read everything."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield Path(place)
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("scheme", ["dicom", "video", "folder"])
def test_what_may_not_be_read_says_so_and_not_that_it_is_damaged(locked: Path, scheme: str) -> None:
    file, folder = locked / "a.png", locked / "folder"
    file.write_bytes(b"x")
    file.chmod(0)
    folder.mkdir(mode=0)
    said = []
    for place in (file, folder, folder / "a.png"):
        try:
            with open_source(f"{scheme}:{place}") as source:
                said += [str(frame.error) for frame in source.frames() if isinstance(frame, BadFrame)]
        except ConfigError as exc:
            said.append(str(exc))
    folder.chmod(0o700)
    assert len(said) == 3
    for line in said:
        assert "permission denied" in line or line == f"video:{folder}: is a folder"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for scheme in ("dicom", "video", "folder"):
        with pytest.raises(ConfigError, match="file"):
            open_source(f"{scheme}:{tmp_path / 'pipe'}")


@pytest.mark.parametrize("options", [{"fps": -1}, {"limit": 0}, {"region": 0}, {"region": 1}])
def test_an_option_that_cannot_be_followed_is_a_usage_error(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="--"):
        open_source("phantom:fetal_head", **options)


def test_what_is_not_built_yet_says_so() -> None:
    with pytest.raises(ConfigError, match="not in this version"):
        open_source("v4l2:/dev/video0")
