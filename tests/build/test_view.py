"""What is known of a graph beforehand: who makes and reads a tensor, its type and shape, and its value."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edge_runtime.build.view import View, attribute, label
from tests.build.qdq import Net


def test_makers_and_readers_of_a_tensor_are_found_by_its_name() -> None:
    net = Net()
    x = net.input()
    y = net.node("Add", x, x, name="double")
    net.output(net.node("Relu", y, name="end"))
    view = View.of(net.model())
    assert view.producers[y].name == "double"
    assert [node.name for node in view.consumers[x]] == ["double", "double"]
    assert [node.name for node in view.above("end.out")] == ["end", "double"]
    assert view.is_output("end.out")
    assert not view.is_output(y)
    assert [value.name for value in view.inputs] == [x]
    assert view.types[y] == TensorProto.FLOAT16
    assert view.shapes[y] == (1, 32, 16, 16)


def test_a_constant_is_read_through_casts_and_reshapes() -> None:
    net = Net(rest=np.float32)
    held = net.constant([[1.5, 2.5]])
    told = net.node("Constant", value=numpy_helper.from_array(np.array([1, 2], np.int64)))
    whole = net.node("Cast", held, to=TensorProto.INT32)
    flat = net.node("Reshape", whole, net.constant([2], np.int64))
    grown = net.node("Mul", held, held)
    net.output(net.node("Add", net.input(), grown))
    view = View.of(net.model())
    np.testing.assert_array_equal(view.constant(held), [[1.5, 2.5]])
    np.testing.assert_array_equal(view.constant(told), [1, 2])
    np.testing.assert_array_equal(view.constant(flat), [1, 2])
    assert view.constant(flat).dtype == np.int32  # type: ignore[union-attr]
    assert grown in view.constants  # computed from constants: it does not vary, its value is not read
    assert view.constant(grown) is None
    assert view.constant("x") is None
    assert view.constant("nobody") is None


def test_an_initializer_that_is_listed_as_an_input_is_no_input() -> None:
    net = Net()
    held = net.constant(1.0)
    net.inputs.append(onnx.helper.make_tensor_value_info(held, TensorProto.FLOAT16, ()))
    net.output(net.node("Add", net.input(), held))
    assert [value.name for value in View.of(net.model()).inputs] == ["x"]


def test_what_is_drawn_at_random_is_no_constant() -> None:
    net = Net()
    drawn = net.node("RandomNormal", shape=[1])
    net.output(net.node("Mul", drawn, drawn))
    assert not View.of(net.model()).constants


def test_an_attribute_of_a_wrong_type_counts_as_none() -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group="two", auto_pad="SAME_UPPER")
    assert attribute(node, "group", 1) == 1
    assert attribute(node, "auto_pad", "NOTSET") == "SAME_UPPER"
    assert label(node) == "Conv -> y"


def test_a_circle_ends_the_way_up() -> None:
    net = Net()
    net.input()
    net.node("Identity", "b.out", name="a")
    net.output(net.node("Identity", "a.out", name="b"))
    view = View.of(net.model())
    assert [node.name for node in view.above("a.out")] == ["a", "b"]
    assert view.constant("a.out") is None
