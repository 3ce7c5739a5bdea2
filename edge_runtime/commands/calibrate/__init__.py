"""`edge-runtime calibrate`: a profile of quality limits and intervals from a probe's or a site's own frames.

`reading` has the frames measured, `limits` finds where a good frame ends, `intervals` how far a value may be off,
`job` puts them together and writes the profile, and `report` says it to a person. Nothing is taken on trust: every
printed rate is of frames that did not set the limits it is about.
"""

from edge_runtime.commands.calibrate.job import calibrate
from edge_runtime.commands.calibrate.report import CalibrateReport, lines

__all__ = ["CalibrateReport", "calibrate", "lines"]
