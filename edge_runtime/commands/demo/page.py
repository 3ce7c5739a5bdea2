"""The demo's summary as one HTML file: no script, nothing to load, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from edge_runtime.commands.demo.findings import Delivery, Measured
from edge_runtime.commands.demo.parts import EchoPart
from edge_runtime.commands.demo.processes import typed
from edge_runtime.commands.demo.report import (
    DemoReport,
    artery,
    caution,
    chests,
    gated,
    kept,
    next_commands,
    real_heads,
    sized,
    withheld,
)
from edge_runtime.commands.words import RESEARCH, SIZE_ONLY, in_words, joined, listed

_STYLE = """
:root { color-scheme: light dark; --ink: #10161c; --quiet: #5b6774; --paper: #f6f7f8; --card: #ffffff;
  --line: #e2e6ea; --accent: #1f7a68; --alarm: #b5442e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecef; --quiet: #98a4b0; --paper: #0e1318;
  --card: #161d24; --line: #28323c; --accent: #5ec8aa; --alarm: #ef8a72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: clamp(26px, 5vw, 38px); line-height: 1.15; letter-spacing: -.02em; margin: 20px 0 10px; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 44px 0 10px; }
p { max-width: 68ch; margin: 8px 0; } .lead { font-size: 18px; } .quiet { color: var(--quiet); }
.research { display: inline-block; font-size: 13.5px; color: var(--quiet); border: 1px solid var(--line);
  border-radius: 99px; padding: 4px 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 26px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 14px 16px; }
.tile b { display: block; font-size: 28px; line-height: 1.2; letter-spacing: -.02em; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); font-size: 13.5px; line-height: 1.35; display: block; }
.tile.kept b { color: var(--accent); } .tile.alarm b { color: var(--alarm); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; margin-top: 14px; }
.panels.pairs { grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: 860px; }
img { width: 100%; height: auto; display: block; border-radius: 14px; border: 1px solid var(--line); }
.plot { background: #fff; padding: 6px; max-width: 860px; }
dl { display: grid; grid-template-columns: minmax(90px, 130px) 1fr; gap: 10px 18px; margin: 12px 0; }
dt { color: var(--quiet); } dd { margin: 0; max-width: 72ch; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 8px 0; }
pre span { display: inline-block; max-width: 100%; }
.problem { border-left: 3px solid var(--alarm); padding-left: 14px; }
footer { margin-top: 48px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--quiet); font-size: 14px; }
@media (max-width: 1000px) { .panels, .panels.pairs { grid-template-columns: minmax(0, 600px); } }
@media (max-width: 520px) { main { padding: 18px 14px 48px; } .tiles { grid-template-columns: 1fr 1fr; } .tile b { font-size: 24px; }
  dl { grid-template-columns: 1fr; gap: 2px; } dd { margin-bottom: 12px; } }
"""


def render(report: DemoReport, seen: Sequence[Path] = (), taken: Sequence[Path] = ()) -> str:
    """The page. `seen` are PNG files, `taken` those of chest X-rays; they and the plot are put inside it."""
    return "\n".join(
        part
        for part in (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>edge-runtime demo</title><style>{_STYLE}</style></head><body><main>",
            f'<span class="research">{RESEARCH}</span>',
            f"<h1>{_headline(report)}</h1>",
            f'<p class="lead">{_lead(report)}</p>',
            _problems(report),
            _tiles(report),
            _pictures("What it saw", _SEEN, seen),
            _pictures("Before the patient leaves", _TAKEN, taken),
            _plot(report),
            _told(report),
            _next(report),
            f"<footer>{SIZE_ONLY} {RESEARCH}<br>{_how(report)}</footer></main></body></html>",
        )
        if part
    )


def _headline(report: DemoReport) -> str:
    if report.problems:
        return "Something failed on this machine"
    if report.delivery.broker is None:
        return "Every finding is on disk and waits for a network"
    return "Every finding that was reported arrived, once"


def _lead(report: DemoReport) -> str:
    killed = f", while kill -9 ended {joined(report.killed)}" if report.killed else ""
    after = (
        "Then every reported finding was looked up in the cloud’s database."
        if report.delivery.broker
        else "Nothing was sent; what was reported waits in the outbox."
    )
    return (
        "Ultrasound frames went through a segmentation model as they came. What it measured was written to disk "
        f"first and only then reported{escape(killed)}. {after}"
    )


def _problems(report: DemoReport) -> str:
    return "".join(f'<p class="problem">{escape(problem)}</p>' for problem in report.problems)


def _tiles(report: DemoReport) -> str:
    delivery, live = report.delivery, report.live
    tiles = [_delivered(delivery)]
    if delivery.broker is not None:
        tiles.append(_tile(str(delivery.twice), "stored twice", "alarm" if delivery.twice else "kept"))
    if live is not None:
        tiles.append(
            _tile(
                f"{live.fps:.1f}",
                f"frames a second, {live.processed} of {live.offered} analysed after the kill",
            )
        )
        if live.age_ms_p50 is not None:
            tiles.append(
                _tile(
                    f"{live.age_ms_p50:.1f} ms",
                    f"from frame to result; 99 of 100 within {live.age_ms_p99:.1f} ms",
                )
            )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _delivered(delivery: Delivery) -> str:
    if delivery.broker is None:
        return _tile(str(delivery.reported), "findings reported, all on disk", "kept")
    kind = "alarm" if delivery.missing else "kept"
    return _tile(f"{delivery.stored} of {delivery.reported}", "reported findings are in the database", kind)


def _tile(number: str, words: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><b>{escape(number)}</b><span>{escape(words)}</span></div>'


_SEEN = (
    "Each contour belongs to a finding that was reported and lies on the very frame the finding names; the frame is "
    "found again by its hash. Where a finding is withheld there is no number, and of a foreign picture no contour."
)
_TAKEN = (
    "One drawn chest, taken in four ways. While the picture can still be taken again, the finding says what is wrong "
    "with it, and gives the one hint that is written large. It says nothing of what the lungs look like. A broken "
    "line was found and not measured; the white line is the true one."
)


def _pictures(title: str, words: str, panels: Sequence[Path]) -> str:
    if not panels:
        return ""
    images = "".join(_image(path, "a frame with what was reported of it") for path in panels)
    kind = "panels pairs" if len(panels) % 2 == 0 else "panels"
    return f'<h2>{title}</h2><p>{words}</p><div class="{kind}">{images}</div>'


def _image(path: Path, words: str, kind: str = "") -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img class="{kind}" alt="{escape(words)}" src="data:image/png;base64,{data}">'


def _plot(report: DemoReport) -> str:
    if report.files.measurement is None:
        return ""
    image = _image(
        Path(report.files.measurement), "head circumference over time against the true value", "plot"
    )
    return f"<h2>The measurement over time</h2>{image}"


def _told(report: DemoReport) -> str:
    """The parts of the demo, a sentence or two each."""
    rows: list[tuple[str, list[str]]] = []
    live = report.live
    if live is not None:
        before = f"{live.captures_before_kill} of {live.captures} captures were reported before the kill."
        rows.append(("Live", [*_size(live.head), before]))
    if report.phantom is not None:
        rows.append(("Every frame", _size(report.phantom)))
    if report.echo is not None:
        rows.append(("Real heart", _heart(report.echo)))
    if report.heads is not None:
        rows.append(("Real heads", [_sentence(text) for text in real_heads(report.heads)]))
    if report.chests:
        rows.append(("Chest X-ray", [_squared(text) for text in chests(report.chests)]))
    if report.artery is not None:
        rows.append(("Artery", [_squared(text) for text in artery(report.artery)]))
    if report.gate is not None:
        rows.append(("The gate", [_sentence(text) for text in gated(report.gate)]))
    rows.append(("Delivery", [_sentence(text) for text in kept(report.delivery)]))
    if report.notes:
        rows.append(("Left out", [_sentence(note) for note in report.notes]))
    said = "".join(f"<dt>{escape(title)}</dt><dd>{escape(' '.join(texts))}</dd>" for title, texts in rows)
    return f"<h2>Part by part</h2><dl>{said}</dl>"


def _size(head: Measured | None) -> list[str]:
    if head is None:
        return ["Every frame of the phantom was withheld."]
    reasons = caution(head)
    under = [f"Under caution: {joined(reasons)}."] if reasons else []
    return [f"A phantom of {head.true_mm:.1f} mm was measured as {sized(head)}.", *under]


def _heart(echo: EchoPart) -> list[str]:
    texts = [f"A cine of a heart, in front of a model for heads: {withheld(echo)}."]
    if echo.reasons:
        texts.append(f"Withheld because {listed(echo.reasons)}.")
    if echo.spacing_reason is not None:
        texts.append(f"Its pixel size was refused: {in_words(echo.spacing_reason)}.")
    return texts


def _squared(text: str) -> str:
    return _sentence(text.replace("m2 ", "m² "))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _next(report: DemoReport) -> str:
    program = typed()
    commands = (*next_commands(Path("state"), program), f"{shlex.quote(str(program))} doctor")
    said = "".join(f"<pre>{_unbroken(command)}</pre>" for command in commands)
    arrived = "<b>cloud.db</b>, what arrived; " if report.delivery.broker else ""
    return (
        "<h2>Where to look next</h2><p>Beside this page: <b>findings.jsonl</b>, every finding as it was reported; "
        f"{arrived}<b>state/</b>, the device’s journal. In this folder, type:</p>{said}"
    )


def _unbroken(command: str) -> str:
    """A command that a narrow screen breaks between its words, and not after the dashes of a flag."""
    return " ".join(f"<span>{escape(word)}</span>" for word in command.split())


def _how(report: DemoReport) -> str:
    models = "; ".join([f"{report.model}, {report.precision} on {report.backend}", *report.others])
    return escape(
        f"{models}. Figures of this machine, {report.seconds:.0f} s in all. "
        "A run’s counts die with it, so the frame figures are those of the run after the kill. The intervals were "
        "made on real images; a phantom is a drawing of exactly known size."
    )
