"""Edge inference runtime for portable ultrasound and X-ray devices.

Frames in, trusted findings out, synced without loss. Importing the package imports none of its parts:
start at `edge_runtime.pipeline`, or at the command line, `edge-runtime --help`.

Research use only. Not a medical device.
"""

__version__ = "0.1.0"
