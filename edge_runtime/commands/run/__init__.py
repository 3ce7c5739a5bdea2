"""`edge-runtime run`: frames in, findings out, each on disk before it is reported.

`job` opens what the flags name and runs the stream, `report` says what it did.
"""

from edge_runtime.commands.run.job import RunOptions, run
from edge_runtime.commands.run.report import RunReport, lines

__all__ = ["RunOptions", "RunReport", "lines", "run"]
