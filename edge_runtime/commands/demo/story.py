"""What the demo does, in order: stream, kill, look at foreign and real images, deliver, compare, draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_runtime import clock
from edge_runtime.codes import Reason
from edge_runtime.commands.demo import drawing, findings, page
from edge_runtime.commands.demo.drawing import Event, Panel
from edge_runtime.commands.demo.processes import Child, Wire, edge_runtime, find_mosquitto, waiting
from edge_runtime.commands.demo.report import DemoReport, EchoPart, Files, HeadsPart, LivePart
from edge_runtime.commands.demo.stage import Heads, Stage, choose_heads, echo_cine, find_data, set_up
from edge_runtime.commands.run import RunReport
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.types import Finding

FPS = 30
LIVE_MM, LIVE = 250.0, "phantom:fetal_head?hc_mm=250&seed=1"
STILL_MM, STILL, STILL_FRAMES = 180.0, "phantom:fetal_head?hc_mm=180&seed=2", 60
BEFORE_KILL = 0.4  # of the live part
FIRST_FINDING_S = 20.0  # a slow machine with a cold file cache
PART_S = 120.0
DRAIN_S = 30.0
LOOK_S = 0.1

Say = Callable[[str], None]


def demo(out: Path, seconds: float, data: Path | None, say: Say, progress: Say | None = None) -> DemoReport:
    """Runs everything; `say` gets a line for each step, `progress` one that replaces itself.

    Raises ConfigError for a flag that is wrong. A part that fails is told in `problems`, and the others go on.
    """
    if not 2 <= seconds <= 3600:
        raise ConfigError(f"--seconds {seconds:g}: want 2 to 3600")
    begun_ns = clock.monotonic_ns()
    real = find_data(data)
    show = Show(set_up(out), seconds, say, progress or (lambda text: None))
    with ExitStack() as stack:
        show.connect(stack)
        show.stream(stack)
        show.every_frame(stack)
        show.echo(stack)
        if real is not None:
            show.heads(stack, real)
        else:
            show.notes.append(
                "no real heads: name a folder with --data or EDGE_RUNTIME_DATA to see some measured"
            )
        show.deliver()
    show.compare()
    show.draw()
    return show.finish((clock.monotonic_ns() - begun_ns) / 1e9)


@dataclass(slots=True)
class Show:
    """A demo under way. Each method is one act and leaves what it found here."""

    stage: Stage
    seconds: float
    say: Say
    progress: Say
    wire: Wire | None = None
    live: LivePart | None = None
    phantom: findings.Measured | None = None
    echo_part: EchoPart | None = None
    heads_part: HeadsPart | None = None
    delivery: findings.Delivery | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    outs: list[Path] = field(default_factory=list)  # of every run, in order
    last: RunReport | None = None
    begun_ns: int = 0  # of the live part
    pending: int = 0
    repeated: int = 0
    real: Heads | None = None
    files: dict[str, str] = field(default_factory=dict)

    # -------------------------------------------------------------- acts

    def connect(self, stack: ExitStack) -> None:
        """Broker, receiver and uplink, where there is a broker."""
        mosquitto = find_mosquitto()
        if mosquitto is None:
            self.say("no mosquitto on this machine: staying offline")
            return
        wire = Wire(mosquitto, self.stage.state, self.stage.database, self.stage.work)
        try:
            self.wire = stack.enter_context(wire)
        except EdgeError as exc:
            self.problems.append(str(exc))
            return
        self.say(f"broker, uplink and receiver are up on {wire.url}")

    def stream(self, stack: ExitStack) -> None:
        """A moving phantom at 30 frames a second, newest frame wins; the run is killed and started again."""
        self.say(f"live: a moving phantom of {LIVE_MM:.0f} mm at {FPS} frames/s for {self.seconds:g} s")
        self.begun_ns = clock.monotonic_ns()
        before = self._run(stack, "live-killed", f"{LIVE}&frames=1000000", "--policy", "newest")
        self._watch(before, FIRST_FINDING_S, until_first=True)
        self._watch(before, BEFORE_KILL * self.seconds)
        before.kill()
        self._killed("the run")
        first = findings.read(self.outs[-1])
        rest_s = (1 - BEFORE_KILL) * self.seconds
        after = self._run(stack, "live", f"{LIVE}&frames={round(rest_s * FPS)}", "--policy", "newest")
        self._watch(after, FIRST_FINDING_S, until_first=True)
        self._cut_the_wire(after, rest_s)
        self._watch(after, PART_S)
        report = self._report(after)
        if report is None:
            return
        captures = [*first, *findings.read(self.outs[-1])]
        self.live = LivePart(
            offered=report.offered,
            processed=report.processed,
            dropped=report.dropped,
            fps=report.fps,
            age_ms_p50=report.age_ms.p50,
            age_ms_p99=report.age_ms.p99,
            captures=len(captures),
            captures_before_kill=len(first),
            head=findings.measured(captures, LIVE_MM),
        )

    def _cut_the_wire(self, run: Child, rest_s: float) -> None:
        """Kills uplink and broker while the run goes on, and starts them again."""
        wire = self.wire
        if wire is None:
            return
        self._watch(run, 0.15 * rest_s)
        wire.uplink.kill()
        self._killed("the uplink")
        self._watch(run, 0.1 * rest_s)
        wire.uplink.start()
        self._watch(run, 0.2 * rest_s)
        wire.broker.kill()
        self._killed("the broker")
        self._watch(run, 0.1 * rest_s)
        try:
            wire.start_broker()
        except EdgeError as exc:
            self.problems.append(str(exc))

    def every_frame(self, stack: ExitStack) -> None:
        """Another phantom, every frame a finding: much to deliver."""
        self.say(f"every frame a finding: {STILL_FRAMES} frames of a phantom of {STILL_MM:.0f} mm")
        run = self._run(stack, "every", f"{STILL}&frames={STILL_FRAMES}", "--policy", "every")
        self._watch(run, PART_S)
        if self._report(run) is not None:
            self.phantom = findings.measured(findings.read(self.outs[-1]), STILL_MM)

    def echo(self, stack: ExitStack) -> None:
        """A real heart in front of a head model: what it says must be nothing."""
        cine = echo_cine()
        if cine is None:
            self.notes.append("no echo cine: this pydicom ships without examples_ybr_color.dcm")
            return
        self.say("a real cine of a heart, in front of a model for heads")
        run = self._run(stack, "echo", f"dicom:{cine}", "--policy", "every")
        self._watch(run, PART_S)
        if self._report(run) is None:
            return
        found = findings.read(self.outs[-1])
        withheld = [finding for finding in found if not _gives_a_size(finding)]
        spacing = Counter(reason for one in found for reason in one.reasons if reason in _SCALE_REFUSED)
        self.echo_part = EchoPart(
            frames=len(found),
            withheld=len(withheld),
            in_pixels=len(found) - len(withheld),
            in_millimetres=sum(map(findings.in_millimetres, found)),
            reasons=findings.withheld_reasons(found),
            spacing_reason=spacing.most_common(1)[0][0].value if spacing else None,
        )
        if self.echo_part.in_millimetres:
            self.problems.append(
                f"echo: {self.echo_part.in_millimetres} frames of a heart were given millimetres"
            )

    def heads(self, stack: ExitStack, data: Path) -> None:
        """Real fetal heads against their published circumference."""
        self.real = choose_heads(data, self.stage.work)
        if self.real is None:
            self.notes.append(f"no real heads: {data} has none of the exams that were kept out of training")
            return
        self.say(f"{len(self.real.true_mm)} real fetal heads, small to large")
        run = self._run(stack, "heads", f"folder:{self.real.folder}", "--policy", "every")
        self._watch(run, PART_S)
        if self._report(run) is None:
            return
        found = findings.read(self.outs[-1])
        true_mm = self.real.true_mm
        pairs = [
            (head, true_mm[finding.source.name or ""])
            for finding in found
            if (head := findings.circumference(finding)) is not None
        ]
        self.heads_part = HeadsPart(
            images=len(found),
            measured=len(pairs),
            withheld=len(found) - len(pairs),
            mean_error_mm=findings.mean_error_mm(pairs),
            inside=sum(findings.covers(head, true) for head, true in pairs),
            reasons=findings.withheld_reasons(found),
            held_out=self.real.held_out,
        )

    def deliver(self) -> None:
        """Waits until the outbox is empty, then ends the wire."""
        state, wire = self.stage.state, self.wire
        deadline_ns = clock.monotonic_ns() + int(DRAIN_S * 1e9)
        self.pending = waiting(state)
        if wire is None:
            return
        self.say("delivering what still waits, until the cloud's receipt is there")
        while self.pending and clock.monotonic_ns() < deadline_ns and not wire.dead():
            self.progress(f"{self.pending} records wait in the outbox")
            clock.sleep_s(LOOK_S)
            self.pending = waiting(state)
        self.problems += wire.dead()
        if self.pending:
            self.problems.append(f"{self.pending} records were not delivered within {DRAIN_S:.0f} s")
        self.problems += wire.stop()
        repeated = wire.receive.answer().get("repeated", 0)
        self.repeated = repeated if isinstance(repeated, int) else 0

    def compare(self) -> None:
        """Everything that was reported against the database, and into one file."""
        reported = [finding.finding_id for out in self.outs for finding in findings.read(out)]
        self.stage.findings.write_bytes(b"".join(_whole_lines(out) for out in self.outs))
        try:
            rows = findings.stored(self.stage.database)
        except EdgeError as exc:
            rows = []
            self.problems.append(str(exc))
        self.delivery = findings.delivery(
            reported,
            rows,
            broker=self.wire.url if self.wire else None,
            waiting=self.pending,
            repeated=self.repeated,
        )
        if self.delivery.missing:
            self.problems.append(f"{self.delivery.missing} reported findings are not in the database")
        if self.delivery.twice:
            self.problems.append(f"{self.delivery.twice} findings are there twice")

    def draw(self) -> None:
        """The overlay of up to three frames, and the measurement over time."""
        self.say("drawing")
        live = self._findings("live-killed") + self._findings("live")
        panels = [drawing.draw(panel) for panel in self._panels()]
        if panels:
            drawing.save(drawing.side_by_side(panels), self.stage.overlay)
            self.files["overlay"] = str(self.stage.overlay)
            for at, panel in enumerate(panels):
                drawing.save(panel, self.stage.work / f"panel-{at}.png")
        if drawing.plot(self.stage.measurement, live, LIVE_MM, self.events, self.begun_ns):
            self.files["measurement"] = str(self.stage.measurement)
        else:
            self.notes.append("no plot over time: pip install matplotlib, then run the demo again")

    def finish(self, seconds: float) -> DemoReport:
        """The report, and the page made of it."""
        assert self.delivery is not None
        last = self.last
        report = DemoReport(
            ok=not self.problems,
            seconds=round(seconds, 1),
            model=last.model if last else "none",
            precision=last.precision if last else "none",
            backend=last.backend if last else "none",
            live=self.live,
            phantom=self.phantom,
            echo=self.echo_part,
            heads=self.heads_part,
            killed=[event.what for event in self.events],
            delivery=self.delivery,
            files=Files(
                folder=str(self.stage.folder),
                summary=str(self.stage.summary),
                findings=str(self.stage.findings),
                overlay=self.files.get("overlay"),
                measurement=self.files.get("measurement"),
            ),
            problems=self.problems,
            notes=self.notes,
        )
        panels = sorted(self.stage.work.glob("panel-*.png"))
        self.stage.summary.write_text(page.render(report, panels), encoding="utf-8")
        return report

    # -------------------------------------------------------------- parts of acts

    def _run(self, stack: ExitStack, name: str, source: str, *more: str) -> Child:
        """Starts `edge-runtime run`; it is ended when the demo ends."""
        out = self.stage.work / f"{name}.jsonl"
        self.outs.append(out)
        command = edge_runtime(
            *("run", "--model", "fetal_head", "--source", source, "--state", str(self.stage.state)),
            *("--config", str(self.stage.config), "--out", str(out), "--json", *more),
        )
        child = Child(name, command, self.stage.work).start()
        stack.callback(child.stop)
        return child

    def _watch(self, child: Child, seconds: float, *, until_first: bool = False) -> None:
        """Lets time pass while `child` runs, with a line of progress: `seconds`, or less where it ends."""
        deadline_ns = clock.monotonic_ns() + int(seconds * 1e9)
        while child.running() and clock.monotonic_ns() < deadline_ns:
            clock.sleep_s(min(LOOK_S, max(0.0, (deadline_ns - clock.monotonic_ns()) / 1e9)))
            found = findings.read(self.outs[-1])
            if found:
                self.progress(self._progress_line(found))
                if until_first:
                    return

    def _progress_line(self, found: list[Finding]) -> str:
        head = findings.circumference(found[-1])
        value = "withheld" if head is None else f"HC {head.value:.1f} mm"
        frame = int(found[-1].source.frame_ids[0].partition(".")[0]) + 1
        return f"frame {frame:4}   {value}   {len(found)} reported   {waiting(self.stage.state)} wait in the outbox"

    def _killed(self, what: str) -> None:
        self.events.append(Event(clock.monotonic_ns(), what))
        self.say(f"kill -9: {what}")

    def _report(self, child: Child) -> RunReport | None:
        """What an ended run printed; None, and a problem, when it failed."""
        status = child.wait(0.1) if not child.running() else child.stop()
        try:
            report = msgspec.convert(child.answer(), RunReport)
        except msgspec.ValidationError:
            report = None
        if status != 0 or report is None:
            self.problems.append(f"{child.name}: exit {status}: {child.complaint()}")
            return None
        self.last = report
        return report

    def _findings(self, name: str) -> list[Finding]:
        return findings.read(self.stage.work / f"{name}.jsonl")

    def _panels(self) -> list[Panel]:
        """The phantom, a real head where there is one, and the heart, each from a finding that was reported."""
        wanted: list[tuple[str, str, str, str | None]] = [
            (LIVE, "live", "Phantom, live", f" of a phantom, true {LIVE_MM:.1f} mm")
        ]
        if self.real is not None:
            wanted.append((f"folder:{self.real.folder}", "heads", "Real fetal head", ", published {:.1f} mm"))
        cine = echo_cine()
        if cine is not None:
            wanted.append((f"dicom:{cine}", "echo", "Real heart, foreign to this model", None))
        panels = []
        for uri, name, title, truth in wanted:
            found = self._findings(name)
            chosen = _withheld_one(found) if name == "echo" else _median_one(found)
            frame = None if chosen is None else drawing.frame_of(uri, chosen)
            if chosen is None or frame is None:
                continue
            if truth is not None and self.real is not None:
                truth = truth.format(self.real.true_mm.get(chosen.source.name or "", 0.0))
            panels.append(Panel(title, frame, chosen, truth))
        return panels


_SCALE_REFUSED = tuple(reason for reason in Reason if reason.value.startswith("spacing_"))


def _gives_a_size(finding: Finding) -> bool:
    return any(one.value is not None for one in finding.measurements)


def _median_one(found: list[Finding]) -> Finding | None:
    """The finding in the middle by size: not the most beautiful one."""
    sized = [(head.value or 0.0, finding) for finding in found if (head := findings.circumference(finding))]
    return sorted(sized, key=lambda pair: pair[0])[len(sized) // 2][1] if sized else None


def _withheld_one(found: list[Finding]) -> Finding | None:
    """A withheld finding from the middle of the cine."""
    held = [finding for finding in found if not _gives_a_size(finding)]
    return held[len(held) // 2] if held else None


def _whole_lines(path: Path) -> bytes:
    """The file without a last line that was cut off by a kill."""
    body = path.read_bytes() if path.exists() else b""
    return body[: body.rfind(b"\n") + 1]
