"""Classes of layers, checked by what the layers compute."""

import keras
import numpy as np
import pytest

from sparse_lib._keras import layer_types

layers = keras.layers
SPECIAL = {
    layers.Activation: {"activation": "tanh"},
    layers.Dropout: {"rate": 0.5},
    layers.AlphaDropout: {"rate": 0.5},
    layers.GaussianDropout: {"rate": 0.5},
    layers.GaussianNoise: {"stddev": 0.5},
}


def _rank(kind):
    return int(kind.__name__[-2]) if kind.__name__.endswith("D") else 2


def _call(kind, x):
    arguments = SPECIAL.get(kind, {})
    if kind.__name__.startswith("SpatialDropout"):
        arguments = {"rate": 0.5}
    elif kind.__name__.startswith("AveragePooling"):
        arguments = {"pool_size": 2}
    return np.asarray(kind(**arguments)(x))


def _images(kind):
    return np.random.default_rng(0).normal(size=(2, *[6] * _rank(kind), 4)).astype(np.float32)


@pytest.mark.parametrize("kind", layer_types.PERMUTATION_EQUIVARIANT, ids=lambda kind: kind.__name__)
def test_permutations_of_channels_pass_through(kind):
    x, order = _images(kind), np.array([2, 0, 3, 1])
    y = _call(kind, x)
    # Flatten repeats the channels for every position.
    moved = y.reshape(2, -1, 4)[..., order].reshape(y.shape)
    np.testing.assert_allclose(_call(kind, x[..., order]), moved, rtol=1e-6)


@pytest.mark.parametrize("kind", layer_types.CONSTANT_PRESERVING, ids=lambda kind: kind.__name__)
def test_constant_channels_stay_the_same_constants(kind):
    x = _images(kind)
    x[..., 1] = 0.75
    np.testing.assert_allclose(_call(kind, x)[..., 1], 0.75, rtol=1e-6)


@pytest.mark.parametrize("kind", layer_types.IDENTITIES, ids=lambda kind: kind.__name__)
def test_identities_return_their_input(kind):
    x = _images(kind)
    np.testing.assert_array_equal(_call(kind, x), x)


ACTIVATIONS = [
    function
    for name, function in vars(keras.activations).items()
    if callable(function)
    and not name.startswith("_")
    and name not in ("get", "serialize", "deserialize", "glu", "threshold")
]


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda function: function.__name__)
def test_elementwise_activations_see_one_entry(function):
    if not layer_types.is_elementwise(function):
        pytest.skip("not known to be elementwise")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    one_by_one = [np.asarray(function(keras.ops.convert_to_tensor(entry[None, None])))[0, 0] for entry in x.ravel()]
    np.testing.assert_allclose(np.ravel(function(keras.ops.convert_to_tensor(x))), one_by_one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda function: function.__name__)
def test_piecewise_linear_activations_have_no_curvature(function):
    # Between -4 and 4 without 0 no known one has a kink, and all others bend.
    x = np.concatenate([np.linspace(-4, -0.5, 8), np.linspace(0.5, 4, 8)])[None]
    y = np.asarray(function(keras.ops.convert_to_tensor(x)))[0].reshape(2, 8)
    is_straight = np.abs(np.diff(y, 2)).max() < 1e-6
    if layer_types.is_piecewise_linear(function):
        assert is_straight
    if layer_types.is_linear(function):
        np.testing.assert_array_equal(y.ravel(), x[0])


def test_functions_that_mix_entries_are_not_elementwise():
    assert not any(map(layer_types.is_elementwise, (keras.activations.softmax, keras.activations.log_softmax)))
    assert not layer_types.is_elementwise(layers.PReLU())
    assert layer_types.is_elementwise(layers.LeakyReLU())


def test_merges_have_names():
    a, b = keras.Input((3,)), keras.Input((3,))
    outputs = (a + b, a - b, a * b, layers.Average()([a, b]), layers.Maximum()([a, b]))
    operations = [keras.Model([a, b], y).operations[-1] for y in outputs]
    names = [layer_types.merge_name(operation) for operation in operations]
    assert names == ["Add", "Subtract", "Multiply", "Average", "Maximum"]
    assert layer_types.merge_name(layers.Concatenate()) is None
    assert layer_types.merge_name(type("Add", (layers.Layer,), {})()) is None
