"""Tests of structurally dead and dormant units."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import dead_neurons
from sparse_lib.dead_neurons import UnitProbe

layers = keras.layers


def test_zero_fan_in_and_out_of_a_worked_example():
    mask = np.zeros((2, 1, 3, 4), bool)
    mask[1, 0, 0, 1] = mask[0, 0, 2, 1] = mask[0, 0, 2, 3] = True
    np.testing.assert_array_equal(dead_neurons.zero_fan_in(tf.constant(mask)), [1, 0, 1, 0])
    np.testing.assert_array_equal(dead_neurons.zero_fan_out(tf.constant(mask)), [0, 1, 0])
    np.testing.assert_array_equal(dead_neurons.zero_fan_in(tf.constant(mask[0, 0])), [1, 0, 1, 0])


def test_structurally_dead_units_of_a_chain():
    first = tf.constant([[True, False, True], [False, False, True]])
    second = tf.constant([[True, True], [True, False], [False, False]])
    third = tf.constant([[False], [True]])
    dead = dead_neurons.structurally_dead([first, second, third])
    # Unit 1 is never fed, unit 2 never read; in layer 2 unit 0 is never read.
    np.testing.assert_array_equal(dead[0], [False, True, True])
    np.testing.assert_array_equal(dead[1], [True, False])
    np.testing.assert_array_equal(dead[2], [False])


def test_a_flattened_channel_is_dead_if_all_its_positions_are():
    conv = tf.ones((3, 3, 1, 2), tf.bool)
    dense = np.zeros((8, 5), bool)  # 4 positions x 2 channels, channels last
    dense[3, 4] = True
    dead = dead_neurons.structurally_dead([conv, tf.constant(dense)])
    np.testing.assert_array_equal(dead[0], [True, False])
    np.testing.assert_array_equal(dead[1], [True, True, True, True, False])


def test_structurally_dead_units_do_not_move_the_output():
    rng = np.random.default_rng(0)
    shapes = [(6, 8), (8, 7), (7, 3)]
    masks = [rng.random(shape) < 0.15 for shape in shapes]
    weights = [np.where(m, rng.normal(size=m.shape), 0) for m in masks]
    dead = dead_neurons.structurally_dead([tf.constant(m) for m in masks])
    assert any(np.any(d) for d in dead[:2]) and not all(np.all(d) for d in dead[:2])

    def forward(x, scales):
        for weight, scale in zip(weights, [*scales, np.ones(3)], strict=True):
            x = np.maximum(x @ weight, 0) * scale
        return x

    x = rng.normal(size=(20, 6))
    silenced = forward(x, [np.where(d, 0.0, 1.0) for d in dead[:2]])
    np.testing.assert_array_equal(forward(x, [np.ones(8), np.ones(7)]), silenced)


def test_masks_that_are_no_chain_are_refused():
    with pytest.raises(ValueError, match="Kernel 1 has 5 inputs"):
        dead_neurons.structurally_dead([tf.ones((2, 4), tf.bool), tf.ones((5, 2), tf.bool)])


def make_model():
    """A convolution and a dense layer with known units, and a linear head."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(3, 1, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(),
            layers.Dense(4, activation="relu", name="dense"),
            layers.Dense(2, name="head"),
        ]
    )
    model.get_layer("conv").kernel.assign([[[[1.0, -1.0, 2.0]]]])
    return model


def inputs(n=5):
    """Positive images."""
    return tf.constant(np.random.default_rng(0).random((n, 4, 4, 1)) + 0.1, tf.float32)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)])
def test_mean_absolute_activation_of_a_known_network(wrap):
    model = make_model()
    probe = UnitProbe(model)
    assert list(probe.layers) == ["relu", "dense"]
    x = inputs()
    before = [v.numpy().tobytes() for v in model.variables]
    activity = wrap(probe.mean_absolute)(x)
    scale = float(tf.reduce_mean(x)) / np.sqrt(1 + 1e-3)  # batch norm in inference mode
    np.testing.assert_allclose(activity["relu"], [scale, 0.0, 2 * scale], rtol=1e-5)
    hidden = keras.Model(model.inputs, model.get_layer("dense").output)(x)
    np.testing.assert_allclose(activity["dense"], tf.reduce_mean(hidden, 0), rtol=1e-5)
    assert [v.numpy().tobytes() for v in model.variables] == before


def test_probe_reads_live_variables_and_given_params():
    model = make_model()
    probe = UnitProbe(model, layers=["conv"])
    measure = tf.function(lambda x: probe.mean_absolute(x)["conv"])
    x = inputs()
    before = measure(x)
    np.testing.assert_allclose(before, np.array([1, 1, 2]) * float(tf.reduce_mean(x)), rtol=1e-5)
    params = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    tripled = probe.mean_absolute(x, [3 * params[0], *params[1:]])["conv"]
    np.testing.assert_allclose(tripled, 3 * before, rtol=1e-5)
    np.testing.assert_array_equal(measure(x), before)
    model.get_layer("conv").kernel.assign([[[[0.0, 0.0, 1.0]]]])
    np.testing.assert_allclose(measure(x), [0, 0, float(tf.reduce_mean(x))], rtol=1e-5)


class Subclassed(keras.Model):
    """Two blocks whose layers have the same name, one of them called twice."""

    def __init__(self):
        super().__init__()
        self.first = keras.Sequential([layers.Dense(2, activation="relu", name="hidden")], name="a")
        self.second = keras.Sequential([layers.Dense(2, activation="gelu", name="hidden")], name="b")

    def call(self, x):
        return self.second(self.first(self.first(x)))


def test_probe_of_a_subclassed_model_with_repeated_names_and_calls():
    model = Subclassed()
    x = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    model(x)
    kernel = model.first.layers[0].kernel
    kernel.assign([[1.0, 0.0], [0.0, -1.0]])
    activity = UnitProbe(model).mean_absolute(x)
    assert len(activity) == 2 and all("hidden" in name for name in activity)
    # First call: means (2, 0); second call: the same inputs but for the silent unit.
    np.testing.assert_allclose(next(iter(activity.values())), [2.0, 0.0])


def test_unknown_layers_are_refused():
    with pytest.raises(ValueError, match="no layers nowhere"):
        UnitProbe(make_model(), layers=["conv", "nowhere"])


@pytest.mark.parametrize(
    ("activity", "tau", "expected"),
    [
        ([0.0, 1.0, 3.0, 0.0], 0.0, 0.5),
        ([0.1, 1.0, 2.9, 0.0], 0.1, 0.5),
        ([0.1, 1.0, 2.9, 0.0], 0.09, 0.25),
        ([1e-30, 1.0, 1.0, 1.0], 0.0, 0.0),
        ([0.0, 0.0], 0.0, 1.0),
        ([2.0, 2.0], 1.0, 1.0),
    ],
)
def test_dormant_fraction(activity, tau, expected):
    assert float(dead_neurons.dormant_fraction(tf.constant(activity), tau)) == expected


def test_dormant_fraction_does_not_depend_on_scale():
    activity = tf.constant(np.random.default_rng(0).exponential(size=100), tf.float32)
    for tau in (0.0, 0.1, 0.5):
        assert dead_neurons.dormant_fraction(activity, tau) == dead_neurons.dormant_fraction(8 * activity, tau)
    with pytest.raises(ValueError, match="tau must be at least 0"):
        dead_neurons.dormant_fraction(activity, -0.1)
