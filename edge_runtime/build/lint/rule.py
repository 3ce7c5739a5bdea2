"""What a rule is and what it reports. Knows no rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import msgspec

from edge_runtime.build.view import View

Severity = Literal["error", "warning"]
Evidence = Literal["tensorrt-rtx", "onnx.checker", "documentation"]

Code = Literal[
    "Q01-zero-point",
    "Q02-uint8",
    "Q03-quantized-type",
    "Q04-bias",
    "Q05-scale-not-constant",
    "Q06-scale-value",
    "Q07-scale-underflow",
    "Q08-scale-count",
    "Q09-weight-axis",
    "Q10-activation-per-channel",
    "Q11-pair-differs",
    "Q12-block-size",
    "Q13-attribute",
    "P01-dangling",
    "P02-float-weights",
    "P03-float-input",
    "P04-before-activation",
    "P05-batch-norm",
    "P06-serves-nothing",
    "P07-residual",
    "P08-concat-scales",
    "P09-scales-around",
    "P10-linear-resize",
    "P11-conv-transpose",
    "P12-first-conv",
    "P13-head",
    "P14-requantize",
    "P15-two-scales",
    "P16-inside-pair",
    "S01-channels",
    "S02-few-channels",
    "S03-fp32-rest",
    "G01-onnx",
    "G02-opset",
    "G03-fp16-opset",
    "G04-dynamic-shape",
    "G05-float64",
    "G06-int64",
    "G07-mixed-types",
    "G08-uint8",
    "G09-inputs",
    "G10-int8-at-rim",
    "G11-foreign-operator",
    "G12-integer-operator",
    "G13-opaque",
    "G14-not-finite",
]


class Problem(msgspec.Struct, frozen=True):
    """One thing that TensorRT refuses, gets wrong or runs slowly."""

    code: Code
    severity: Severity
    node: str  # its name; of a node without one its type and output; of no node a tensor's name
    message: str  # what is, and what is wanted
    fix: str  # what to do, one sentence


class Found(NamedTuple):
    """A problem as its rule reports it; the table adds the code and the severity."""

    node: str
    message: str
    fix: str


class Rule(NamedTuple):
    """A row of the table."""

    code: Code
    severity: Severity
    check: Callable[[View], Iterator[Found]]
    shown_by: Evidence
    reference: str  # what the evidence says, or where it is written
