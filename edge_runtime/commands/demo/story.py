"""What the demo does, in order: stream, kill, look at foreign and real images, deliver, compare, draw."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import msgspec

from edge_runtime import clock
from edge_runtime.commands.demo import drawing, exhibits, findings, page, plot
from edge_runtime.commands.demo.parts import EchoPart, HeadsPart, LivePart, echo_part, heads_part, live_part
from edge_runtime.commands.demo.plot import Event
from edge_runtime.commands.demo.processes import (
    Child,
    Wire,
    edge_runtime,
    ending_with_us,
    find_mosquitto,
    waiting,
)
from edge_runtime.commands.demo.report import DemoReport, Files
from edge_runtime.commands.demo.stage import Heads, Stage, choose_heads, echo_cine, find_data, set_up, write
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
    show = Show(set_up(out), seconds, say, progress)
    with ExitStack() as stack:
        stack.enter_context(ending_with_us())
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
    tell: Say
    progress: Say | None
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
    tail: findings.Tail = field(default_factory=lambda: findings.Tail(Path()))  # of the last run's
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
            self.notes.append(
                "no broker here: apt-get install mosquitto, then run the demo again to see findings delivered"
            )
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
        self._kill(before, "the run")
        first = findings.read(self.outs[-1])
        rest_s = (1 - BEFORE_KILL) * self.seconds
        after = self._run(stack, "live", f"{LIVE}&frames={round(rest_s * FPS)}", "--policy", "newest")
        self._watch(after, FIRST_FINDING_S, until_first=True)
        self._cut_the_wire(after, rest_s)
        self._watch(after, rest_s + PART_S)
        report = self._report(after)
        if report is not None:
            self.live = live_part(first, findings.read(self.outs[-1]), report, LIVE_MM)

    def _cut_the_wire(self, run: Child, rest_s: float) -> None:
        """Kills uplink and broker while the run goes on, and starts them again."""
        wire = self.wire
        if wire is None:
            return
        self._watch(run, 0.15 * rest_s)
        self._kill(wire.uplink, "the uplink")
        self._watch(run, 0.1 * rest_s)
        wire.uplink.start()
        self._watch(run, 0.2 * rest_s)
        self._kill(wire.broker, "the broker")
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
        self.echo_part = echo_part(findings.read(self.outs[-1]))
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
        self.heads_part = heads_part(found, self.real.true_mm, self.real.held_out)

    def deliver(self) -> None:
        """Waits until the outbox is empty, then ends the wire."""
        state, wire = self.stage.state, self.wire
        deadline_ns = clock.monotonic_ns() + int(DRAIN_S * 1e9)
        self.pending = waiting(state)
        if wire is None:
            return
        self.say("delivering what still waits, until the cloud's receipt is there")
        while self.pending and clock.monotonic_ns() < deadline_ns and not wire.dead():
            if self.progress is not None:
                self.progress(f"   {self.pending} records wait in the outbox")
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
        write(self.stage.findings, b"".join(map(findings.whole_lines, self.outs)))
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
        shown = [
            exhibits.phantom(LIVE, LIVE_MM, self._findings("live")),
            exhibits.head(self.real, self._findings("heads")),
            exhibits.heart(echo_cine(), self._findings("echo")),
        ]
        panels = [drawing.draw(panel) for panel in shown if panel is not None]
        if panels:
            drawing.save(drawing.side_by_side(panels), self.stage.overlay)
            self.files["overlay"] = str(self.stage.overlay)
            for at, panel in enumerate(panels):
                drawing.save(panel, self.stage.work / f"panel-{at}.png")
        if plot.draw(self.stage.measurement, live, LIVE_MM, self.events, self.begun_ns):
            self.files["measurement"] = str(self.stage.measurement)
        elif find_spec("matplotlib") is None:
            self.notes.append("no plot over time: pip install matplotlib, then run the demo again")

    def finish(self, seconds: float) -> DemoReport:
        """The report, and the page made of it."""
        if self.progress is not None:
            self.progress("")
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
        write(self.stage.summary, page.render(report, panels).encode())
        return report

    # -------------------------------------------------------------- parts of acts

    def _run(self, stack: ExitStack, name: str, source: str, *more: str) -> Child:
        """Starts `edge-runtime run`; it is ended when the demo ends."""
        out = self.stage.work / f"{name}.jsonl"
        self.outs.append(out)
        self.tail = findings.Tail(out)
        command = edge_runtime(
            *("run", "--model", "fetal_head", "--source", source, "--state", str(self.stage.state)),
            *("--config", str(self.stage.config), "--out", str(out), "--json", *more),
        )
        child = Child(name, command, self.stage.work).start()
        stack.callback(child.stop)
        return child

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.progress is not None:
            self.progress("")
        self.tell(text)

    def _watch(self, child: Child, seconds: float, *, until_first: bool = False) -> None:
        """Lets time pass while `child` runs, with a line of progress: `seconds`, or less where it ends."""
        deadline_ns = clock.monotonic_ns() + int(seconds * 1e9)
        tail = self.tail
        while child.running() and clock.monotonic_ns() < deadline_ns:
            clock.sleep_s(min(LOOK_S, max(0.0, (deadline_ns - clock.monotonic_ns()) / 1e9)))
            if tail.look() and self.progress is not None and tail.last is not None:
                self.progress(self._progress_line(tail.last, tail.count))
            if until_first and tail.count:
                return

    def _progress_line(self, last: Finding, count: int) -> str:
        head = findings.circumference(last)
        value = "withheld" if head is None else f"head circumference {head.value:.1f} mm"
        frame = int(last.source.frame_ids[0].partition(".")[0]) + 1
        return f"   frame {frame}, {value}, {count} reported, {waiting(self.stage.state)} wait in the outbox"

    def _kill(self, child: Child, what: str) -> None:
        """kill -9, noted with its time; a process that has already ended was not killed, it failed."""
        if not child.running():
            self.problems.append(f"{child.name}: ended by itself ({child.complaint()})")
            return
        child.kill()
        self.events.append(Event(clock.monotonic_ns(), what))
        self.say(f"kill -9: {what}")

    def _report(self, child: Child) -> RunReport | None:
        """What an ended run printed; None, and a problem, when it failed."""
        if child.running():
            child.stop()
            self.problems.append(f"{child.name}: did not end within {PART_S:.0f} s and was stopped")
            return None
        status = child.wait(0)
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
