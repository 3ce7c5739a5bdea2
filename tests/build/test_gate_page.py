"""The page stands alone, says every number, and trusts no name."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.build.gate import judge
from edge_runtime.build.gate_page import Page, Section, SensitivityRow, page_html, verdict
from edge_runtime.build.gate_report import GateReport, Number
from edge_runtime.codes import Reason, Status
from edge_runtime.files import json_bytes
from edge_runtime.infer.model import Tolerance
from tests.build.gated import SPEC, heads

SMALL = msgspec.structs.replace(SPEC, min_frames=8)
VOID = {"meta", "br", "img", "link", "input"}
EVIL = "<script>alert(1)</script>\"'&.png"


class Strict(HTMLParser):
    """Every tag is closed in its order, every id is there once; keeps what the page loads and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page_of(grown: float = 0.0, **over: object) -> tuple[Page, str]:
    ours, theirs = heads(12), heads(12, grown=grown)
    truth = [reading.mask.labels for reading in ours]
    report = judge(ours, theirs, SMALL, truth, subject="int8 on onnxruntime", model="fetal_head")
    page = Page(report, **over)
    return page, page_html(page, ours, theirs)


@pytest.mark.parametrize("grown", [0.0, 6.0])
def test_the_page_is_well_formed_loads_nothing_and_runs_nothing(grown: float) -> None:
    _, text = page_of(grown)
    page = Strict(text)
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\(|https?:", text)
    assert 'name="viewport"' in text
    assert "@media print" in text


@pytest.mark.parametrize(("grown", "word"), [(0.0, "accepted"), (6.0, "refused")])
def test_the_verdict_is_on_top_and_says_which_model_and_why(grown: float, word: str) -> None:
    page, text = page_of(grown)
    shown = Strict(text).text
    assert f"Why this engine was {word}" in shown
    assert verdict(page.report) in shown
    assert shown.index(verdict(page.report)) < shown.index("against their limits")
    for failure in page.report.failures:
        assert failure.message in shown
    assert "Research use only. Not a medical device." in shown
    assert "stays on this device" in shown


@pytest.mark.parametrize("grown", [0.0, 2.0, 6.0])
def test_every_number_of_the_report_is_on_the_page(grown: float) -> None:
    page, text = page_of(grown)
    told = {float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", Strict(text).text)}

    def is_told(value: float) -> bool:
        return any(math.isclose(value, other, rel_tol=6e-3, abs_tol=1e-9) for other in told)

    for number in page.report.numbers:
        assert is_told(number.value), number
        assert number.limit is None or is_told(number.limit), number
    for row in page.report.frames:
        assert row.name in text
        assert is_told(row.agreement)
        assert is_told(row.boundary)
        for value in row.values.values():
            assert is_told(value.reference)
            assert is_told(value.candidate)


def test_the_six_worst_frames_are_shown_three_times_each_around_the_structure() -> None:
    page, text = page_of(3.0)
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 6
    for picture in pictures:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels.ndim == 2
        assert 32 < pixels.shape[1] <= 420
    assert text.count('<svg class="frame"') == 18
    at = [text.index(f"<b>{row.name}</b>") for row in page.report.frames[:6]]
    assert at == sorted(at)
    assert text.count('class="cells ours"') == 6  # a head that has grown adds cells and loses none
    assert 'class="cells theirs"' not in text


def test_names_from_outside_stay_text() -> None:
    ours = [replace(reading, name=EVIL) for reading in heads(12)]
    report = judge(ours, heads(12, grown=6.0), SMALL, subject=EVIL, model=EVIL)
    text = page_html(
        Page(
            report,
            sensitivity=(SensitivityRow(EVIL, 0.1, 0.2, True, EVIL, EVIL),),
            facts=((EVIL, EVIL),),
            sections=(Section(EVIL, (EVIL,), ((EVIL,),), EVIL),),
        ),
        ours,
        heads(12),
    )
    assert "<script" not in text
    assert "script" not in Strict(text).tags
    assert EVIL in unescape(text)


def test_layers_facts_and_tables_of_the_caller_are_told() -> None:
    rows = tuple(
        SensitivityRow(
            f"/stage{i}/Conv", i * 1e-5, 0.01 * i, i > 28, "it alone uses 60 %" if i > 28 else "", "Conv"
        )
        for i in range(31)
    )
    facts = (("Manifest", "0123abcd"), ("Precision", "int8, the fastest within tolerance"))
    scales = Section("Scales", ("Tensor", "Scale"), (("relu_1", "0.0236"),), "Chosen by measured error.")
    _, text = page_of(0.0, sensitivity=rows, facts=facts, sections=(scales,))
    shown = Strict(text).text
    for said in (
        "/stage7/Conv",
        "2 of 31 layers stay in FP16",
        "it alone uses 60 %",
        "0123abcd",
        "relu_1",
        "0.0236",
    ):
        assert said in shown
    assert text.count('class="bar marked"') == 2
    assert "limit 0.5 mm" in shown


def test_a_layer_whose_number_is_none_is_drawn_all_the_same() -> None:
    rows = (SensitivityRow("a", math.nan, math.inf, True, "gave NaN"), SensitivityRow("b", 0.0, 0.1, False))
    _, text = page_of(0.0, sensitivity=rows)
    assert "not a number" in Strict(text).text
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"base64,[^\"]*", "", text))


@pytest.mark.parametrize("count", [0, 3])
def test_a_report_on_too_little_has_a_page_too(count: int) -> None:
    report = judge(heads(count), heads(count), SMALL)
    shown = Strict(page_html(Page(report), heads(count), heads(count))).text
    assert "refused" in shown
    assert "limit at least 8" in shown


def test_frames_without_a_mask_a_spacing_or_an_answer_are_drawn() -> None:
    ours = heads(10, spaced=False)
    theirs = [
        replace(r, mask=None, values={}, status=Status.WITHHELD, reasons=(Reason.BLANK,)) for r in ours[:2]
    ]
    spec = msgspec.structs.replace(
        SMALL, measurement={"head_circumference": Tolerance(mean=0.1, p99=0.1, max=0.1, relative=True)}
    )
    report = judge(ours, [*theirs, *ours[2:]], spec)
    shown = Strict(page_html(Page(report), ours, [*theirs, *ours[2:]])).text
    assert "no mask" in shown
    assert " px" in shown


def test_the_page_is_the_same_every_time_and_needs_no_pictures() -> None:
    assert page_of(2.0)[1] == page_of(2.0)[1]
    page, _ = page_of(2.0)
    decoded = msgspec.json.decode(json_bytes(page.report), type=GateReport)
    assert "data:image" not in page_html(Page(decoded))


@pytest.mark.parametrize(
    ("value", "limit", "bound", "share"),
    [
        (0.5, 1.0, "most", 0.5),
        (-0.1, 1.0, "most", 0.0),
        (0.0, 0.0, "most", 0.0),
        (1.0, 0.0, "most", math.inf),
        (0.99, 0.98, "least", 0.5),
        (64.0, 32.0, "least", 0.5),
        (0.0, 32.0, "least", math.inf),
        (None, 1.0, "most", math.inf),
    ],
)
def test_a_bar_is_the_share_of_the_limit(value: float, limit: float, bound: str, share: float) -> None:
    number = Number(name="x", value=value, limit=limit, bound=bound, passed=share <= 1)
    assert number.used_share() == pytest.approx(share)
