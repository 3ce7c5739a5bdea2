"""DICOM: the right picture from every kind of pixel data, and one clear line for what is broken."""

from __future__ import annotations

import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from edge_runtime.codes import Reason, SpacingSource
from edge_runtime.errors import ConfigError, SourceLostError
from edge_runtime.frames.dicom_pixels import window_level
from edge_runtime.frames.source import open_source
from edge_runtime.types import BadFrame, Box, Frame, Spacing
from tests.frames.dicom_files import dataset, jpeg, jpeg_cine, pack_jpeg2000, ramp, region, write
from tests.real import DATA, needs_data

DICOM = DATA / "dicom"


def read(path: Path, **options: Any) -> list[Frame | BadFrame]:
    with open_source(f"dicom:{path}", **options) as source:
        return list(source.frames())


def only(path: Path, **options: Any) -> Frame:
    frames = read(path, **options)
    assert len(frames) == 1 and isinstance(frames[0], Frame), frames
    return frames[0]


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message and "SECRET" not in message
    return message


# ---------------------------------------------------------------- the right picture


def test_eight_bit_grey_comes_out_as_it_is(tmp_path: Path) -> None:
    frame = only(write(dataset(ramp()), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(frame.pixels, ramp())
    assert (frame.origin.modality, frame.origin.study_uid) == ("US", "1.2.3")
    assert (frame.coloured, frame.spacing, frame.spacing_reason) == (0.0, None, Reason.SPACING_MISSING)


def test_monochrome1_is_inverted_once_whatever_the_presentation_says(tmp_path: Path) -> None:
    for shape in (None, "INVERSE"):
        tags = {"PresentationLUTShape": shape} if shape else {}
        frame = only(write(dataset(ramp(), "MONOCHROME1", **tags), tmp_path / "a.dcm"))
        np.testing.assert_array_equal(frame.pixels, 255 - ramp())


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_a_window_over_modality_values_is_the_standards_formula(tmp_path: Path, bits: int) -> None:
    stored = (ramp().astype(np.uint16) * (2**bits - 1) // 255).astype(np.uint16)
    made = dataset(
        stored, BitsStored=bits, HighBit=bits - 1, RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU"
    )
    made.WindowCenter, made.WindowWidth = 2**bits - 1000, 2**bits
    frame = only(write(made, tmp_path / "a.dcm"))
    shown = apply_voi_lut(apply_modality_lut(stored, made), made)
    low, high = -1000, 2 * (2**bits - 1) - 1000
    expected = 255 * (shown - low) / (high - low)
    np.testing.assert_allclose(frame.pixels, expected, atol=0.51)


def test_signed_pixels_are_windowed_as_signed(tmp_path: Path) -> None:
    stored = ramp().astype(np.int16) * 16 - 2048
    frame = only(write(dataset(stored, WindowCenter=0, WindowWidth=4096), tmp_path / "a.dcm"))
    np.testing.assert_allclose(frame.pixels, (stored.astype(float) + 2048) * 255 / 4095, atol=0.6)


def test_a_voi_table_is_looked_up(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.LUTData = (np.arange(255, -1, -1, dtype="<u2") * 257).tobytes()
    item["LUTData"].VR = "OW"
    frame = only(write(dataset(ramp(), VOILUTSequence=[item]), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(frame.pixels, 255 - ramp())


def test_deep_pixels_without_a_window_use_the_range_of_the_first_frame(tmp_path: Path) -> None:
    stored = np.stack([ramp().astype(np.uint16) * 3 + 700, ramp().astype(np.uint16) * 0 + 900])
    first, second = read(write(dataset(stored), tmp_path / "a.dcm"))
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert first.pixels.min() == 0 and first.pixels.max() == 255
    assert np.unique(second.pixels).tolist() == [pytest.approx(255 * 200 / 765, abs=3)]


@pytest.mark.parametrize(("value", "grey"), [(-30.0, 0.0), (100.0, 0.5), (1000.0, 1.0)])
def test_the_three_window_functions_agree_on_the_middle_and_the_ends(value: float, grey: float) -> None:
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        level = np.clip(window_level(np.array([value]), 100, 60, function), 0, 1)
        assert level[0] == pytest.approx(grey, abs=0.01)


def test_a_window_that_the_standard_does_not_have_spoils_the_frame_not_the_run(tmp_path: Path) -> None:
    (bad,) = read(write(dataset(ramp(), WindowCenter=0, WindowWidth=0), tmp_path / "a.dcm"))
    assert isinstance(bad, BadFrame) and "window" in str(bad.error)


def test_a_palette_is_looked_up_and_its_colours_are_counted(tmp_path: Path) -> None:
    stored = np.zeros((40, 40), np.uint8)
    stored[:, 20:] = 1
    made = dataset(stored, "PALETTE COLOR")
    for name, values in (("Red", [50, 200]), ("Green", [50, 0]), ("Blue", [50, 0])):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", (np.array(values, "<u2") * 257).tobytes())
    frame = only(write(made, tmp_path / "a.dcm"))
    assert np.unique(frame.pixels).tolist() == [50, 60]  # 0.299 of 200
    assert frame.coloured == 0.5


def test_rgb_becomes_luma_and_its_colour_is_counted_in_the_region_only(tmp_path: Path) -> None:
    rgb = np.repeat(ramp(100, 100)[..., None], 3, axis=2)
    rgb[60:] = (255, 0, 0)
    made = dataset(rgb, "RGB")
    whole = only(write(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(whole.pixels[:60], ramp(100, 100)[:60])
    assert whole.coloured == pytest.approx(0.4)
    made.SequenceOfUltrasoundRegions = [region(99, 59)]
    inside = only(write(made, tmp_path / "b.dcm"))
    assert inside.coloured == 0.0 and inside.region == Box(0, 0, 100, 60)
    assert inside.spacing == Spacing(0.2, 0.2, SpacingSource.ULTRASOUND_REGION)


def test_ybr_full_becomes_the_luma_of_its_colours(tmp_path: Path) -> None:
    ybr = np.dstack([ramp(), np.full_like(ramp(), 128), np.full_like(ramp(), 128)])
    frame = only(write(dataset(ybr, "YBR_FULL"), tmp_path / "a.dcm"))
    np.testing.assert_allclose(frame.pixels.astype(int), ramp(), atol=1)
    assert frame.coloured == 0


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_lossless_codec_gives_the_uncompressed_picture(tmp_path: Path, syntax: Any, depth: Any) -> None:
    made = dataset(
        ramp().astype(depth) * (1 if depth is np.uint8 else 100), WindowCenter=120, WindowWidth=200
    )
    plain = only(write(made, tmp_path / "a.dcm"))
    if syntax == JPEG2000Lossless:
        pack_jpeg2000(made)
    else:
        made.compress(syntax, generate_instance_uid=False)
    packed = only(write(made, tmp_path / "b.dcm"))
    np.testing.assert_array_equal(packed.pixels, plain.pixels)


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_a_jpeg_cine_in_any_number_of_fragments_is_the_same_cine(
    tmp_path: Path, fragments: int, table: bool, colour: bool
) -> None:
    grey = np.stack([np.roll(ramp(96, 128), 7 * k, axis=1) for k in range(5)])
    frames = np.repeat(grey[..., None], 3, axis=3) if colour else grey
    shown = read(write(jpeg_cine(frames, fragments, table), tmp_path / "a.dcm"))
    assert len(shown) == 5
    for frame, still in zip(shown, frames, strict=True):
        assert isinstance(frame, Frame)
        expected = cv2.imdecode(np.frombuffer(jpeg(still), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 1.0


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_jpeg.dcm", "SC_rgb_rle_2frame.dcm", "SC_ybr_full_422_uncompressed.dcm", "ExplVR_BigEnd.dcm"],
)
def test_pydicoms_own_odd_files_look_as_pydicom_says(name: str) -> None:
    import pydicom

    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not path.exists():
        pytest.skip(f"this pydicom ships no {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom finds them odd, too
        stored = dcmread(path).pixel_array
    stored = stored if stored.ndim == 4 else stored[None]
    for frame, still in zip(read(path), stored, strict=True):
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(frame.pixels, cv2.cvtColor(still, cv2.COLOR_RGB2GRAY))


# ---------------------------------------------------------------- time, order, regions


def test_frame_times_come_from_the_vector_then_the_frame_time_then_the_rate(tmp_path: Path) -> None:
    cine = np.stack([ramp()] * 4)
    for tags, expected in (
        ({"FrameTimeVector": [0, 10, 20, 30], "FrameTime": 99}, [0, 0.01, 0.03, 0.06]),
        ({"FrameTime": 40}, [0, 0.04, 0.08, 0.12]),
        ({"RecommendedDisplayFrameRate": 50}, [0, 0.02, 0.04, 0.06]),
        ({"CineRate": 25}, [0, 0.04, 0.08, 0.12]),
        ({}, [0, 0, 0, 0]),
        ({"FrameTime": 0}, [0, 0, 0, 0]),
    ):
        path = write(dataset(cine, **tags), tmp_path / "a.dcm")
        with open_source(f"dicom:{path}") as source:
            assert [source.due_s(k) for k in range(4)] == pytest.approx(expected)
        with open_source(f"dicom:{path}", fps=10) as source:
            assert source.due_s(3) == pytest.approx(0.3)
        with open_source(f"dicom:{path}", fps=0) as source:
            assert source.due_s(3) == 0


def test_a_folder_is_read_by_study_series_and_instance(tmp_path: Path) -> None:
    for name, study, series, number in (
        ("a", "2", 1, 1),
        ("b", "1", 2, 1),
        ("c", "1", 1, 10),
        ("d", "1", 1, 9),
    ):
        made = dataset(ramp(), StudyInstanceUID=f"1.{study}", SeriesNumber=series, InstanceNumber=number)
        write(made, tmp_path / f"{name}.dcm")
    frames = read(tmp_path)
    assert [frame.origin.name[0] for frame in frames] == ["d", "c", "b", "a"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert len({frame.frame_id for frame in frames}) == 4


def test_a_broken_file_in_a_folder_does_not_end_the_run(tmp_path: Path) -> None:
    write(dataset(ramp(), InstanceNumber=1), tmp_path / "a.dcm")
    cut = write(dataset(np.stack([ramp()] * 3), InstanceNumber=2), tmp_path / "b.dcm")
    cut.write_bytes(cut.read_bytes()[: -ramp().size - 1])
    write(dataset(ramp(), InstanceNumber=3), tmp_path / "c.dcm")
    (tmp_path / "notes.txt").write_text("not an image")
    frames = read(tmp_path)
    good = [frame.origin.name for frame in frames if isinstance(frame, Frame)]
    bad = [str(frame.error) for frame in frames if isinstance(frame, BadFrame)]
    assert good == ["a.dcm", "b.dcm", "c.dcm"]
    assert len(bad) == 2 and "ends after frame 1 of 3" in bad[0] and "notes.txt: not a DICOM" in bad[1]


def test_a_folder_without_an_image_is_a_usage_error(tmp_path: Path) -> None:
    assert "no DICOM image" in refused(tmp_path)


def test_region_picks_one_of_several_and_a_wrong_number_is_refused(tmp_path: Path) -> None:
    both = [region(63, 23), region(63, 47, 0.03, RegionLocationMinY0=24)]
    path = write(dataset(ramp(), SequenceOfUltrasoundRegions=both), tmp_path / "a.dcm")
    assert only(path).spacing_reason is Reason.SPACING_SEVERAL_REGIONS
    picked = only(path, region=2)
    assert picked.spacing is not None and picked.spacing.row_mm == pytest.approx(0.3)
    assert picked.region == Box(0, 24, 64, 48)
    assert "--region 3: the file has 2" in refused(path, region=3)
    assert "counted from 1" in refused(path, region=0)


def test_an_operators_spacing_that_contradicts_the_file_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    path = write(dataset(ramp(), SequenceOfUltrasoundRegions=[region(63, 47)]), tmp_path / "a.dcm")
    wrong = Spacing(0.3, 0.3, SpacingSource.OPERATOR)
    assert "contradicts" in refused(path, spacing_mm=wrong)
    forced = only(path, spacing_mm=wrong, force_spacing=True)
    assert (forced.spacing, forced.spacing_reason) == (wrong, Reason.SPACING_OPERATOR)


def test_an_operators_spacing_is_gone_when_the_image_size_changes(tmp_path: Path) -> None:
    write(dataset(ramp(), InstanceNumber=1), tmp_path / "a.dcm")
    write(dataset(ramp(50, 70), InstanceNumber=2), tmp_path / "b.dcm")
    first, second = read(tmp_path, spacing_mm=Spacing(0.3, 0.3, SpacingSource.OPERATOR))
    assert isinstance(first, Frame) and first.spacing_reason is Reason.SPACING_OPERATOR
    assert isinstance(second, Frame) and second.spacing is None
    assert second.spacing_reason is Reason.SPACING_GEOMETRY_CHANGED


def test_a_bare_name_in_the_table_above_is_another_folders_file(tmp_path: Path) -> None:
    (tmp_path / "exam1").mkdir()
    write(dataset(ramp()), tmp_path / "exam1" / "a.dcm")
    for key, found in (("a.dcm", False), ("exam1/a.dcm", True)):
        (tmp_path / "meta.csv").write_text(f"file,spacing_x_mm,spacing_y_mm\n{key},0.3,0.3\n")
        assert (only(tmp_path / "exam1").spacing is not None) == found


# ---------------------------------------------------------------- what is broken


def test_a_name_that_cannot_be_printed_is_escaped_in_what_is_said(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xe9\n.dcm")).write_text("not an image")
    write(dataset(ramp()), tmp_path / "a.dcm")
    _, bad = read(tmp_path)
    assert isinstance(bad, BadFrame) and bad.origin.name == "\\udce9\\n.dcm"
    assert str(bad.error).startswith("\\udce9\\n.dcm: not a DICOM file")


def test_a_cine_that_is_cut_off_gives_the_frames_before_the_cut(tmp_path: Path) -> None:
    frames = np.stack([np.roll(ramp(96, 128), 9 * k, axis=1) for k in range(6)])
    native = write(dataset(frames), tmp_path / "native.dcm")
    native.write_bytes(native.read_bytes()[: -2 * frames[0].size - 10])
    files = {native: 3}
    for fragments in (1, 3):
        for table in (True, False):
            path = write(jpeg_cine(frames, fragments, table), tmp_path / f"{fragments}{table}.dcm")
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) - 2 * len(jpeg(frames[0]))])
            files[path] = 4
    for path, least in files.items():
        got = []
        with open_source(f"dicom:{path}") as source, pytest.raises(SourceLostError) as caught:
            for frame in source.frames():
                got.append(frame)
        assert len(got) in (least - 1, least) and all(isinstance(frame, Frame) for frame in got), path
        assert f"ends after frame {len(got)} of 6" in str(caught.value)


def test_one_damaged_frame_is_one_bad_frame(tmp_path: Path) -> None:
    frames = np.stack([ramp(96, 128)] * 3)
    path = write(jpeg_cine(frames), tmp_path / "a.dcm")
    raw = bytearray(path.read_bytes())
    second = raw.index(b"\xff\xd8", raw.index(b"\xff\xd8") + 2)
    raw[second : second + 40] = b"\0" * 40
    path.write_bytes(raw)
    kinds = [type(frame) for frame in read(path)]
    assert kinds == [Frame, BadFrame, Frame]


def test_each_unusable_file_is_refused_in_one_line_without_a_name(tmp_path: Path) -> None:
    good = dataset(ramp())
    assert "no such file" in refused(tmp_path / "none.dcm")
    (tmp_path / "text.dcm").write_text("hello")
    assert "not a DICOM file" in refused(tmp_path / "text.dcm")
    (tmp_path / "empty.dcm").write_bytes(b"")
    assert "not a DICOM file" in refused(tmp_path / "empty.dcm")
    whole = write(good, tmp_path / "cut.dcm").read_bytes()
    for cut in (140, 200, 300, whole.index(b"\xe0\x7f\x10\x00") + 3):
        (tmp_path / "cut.dcm").write_bytes(whole[:cut])
        refused(tmp_path / "cut.dcm")
    del good.PixelData
    assert "no pixel data" in refused(write(good, tmp_path / "nopixels.dcm"))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (10_000, 10_000), (48, 8)])
def test_an_absurd_size_is_refused_before_anything_is_decoded(
    tmp_path: Path, rows: int, columns: int
) -> None:
    made = dataset(ramp())
    made.Rows, made.Columns = rows, columns
    assert f"image {columns}x{rows} is" in refused(write(made, tmp_path / "a.dcm"))


# ---------------------------------------------------------------- one frame at a time


def test_a_cine_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    frames = np.zeros((40, 480, 640), np.uint8)
    frames[:] = ramp(480, 640)
    for made in (jpeg_cine(frames), dataset(frames)):
        path = write(made, tmp_path / "a.dcm")
        assert peak_mb(path, 40) < 4  # one frame is 0.3 MB, the cine 12 MB


def peak_mb(path: Path, expected: int) -> float:
    with open_source(f"dicom:{path}") as source:
        next(iter(source.frames()))  # imports and tables
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.frames()) == expected
            return tracemalloc.get_traced_memory()[1] / 1e6
        finally:
            tracemalloc.stop()


# ---------------------------------------------------------------- the real files

REAL = [
    # file, frames, size, spacing source, reason, region
    ("cr_chest_philips_j2k", 1, (1955, 1841), None, Reason.SPACING_ZERO, None),
    ("cr_chest_rsna", 1, (1024, 1024), "pixel_spacing_unknown", Reason.SPACING_CALIBRATION_UNKNOWN, None),
    ("cr_extremity_fuji_j2k", 1, (1760, 1760), None, Reason.SPACING_MISSING, None),
    ("dx_thorax_small", 1, (169, 211), "detector_plane", Reason.SPACING_AT_DETECTOR, None),
    ("us_acuson_65f", 65, (456, 576), "ultrasound_region", None, Box(27, 48, 549, 392)),
    ("us_aloka_palette", 1, (480, 640), None, Reason.SPACING_SEVERAL_REGIONS, None),
    ("us_ge_rgb", 1, (480, 640), None, Reason.SPACING_MISSING, None),
    ("us_philips_jpegls", 1, (768, 1024), None, Reason.SPACING_MISSING, None),
    ("us_sonosite_30f", 30, (240, 320), None, Reason.SPACING_REGION_OUTSIDE_IMAGE, None),
    ("xa_96f", 96, (512, 512), None, Reason.SPACING_MISSING, None),
]


@pytest.mark.parametrize(("name", "count", "size", "source", "reason", "box"), REAL)
@needs_data
def test_every_frame_of_a_real_file_is_a_picture_with_the_spacing_that_its_tags_deserve(
    name: str, count: int, size: tuple[int, int], source: str | None, reason: Reason, box: Box
) -> None:
    frames = read(DICOM / f"{name}.dcm")
    assert len(frames) == count
    for frame in frames:
        assert isinstance(frame, Frame) and frame.pixels.shape == size
        assert frame.pixels.std() > 15 and frame.pixels.max() > 180
        assert (frame.spacing.source.value if frame.spacing else None) == source
        assert (frame.spacing_reason, frame.region) == (reason, box)
    assert len({frame.frame_id for frame in frames}) == count


def picture(name: str) -> np.ndarray[Any, Any]:
    with open_source(f"dicom:{DICOM / name}.dcm", limit=1) as source:
        (frame,) = source.frames()
    assert isinstance(frame, Frame)
    return frame.pixels


@pytest.mark.parametrize("name", ["cr_chest_philips_j2k", "cr_chest_rsna"])
@needs_data
def test_lungs_are_darker_than_the_mediastinum_in_a_real_chest(name: str) -> None:
    pixels = picture(name)
    height, width = pixels.shape
    rows = slice(int(0.25 * height), int(0.5 * height))
    lung = pixels[rows, int(0.2 * width) : int(0.35 * width)].mean()
    spine = pixels[rows, int(0.47 * width) : int(0.53 * width)].mean()
    assert spine > lung + 25


@needs_data
def test_the_unitless_region_of_the_real_acuson_cine_is_refused_when_it_is_picked() -> None:
    with open_source(f"dicom:{DICOM}/us_acuson_65f.dcm", region=1, limit=1) as source:
        (frame,) = source.frames()
    assert isinstance(frame, Frame)
    assert frame.spacing is None and frame.spacing_reason is Reason.SPACING_REGION_WITHOUT_UNITS


@needs_data
def test_the_real_cine_of_51_mb_needs_less_than_a_quarter_of_that() -> None:
    assert peak_mb(DICOM / "us_acuson_65f.dcm", 65) < 12


@needs_data
def test_a_doppler_image_is_coloured_and_a_grey_one_in_rgb_is_not() -> None:
    with open_source(f"dicom:{DICOM}/us_ge_rgb.dcm") as source:
        (doppler,) = source.frames()
    with open_source(f"dicom:{DICOM}/us_sonosite_30f.dcm", limit=1) as source:
        (grey,) = source.frames()
    assert isinstance(doppler, Frame) and doppler.coloured > 0.04
    assert isinstance(grey, Frame) and grey.coloured < 0.005


@needs_data
def test_the_whole_folder_of_real_files_is_one_source() -> None:
    frames = read(DICOM)
    assert [frame.index for frame in frames] == list(range(198))
    assert not [frame for frame in frames if isinstance(frame, BadFrame)]


@needs_data
def test_no_tag_of_the_patient_is_in_what_a_frame_carries() -> None:
    for path in sorted(DICOM.glob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        secret = [str(header.get(tag) or "") for tag in ("PatientName", "PatientID", "PatientBirthDate")]
        with open_source(f"dicom:{path}", limit=1) as source:
            (frame,) = source.frames()
        said = f"{frame.origin} {frame.frame_id}"
        assert not [word for word in secret if len(word) > 3 and word in said]


@pytest.mark.parametrize("seed", range(4))
def test_no_damaged_byte_whatever_gives_more_than_one_clear_line(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cine = np.stack([np.roll(ramp(), k, axis=1) for k in range(2)])
    whole = write(
        (
            jpeg_cine(cine, 2, False, FrameTime=40, SequenceOfUltrasoundRegions=[region(63, 47)])
            if seed % 2
            else dataset(cine.astype(np.uint16), WindowCenter=99, WindowWidth=50, PixelSpacing=[0.1, 0.1])
        ),
        tmp_path / "a.dcm",
    ).read_bytes()
    for _ in range(60):
        damaged = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(132, min(len(whole), 1300), rng.integers(1, 5))
        damaged[where] = rng.choice([0, 255, 45, 57, rng.integers(256)], where.size)
        (tmp_path / "a.dcm").write_bytes(damaged.tobytes())
        try:
            with open_source(f"dicom:{tmp_path / 'a.dcm'}", limit=5) as source:
                said = [str(frame.error) for frame in source.frames() if isinstance(frame, BadFrame)]
        except (ConfigError, SourceLostError) as exc:
            said = [str(exc)]
        assert not [line for line in said if "\n" in line or "SECRET" in line]
