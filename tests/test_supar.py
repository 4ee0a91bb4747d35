"""SuPar: rates by density, against plain optimizers with these rates, and what they are for: a coordinate check."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import InputError, SparseOptimizer, SuPar
from sparse_lib.execution import Execution
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.masks import Masks
from tests.experiment import tiny

# 2 of 8 and 8 of 8 weights are active.
MASK = np.array([[True, False], [False, False], [False, True], [False, False]])
START = np.where(MASK, 0.5, 0).astype(np.float32)
GRADIENTS = [np.arange(8.0).reshape(4, 2) - 3.5, 3.0 - np.arange(8.0).reshape(4, 2)]
MAKERS = {
    "momentum": functools.partial(keras.optimizers.SGD, momentum=0.9),
    "adam": keras.optimizers.Adam,
    "rmsprop": keras.optimizers.RMSprop,
}


def make_variables():
    return [keras.Variable(START), keras.Variable(np.ones((4, 2), np.float32)), keras.Variable([1.0, 2.0])]


def make_optimizer(inner, scaling):
    variables = make_variables()
    masks = Masks(variables[:2], [tf.constant(MASK), tf.ones((4, 2), bool)], ["sparse", "full"])
    optimizer = SparseOptimizer(inner, masks, rate_scaling=scaling)
    optimizer.build(variables)
    return variables, optimizer


def gradients(step):
    kernel = tf.constant(GRADIENTS[step], tf.float32)
    return [kernel, kernel, tf.constant([1.0, -1.0])]


@pytest.mark.parametrize("name", MAKERS)
def test_each_kernel_trains_like_alone_with_its_own_rate(name):
    # base_density / density: 0.5 / 0.25 = 2, 0.5 / 1, and no factor for the bias.
    variables, optimizer = make_optimizer(MAKERS[name](0.1), SuPar(0.5))
    alone, inners = make_variables(), [MAKERS[name](rate) for rate in (0.2, 0.05, 0.1)]
    for step in range(2):
        optimizer.apply(gradients(step))
        for inner, variable, gradient in zip(inners, alone, gradients(step), strict=True):
            inner.apply([tf.where(MASK, gradient, 0) if variable is alone[0] else gradient], [variable])
    for variable, expected in zip(variables, alone, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected.numpy(), rtol=1e-6)
    assert np.any(variables[0].numpy() != START)


def test_decoupled_weight_decay_keeps_the_unscaled_rate():
    variables, optimizer = make_optimizer(keras.optimizers.SGD(0.1, weight_decay=0.2), SuPar())
    optimizer.apply(gradients(0))
    # w - 0.1 * 0.2 * w - 0.1 * 4 * g, with g = -3.5 and 1.5 of the two active weights.
    np.testing.assert_allclose(variables[0].numpy()[MASK], 0.5 * 0.98 - 0.4 * np.array([-3.5, 1.5]), rtol=1e-6)


def test_rates_follow_the_masks():
    variables, optimizer = make_optimizer(keras.optimizers.SGD(0.1), SuPar())
    optimizer.masks.assign([tf.constant(MASK & (np.arange(4) == 0)[:, None]), tf.ones((4, 2), bool)])
    step = tf.function(optimizer.apply)
    step(gradients(0))
    np.testing.assert_allclose(variables[0].numpy()[0, 0], 0.5 + 0.1 * 8 * 3.5, rtol=1e-6)  # 1 of 8
    optimizer.masks.assign([tf.ones((4, 2), bool)] * 2)
    step(gradients(1))
    np.testing.assert_allclose(variables[0].numpy()[1, 0], -0.1 * 1.0, rtol=1e-6)  # 8 of 8


def test_packed_steps_are_dense_steps():
    def train(packed):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])
        masks = sparse_lib.sparsify(model, 0.6, "uniform")
        model.set_weights([np.linspace(-1, 1, v.numpy().size).reshape(v.shape) for v in model.weights])
        masks.project()
        optimizer = SparseOptimizer(keras.optimizers.Adam(0.1), masks, rate_scaling=SuPar())
        optimizer.build(model.trainable_variables)
        gradients = [tf.cast(tf.sin(10 * v.value), tf.float32) for v in model.trainable_variables]
        if packed:
            execution = Execution(model, masks, "sparse")
            vectors, structures = optimizer.pack([0]), execution.structures((0,))
            vectors.pack(structures)
            gradients[0] = tf.boolean_mask(gradients[0], masks.values()[0])
            optimizer.train_packed(vectors, gradients)
            vectors.unpack(structures)
        else:
            optimizer.apply(gradients)
        return model.get_weights()

    for dense, packed in zip(train(packed=False), train(packed=True), strict=True):
        np.testing.assert_array_equal(dense, packed)


def test_settings():
    names = ["hidden/kernel", "logits/kernel"]
    assert SuPar(0.5, {"hidden": 4.0}).multipliers(names, keras.optimizers.Adam()) == [0.125, 0.5]
    with pytest.raises(InputError, match="does not depend on width"):
        SuPar(widths={"hidden": 4.0}).multipliers(names, keras.optimizers.SGD())
    with pytest.raises(InputError, match="widths of hiden; the sparse kernels are hidden/kernel"):
        SuPar(widths={"hiden": 4.0}).multipliers(names, keras.optimizers.Adam())
    with pytest.raises(InputError, match="base_density=0"):
        SuPar(0.0)
    with pytest.raises(InputError, match="positive multiples"):
        SuPar(widths={"hidden": 0.0})


def change_of_activations(density, inner, scaling):
    """Root mean square of the change of each layer's outputs over four steps."""
    width = 256
    rng = np.random.default_rng(0)
    x, y = tf.constant(rng.normal(size=(64, width)), tf.float32), tf.constant(rng.integers(0, 10, 64))
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(width, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((width,)), *hidden, keras.layers.Dense(10)])
    masks = sparse_lib.sparsify(model, 1 - density, "uniform")
    sparse_lib.initialize(model, masks, "layer_scaled", seed=3)
    optimizer = SparseOptimizer(inner, masks, rate_scaling=scaling)
    optimizer.build(model.trainable_variables)
    outputs = keras.Model(model.inputs, [layer.output for layer in model.layers])
    before = outputs(x)
    for _ in range(4):
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)
        optimizer.apply(tape.gradient(losses, model.trainable_variables))
    after = outputs(x)
    return np.array([float(tf.sqrt(tf.reduce_mean((b - a) ** 2))) for a, b in zip(before, after, strict=True)])


@pytest.mark.parametrize("make", [functools.partial(keras.optimizers.Adam, 1e-3), MAKERS["momentum"]])
def test_activations_change_as_much_at_any_density(make):
    make = functools.partial(make, 3e-4) if make is MAKERS["momentum"] else make
    dense = change_of_activations(1.0, make(), None)
    scaled = change_of_activations(1 / 16, make(), SuPar())
    plain = change_of_activations(1 / 16, make(), None)
    assert np.all((scaled / dense > 0.5) & (scaled / dense < 2))
    # Without, by a factor of 16 for the first layer, and as much for each of the others together with those below it.
    assert np.all(plain / dense < 1 / 6)


def test_runs_bind_it():
    made = tiny.experiment("mlp", optimizer={**tiny.OPTIMIZER, "supar_base_density": 0.5})
    assert made.optimizer.rate_scaling == SuPar(0.5)
    assert tiny.experiment("mlp").optimizer.rate_scaling is None
    with pytest.raises(SettingError, match="set optimizer.supar_base_density too"):
        tiny.experiment("mlp", optimizer={"name": "adam", "supar_widths": {"dense1": 2.0}})
    with pytest.raises(SettingError, match="no effect on optimizer.name='momentum'"):
        tiny.experiment("mlp", optimizer={**tiny.OPTIMIZER, "supar_base_density": 1.0, "supar_widths": {"dense1": 2.0}})
