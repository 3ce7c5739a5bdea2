"""`edge-runtime selftest`: does what is installed here still measure what it should?

`frames` says what is shown to a model and what must come of it, `examine` takes a model's frames through every stage
of the installed backend to the disk and back, `job` does so for each model, and `report` says the verdict. Each check
names its stage, what was wanted and what came. It knows only phantoms: it is no statement about patients.
"""

from edge_runtime.commands.selftest.job import Options, selftest
from edge_runtime.commands.selftest.report import SelftestReport, failures, lines

__all__ = ["Options", "SelftestReport", "failures", "lines", "selftest"]
