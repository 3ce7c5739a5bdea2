"""A graph made for TensorRT runs in onnxruntime too, whatever onnxruntime would make of it."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from edge_runtime.build.half import to_half
from edge_runtime.build.onnx_run import outputs_of
from edge_runtime.build.place import insert, layers_of, plan_of
from tests.build.foreign_models import info, model, tensor


def branches() -> ModelProto:
    """As in an ASPP: each branch of the join is read by nothing else."""
    weights = np.random.default_rng(3).normal(0, 0.2, (4, 16, 16, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="left"),
        helper.make_node("Conv", ["a", "w2"], ["c"], name="right"),
        helper.make_node("Concat", ["b", "c"], ["d"], axis=1, name="join"),
        helper.make_node("Conv", ["d", "w3"], ["y"], name="last"),
    ]
    kept = [
        tensor("w0", weights[0][:, :1]),
        tensor("w1", weights[1]),
        tensor("w2", weights[2]),
        tensor("w3", np.concatenate([weights[3], weights[2]], axis=1)[:1]),
    ]
    return model(
        nodes, kept, [info("x", [1, 1, 8, 8])], [info("y", [1, 1, 8, 8], TensorProto.FLOAT)], opset=19
    )


def test_a_join_between_q_and_dq_of_fp16_runs_and_is_quantized() -> None:
    graph = branches()
    plan = plan_of(graph, layers_of(graph))
    half = to_half(insert(graph, plan, dict.fromkeys(plan.points, 0.01)))
    feed = {"": np.random.default_rng(4).random((1, 1, 8, 8), np.float32)}
    (exact,), (rounded,) = (
        next(outputs_of(made.SerializeToString(), ["y"], [feed])) for made in (graph, half)
    )
    assert 0 < np.abs(exact - rounded).max() < 0.1
