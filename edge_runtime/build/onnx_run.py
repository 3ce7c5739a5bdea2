"""Runs an ONNX graph in onnxruntime on this processor, to see what flows through it: inner tensors, variants of it.

Not a backend: it has no slots and no promise of speed, and raises what onnxruntime raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUIET = 4  # log severity: what fails is raised, and told once


def open_session(graph: bytes, threads: int = 0) -> Any:
    """An InferenceSession of `graph`; `threads` 0 are as many as there are processors."""
    import onnxruntime

    from edge_runtime.infer.backends.onnxruntime import load_graph

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads
    return load_graph(graph, options)


def outputs_of(
    graph: bytes, outputs: Sequence[str], feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> Iterator[list[NDArray[np.float32]]]:
    """The values of `outputs` for each of `feeds`, input name -> array; "" stands for the graph's first input."""
    session = open_session(graph)
    first = session.get_inputs()[0].name
    for feed in feeds:
        yield session.run(list(outputs), {name or first: value for name, value in feed.items()})
