"""The network's shape and the parts of its loss."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.training.network import HeadNet, Output  # noqa: E402
from models.training.train import circumference, loss_of, one_cycle  # noqa: E402

pytestmark = pytest.mark.train


def test_the_mask_has_the_grid_of_the_image() -> None:
    output = HeadNet().eval()(torch.zeros(2, 1, 192, 288))
    assert output.mask.shape == (2, 1, 192, 288)
    assert output.presence.shape == (2, 1)


def test_the_circumference_of_a_drawn_disc_is_its_own() -> None:
    y, x = torch.meshgrid(torch.arange(192.0), torch.arange(288.0), indexing="ij")
    disc = ((x - 140).square() + (y - 90).square() <= 60**2).float()[None, None]
    assert float(circumference(disc)) == pytest.approx(2 * torch.pi * 60, rel=3e-3)


def test_a_perfect_answer_costs_nearly_nothing_and_a_wrong_one_much() -> None:
    mask = torch.zeros(1, 1, 192, 288)
    mask[..., 50:150, 90:200] = 1
    sure = torch.full((1, 1), 20.0)
    right = loss_of(Output(40 * mask - 20, sure), mask, torch.ones(1, 1))
    wrong = loss_of(Output(20 - 40 * mask, -sure), mask, torch.ones(1, 1))
    assert all(float(value) < 0.02 for value in right.values())
    assert all(float(wrong[name]) > 10 * float(right[name]) + 0.1 for name in ("cross", "dice", "presence"))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    assert one_cycle(0.0) == 0.0
    assert one_cycle(0.08) == pytest.approx(1.0, abs=0.01)
    assert 0 < one_cycle(1.0) < 0.01
