"""The moment ellipse against exact ellipses: unbiased on every grid, whatever the pixels' shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.measure.ellipse import Ellipse, border_contact, filled, moment_ellipse, outlined, overlap
from edge_runtime.types import Box, Outline
from tests.measure.drawn import ellipse_cells, geometry, mask_of, perimeter


def test_a_single_cell_has_its_own_second_moment():
    one = np.zeros((5, 7), bool)
    one[2, 3] = True
    found = moment_ellipse(one, (0.5, 0.5))
    assert found.center_xy == (3.0, 2.0)
    assert found.area == 0.25
    assert found.semi_major == pytest.approx(0.5 * 2 / math.sqrt(12))


def test_a_rectangle_of_cells_has_the_moments_of_the_rectangle():
    block = np.zeros((40, 40), bool)
    block[10:14, 5:25] = True  # 4 x 20 cells of 0.5 x 2 mm: 2 x 40 mm
    found = moment_ellipse(block, (0.5, 2.0))
    assert found.center_xy == (14.5, 11.5)
    assert found.semi_major == pytest.approx(2 * 40 / math.sqrt(12))
    assert found.semi_minor == pytest.approx(2 * 2 / math.sqrt(12))
    assert found.angle_rad == pytest.approx(0.0)


def test_an_empty_mask_has_no_ellipse():
    assert moment_ellipse(np.zeros((8, 8), bool), (1.0, 1.0)) is None


@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.78, 0.55])
def test_the_circumference_formula_is_exact_for_heads(ratio):
    found = Ellipse((0, 0), 60.0, 60.0 * ratio, 0.0, 1.0, (1.0, 1.0))
    assert found.circumference == pytest.approx(perimeter(60.0, 60.0 * ratio), rel=1e-6)


@pytest.mark.parametrize("grid_hw", [(540, 800), (192, 288), (173, 256), (96, 144)])
def test_the_circumference_is_unbiased_on_every_grid(grid_hw):
    """250 mm as in HC18, 40 placements; a fit to boundary pixels would read 2 mm less at 173x256."""
    random = np.random.default_rng(2)
    where = geometry(grid_hw=grid_hw)
    a = 250 / perimeter(1.0, 0.78)
    errors = []
    for _ in range(40):
        center = (400 + random.uniform(-3, 3), 270 + random.uniform(-3, 3))
        inside = ellipse_cells(where, center, (a, 0.78 * a), random.uniform(0, math.pi), (0.18, 0.18))
        errors.append(moment_ellipse(inside, (where.step_y * 0.18, where.step_x * 0.18)).circumference - 250)
    print(f"{grid_hw}: mean {np.mean(errors):+.4f} mm, largest {np.abs(errors).max():.4f} mm")
    assert abs(np.mean(errors)) <= 0.1
    assert np.abs(errors).max() <= 0.5


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(0, math.pi),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    size=st.floats(24, 33),
    ratio=st.floats(0.6, 0.98),
    pixel_mm=st.tuples(st.floats(0.14, 0.2), st.floats(0.1, 0.12)),
)
def test_place_turn_size_and_pixel_shape_do_not_matter(angle, shift, size, ratio, pixel_mm):
    where = geometry()
    inside = ellipse_cells(where, (400 + shift[0], 270 + shift[1]), (size, size * ratio), angle, pixel_mm)
    found = moment_ellipse(inside, (where.step_y * pixel_mm[0], where.step_x * pixel_mm[1]))
    assert found.semi_major == pytest.approx(size, rel=4e-3)
    assert found.semi_minor == pytest.approx(size * ratio, rel=4e-3)
    assert found.circumference == pytest.approx(perimeter(size, size * ratio), rel=2e-3)
    if ratio < 0.9:
        turn = (found.angle_rad - angle + math.pi / 2) % math.pi - math.pi / 2
        assert abs(turn) < 0.02
    assert overlap(found, inside) > 0.985


def test_a_letterboxed_picture_measures_as_the_whole_one():
    narrow = geometry(image_hw=(600, 500))  # bars left and right
    assert narrow.content.x0 > 0
    inside = ellipse_cells(narrow, (250, 300), (30, 24), 0.4, (0.15, 0.15))
    found = moment_ellipse(inside, (narrow.step_y * 0.15, narrow.step_x * 0.15))
    assert found.circumference == pytest.approx(perimeter(30, 24), rel=2e-3)
    assert narrow.to_image(np.array([found.center_xy])) == pytest.approx(np.array([[250, 300]]), abs=0.3)


def test_the_overlap_is_the_share_that_a_cell_by_cell_count_gives():
    where = geometry()
    inside = ellipse_cells(where, (390, 260), (38, 27), 0.7, (0.15, 0.15))
    inside[90:120, 150:230] = False  # a bite
    found = moment_ellipse(inside, (where.step_y * 0.15, where.step_x * 0.15))
    center = where.to_image(np.array([found.center_xy]))[0]
    drawn = ellipse_cells(where, center, (found.semi_major, found.semi_minor), found.angle_rad, (0.15, 0.15))
    counted = np.count_nonzero(inside & drawn) / np.count_nonzero(inside | drawn)
    assert overlap(found, inside) == pytest.approx(counted, abs=2e-3)
    assert overlap(found, inside) < 0.9


def test_a_cross_is_no_ellipse():
    cross = np.zeros((192, 288), bool)
    cross[90:100, 50:240] = True
    cross[20:170, 140:150] = True
    assert overlap(moment_ellipse(cross, (1.0, 1.0)), cross) < 0.5


def test_border_contact_counts_only_the_content_edge():
    inside = np.zeros((10, 12), bool)
    inside[2:8, 3:9] = True
    assert border_contact(inside, Box(3, 0, 9, 10), (0.5, 2.0)) == pytest.approx(2 * 6 * 0.5)
    assert border_contact(inside, Box(0, 2, 12, 10), (0.5, 2.0)) == pytest.approx(6 * 2.0)
    assert border_contact(inside, Box(0, 0, 12, 10), (0.5, 2.0)) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(0, math.pi),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    size=st.floats(60, 90),
    ratio=st.floats(0.6, 0.98),
)
def test_a_filled_ellipse_has_the_moments_and_the_cells_of_the_ellipse(angle, shift, size, ratio):
    where = geometry(image_hw=(192, 288))
    cells = ellipse_cells(where, (144 + shift[0], 96 + shift[1]), (size, size * ratio), angle)
    drawn = Ellipse((144 + shift[0], 96 + shift[1]), size, size * ratio, angle, 1.0, (1.0, 1.0))
    raster = filled(drawn.outline, (192, 288))
    form, y, x = drawn.outline, *np.mgrid[:192, :288]
    x, y = x - form.center_xy[0], y - form.center_xy[1]
    level = form.xx * x * x + 2 * form.xy * x * y + form.yy * y * y
    np.testing.assert_allclose(level[raster ^ cells], 1, atol=1e-9)  # centres on the very edge
    again = moment_ellipse(raster, (1.0, 1.0))
    if size < 72:  # wholly on the grid
        assert again.semi_major == pytest.approx(size, rel=4e-3)
        assert again.semi_minor == pytest.approx(size * ratio, rel=4e-3)
        assert again.center_xy == pytest.approx(drawn.center_xy, abs=0.1)
        assert overlap(drawn, raster) <= 1.0


def test_the_ellipse_on_the_grid_is_the_one_in_millimetres():
    where = geometry()
    cells = ellipse_cells(where, (390, 260), (38, 27), 0.7, (0.2, 0.12))
    cells[80:90, 100:140] = False
    physical = moment_ellipse(cells, (where.step_y * 0.2, where.step_x * 0.12)).outline
    plain = moment_ellipse(cells, (1.0, 1.0)).outline
    for name in ("xx", "xy", "yy"):
        assert getattr(physical, name) == pytest.approx(getattr(plain, name), rel=1e-9)


def test_a_bitten_part_is_replaced_by_its_ellipse_and_keeps_its_moments():
    where = geometry()
    cells = ellipse_cells(where, (390, 260), (250, 180), 0.7)
    cells[90:110, 150:200] = False
    mask = mask_of(where, cells)
    found = outlined(mask)
    before, after = (moment_ellipse(m.of("head"), (1.0, 1.0)) for m in (mask, found))
    assert overlap(before, cells) < 0.96
    assert overlap(after, found.of("head")) > 0.985
    assert after.circumference == pytest.approx(before.circumference, rel=1e-3)
    assert (found.confidence, found.presence, found.geometry) == (mask.confidence, mask.presence, where)


def test_an_empty_mask_stays_empty_and_each_label_has_its_own_ellipse():
    where = geometry()
    nothing = np.zeros(where.grid_hw, bool)
    one = ellipse_cells(where, (200, 260), (100, 80), 0.0)
    found = outlined(mask_of(where, one, nothing, names=("a", "b")))
    np.testing.assert_array_equal(found.of("a"), filled(moment_ellipse(one, (1, 1)).outline, where.grid_hw))
    assert not found.of("b").any()
    assert found.outlines[1] is None


def test_an_ellipse_that_leaves_the_picture_ends_at_its_edge():
    where = geometry(image_hw=(600, 500))  # bars left and right
    found = outlined(mask_of(where, ellipse_cells(where, (20, 300), (200, 160), 0.3)))
    rows, columns = np.nonzero(found.of("head"))
    assert columns.min() == where.content.x0
    assert rows.size


def test_an_ellipse_beside_the_grid_fills_nothing():
    assert not filled(Outline((5.0, -40.0), 0.01, 0.0, 0.01), (20, 30)).any()
    assert not filled(Outline((-40.0, 5.0), 0.01, 0.0, 0.01), (20, 30)).any()
