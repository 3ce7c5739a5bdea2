"""Ways to run a model; `table.py` chooses one.

OpenVINO's package calls home when it is imported, if `openvino_telemetry` can be. Here it cannot: nothing leaves a
device that its owner did not send.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the documented way to forbid an import
