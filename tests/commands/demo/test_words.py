"""What the demo says, in lines and on its page: short, whole, and never a verdict about a patient."""

from __future__ import annotations

import re

import pytest

from edge_runtime.codes import Reason
from edge_runtime.commands import demo
from edge_runtime.commands.demo import page
from edge_runtime.commands.demo.findings import Delivery
from edge_runtime.commands.demo.report import lines
from edge_runtime.commands.words import in_words, joined
from tests.commands.demo.made_up import OFFLINE, made_up

VERDICTS = re.compile(r"\b(good|normal|healthy|fine|safe)\b", re.IGNORECASE)


def test_the_gates_two_verdicts_are_told_in_the_summary_and_on_the_page() -> None:
    report = made_up()
    told = "\n".join(lines(report))
    assert "INT8 as shipped is accepted: 0.03 mm from fp32" in told
    assert "INT8 with one scale spoilt is refused: head circumference: the p99 difference is 3.1 mm" in told
    assert "The gate" in page.render(report)


def test_the_summary_is_short_and_says_the_main_things() -> None:
    lines = demo.lines(made_up())
    said = "\n".join(lines)
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 120
    for part in (
        "214 of 216 frames analysed after the kill, 2 dropped, 29.9 frames/s; age p50 4.2 ms, p99 9.9 ms",
        "phantom of 250.0 mm: 251.2 mm (246.4 to 256.0)",
        "28 of 30 frames withheld, 2 given a size in pixels under caution",
        "the outline is not the ellipse it should be (20)",
        "upright: both lungs are in the picture and none is clipped",
        "area right 181.0 cm2 (true 180.1), area left 179.8 cm2 (true 179.0) and width 289.9 mm (true 290.0)",
        "clipped: it goes on beyond the left edge of the picture",
        "area 33.0 mm2 (true 33.8)",
        "25 of 25 frames of a beat measured, the true area inside the interval 24 of 25 times",
        "145 findings reported, 145 of them in the database, 0 missing, 0 twice",
        "the run, the uplink and the broker",
        "/tmp/edge-runtime-demo/summary.html",
        "Research use only. Not a medical device.",
        "Size only, not checked for abnormality.",
    ):
        assert part in said


@pytest.mark.parametrize("delivery", [made_up().delivery, OFFLINE])
def test_neither_summary_nor_page_gives_a_verdict(delivery: Delivery) -> None:
    report = made_up(delivery=delivery)
    assert not VERDICTS.search("\n".join(demo.lines(report)))
    assert not VERDICTS.search(re.sub(r"<style>.*</style>", "", page.render(report), flags=re.DOTALL))


def test_the_page_says_what_failed_before_anything_else() -> None:
    problem = "3 reported findings are not in the <database>"
    html = page.render(made_up(ok=False, problems=[problem]))
    assert "Something failed" in html
    assert "3 reported findings are not in the &lt;database&gt;" in html
    assert "arrived, once" not in html
    assert "Failed" in "\n".join(demo.lines(made_up(problems=[problem])))


def test_an_offline_page_does_not_speak_of_arrival() -> None:
    html = page.render(made_up(delivery=OFFLINE))
    assert "/tmp/" not in html
    assert "arrived" not in html.partition("Where to look next")[0]
    assert "151 records wait" in html


def test_a_report_without_its_optional_parts_still_renders() -> None:
    bare = made_up(
        **dict.fromkeys(("live", "phantom", "echo", "heads", "artery", "gate")),
        chests=[],
        others=[],
        killed=[],
        notes=["no echo cine"],
    )
    assert "no echo cine" in "\n".join(demo.lines(bare))
    assert "No echo cine." in page.render(bare)


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_words_of_its_own(reason: Reason) -> None:
    assert in_words(reason) != reason.value.replace("_", " ")
    assert in_words("a_code_of_tomorrow") == "a code of tomorrow"


def test_a_list_is_joined_as_in_a_sentence() -> None:
    assert [joined(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
