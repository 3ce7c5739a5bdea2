"""The linter: TensorRT's rules for a Q/DQ graph (or a plain FP16 or FP32 one) that need no GPU to be checked.

Made for TensorRT 10.3 to 11, strongly typed. An error is what TensorRT refuses, what kills its process or what it
computes otherwise than the graph says; a warning is what it accepts and runs slower, or less exactly, than it could.
It reads a graph as it is and changes nothing. What it cannot know is speed: that is measured on the device.

The rules stand in `table.py`, with what shows each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.build.lint.rule import Problem

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Problem", "lint"]


def lint(model: ModelProto) -> tuple[Problem, ...]:
    """Every problem of `model`, errors first, then in the table's order; empty for a clean graph.

    The model is neither changed nor copied. Never raises for a bad graph: what the ONNX checker says is a problem too.
    """
    from edge_runtime.build.lint.table import RULES  # needs onnx
    from edge_runtime.build.view import View

    if not _is_text(model):
        fix = "copy the file again, or export it again"
        return (
            Problem("G01-onnx", "error", "graph", "has names that are no text: the file is damaged", fix),
        )
    view = View.of(model)
    found = [Problem(rule.code, rule.severity, *entry) for rule in RULES for entry in rule.check(view)]
    return tuple(sorted(found, key=lambda problem: problem.severity))


def _is_text(model: ModelProto) -> bool:
    """protobuf gives a text that is not UTF-8 as bytes."""
    graph = model.graph
    named = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    texts = [graph.name, *(entry.domain for entry in model.opset_import), *(one.name for one in named)]
    for node in graph.node:
        texts += [node.op_type, node.domain, *node.input, *node.output]
    return not any(isinstance(text, bytes) for text in texts)
