"""The gate's report as a page to print: "Why this engine was accepted", or refused.

One HTML file with nothing to load and no script: it opens on the device, on a phone and on paper. Its
pictures are of the very frames that were judged, so it stays where they are. Knows how numbers are told to
a person, not how they are found (`gate.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from edge_runtime.build.gate_drawing import bars, cells_that_differ, differences, panels
from edge_runtime.build.gate_report import FrameRow, GateReport, Number
from edge_runtime.build.readings import Reading
from edge_runtime.codes import Status

WORST = 6  # frames with pictures
LISTED = 500  # frames in the table; all are in the JSON
CHARTED = 24  # layers in the bar chart

RESEARCH = "Research use only. Not a medical device."


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """What INT8 in one layer alone does."""

    layer: str
    agreement_loss: float  # 1 - mean Dice of masks
    value_change: float  # p99 of the main measurement's difference, in its tolerance's unit
    kept_fp16: bool
    why: str = ""  # it was kept
    kind: str = ""  # of node


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the caller's, for example the scale chosen for each tensor."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What the page tells. `facts` are (what, which): digests, timings, the precision chosen and why."""

    report: GateReport
    sensitivity: tuple[SensitivityRow, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()


def page_html(page: Page, reference: Sequence[Reading] = (), candidate: Sequence[Reading] = ()) -> str:
    """The page. The readings are those that were judged; without them it has no pictures of frames."""
    report = page.report
    word = "accepted" if report.passed else "refused"
    return "\n".join(
        part
        for part in (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Why this engine was {word}</title><style>{_STYLE}</style></head><body><main>",
            f'<span class="research">{RESEARCH}</span>',
            f"<h1>Why this engine was {word}</h1>",
            f'<p class="lead verdict {word}">{escape(verdict(report))}</p>',
            _failures(report),
            _facts(page),
            _numbers(report),
            _charts(report),
            _frames(report, reference, candidate),
            _sensitivity(page),
            *(_section(section) for section in page.sections),
            _every_frame(report),
            f"<footer>{RESEARCH} A size, not a check for abnormality.<br>The pictures are of the frames that were "
            "judged. They are inside this file and nowhere else: it stays on this device unless a person sends it."
            "</footer></main></body></html>",
        )
        if part
    )


def verdict(report: GateReport) -> str:
    """One sentence."""
    subject = report.subject or "The candidate"
    model = f" of {report.model}" if report.model else ""
    if not report.passed:
        return f"{subject} may not stand in for the fp32 model{model}: {report.failures[0].message}."
    used = [share for number in report.numbers if number.name != "frames" and (share := number.used_share())]
    closest = f"; what comes closest to its limit uses {100 * max(used):.0f} % of it" if used else ""
    return f"{subject} may stand in for the fp32 model{model}: on {report.judged} frames it keeps every limit{closest}."


# ---------------------------------------------------------------- numbers


_WORDS = {
    "frames": "Different frames judged, each with a structure that the reference shows",
    "not_finite": "Frames with no answer, or with a value that is not a number",
    "shown_where_withheld": "Frames shown although the reference withholds them",
    "structure_missing": "Frames that lost a structure",
    "value_missing": "Frames that lost a value",
    "withheld_where_shown": "Frames withheld although the reference shows them",
    "agreement_mean": "Agreement of the masks (Dice), mean",
    "agreement_lowest": "Agreement of the masks (Dice), lowest frame",
    "boundary_p99": "Distance between the outlines, p99 of frames",
    "dice_reference": "Dice against the labels, reference",
    "dice_candidate": "Dice against the labels, candidate",
    "dice_drop": "Drop of Dice against the labels",
}
_ENDINGS = {"_mean": "mean difference", "_p99": "p99 of the differences", "_max": "largest difference"}


def _in_words(name: str) -> str:
    if name in _WORDS:
        return _WORDS[name]
    for ending, words in _ENDINGS.items():
        if name.endswith(ending):
            return f"{_plain(name.removesuffix(ending))}: {words}"
    return _plain(name)


def _plain(name: str) -> str:
    text = name.replace("_px", ", pixels").replace("_", " ")
    return f"{text[:1].upper()}{text[1:]}"


def _digits(value: float | None, unit: str = "") -> str:
    """A number for reading: what lies close to 1, a Dice, with a digit more."""
    if value is None:
        return "not a number"
    text = str(int(value)) if value == int(value) else f"{value:.5g}" if value > 0.9 else f"{value:.3g}"
    return f"{text} {unit}" if unit else text


def _failures(report: GateReport) -> str:
    """Each with the frame to look at first; the first is in the verdict."""
    items = "".join(f"<li>{escape(failure.message)}</li>" for failure in report.failures[1:])
    return f'<p>Also:</p><ul class="problem">{items}</ul>' if items else ""


def _facts(page: Page) -> str:
    report = page.report
    facts = [("Model", report.model), ("Judged", report.subject), *page.facts]
    said = "".join(f"<dt>{escape(what)}</dt><dd>{escape(which)}</dd>" for what, which in facts if which)
    return f"<dl>{said}</dl>" if said else ""


def _numbers(report: GateReport) -> str:
    if not report.numbers:
        return ""
    rows = "".join(_number(number) for number in report.numbers)
    return (
        "<h2>The numbers against their limits</h2>"
        f"<p>{report.offered} frames were read by both. Masks and values are compared on the {report.judged} that the "
        "reference shows; of the others it counts that the candidate withholds them too. p99 is what at most one frame "
        "in a hundred exceeds.</p>"
        '<div class="wide"><table class="numbers"><thead><tr><th>What</th><th class="n">Measured</th>'
        '<th class="n">Limit</th><th>Of the limit</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _number(number: Number) -> str:
    share = number.used_share()
    limit = "" if number.passed is None else _digits(number.limit, number.unit)
    least = "at least " if number.bound == "least" and limit else ""
    kind = "broken" if number.passed is False else ""
    bar = ""
    if share is not None:
        wide = min(100.0, 80 * share)  # the limit stands at four fifths
        bar = f'<div class="used"><i style="width:{wide:.1f}%"></i></div>'
    return (
        f'<tr class="{kind}"><td>{escape(_in_words(number.name))}</td>'
        f'<td class="n">{_digits(number.value, number.unit)}</td><td class="n">{least}{limit}</td><td>{bar}</td></tr>'
    )


def _charts(report: GateReport) -> str:
    numbers = {number.name: number for number in report.numbers}
    drawn = []
    for name in report.measurements:
        p99, most = numbers.get(f"{name}_p99"), numbers.get(f"{name}_max")
        if p99 is None or most is None:
            continue
        chart = differences(report.frames, name, p99.limit, most.limit, most.unit)
        if chart:
            drawn.append(
                f"<figure>{chart}<figcaption>{escape(_plain(name))}, candidate minus reference: a dot for each frame. "
                "Lines: the limits of p99 (dotted) and of the largest.</figcaption></figure>"
            )
    return f'<h2>Frame by frame</h2><div class="charts">{"".join(drawn)}</div>' if drawn else ""


# ---------------------------------------------------------------- frames


def _frames(report: GateReport, reference: Sequence[Reading], candidate: Sequence[Reading]) -> str:
    """The worst frames, both readings side by side."""
    pairs = {
        ours.frame_id: (ours, theirs)
        for ours, theirs in zip(reference, candidate, strict=False)
        if ours.frame_id == theirs.frame_id and ours.frame.size_hw == theirs.frame.size_hw
    }
    shown = [row for row in report.frames if row.frame_id in pairs][:WORST]
    if not shown:
        return ""
    figures = "".join(_frame(at, row, *pairs[row.frame_id], report) for at, row in enumerate(shown))
    return (
        f"<h2>The {len(shown)} worst frames</h2><p>Worst first, by the share of its limits that a frame uses. "
        'Where they differ: <span class="key theirs"></span> only the reference, <span class="key ours"></span> '
        f"only the candidate.</p>{figures}"
    )


def _status(reading: Reading) -> str:
    """What a person would get to see of it."""
    masks_only = reading.shown and reading.status is Status.WITHHELD
    return "mask only" if masks_only else reading.status.value


def _frame(at: int, row: FrameRow, ours: Reading, theirs: Reading, report: GateReport) -> str:
    main = next((name for name in report.measurements if name in row.values), None)
    value = None if main is None else row.values[main]
    unit = "" if value is None else value.unit
    said = ("", "", "")
    if value is not None:
        change = "" if value.difference is None else f"{value.difference:+.3g} {unit}".strip()
        said = (
            f"<b>{_digits(value.reference, unit)}</b>",
            f"<b>{_digits(value.candidate, unit)}</b>",
            change,
        )
    cells = cells_that_differ(ours.mask, theirs.mask)
    apart = "no mask" if cells is None else f"{cells} cell{'' if cells == 1 else 's'} differ"
    captions = (
        f"Reference, {_status(ours)} {said[0]}",
        f"Candidate, {_status(theirs)} {said[1]}",
        f"<b>{escape(said[2])}</b> {apart}",
    )
    drawn = "".join(
        f"<div>{picture}<span>{caption}</span></div>"
        for picture, caption in zip(panels(f"frame{at}", ours, theirs), captions, strict=True)
    )
    return (
        f'<figure class="worst"><figcaption><b>{escape(row.name)}</b> <span class="quiet">{escape(row.frame_id)}'
        f'</span> {escape(_told(row))}</figcaption><div class="three">{drawn}</div></figure>'
    )


def _told(row: FrameRow) -> str:
    """What is to be said of a frame beside its values."""
    parts = [code.replace("_", " ") for code in row.failures]
    if row.agreement is not None:
        parts.append(f"agreement {_digits(row.agreement)}")
    if row.boundary is not None:
        parts.append(f"outlines {_digits(row.boundary)} cells apart")
    if row.judged:
        parts.append(f"uses {min(999, 100 * row.strain):.0f} % of a limit")
    return ", ".join(parts)


def _every_frame(report: GateReport) -> str:
    """Every frame in a table that is closed until it is asked for."""
    if not report.frames:
        return ""
    names = [name for name in report.measurements if any(name in row.values for row in report.frames)]
    labelled = any(row.dice is not None for row in report.frames)
    dice = ("Dice, reference", "Dice, candidate") if labelled else ()
    columns = ("Frame", "Status", "Agreement", "Cells apart", *(_plain(name) for name in names), *dice)
    rows = [_frame_cells(row, names, labelled) for row in report.frames[:LISTED]]
    more = len(report.frames) - len(rows)
    note = f"<p>{more} more frames are in the JSON report.</p>" if more > 0 else ""
    count = f"All {len(report.frames)} frames, the worst first"
    return f"<details><summary>{count}</summary>{_table(columns, rows)}{note}</details>"


def _frame_cells(row: FrameRow, names: Sequence[str], labelled: bool) -> list[str]:
    before, after = row.reference_status.value, row.candidate_status.value
    cells = [row.name, before if before == after else f"{before}, then {after}"]
    cells += ["" if number is None else _digits(number) for number in (row.agreement, row.boundary)]
    for name in names:
        value = row.values.get(name)
        cells.append(
            "" if value is None else f"{_digits(value.reference)} → {_digits(value.candidate)} {value.unit}"
        )
    if labelled:
        cells += ["", ""] if row.dice is None else [_digits(score) for score in row.dice]
    return cells


# ---------------------------------------------------------------- what the caller adds


def _sensitivity(page: Page) -> str:
    if not page.sensitivity:
        return ""
    main = page.report.measurements[0] if page.report.measurements else ""
    limit = next((number for number in page.report.numbers if number.name == f"{main}_p99"), None)
    unit = "" if limit is None else limit.unit
    layers = sorted(
        page.sensitivity, key=lambda row: -row.value_change if math.isfinite(row.value_change) else -math.inf
    )
    chart = bars(
        [(row.layer, row.value_change, row.kept_fp16) for row in layers[:CHARTED]],
        None if limit is None else limit.limit,
        unit,
    )
    kept = sum(row.kept_fp16 for row in page.sensitivity)
    in_chart = ' (<span class="key marked"></span> in the chart)' if kept else ""
    rows = [
        [
            row.layer,
            row.kind,
            _finite(row.agreement_loss),
            _finite(row.value_change, unit),
            "FP16" if row.kept_fp16 else "INT8",
            row.why,
        ]
        for row in page.sensitivity
    ]
    columns = ("Layer", "Kind", "Agreement lost", f"{_plain(main)}, p99", "Runs in", "Why")
    return (
        "<h2>What INT8 does, layer by layer</h2><p>Each layer alone in INT8, the rest as in the reference. "
        f"{kept} of {len(page.sensitivity)} layers stay in FP16"
        f"{in_chart}.</p>"
        f'<div class="charts"><figure>{chart}<figcaption>{escape(_plain(main))}: p99 of the difference, the '
        f"{min(CHARTED, len(layers))} layers where it is largest.</figcaption></figure></div>"
        f"{_table(columns, rows)}"
    )


def _finite(value: float, unit: str = "") -> str:
    return _digits(value if math.isfinite(value) else None, unit)


def _section(section: Section) -> str:
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return f"<h2>{escape(section.title)}</h2>{note}{_table(section.columns, section.rows)}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light dark; --ink: #10161c; --quiet: #5b6774; --paper: #f6f7f8; --card: #ffffff;
  --line: #e2e6ea; --accent: #1f7a68; --alarm: #b5442e; --theirs: #f0a83c; --ours: #35c3f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecef; --quiet: #98a4b0; --paper: #0e1318;
  --card: #161d24; --line: #28323c; --accent: #5ec8aa; --alarm: #ef8a72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: clamp(26px, 5vw, 38px); line-height: 1.15; letter-spacing: -.02em; margin: 20px 0 10px; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 40px 0 10px; } h2, h2 + p { break-after: avoid; }
p { max-width: 72ch; margin: 8px 0; overflow-wrap: anywhere; } .lead { font-size: 18px; } .quiet { color: var(--quiet); }
.research { display: inline-block; font-size: 13.5px; color: var(--quiet); border: 1px solid var(--line);
  border-radius: 99px; padding: 4px 12px; }
.verdict { border-left: 4px solid var(--accent); padding: 2px 0 2px 14px; } .verdict.refused { border-color: var(--alarm); }
.problem { border-left: 4px solid var(--alarm); margin: 10px 0; padding: 2px 0 2px 32px; max-width: 76ch; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(90px, 190px) 1fr; gap: 6px 18px; margin: 18px 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; color: var(--quiet); font-weight: 500; font-size: 13px; }
.n { text-align: right; white-space: nowrap; } tr { break-inside: avoid; }
.numbers td:last-child { width: 22%; min-width: 64px; vertical-align: middle; }
.broken td { color: var(--alarm); font-weight: 600; }
.used { position: relative; height: 9px; border-radius: 5px; background: var(--line); overflow: hidden; }
.used i { display: block; height: 100%; background: var(--accent); } .broken .used i { background: var(--alarm); }
.used::after { content: ""; position: absolute; left: 80%; top: 0; bottom: 0; width: 2px; background: var(--ink); }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: 13.5px; color: var(--quiet); line-height: 1.4; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 16px; margin: 14px 0; }
.charts figure { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px; max-width: 560px; }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 11.5px; fill: var(--quiet); }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.axis { stroke: var(--line); } .limit { stroke: var(--alarm); stroke-width: 1.2; } .soft { stroke-dasharray: 2 4; }
.dot { fill: var(--accent); fill-opacity: .55; } .bar { fill: var(--accent); fill-opacity: .75; } .marked { fill: var(--theirs); fill-opacity: 1; }
.worst { margin: 22px 0; } .worst figcaption { margin-bottom: 6px; color: var(--ink); overflow-wrap: anywhere; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px; font-size: 13.5px; line-height: 1.35; }
.three b { display: inline-block; } .three span { display: block; padding-top: 4px; }
.frame { border-radius: 8px; background: #000; } .dim { opacity: .45; }
.outline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.outline.theirs { stroke: var(--theirs); } .outline.ours { stroke: var(--ours); }
.cells { stroke-width: .8; vector-effect: non-scaling-stroke; }
.cells.theirs { fill: var(--theirs); stroke: var(--theirs); } .cells.ours { fill: var(--ours); stroke: var(--ours); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.key.theirs, .key.marked { background: var(--theirs); } .key.ours { background: var(--ours); }
details { margin-top: 40px; } summary { cursor: pointer; font-weight: 600; }
footer { margin-top: 48px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--quiet); font-size: 14px; }
@media (max-width: 560px) { main { padding: 18px 14px 48px; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
  th, td { padding: 7px 8px; } table { font-size: 13.5px; }
  .numbers tr { display: grid; grid-template-columns: 1fr 1.1fr 30%; border-top: 1px solid var(--line); }
  .numbers th, .numbers td { border-top: 0; padding-top: 3px; } .numbers td:first-child, .numbers th:first-child { grid-column: 1 / -1; }
  .numbers .n { text-align: left; white-space: normal; } .numbers td:last-child { width: auto; align-self: center; } .three { grid-template-columns: 1fr 1fr; gap: 8px; }
  .three div:last-child { grid-column: 1 / -1; } }
@page { size: A4; margin: 14mm; }
@media print { :root { --ink: #000; --quiet: #444; --paper: #fff; --card: #fff; --line: #ccc; --accent: #1f7a68; --alarm: #b5442e; }
  body { font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; } main { max-width: none; padding: 0; }
  h2 { margin-top: 22px; } footer { margin-top: 20px; break-inside: avoid; } .wide { overflow: visible; } table { font-size: 8.5pt; } th, td { padding: 3.5px 8px; } .charts { grid-template-columns: 1fr 1fr; } details { display: none; } }
"""
