"""Tests of watching a model's layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._keras import tracing

layers = keras.layers


def make_model():
    """A nested model that calls its inner dense layer twice."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inner")], name="block")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="head")(inner(inner(inputs))))


def test_all_layers_are_found_once():
    names = [layer.name for layer in tracing.all_layers(make_model())]
    assert {"block", "inner", "head"} <= set(names)
    assert names.count("inner") == 1


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
def test_calls_are_noted_in_order_with_their_tensors(wrap):
    model = make_model()
    watched = [layer for layer in tracing.all_layers(model) if isinstance(layer, layers.Dense)]

    @wrap
    def run(x):
        with tracing.watch(watched) as calls:
            outputs = model(x)
        assert [layer.name for layer, _, _ in calls] == ["inner", "inner", "head"]
        return calls[0].inputs, calls[0].outputs, calls[1].inputs, calls[2].outputs, outputs

    x = tf.random.normal((3, 4))
    first_in, first_out, second_in, last, outputs = run(x)
    for a, b in [(x, first_in), (first_out, second_in), (last, outputs)]:
        tf.debugging.assert_equal(a, b)


def test_layers_are_released_also_when_nested_and_after_an_error():
    model = make_model()
    head = model.get_layer("head")
    with tracing.watch([head]) as outer, tracing.watch([head]) as inner:
        model(tf.zeros((1, 4)))
    assert len(outer) == len(inner) == 1
    with pytest.raises(ValueError, match="expected"), tracing.watch([head]):
        model(tf.zeros((1, 5)))
    assert "call" not in vars(head)
    model(tf.zeros((1, 4)))
    assert len(outer) == len(inner) == 1


@pytest.mark.parametrize("value", [0, 1])
def test_example_has_the_structure_of_the_inputs(value):
    a, b = keras.Input((3,), name="a"), keras.Input((2, 2), dtype="int32", name="b")
    model = keras.Model({"a": a, "b": b}, layers.Dense(1)(a))
    example = tracing.example(model, value)
    assert {name: (tuple(t.shape), t.dtype.name) for name, t in example.items()} == {
        "a": ((1, 3), "float32"),
        "b": ((1, 2, 2), "int32"),
    }
    assert all(np.all(t == value) for t in example.values())
    open_size = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)])
    assert tracing.example(open_size, value, (8, 8, 3)).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="pass input_shape"):
        tracing.example(open_size, value)


def test_owners_are_the_innermost_layers():
    attention, dense = layers.MultiHeadAttention(2, 3), layers.Dense(2)
    x = keras.Input((4, 5))
    inner = keras.Sequential([keras.Input((4, 5)), dense])
    model = keras.Model(x, inner(attention(x, x)))
    owners = tracing.variable_owners(model)
    assert len(owners) == len(model.trainable_variables)
    assert owners[id(dense.kernel)] is dense
    query = next(v for v in model.trainable_variables if v.path.endswith("query/kernel"))
    assert isinstance(owners[id(query)], layers.EinsumDense)
