"""Graphs of models: chains, nested models, arguments, classes with a call of their own."""

import keras
import pytest

from sparse_lib._keras import graph

layers = keras.layers


def _names(found):
    return [call.layer.name for call in found.chain()]


def _nested():
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.ReLU(name="b")])
    middle = keras.Input((4,))
    outer = keras.Model(middle, layers.Dense(3, name="c")(inner(middle)))
    return keras.Model(x, layers.Dense(2, name="d")(outer(x)))


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = layers.Dense(3, "relu", name="a"), layers.Dropout(0.5, name="b"), _nested()

    def call(self, inputs):
        return self.last(self.drop(self.first(inputs)))


class _Doubled(keras.Model):
    def call(self, inputs):
        return 2 * super().call(inputs)


class _Named(keras.Model):
    """A functional model of another class, which computes what its graph says."""


def _functional(kind):
    x = keras.Input((4,))
    return kind(x, layers.Dense(2, name="a")(x))


def test_nested_chains_are_opened():
    assert _names(graph.graph(_nested())) == ["a", "b", "c", "d"]


def test_a_chain_is_seen_by_calling_it():
    model = _nested()
    assert _names(graph.traced_graph(model, keras.ops.zeros((1, 4)))) == ["a", "b", "c", "d"]


def test_subclassed_models_are_traced():
    x = keras.ops.zeros((1, 4))
    model = keras.Sequential([layers.Dense(4, name="z")])
    model(x)
    assert _names(graph.traced_graph(model, x)) == ["z"]
    with pytest.raises(ValueError, match="no graph of layers"):
        graph.graph(_Subclassed())


@pytest.mark.parametrize("read", [graph.graph, lambda model: graph.traced_graph(model, keras.ops.zeros((1, 4)))])
def test_what_is_no_chain_is_named(read):
    x = keras.Input((4,))
    hidden = layers.Dense(4)(x)
    residual = keras.Model(x, layers.Add(name="sum")([x, hidden]))
    with pytest.raises(graph.NoChainError, match="'sum' takes something else"):
        read(residual).chain()
    shared = layers.Dense(4, name="shared")
    with pytest.raises(graph.NoChainError, match="'shared' is called more than once"):
        read(keras.Model(x, shared(shared(x)))).chain()
    with pytest.raises(graph.NoChainError, match="several inputs or outputs"):
        read(keras.Model(x, [hidden, hidden])).chain()


def test_arguments_of_a_nested_model_hold_for_its_layers():
    x, y = keras.Input((4,)), keras.Input((4,))
    inner = keras.Model(y, layers.Dense(3)(layers.Dropout(0.5)(y)))
    found = graph.graph(keras.Model(x, layers.Dense(2)(inner(x, training=True))))
    assert [call.is_plain for call in found.calls] == [False, False, True]
    with pytest.raises(graph.NoChainError, match="arguments beside its input"):
        found.chain()


def test_a_class_with_its_own_call_does_not_follow_its_graph():
    assert graph.is_graph(_functional(_Named))
    model = _functional(_Doubled)
    assert not graph.is_graph(model)
    with pytest.raises(ValueError, match="no graph of layers to read"):
        graph.graph(model)
    x = keras.Input((4,))
    (call,) = graph.graph(keras.Model(x, model(x))).calls
    assert call.layer is model
