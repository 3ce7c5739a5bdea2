"""The report of a made-up model, the card that is written of it, and the card's two plots."""

from __future__ import annotations

import json
import re
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from models.training.card import card_of
from models.training.drawing import DPI, HIGH, WIDE, bland_altman, risk_curve
from models.training.recipe import Recipe
from tests.training.measured import SPLITS, measured_recipe, results_of

SECTIONS = [
    "## Intended use",
    "## Not to be used",
    "## Data",
    "## Splits",
    "## How accurate",
    "### Five folds",
    "### By size",
    "## Intervals",
    "## When it is unsure",
    "## Foreign pictures",
    "## Precisions and runtimes",
    "## Speed",
    "## Size and how to make it again",
]
OF_LUNGS = ["### By group", "## The acquisition check"]


@pytest.fixture(scope="module", params=["carotid", "fetal_head", "lungs"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Any]:
    recipe = measured_recipe(request.param)
    return recipe, results_of(recipe, tmp_path_factory.mktemp("data"))


def test_a_card_has_every_section_and_no_placeholder(made: tuple[Recipe, Any]) -> None:
    recipe, results = made
    card = card_of(recipe, results)
    headings = re.findall(r"^##+ .*$", card, re.MULTILINE)
    assert [heading for heading in headings if heading not in OF_LUNGS] == SECTIONS
    assert [heading for heading in headings if heading in OF_LUNGS] == OF_LUNGS * (recipe.name == "lungs")
    assert card.startswith(f"# {recipe.name}\n\n**Research use only, not a medical device.**")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b|TODO|[{}]|1e\+|\?\?", card)


def test_every_table_of_a_card_is_as_wide_as_its_head(made: tuple[Recipe, Any]) -> None:
    tables = re.findall(r"(?:^\|.*\|\n?)+", card_of(*made), re.MULTILINE)
    assert len(tables) >= 10
    for one in tables:
        head, rule, *rows = one.strip().split("\n")
        assert set(rule) <= set("|- ")
        assert rows
        assert {row.count("|") for row in rows} == {head.count("|")}


def test_a_card_counts_the_splits_and_the_foreign_pictures(made: tuple[Recipe, Any]) -> None:
    card = card_of(*made)
    for split, count in SPLITS.items():
        assert f"| {split} | {count} | {count} |" in card
    assert "| abdomen | 1 of 3 | 1 of 3 |" in card
    assert "| **all** | **2 of 6** | **2 of 6** |" in card


def test_a_card_without_folds_or_speed_leaves_them_out(made: tuple[Recipe, Any]) -> None:
    recipe, results = made
    card = card_of(recipe, {key: one for key, one in results.items() if key not in ("folds", "speed")})
    assert "Five folds" not in card
    assert "## Speed" not in card
    assert "\n\n\n" not in card


def test_the_card_of_a_refit_says_who_was_measured_and_names_no_figures_to_get_again(
    made: tuple[Recipe, Any],
) -> None:
    recipe, results = made
    again = "edge-runtime evaluate --model"
    assert again in card_of(recipe, results)
    refit = msgspec.structs.replace(recipe.splits, refit=True)
    assert "trained on train, tune and conformal" in card_of(
        msgspec.structs.replace(recipe, splits=refit), results
    )
    crossed = msgspec.structs.replace(refit, cross_conformal=True)
    card = card_of(msgspec.structs.replace(recipe, splits=crossed), results)
    assert "Cross-conformal at 90 %" in card
    assert "each asked of the subjects that it had not seen" in card
    folded = msgspec.structs.replace(refit, folds=(("a",), ("b",)))
    card = card_of(msgspec.structs.replace(recipe, splits=folded), results)
    assert "the network that ships was trained on all of them" in card
    assert again not in card


def test_the_results_can_be_kept_as_json(made: tuple[Recipe, Any]) -> None:
    _, results = made
    assert json.loads(json.dumps(results))["held_out"] == results["held_out"]


def test_limits_come_from_tune_and_intervals_from_conformal_or_the_folds(made: tuple[Recipe, Any]) -> None:
    recipe, results = made
    folded = SPLITS["tune"] if recipe.splits.cross_conformal else 0
    assert results["tune"]["withheld"] <= 0.04 * SPLITS["tune"]
    assert 0 < results["conformal_subjects"] <= SPLITS["conformal"] + folded
    assert (results["conformal_subjects"] > SPLITS["conformal"]) == recipe.splits.cross_conformal
    for one in results["intervals"].values():
        assert one["test"]["of"] == SPLITS["test"] - results["test"]["withheld"]
        assert one["test"]["covered"] > 0.75 * one["test"]["of"]


def test_the_plots_are_pictures_of_the_size_they_should_have() -> None:
    rng = np.random.default_rng(1)
    risk = {"curve": [[0.5, 1.0], [1.0, 2.0]], "aurc_without": 2.0}
    plots = [
        bland_altman(rng.uniform(60, 340, 80), rng.normal(0, 2, 80), "head circumference", "mm"),
        risk_curve(risk, "head circumference", "mm"),
    ]
    for png in plots:
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (round(HIGH * DPI), round(WIDE * DPI), 3)
        assert picture.std() > 5


def test_an_interval_that_one_picture_sets_says_so(made: tuple[Recipe, Any]) -> None:
    recipe, results = made
    few, many = (card_of(recipe, {**results, "conformal_images": count}) for count in (18, 40))
    assert "With 18 images a width is\nthe largest of their errors" in few
    assert "the largest of their errors" not in many
