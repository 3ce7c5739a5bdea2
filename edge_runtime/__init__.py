"""Edge inference runtime for portable ultrasound and X-ray devices.

Frames in, trusted findings out, synced without loss. Importing the package imports none of its parts:
start at `edge_runtime.pipeline`, or at the command line, `edge-runtime --help`.

onnxruntime sends events from 1.29 on, the first when it is imported. The one switch that stops them all has
to be set before that: nothing leaves a device that its owner did not send.

Research use only. Not a medical device.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
