"""What the demo does, in order: stream, kill, look at foreign and real images, at other anatomies as far as there is
a model of them, deliver, compare, judge, draw.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from PIL.Image import Image

from edge_runtime import clock
from edge_runtime.codes import MeasurementName
from edge_runtime.commands.demo import chests, drawing, exhibits, findings, known, page, plot
from edge_runtime.commands.demo.chests import ChestPart
from edge_runtime.commands.demo.drawing import Panel
from edge_runtime.commands.demo.findings import Delivery, Measured
from edge_runtime.commands.demo.harm import GatePart, gate_part
from edge_runtime.commands.demo.parts import (
    ArteryPart,
    EchoPart,
    HeadsPart,
    LivePart,
    artery_part,
    echo_part,
    heads_part,
    live_part,
)
from edge_runtime.commands.demo.plot import Timeline
from edge_runtime.commands.demo.processes import Wire, ending_with_us, find_mosquitto, waiting
from edge_runtime.commands.demo.report import DemoReport, Files
from edge_runtime.commands.demo.runs import LOOK_S, MODEL, PART_S, Run, Runs
from edge_runtime.commands.demo.stage import (
    Heads,
    Stage,
    choose_heads,
    claim,
    echo_cine,
    find_data,
    installed,
    set_up,
    write,
)
from edge_runtime.commands.demo.teller import Say, Teller
from edge_runtime.commands.words import joined
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.frames.phantom import parse_spec
from edge_runtime.types import Finding

FPS = 30
LIVE_MM, LIVE = 250.0, "phantom:fetal_head?hc_mm=250&seed=1"
STILL_MM, STILL, STILL_FRAMES = 180.0, "phantom:fetal_head?hc_mm=180&seed=2", 60
ARTERY = "phantom:carotid?lumen_mm=6.5&seed=1&frames=25"  # a beat
BEFORE_KILL = 0.4  # of the live part
FIRST_FINDING_S = 20.0  # a slow machine with a cold file cache
DRAIN_S = 30.0


def demo(out: Path, seconds: float, data: Path | None, say: Say, progress: Say | None = None) -> DemoReport:
    """Runs everything; `say` gets a line for each step, `progress` one that replaces itself.

    Raises ConfigError for a flag that is wrong. A part that fails is told in `problems`, and the others go on.
    """
    if not 2 <= seconds <= 3600:
        raise ConfigError(f"--seconds {seconds:g}: want 2 to 3600")
    begun_ns = clock.monotonic_ns()
    real = find_data(data)
    with ExitStack() as stack:
        stack.enter_context(claim(out))
        show = Show(set_up(out), seconds, installed(), Teller(say, progress))
        stack.enter_context(ending_with_us())
        show.connect(stack)
        show.stream(stack)
        show.every_frame(stack)
        show.echo(stack)
        if real is not None:
            show.heads(stack, real)
        else:
            show.notes.append(
                "no real heads: link their folder here as data, or name it with --data or EDGE_RUNTIME_DATA"
            )
        show.before_the_patient_leaves(stack)
        show.artery(stack)
        show.deliver()
    delivery = show.compare()
    show.gate()
    show.draw()
    return show.finish(delivery, (clock.monotonic_ns() - begun_ns) / 1e9)


@dataclass(slots=True)
class Shown:
    """What the acts have shown; None where one was left out or failed."""

    live: LivePart | None = None
    phantom: Measured | None = None
    echo: EchoPart | None = None
    heads: HeadsPart | None = None
    chests: list[ChestPart] = field(default_factory=list)
    artery: ArteryPart | None = None
    gate: GatePart | None = None


@dataclass(slots=True)
class Show:
    """A demo under way. Each method is one act and leaves what it found here."""

    stage: Stage
    seconds: float
    installed: dict[str, str]  # anatomy -> model
    teller: Teller
    wire: Wire | None = None
    real: Heads | None = None
    shown: Shown = field(default_factory=Shown)
    timeline: Timeline = field(default_factory=Timeline)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.runs = Runs(self.stage, self.teller, self.timeline, self.problems)

    # -------------------------------------------------------------- acts

    def connect(self, stack: ExitStack) -> None:
        """Broker, receiver and uplink, where there is a broker."""
        mosquitto = find_mosquitto()
        if mosquitto is None:
            self.teller.say("no mosquitto on this machine: staying offline")
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
        self.teller.say(f"broker, uplink and receiver are up on {wire.url}")

    def stream(self, stack: ExitStack) -> None:
        """A moving phantom at 30 frames a second, newest frame wins; the run is killed and started again."""
        self.teller.say(
            f"live: a moving phantom of {LIVE_MM:.0f} mm at {FPS} frames/s for {self.seconds:g} s"
        )
        self.timeline.begun_ns = clock.monotonic_ns()
        runs, rest_s = self.runs, (1 - BEFORE_KILL) * self.seconds
        before = runs.start(stack, "live-killed", f"{LIVE}&frames=1000000", "newest")
        runs.watch(before, FIRST_FINDING_S, until_first=True)
        runs.watch(before, BEFORE_KILL * self.seconds)
        runs.kill(before.child, "the run")
        after = runs.start(stack, "live", f"{LIVE}&frames={round(rest_s * FPS)}", "newest")
        runs.watch(after, FIRST_FINDING_S, until_first=True)
        self._cut_the_wire(after, rest_s)
        runs.watch(after, rest_s + PART_S)
        report = runs.report(after)
        if report is not None:
            self.shown.live = live_part(before.findings(), after.findings(), report, LIVE_MM)
            self._require("live", [*before.findings(), *after.findings()], LIVE_MM)

    def _cut_the_wire(self, run: Run, rest_s: float) -> None:
        """Kills uplink and broker while the run goes on, and starts them again."""
        runs, wire = self.runs, self.wire
        if wire is None:
            return
        runs.watch(run, 0.15 * rest_s)
        runs.kill(wire.uplink, "the uplink")
        runs.watch(run, 0.1 * rest_s)
        wire.uplink.start()
        runs.watch(run, 0.2 * rest_s)
        runs.kill(wire.broker, "the broker")
        runs.watch(run, 0.1 * rest_s)
        try:
            wire.start_broker()
        except EdgeError as exc:
            self.problems.append(str(exc))

    def every_frame(self, stack: ExitStack) -> None:
        """Another phantom, every frame a finding: much to deliver."""
        self.teller.say(f"every frame a finding: {STILL_FRAMES} frames of a phantom of {STILL_MM:.0f} mm")
        found = self.runs.whole(stack, "every", f"{STILL}&frames={STILL_FRAMES}")
        if found is not None:
            self.shown.phantom = findings.measured(found, STILL_MM)
            self._require("every frame", found, STILL_MM)

    def echo(self, stack: ExitStack) -> None:
        """A real heart in front of a head model: what it says must be nothing."""
        cine = echo_cine()
        if cine is None:
            self.notes.append("no echo cine: this pydicom ships without examples_ybr_color.dcm")
            return
        self.teller.say("a real cine of a heart, in front of a model for heads")
        found = self.runs.whole(stack, "echo", f"dicom:{cine}")
        if found is None:
            return
        self.shown.echo = echo = echo_part(found)
        if echo.in_millimetres:
            self.problems.append(f"echo: {echo.in_millimetres} frames of a heart were given millimetres")

    def heads(self, stack: ExitStack, data: Path) -> None:
        """Real fetal heads against their published circumference."""
        try:
            self.real = choose_heads(data, self.stage.work)
        except ConfigError as exc:
            self.problems.append(str(exc))
            return
        if self.real is None:
            self.notes.append(f"no real heads: {data} has none of the exams that were kept out of training")
            return
        self.teller.say(f"{len(self.real.true_mm)} real fetal heads, small to large")
        found = self.runs.whole(stack, "heads", f"folder:{self.real.folder}")
        if found is not None:
            self.shown.heads = heads_part(found, self.real.true_mm, self.real.held_out)

    def before_the_patient_leaves(self, stack: ExitStack) -> None:
        """Chest X-rays that should be taken again, and one that need not."""
        model = self.installed.get("lungs")
        if model is None:
            return
        self.teller.say(f"before the patient leaves: a chest X-ray, {joined(way.how for way in chests.WAYS)}")
        for way in chests.WAYS:
            found = self.runs.whole(stack, f"chest-{way.how}", way.uri, model)
            if found is None:
                continue
            part = chests.chest_part(way, found[0], known.tolerances(model))
            self.shown.chests.append(part)
            self.problems += chests.wrong(part)

    def artery(self, stack: ExitStack) -> None:
        """A beating artery, each frame against its own truth."""
        model = self.installed.get("vessel")
        if model is None:
            return
        self.teller.say("a beating artery, every frame a finding")
        found = self.runs.whole(stack, "artery", ARTERY, model)
        if found is None:
            return
        spec = parse_spec(ARTERY.removeprefix("phantom:"))
        self.shown.artery = part = artery_part(found, spec, known.tolerances(model))
        if not part.values:
            self.problems.append(f"artery: wanted a lumen in {part.frames} frames, came {part.measured}")
        self.problems += known.complaints("artery", part.values)

    def gate(self) -> None:
        """The shipped INT8 graph and the same with a spoilt scale, before the gate."""
        if find_spec("onnx") is None:
            self.notes.append("no gate: pip install 'edge-runtime[build]', then run the demo again")
            return
        self.teller.say("the gate: INT8 as shipped, and INT8 with one layer's scale spoilt")
        self.shown.gate = part = gate_part(MODEL)
        if part is not None and not part.as_it_should_be:
            self.problems.append("gate: a sound quantization was refused or a harmful one accepted")

    def deliver(self) -> None:
        """Waits until the outbox is empty, then ends the wire."""
        state, wire = self.stage.state, self.wire
        if wire is None:
            return
        self.teller.say("delivering what still waits, until the cloud's receipt is there")
        deadline_ns = clock.monotonic_ns() + int(DRAIN_S * 1e9)
        while (pending := waiting(state)) and clock.monotonic_ns() < deadline_ns and not wire.dead():
            self.teller.pass_by(f"   {pending} records wait in the outbox")
            clock.sleep_s(LOOK_S)
        self.problems += wire.dead()
        if pending:
            self.problems.append(f"{pending} records were not delivered within {DRAIN_S:.0f} s")
        self.problems += wire.stop()

    def compare(self) -> Delivery:
        """Everything that was reported against the database, and into one file."""
        reported = [finding.finding_id for run in self.runs.started for finding in run.findings()]
        write(self.stage.findings, b"".join(findings.whole_lines(run.tail.path) for run in self.runs.started))
        try:
            rows = findings.stored(self.stage.database)
        except EdgeError as exc:
            rows = []
            self.problems.append(str(exc))
        delivery = findings.delivery(
            reported,
            rows,
            broker=self.wire.url if self.wire else None,
            waiting=waiting(self.stage.state),
            repeated=self.wire.repeated() if self.wire else 0,
        )
        if delivery.missing:
            self.problems.append(f"{delivery.missing} reported findings are not in the database")
        if delivery.twice:
            self.problems.append(f"{delivery.twice} findings are there twice")
        return delivery

    def draw(self) -> None:
        """What was seen, how chests were taken, the phantoms alone, and the measurement over time."""
        self.teller.say("drawing")
        head = self._drawn("seen-1", exhibits.phantom(LIVE, self.runs.findings("live")))
        artery = self._drawn("seen-2", exhibits.artery(ARTERY, self.runs.findings("artery")))
        real = self._drawn("seen-3", exhibits.head(self.real, self.runs.findings("heads")))
        heart = self._drawn("seen-4", exhibits.heart(echo_cine(), self.runs.findings("echo")))
        taken = [
            self._drawn(f"taken-{at}", exhibits.chest(way, self.runs.findings(f"chest-{way.how}")))
            for at, way in enumerate(chests.WAYS)
        ]
        drawing.save_sheet(self.stage.overlay, [head, artery, real, heart], taken)
        drawing.save_sheet(self.stage.phantoms, [head, artery or taken[0], taken[-1]], shrink=2)
        live = self.runs.findings("live-killed") + self.runs.findings("live")
        drawn = plot.draw(self.stage.measurement, live, LIVE_MM, self.timeline, self.stage.work)
        if not drawn and find_spec("matplotlib") is None:
            self.notes.append("no plot over time: pip install matplotlib, then run the demo again")

    def finish(self, delivery: Delivery, seconds: float) -> DemoReport:
        """The report, and the page made of it."""
        self.teller.pass_by("")
        shown, models = self.shown, list(self.runs.models.values())
        first, others = next(iter(models), None), models[1:]
        report = DemoReport(
            ok=not self.problems,
            seconds=round(seconds, 1),
            model=first.model if first else "none",
            precision=first.precision if first else "none",
            backend=first.backend if first else "none",
            others=[f"{other.model}, {other.precision} on {other.backend}" for other in others],
            live=shown.live,
            phantom=shown.phantom,
            echo=shown.echo,
            heads=shown.heads,
            chests=shown.chests,
            artery=shown.artery,
            gate=shown.gate,
            killed=[event.what for event in self.timeline.events],
            delivery=delivery,
            files=self._files(),
            problems=self.problems,
            notes=self.notes,
        )
        seen, taken = (sorted(self.stage.work.glob(f"{kind}-*.png")) for kind in ("seen", "taken"))
        write(self.stage.summary, page.render(report, seen, taken).encode())
        return report

    # -------------------------------------------------------------- parts of acts

    def _files(self) -> Files:
        """Where everything is; of the pictures, those that were made."""
        stage = self.stage
        return Files(
            folder=str(stage.folder),
            summary=str(stage.summary),
            findings=str(stage.findings),
            overlay=str(stage.overlay) if stage.overlay.exists() else None,
            phantoms=str(stage.phantoms) if stage.phantoms.exists() else None,
            measurement=str(stage.measurement) if stage.measurement.exists() else None,
        )

    def _require(self, what: str, found: list[Finding], true_mm: float) -> None:
        """The median circumference of a phantom must be the true one, as nearly as the selftest wants it."""
        name = MeasurementName.HEAD_CIRCUMFERENCE
        median = findings.middle(found, name)
        if median is None:
            self.problems.append(f"{what}: wanted a head circumference of {true_mm:.1f} mm, came no number")
            return
        held = known.held_against(median, {name.value: true_mm}, known.tolerances(MODEL))
        self.problems += known.complaints(what, held)

    def _drawn(self, name: str, panel: Panel | None) -> Image | None:
        """The panel as a picture, kept for the page; None for none."""
        if panel is None:
            return None
        picture = drawing.draw(panel)
        drawing.save(picture, self.stage.work / f"{name}.png")
        return picture
