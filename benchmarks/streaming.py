"""A run in this process as `edge-runtime run` does it, for benchmarks that look at it from inside."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_runtime.frames.exam import ExamTracker
from edge_runtime.frames.source import Source
from edge_runtime.pipeline import Pipeline, Result
from edge_runtime.reporting import FindingMaker, Reporter, model_used
from edge_runtime.stream import Stream
from edge_runtime.sync.journal import Journal
from edge_runtime.telemetry import Counters


def stream_into(pipeline: Pipeline, source: Source, on_result: Callable[[Result], None]) -> None:
    """Every frame of `source` becomes a committed finding in a journal that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder), reserve_bytes=0) as journal:
        counters = Counters()
        maker = FindingMaker(model_used(pipeline), journal.pseudonym)
        exams = ExamTracker("benchmark", journal.pseudonym)
        reporter = Reporter(journal=journal, maker=maker, exams=exams, policy="every", counters=counters)
        Stream(
            source=source,
            pipeline=pipeline,
            reporter=reporter,
            policy="every",
            counters=counters,
            paced=False,
            on_result=on_result,
        ).run()
