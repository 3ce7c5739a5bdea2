"""The demo's runs: each an `edge-runtime run` of its own process, started, watched, killed, and read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from edge_runtime import clock
from edge_runtime.commands.demo import findings
from edge_runtime.commands.demo.findings import Tail
from edge_runtime.commands.demo.plot import Timeline
from edge_runtime.commands.demo.processes import Child, edge_runtime, waiting
from edge_runtime.commands.demo.stage import Stage
from edge_runtime.commands.demo.teller import Teller
from edge_runtime.commands.run import RunReport
from edge_runtime.types import Finding

MODEL = "fetal_head"
PART_S = 120.0  # for a run that ends by itself
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One `edge-runtime run`, its `--out` file and how far that was read."""

    child: Child
    tail: Tail

    def findings(self) -> list[Finding]:
        """What it has reported so far."""
        return findings.read(self.tail.path)


@dataclass(slots=True)
class Runs:
    """All runs of a demo, what went wrong with them and when something was killed."""

    stage: Stage
    teller: Teller
    timeline: Timeline
    problems: list[str]
    started: list[Run] = field(default_factory=list)  # in that order
    models: dict[str, RunReport] = field(default_factory=dict)  # each model's last run, in order

    def whole(self, stack: ExitStack, name: str, source: str, model: str = MODEL) -> list[Finding] | None:
        """Every frame of `source` as a finding; None, and a problem, when the run failed."""
        run = self.start(stack, name, source, "every", model)
        self.watch(run, PART_S)
        return run.findings() if self.report(run) is not None else None

    def start(self, stack: ExitStack, name: str, source: str, policy: str, model: str = MODEL) -> Run:
        """Starts a run; it is ended when `stack` is."""
        out = self.stage.work / f"{name}.jsonl"
        command = edge_runtime(
            *("run", "--model", model, "--source", source, "--policy", policy, "--json"),
            *("--state", str(self.stage.state), "--config", str(self.stage.config), "--out", str(out)),
        )
        child = Child(name, command, self.stage.work).start()
        stack.callback(child.stop)
        run = Run(child, Tail(out))
        self.started.append(run)
        return run

    def watch(self, run: Run, seconds: float, *, until_first: bool = False) -> None:
        """Lets time pass while `run` goes on, with a line of progress: `seconds`, or less where it ends."""
        deadline_ns = clock.monotonic_ns() + int(seconds * 1e9)
        tail = run.tail
        while run.child.running() and clock.monotonic_ns() < deadline_ns:
            clock.sleep_s(min(LOOK_S, max(0.0, (deadline_ns - clock.monotonic_ns()) / 1e9)))
            if tail.look() and tail.last is not None:
                self.teller.pass_by(self._progress(tail.last, tail.count))
            if until_first and tail.count:
                return

    def kill(self, child: Child, what: str) -> None:
        """kill -9, noted with its time; a process that has already ended was not killed, it failed."""
        if not child.running():
            self.problems.append(f"{child.name}: ended by itself ({child.complaint()})")
            return
        child.kill()
        self.timeline.add(clock.monotonic_ns(), what)
        self.teller.say(f"kill -9: {what}")

    def report(self, run: Run) -> RunReport | None:
        """What an ended run printed; None, and a problem, when it failed."""
        child = run.child
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
        self.models[report.model] = report
        return report

    def findings(self, name: str) -> list[Finding]:
        """What the run of that name has reported; none where it never ran."""
        return findings.read(self.stage.work / f"{name}.jsonl")

    def _progress(self, last: Finding, count: int) -> str:
        one = next((one for one in last.measurements if one.value is not None), None)
        value = f"{one.name.value.replace('_', ' ')} {one.value:.1f} {one.unit}" if one else "withheld"
        frame = findings.frame_index(last) + 1
        return f"   frame {frame}, {value}, {count} reported, {waiting(self.stage.state)} wait in the outbox"
