"""Every rule of the linter, one row each. A new rule is a function in its subject's module and a row here."""

from __future__ import annotations

from edge_runtime.build.lint import graph, numbers, placement
from edge_runtime.build.lint.rule import Evidence, Rule

RTX: Evidence = "tensorrt-rtx"  # measured with 1.7: it refuses such a graph, with these words
CHECKER: Evidence = "onnx.checker"
DOCS: Evidence = "documentation"
GUIDE = "NVIDIA TensorRT documentation, Explicit Quantization"

RULES: tuple[Rule, ...] = (
    Rule("G01-onnx", "error", graph.onnx_checker, CHECKER, "check_model(full_check=True)"),
    Rule("G02-opset", "error", graph.opset, DOCS, "onnx-tensorrt 10.3 reads opset 9 to 20"),
    Rule("G03-fp16-opset", "error", numbers.fp16_opset, CHECKER, "tensorrt-rtx parses it all the same"),
    Rule("G04-dynamic-shape", "error", graph.static_shapes, RTX, "no optimization profile has been defined"),
    Rule("G05-float64", "error", graph.float64, DOCS, "DOUBLE is cast to FLOAT, silently"),
    Rule("G06-int64", "warning", graph.int64, DOCS, "computed as int64 since TensorRT 10"),
    Rule("G07-mixed-types", "error", graph.mixed_types, RTX, "must have same input types"),
    Rule("G08-uint8", "error", graph.uint8_inside, RTX, "UINT8 types for intermediate tensors"),
    Rule("G09-inputs", "warning", graph.one_input, DOCS, "a frame is all a device gives"),
    Rule("G10-int8-at-rim", "warning", placement.int8_at_rim, DOCS, "a device reads float or uint8"),
    Rule("G11-foreign-operator", "error", graph.foreign_operators, RTX, "taken for a plugin"),
    Rule("G12-integer-operator", "error", graph.integer_operators, RTX, "onnxOpCheckers: false"),
    Rule("G13-opaque", "warning", graph.opaque_nodes, DOCS, "a limit of this linter"),
    Rule("G14-not-finite", "warning", graph.finite_constants, DOCS, "IEEE 754"),
    Rule("Q01-zero-point", "error", numbers.zero_points, RTX, "Non-zero zero point is not supported"),
    Rule("Q02-uint8", "error", numbers.unsigned, RTX, "unsupported input type of UINT8"),
    Rule("Q03-quantized-type", "error", numbers.quantized_types, RTX, "unsupported datatype"),
    Rule("Q04-bias", "error", numbers.bias_quantized, RTX, "has type Int32"),
    Rule("Q05-scale-not-constant", "error", numbers.scales_constant, RTX, "the parser dies of SIGSEGV"),
    Rule("Q06-scale-value", "error", numbers.scale_values, RTX, "must all be positive"),
    Rule("Q07-scale-underflow", "warning", numbers.scale_underflow, DOCS, "IEEE 754 binary16"),
    Rule("Q08-scale-count", "error", numbers.scale_counts, RTX, "number of scales is not equal"),
    Rule("Q09-weight-axis", "error", numbers.weight_axes, DOCS, GUIDE),
    Rule("Q10-activation-per-channel", "error", numbers.activation_scales, DOCS, GUIDE),
    Rule("Q11-pair-differs", "error", numbers.pairs, DOCS, "every value is multiplied by the ratio"),
    Rule("Q12-block-size", "error", numbers.block_sizes, RTX, "blocking dimension must be"),
    Rule("Q13-attribute", "warning", numbers.attributes, DOCS, "opsets 19, 21 and 23"),
    Rule("P01-dangling", "error", placement.dangling, DOCS, GUIDE),
    Rule("P02-float-weights", "warning", placement.float_weights, DOCS, GUIDE),
    Rule("P03-float-input", "warning", placement.float_inputs, DOCS, GUIDE),
    Rule("P04-before-activation", "warning", placement.before_activation, DOCS, GUIDE),
    Rule("P05-batch-norm", "warning", placement.batch_norms, DOCS, GUIDE),
    Rule("P06-serves-nothing", "warning", placement.serves_nothing, DOCS, GUIDE),
    Rule("P07-residual", "warning", placement.residuals, DOCS, GUIDE),
    Rule("P08-concat-scales", "warning", placement.concat_scales, DOCS, "NVIDIA/TensorRT#4366, #4401"),
    Rule("P09-scales-around", "warning", placement.scales_around, DOCS, GUIDE),
    Rule("P10-linear-resize", "warning", placement.linear_resizes, DOCS, GUIDE),
    Rule("P11-conv-transpose", "warning", placement.conv_transposes, DOCS, "NVIDIA/TensorRT#1699, #4366"),
    Rule("P12-first-conv", "warning", placement.first_convolutions, DOCS, "vector formats of int8"),
    Rule("P13-head", "warning", placement.network_heads, DOCS, "ultralytics/ultralytics#25020"),
    Rule("P14-requantize", "warning", placement.requantized, DOCS, "each pair rounds once more"),
    Rule("P15-two-scales", "warning", placement.two_scales, DOCS, "each scale is one more copy"),
    Rule("P16-inside-pair", "warning", placement.inside_pairs, DOCS, GUIDE),
    Rule("S01-channels", "warning", graph.channel_multiples, DOCS, "vector formats of int8"),
    Rule("S02-few-channels", "warning", graph.few_channels, DOCS, "bound by memory, not arithmetic"),
    Rule("S03-fp32-rest", "warning", graph.fp32_rest, DOCS, "strong typing"),
)
